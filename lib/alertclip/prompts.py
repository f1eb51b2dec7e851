"""The fixed prompt file: P_N, P_A, prompts per class, and alternative wordings."""

from dataclasses import field
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from media.errors import InputError
from media.files import sha256_json

STRICT = ConfigDict(extra="forbid")
Sentence = Annotated[str, StringConstraints(pattern=r"\S")]
Sentences = Annotated[tuple[Sentence, ...], Field(min_length=1)]


@dataclass(frozen=True, config=STRICT)
class PromptSets:
    """One wording of the normal set P_N and the abnormal set P_A (Alert-CLIP paper)."""

    normal: Sentences
    abnormal: Sentences


@dataclass(frozen=True, config=STRICT)
class Prompts:
    """A prompt file. ``digest`` identifies its content; every reported number carries it."""

    sets: PromptSets
    classes: dict[str, Sentences] = field(default_factory=dict)
    alternatives: dict[str, PromptSets] = field(default_factory=dict)
    digest: str = ""

    def sentences(self) -> list[str]:
        """Distinct sentences of P_N, P_A and the classes, in file order."""
        per_class = [sentence for prompts in self.classes.values() for sentence in prompts]
        return list(dict.fromkeys([*self.sets.normal, *self.sets.abnormal, *per_class]))


def load_prompts(path: Path | str) -> Prompts:
    """Read a prompt file; InputError names the entry that is missing, empty or unknown."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise InputError(f"{path}: not a mapping of names to prompts")
        entries = {name: raw[name] for name in raw if name in ("classes", "alternatives")}
        sets = {name: raw[name] for name in raw if name not in entries}
        digest = sha256_json(raw)
        return TypeAdapter(Prompts).validate_python({"sets": sets, "digest": digest, **entries})
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct the path") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read as YAML in UTF-8 ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(map(str, first["loc"])).removeprefix("sets.")
        raise InputError(f"{path}: {entry}: {first['msg']}") from None
