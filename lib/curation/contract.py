"""The contract of a hard-negative answer (Alert-CLIP, supplementary A.4), checked strictly.

An answer is a JSON list of three distinct English strings of at most 20 CLIP tokens, none of them
the caption it was written for.
"""

import json
import re
import unicodedata
from functools import cache
from typing import Any, NamedTuple

from alertclip.records import MAX_TOKENS, is_text, token_count

NEGATIVES = 3
ENGLISH = 0.1  # least probability of English as a share of the likeliest language's
FENCED = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Violation(NamedTuple):
    """A broken rule: its kind, the string it concerns (None = the list), and an explanation."""

    kind: str
    index: int | None
    detail: str


def read_answer(answer: str, positive: str) -> tuple[list[str], list[Violation]]:
    """An answer's strings, none if it breaks a rule, and its violations; a fence is ignored."""
    fenced = FENCED.match(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return [], [Violation("not JSON", None, "the answer is not one JSON list and nothing else")]
    broken = violations(value, positive)
    return ([] if broken else [" ".join(text.split()) for text in value]), broken


def violations(negatives: Any, positive: str) -> list[Violation]:
    """Every broken rule of ``negatives``, the hard negatives of the caption ``positive``."""
    if not isinstance(negatives, list | tuple):
        return [Violation("not a list", None, "the answer is not a list")]
    found, seen, detail = [], set(), f"the list has {len(negatives)} strings instead of {NEGATIVES}"
    if len(negatives) != NEGATIVES:
        found.append(Violation("wrong number", None, detail))
    for index, text in enumerate(negatives):
        name = f"string {index + 1}"
        if not is_text(text):
            found.append(Violation("not text", index, f"{name} is not a sentence"))
            continue
        form, tokens = normal_form(text), token_count(text)
        rules = {
            "over-long": (tokens > MAX_TOKENS, f"has {tokens} tokens, {MAX_TOKENS} are allowed"),
            "not English": (not is_english(text), "is not in English"),
            "equal to the positive": (form == normal_form(positive), "is the given caption itself"),
            "repeated": (form in seen, "repeats another"),
        }
        broken = {kind: detail for kind, (fails, detail) in rules.items() if fails}
        found += [Violation(kind, index, f"{name} {detail}") for kind, detail in broken.items()]
        seen.add(form)
    return found


def normal_form(text: str) -> str:
    """A caption for comparison: letters and digits only, case and width folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


@cache
def is_english(text: str) -> bool:
    """Whether a caption is English: Latin letters only, and no other language ten times likelier.

    On VAGTA's 12,000 distinct Latin texts it rejects none; of 60 in twenty other languages 59.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters or not all(unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return False
    ranked = _languages().rank(text)
    return dict(ranked)["en"] >= ENGLISH * ranked[0][1]


@cache
def _languages() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # reads its model for 0.2 s

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
