"""Whether a clip shows the class it is filed under, and how clearly: by CLIP, or by a judge.

CLIP compares event types: the labelled class against the other abnormal ones. Untuned, it cannot
tell a normal event from the abnormal one that resembles it (Alert-CLIP paper, Fig. 1), so that a
clip filed as normal is judged only where a vision-language judge is given.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from curation.levels import level

Judge = Callable[[str, Sequence[np.ndarray]], str]

# Log-odds of the labelled class against the likeliest other, in the model's own units: below -3
# the model holds another event for twenty times as likely. Clarity: the share of frames on which
# the labelled class is the likeliest. Chosen on the mini world's development clips.
CLASS_LEVELS = (-3.0, -2.0, -1.0, 0.0)
CLARITY_LEVELS = (0.1, 0.2, 0.35, 0.5)

QUESTIONS = {
    "class": "How well does the content of these frames of one surveillance video match its"
    ' category "{name}"? 1: it clearly shows something else. 5: it clearly shows this category.',
    "clarity": "How clearly is the event of the category {name} visible in these frames of one"
    " surveillance video? 1: barely recognisable (hidden, far away, just begun). 5: unmistakable.",
}
FORM = " Reply with one digit from 1 to 5 and nothing else."
REPLY = re.compile(r"\s*([1-5])\s*")


class Similarities(NamedTuple):
    """Log-odds against the likeliest other class, clip by clip; nan for clips filed as normal."""

    margin: np.ndarray  # (N,) of the clip
    share: np.ndarray  # (N,) of frames on which the labelled class is the likeliest
    other: list[str]  # the likeliest other class


def similarities(
    embedding: np.ndarray,
    frames: np.ndarray,
    mask: np.ndarray,
    texts: np.ndarray,
    labels: Sequence[str],
    classes: Sequence[str],
    scale: float,
) -> Similarities:
    """Compare clips (N, D) and their frames (N, T, D), mask (N, T), with class texts (C, D).

    All vectors have unit length; ``classes`` name the texts, abnormal classes only. ``scale`` is
    the model's logit scale: scaled differences of cosines are its log-odds.
    """
    own = np.array([classes.index(name) if name in classes else -1 for name in labels])
    margin, best = _margins(scale * embedding @ texts.T, own)
    over_time = np.stack(
        [
            _margins(scale * clip @ texts.T, np.full(len(clip), c))[0]
            for clip, c in zip(frames, own, strict=True)
        ]
    )
    share = ((over_time > 0) & mask).sum(axis=1) / mask.sum(axis=1)
    judged = own >= 0
    return Similarities(
        np.where(judged, margin, np.nan),
        np.where(judged, share, np.nan),
        [classes[i] for i in best],
    )


def _margins(logits: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Own logit minus the best other, (n, C) -> (n,), and which that is; any class if own is -1."""
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows[own >= 0], own[own >= 0]] = -np.inf
    best = others.argmax(axis=1)
    return logits[rows, own] - others[rows, best], best


def score_consistency(found: Similarities) -> pd.DataFrame:
    """Scores of 1 to 5: columns class, clarity, class_note, clarity_note; 5 where not judged."""
    rows = []
    for margin, share, other in zip(found.margin, found.share, found.other, strict=True):
        if np.isnan(margin):
            rows.append((5, 5, "not judged", "not judged"))
            continue
        content = f"log-odds {margin:+.1f} against {other}"
        shown = f"likeliest on {share:.0%} of frames"
        rows.append((level(margin, CLASS_LEVELS), level(share, CLARITY_LEVELS), content, shown))
    return pd.DataFrame(rows, columns=["class", "clarity", "class_note", "clarity_note"])


def ask_judge(judge: Judge, name: str, frames: Sequence[np.ndarray]) -> dict[str, int | None]:
    """Scores of a judge for both criteria; None where its reply is not one digit from 1 to 5.

    ``frames`` are (H, W, 3) uint8 in order of time; ``name`` is the class the clip is filed under.
    """
    subject = name.replace("_", " ")
    replies = {k: judge(q.format(name=subject) + FORM, frames) for k, q in QUESTIONS.items()}
    return {criterion: parse_reply(reply) for criterion, reply in replies.items()}


def parse_reply(reply: str) -> int | None:
    """The score in a reply that holds nothing else; None otherwise."""
    found = REPLY.fullmatch(reply)
    return int(found[1]) if found else None
