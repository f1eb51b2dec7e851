"""The contract of a hard-negative answer (Alert-CLIP, supplementary A.4), checked strictly.

An answer is a JSON list of three strings: English, at most 20 CLIP tokens each, distinct, and none
of them the caption it was written for.
"""

import json
import re
import unicodedata
from functools import cache
from typing import Any, NamedTuple

from alertclip.caption_checks import MAX_TOKENS, is_text, token_count

NEGATIVES = 3
ENGLISH = 0.1  # least probability of English as a share of the likeliest language's
FENCED = re.compile(r"\A\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class Violation(NamedTuple):
    """One broken rule: its kind, the string it concerns (None = the list), and what to say."""

    kind: str
    index: int | None
    detail: str


def read_answer(answer: str, positive: str) -> tuple[list[str], list[Violation]]:
    """The strings of an answer and its violations; no strings unless there are none.

    One markdown fence around the whole answer is taken off, as chat models add it out of habit;
    any other text beside the list is a violation.
    """
    fenced = FENCED.match(answer)
    try:
        value = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return [], [Violation("not JSON", None, "the answer is not one JSON list and nothing else")]
    broken = violations(value, positive)
    return ([] if broken else [" ".join(text.split()) for text in value]), broken


def violations(negatives: Any, positive: str) -> list[Violation]:
    """Every broken rule of ``negatives``, hard negatives of the caption ``positive``."""
    if not isinstance(negatives, list | tuple):
        return [Violation("not a list", None, "the answer is not a list")]
    found = []
    if len(negatives) != NEGATIVES:
        detail = f"the list has {len(negatives)} strings instead of {NEGATIVES}"
        found.append(Violation("wrong number", None, detail))
    seen: set[str] = set()
    for index, text in enumerate(negatives):
        if not is_text(text):
            found.append(Violation("not text", index, f"entry {index + 1} is not a sentence"))
            continue
        found += [Violation(kind, index, detail) for kind, detail in _broken(text, index, positive)]
        if (form := normal_form(text)) in seen:
            found.append(Violation("repeated", index, f"string {index + 1} repeats another"))
        seen.add(form)
    return found


def _broken(text: str, index: int, positive: str) -> list[tuple[str, str]]:
    name, found = f"string {index + 1}", []
    if (tokens := token_count(text)) > MAX_TOKENS:
        found.append(("over-long", f"{name} has {tokens} tokens, {MAX_TOKENS} are allowed"))
    if not is_english(text):
        found.append(("not English", f"{name} is not in English"))
    if normal_form(text) == normal_form(positive):
        found.append(("equal to the positive", f"{name} is the given caption itself"))
    return found


def normal_form(text: str) -> str:
    """What two captions are compared by: letters and digits only, case and width folded."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


@cache
def is_english(text: str) -> bool:
    """Whether a caption is English: Latin letters only, and no other language ten times likelier.

    Two or three words have too few letters to name a language by, hence the margin. On VAGTA's own
    distinct texts without foreign letters py3langid so rules out none of 12,000; it finds 59 of 60
    captions that we wrote in twenty languages. It misses pinyin without tones, and a foreign word
    in Latin letters within an English sentence.
    """
    letters = [c for c in text if c.isalpha()]
    if not letters or not all(unicodedata.name(c, "").startswith("LATIN") for c in letters):
        return False
    ranked = _languages().rank(text)
    return dict(ranked).get("en", 0.0) >= ENGLISH * ranked[0][1]


@cache
def _languages() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # its model takes .2 s to read

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
