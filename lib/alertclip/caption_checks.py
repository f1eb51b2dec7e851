"""Checks of captions and hard negatives: what is no text, too long, or repeated."""

from functools import cache
from typing import Any

from alertclip.records import Report

MAX_TOKENS = 20  # the contract of the hard-negative prompts (supplementary A.4)


def is_text(value: Any) -> bool:
    """True for a string with visible characters that UTF-8 can write."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= c <= "\udfff" for c in value)  # half of a surrogate pair


@cache
def token_count(text: str) -> int:
    """CLIP BPE tokens of a text, without start and end."""
    return len(_tokenizer().encode(text))


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer  # imports torch and reads a vocabulary

    return SimpleTokenizer()


def clean_negatives(key: str, caption: str, raw: Any, report: Report) -> tuple[str, ...]:
    """Hard negatives of a region: texts that differ from its caption and from one another."""
    if not isinstance(raw, list | tuple):
        report.add(key, "hard negatives are not a list", "region without hard-negative loss")
        return ()
    kept: list[str] = []
    for text in raw:
        if not is_text(text):
            report.add(key, "hard negative is not text", "dropped")
            continue
        count_text(key, "hard negative", text, report)
        if _folded(text) == _folded(caption):
            report.add(key, "hard negative equals its caption", "dropped")
        elif text in kept:
            report.add(key, "repeated hard negative", "dropped")
        else:
            kept.append(text)
    if not kept:
        report.add(key, "no hard negative", "region without hard-negative loss")
    return tuple(kept)


def count_text(key: str, kind: str, text: str, report: Report) -> None:
    """Count a text that is not plain ASCII or longer than the paper says."""
    if not text.isascii():
        report.add(key, f"{kind} not plain ASCII", "kept")
    if token_count(text) > MAX_TOKENS:
        report.add(key, f"{kind} over {MAX_TOKENS} CLIP tokens", "kept")


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
