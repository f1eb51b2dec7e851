"""The fixed prompt file: P_N, P_A, class-wise prompts, and alternative wordings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alertclip.errors import InputError
from alertclip.files import sha256_json


@dataclass(frozen=True)
class PromptSets:
    """One wording of the normal set P_N and the abnormal set P_A (Alert-CLIP paper)."""

    normal: tuple[str, ...]
    abnormal: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """A prompt file. ``digest`` identifies its content; every reported number carries it."""

    sets: PromptSets
    classes: dict[str, tuple[str, ...]]
    alternatives: dict[str, PromptSets]
    digest: str

    def sentences(self) -> list[str]:
        """Each distinct sentence of the main sets and the classes, in file order."""
        per_class = [sentence for prompts in self.classes.values() for sentence in prompts]
        return list(dict.fromkeys([*self.sets.normal, *self.sets.abnormal, *per_class]))


def load_prompts(path: Path | str) -> Prompts:
    """Read a prompt file; InputError names the entry that is missing, empty or not text."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the prompt file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid UTF-8 YAML: {error}") from None
    try:
        return _prompts(raw)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def _prompts(raw: Any) -> Prompts:
    unknown = set(_mapping(raw, "the file")) - {"normal", "abnormal", "classes", "alternatives"}
    if unknown:
        raise ValueError(f"unknown entries {sorted(map(str, unknown))}; remove them")
    classes = _mapping(raw.get("classes", {}), "classes")
    alternatives = _mapping(raw.get("alternatives", {}), "alternatives")
    return Prompts(
        _sets(raw, ""),
        {name: _sentences(prompts, f"classes.{name}") for name, prompts in classes.items()},
        {name: _sets(sets, f"alternatives.{name}.") for name, sets in alternatives.items()},
        sha256_json(raw),
    )


def _mapping(value: Any, entry: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{entry} must be a mapping of names to prompts")
    return value


def _sets(raw: Any, prefix: str) -> PromptSets:
    raw = _mapping(raw, prefix.rstrip(".") or "the file")
    return PromptSets(*(_sentences(raw.get(n), prefix + n) for n in ("normal", "abnormal")))


def _sentences(value: Any, entry: str) -> tuple[str, ...]:
    sentences = value if isinstance(value, list) else []
    if not sentences or not all(isinstance(s, str) and s.strip() for s in sentences):
        raise ValueError(f"{entry} must be a list of at least one non-empty sentence")
    return tuple(sentences)
