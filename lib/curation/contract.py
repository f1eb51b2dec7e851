"""The contract of a hard-negative answer (Alert-CLIP, supplementary A.4), checked strictly.

An answer is a JSON list of three distinct English strings of at most 20 CLIP tokens, none of them
equal to the positive caption.
"""

import json
import re
import unicodedata
from functools import cache
from typing import Any, NamedTuple

from alertclip.records import MAX_TOKENS, is_text, token_count

NEGATIVES = 3
ENGLISH = 0.1  # minimum probability of English relative to the likeliest language
FENCED = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Violation(NamedTuple):
    """A broken rule: its kind, index of the string (None = the whole list), and an explanation."""

    kind: str
    index: int | None
    detail: str


def read_answer(answer: str, positive: str) -> tuple[list[str], list[Violation]]:
    """Strings of an answer ([] if it breaks a rule) and its violations; may be in a code fence."""
    fenced = FENCED.match(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return [], [Violation("not JSON", None, "the answer is not one JSON list and nothing else")]
    broken = violations(value, positive)
    return ([] if broken else [" ".join(text.split()) for text in value]), broken


def violations(negatives: Any, positive: str) -> list[Violation]:
    """All rules broken by ``negatives``, the hard negatives of the caption ``positive``."""
    if not isinstance(negatives, list | tuple):
        return [Violation("not a list", None, "the answer is not a list")]
    broken, seen = [], set()
    if len(negatives) != NEGATIVES:
        detail = f"the list has {len(negatives)} strings instead of {NEGATIVES}"
        broken.append(Violation("wrong number", None, detail))
    for index, text in enumerate(negatives):
        name = f"string {index + 1}"
        if not is_text(text):
            broken.append(Violation("not text", index, f"{name} is not a sentence"))
            continue
        form, tokens = normal_form(text), token_count(text)
        rules = {
            "over-long": (tokens > MAX_TOKENS, f"has {tokens} tokens, {MAX_TOKENS} are allowed"),
            "not English": (not is_english(text), "is not in English"),
            "equal to the positive": (form == normal_form(positive), "is the given caption itself"),
            "repeated": (form in seen, "repeats another"),
        }
        failed = ((kind, detail) for kind, (fails, detail) in rules.items() if fails)
        broken += [Violation(kind, index, f"{name} {detail}") for kind, detail in failed]
        seen.add(form)
    return broken


def normal_form(text: str) -> str:
    """A caption normalised for comparison: letters and digits only, case and width folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


@cache
def is_english(text: str) -> bool:
    """Whether a caption is English: Latin letters only, and no other language ten times likelier.

    It rejects none of VAGTA's 12,000 distinct Latin texts, and 59 of 60 in twenty other languages.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters or not all(unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return False
    ranked = _languages().rank(text)
    return dict(ranked)["en"] >= ENGLISH * ranked[0][1]


@cache
def _languages() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # loads its model in 0.2 s

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
