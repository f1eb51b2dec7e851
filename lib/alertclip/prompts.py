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
    raw = _read(Path(path))
    classes = _mapping(raw.get("classes", {}), path, "classes")
    alternatives = _mapping(raw.get("alternatives", {}), path, "alternatives")
    return Prompts(
        sets=_sets(raw, path, ""),
        classes={name: _sentences(v, path, f"classes.{name}") for name, v in classes.items()},
        alternatives={
            name: _sets(_mapping(v, path, f"alternatives.{name}"), path, f"alternatives.{name}.")
            for name, v in alternatives.items()
        },
        digest=sha256_json(raw),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the prompt file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid UTF-8 YAML: {error}") from None
    raw = _mapping(raw, path, "the file")
    unknown = set(raw) - {"normal", "abnormal", "classes", "alternatives"}
    if unknown:
        raise InputError(f"{path}: unknown entries {sorted(map(str, unknown))}; remove them")
    return raw


def _mapping(value: Any, path: Path | str, entry: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {entry} must be a mapping of names to prompts")
    return value


def _sets(raw: dict[str, Any], path: Path | str, prefix: str) -> PromptSets:
    return PromptSets(
        normal=_sentences(raw.get("normal"), path, prefix + "normal"),
        abnormal=_sentences(raw.get("abnormal"), path, prefix + "abnormal"),
    )


def _sentences(value: Any, path: Path | str, entry: str) -> tuple[str, ...]:
    sentences = value if isinstance(value, list) else []
    if not sentences or not all(isinstance(s, str) and s.strip() for s in sentences):
        raise InputError(f"{path}: {entry} must be a list of at least one non-empty sentence")
    return tuple(sentences)
