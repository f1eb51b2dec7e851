"""Who answers the questions, behind one interface, and what the answers are worth.

An answerer takes a question and replies with text. Similarity models reply with a letter; language
models with whatever they say, which is parsed strictly. A reply that cannot be parsed is wrong.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp
from scipy.stats import binomtest

from alertclip import intervals
from alertclip.errors import InputError
from alertclip.video import DecodeError
from curation.endpoint import NoReply
from vagpt.instructions import Ask
from vagpt.questions import LETTERS, Option, Question, parse_reply, prompt, span_iou

CHANCE = 100 / len(LETTERS)

Answerer = Callable[[Question], str]
"""A question -> the reply; NoReply or DecodeError if there is none."""


def class_log_probabilities(
    v: np.ndarray, texts: Sequence[np.ndarray], scale: float, anomaly: np.ndarray | None = None
) -> np.ndarray:
    """Log probability of each class in each frame by similarity: (n, C), class 0 = normal.

    v (n, D) and texts, one (sentences, D) per class, of unit length; softmax of ``scale`` times the
    cosines over all sentences, summed per class. ``anomaly`` (n,), logits of a classifier, replaces
    how that divides each frame between normal and abnormal (VA-GPT's temporal prior).
    """
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    logs = log_softmax(scale * v @ np.concatenate(texts).T, axis=1)
    logs = np.stack([logsumexp(logs[:, owner == c], axis=1) for c in range(len(texts))], axis=1)
    if anomaly is None:
        return logs
    normal, abnormal = -np.logaddexp(0, anomaly), -np.logaddexp(0, -anomaly)
    return np.column_stack([normal, abnormal[:, None] + log_softmax(logs[:, 1:], axis=1)])


def option_log_likelihood(
    option: Option, logs: np.ndarray, times: np.ndarray, classes: Sequence[str]
) -> float:
    """Log likelihood of what an option says of each frame: its class inside its time, else normal.

    logs (n, C) as above for ``classes``, normal first; times (n,) of the frames in s.
    """
    if option.class_name is None:
        return float(logs[:, 0].sum())
    inside = (times >= option.span[0]) & (times < option.span[1])
    column = list(classes).index(option.class_name)
    return float(np.where(inside, logs[:, column], logs[:, 0]).sum())


def similarity_answerer(
    logs: Mapping[str, np.ndarray], step: float, classes: Sequence[str]
) -> Answerer:
    """Answers with the likeliest option: per footage logs (n, C), one row every ``step`` s."""

    def answer(question: Question) -> str:
        frames = logs[question.video]
        times = (np.arange(len(frames)) + 0.5) * step
        scores = [option_log_likelihood(o, frames, times, classes) for o in question.options]
        return LETTERS[int(np.argmax(scores))]

    return answer


def blind_answerer(questions: Sequence[Question]) -> Answerer:
    """Answers without seeing anything, from the right answers to the questions on other footage.

    Of the most usual class, the option whose time overlaps most with those usual there. What this
    has above chance, the questions themselves give away.
    """
    known = [q for q in questions if q.kind == "total"]
    videos = np.array([q.video for q in known])
    right = [q.options[q.right] for q in known]
    names = np.array([option.class_name or "" for option in right])
    shares = np.array([np.divide(o.span, q.duration) for o, q in zip(right, known, strict=True)])

    def answer(question: Question) -> str:
        other = videos != question.video
        spans = shares[other & (names != "")]
        if not len(spans):
            raise InputError("a blind answerer needs anomalies in other footage to go by")

        def usual(option: Option) -> tuple[int, float]:
            if option.class_name is None:
                return int((names[other] == "").sum()), 0.0
            overlap = span_iou(np.divide(option.span, question.duration), spans)
            return int((names[other] == option.class_name).sum()), float(overlap.mean())

        scores = [usual(option) for option in question.options]
        return LETTERS[max(range(len(scores)), key=scores.__getitem__)]

    return answer


def model_answerer(
    ask: Ask,
    read_frames: Callable[[str], Sequence[np.ndarray]],
    prior: Callable[[str], str] | None = None,
) -> Answerer:
    """A vision-language model: ``ask`` of an endpoint (curation.endpoint) or of local weights
    (curation.local), with the frames of the footage and, if given, its text prior."""

    def answer(question: Question) -> str:
        told = prior(question.video) if prior else ""
        return ask(prompt(question, told), read_frames(question.video))

    return answer


def answer_all(questions: Sequence[Question], answerer: Answerer) -> pd.DataFrame:
    """All replies: columns video, kind, abnormal, right, reply, chosen (nan: none), correct.

    Where there is no reply, the reason stands in its place.
    """
    rows = []
    for question in questions:
        try:
            reply = answerer(question)
            chosen = parse_reply(reply, question)
        except (NoReply, DecodeError) as error:
            reply, chosen = f"no reply: {error}", None
        rows.append(
            {
                "video": question.video,
                "kind": question.kind,
                "abnormal": question.abnormal,
                "right": question.right,
                "reply": reply,
                "chosen": np.nan if chosen is None else chosen,
                "correct": chosen == question.right,
            }
        )
    return pd.DataFrame(rows)


SETTINGS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "total": lambda a: a["kind"] == "total",
    "total, abnormal videos": lambda a: (a["kind"] == "total") & a["abnormal"],
    "total, normal videos": lambda a: (a["kind"] == "total") & ~a["abnormal"],
    "temporal": lambda a: a["kind"] == "temporal",
}


def accuracy_table(answers: pd.DataFrame, model: str) -> pd.DataFrame:
    """Accuracies in per cent with 95 % Wilson intervals over videos, and the share not parsed.

    Columns setting, model, value, low, high, n, unparsable, above_chance (the whole interval).
    There is one question per video and kind.
    """
    rows = []
    for setting, select in SETTINGS.items():
        part = answers[select(answers)]
        if part.empty:
            continue
        correct, n = int(part["correct"].sum()), len(part)
        interval = binomtest(correct, n).proportion_ci(method="wilson")
        numbers = (correct / n, interval.low, interval.high, part["chosen"].isna().mean())
        value, low, high, unparsable = (100 * float(number) for number in numbers)
        row = {"setting": setting, "model": model, "value": value, "low": low, "high": high}
        rows.append(row | {"n": n, "unparsable": unparsable, "above_chance": low > CHANCE})
    return pd.DataFrame(rows)


def accuracy_differences(
    answers: Mapping[str, pd.DataFrame], n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Paired differences (points) of each answerer to the one before it, on the same questions.

    Columns difference, setting, value, low, high, n; bootstrap over videos.
    """
    rows, names = [], list(answers)
    for before, after in zip(names[:-1], names[1:], strict=True):
        old, new = answers[before], answers[after]
        if not old[["video", "kind", "right"]].equals(new[["video", "kind", "right"]]):
            raise InputError(f"{before} and {after} answered different questions")
        for setting, select in SETTINGS.items():
            a, b = (t[select(t)]["correct"].to_numpy(float) for t in (old, new))
            if not len(a):
                continue
            interval = intervals.paired_difference(a, b, n_boot=n_boot, seed=seed)
            points = {k: 100 * getattr(interval, k) for k in ("value", "low", "high")}
            row = {"difference": f"{after} minus {before}", "setting": setting}
            rows.append(row | points | {"n": interval.n})
    return pd.DataFrame(rows)
