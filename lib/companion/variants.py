"""Ablation variants, read from params/ablations.yaml."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from companion.profiles import PROFILES, from_flat, nearest, within
from media.errors import InputError


class Variant(BaseModel):
    """A row of an ablation: which parameters it changes, and what is trained and measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["alertclip", "vadclip", "anomalyclip"]
    group: str
    title: str
    reference: bool = False
    changes: dict[str, Any] = {}
    detector: bool = False  # also measured on the benchmark if the profile asks for it
    negatives: Literal["", "planted", "vagta-clean"] = ""  # faults planted, or those found removed


@cache
def load_variants(path: Path = PROFILES / "ablations.yaml") -> dict[str, Variant]:
    """All variants by name; InputError names the variant whose fields or parameters are wrong."""
    variants: dict[str, Variant] = {}
    for kind, rows in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        for name, row in rows.items():
            try:
                variants[name] = Variant(name=name, kind=kind, **row)
            except (ValidationError, TypeError) as error:
                raise InputError(f"{path.name}, {name}: {error}") from None
            within(f"{path.name}, {name}", from_flat, variants[name].changes)
    return variants


def require_variants(names: Sequence[str]) -> list[Variant]:
    """Variants by name; InputError for a name that is not in params/ablations.yaml."""
    known = load_variants()
    for name in names:
        if name not in known:
            raise InputError(f"no ablation {name} in params/ablations.yaml{nearest(name, known)}")
    return [known[name] for name in names]
