"""Answerers of the questions and their accuracy.

An answerer takes a question and replies with text. Similarity models reply with a letter, language
models with free text that is parsed strictly. A reply that cannot be parsed is wrong.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import log_softmax, logsumexp
from scipy.stats import binomtest

from alertclip import intervals
from alertclip.mss import inside
from media.errors import InputError
from vagpt.questions import LETTERS, Option, Question, parse_reply, span_iou

CHANCE = 100 / len(LETTERS)
ACCURACY = ["setting", "model", "value", "low", "high", "n"]
DIFFERENCE = ["difference", "setting", *ACCURACY[2:]]

Answerer = Callable[[Question], str]
"""Question -> reply."""


def class_log_probabilities(
    v: np.ndarray, texts: Sequence[np.ndarray], scale: float, anomaly: np.ndarray | None = None
) -> np.ndarray:
    """Return log class probabilities of frames by similarity, (n, C); class 0 is normal.

    v (n, D) and texts, (sentences, D) per class, have unit length. A softmax of ``scale`` times the
    cosines over all sentences is summed per class. If given, a classifier's logits ``anomaly`` (n,)
    set the probability of abnormal against normal instead (VA-GPT's temporal prior).
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
    """Return the log likelihood of frames under an option: its class in its time, else normal.

    logs (n, C) of ``class_log_probabilities`` for ``classes``, normal first; frame times (n,) in s.
    """
    if option.class_name is None:
        return float(logs[:, 0].sum())
    column = list(classes).index(option.class_name)
    return float(np.where(inside(times, [option.span]), logs[:, column], logs[:, 0]).sum())


def similarity_answerer(
    logs: Mapping[str, np.ndarray], step: float, classes: Sequence[str]
) -> Answerer:
    """Answer with the likeliest option; ``logs`` (n, C) per footage, one row every ``step`` s."""

    def answer(question: Question) -> str:
        frames = logs[question.video]
        times = (np.arange(len(frames)) + 0.5) * step
        scores = [option_log_likelihood(o, frames, times, classes) for o in question.options]
        return LETTERS[int(np.argmax(scores))]

    return answer


def blind_answerer(questions: Sequence[Question]) -> Answerer:
    """Answer without frames, by the right answers to the questions on other footage.

    It takes the most frequent class, then the time that overlaps most with events there. Its
    accuracy above chance comes from the questions themselves.
    """
    totals = [q for q in questions if q.kind == "total"]
    videos = np.array([q.video for q in totals])
    right = [q.options[q.right] for q in totals]
    names = np.array([option.class_name or "" for option in right])
    relative = np.array([np.divide(o.span, q.duration) for o, q in zip(right, totals, strict=True)])

    def answer(question: Question) -> str:
        other = videos != question.video
        spans = relative[other & (names != "")]
        if not len(spans):
            raise InputError("a blind answerer needs anomalies in other footage")

        def rank(number: int) -> tuple[int, float]:
            option = question.options[number]
            overlap = span_iou(np.divide(option.span, question.duration), spans).mean()
            count = int((names[other] == (option.class_name or "")).sum())
            return count, float(overlap) if option.class_name else 0.0

        return LETTERS[max(range(len(question.options)), key=rank)]

    return answer


def answer_all(questions: Sequence[Question], answerer: Answerer) -> pd.DataFrame:
    """Ask all questions: columns video, kind, abnormal, right, reply, chosen (or nan), correct."""
    rows = []
    for question in questions:
        reply = answerer(question)
        chosen = parse_reply(reply, question)
        row = {name: getattr(question, name) for name in ("video", "kind", "abnormal", "right")}
        answer = {"reply": reply, "chosen": np.nan if chosen is None else chosen}
        rows.append(row | answer | {"correct": chosen == question.right})
    return pd.DataFrame(rows)


def settings(answers: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield the name and row mask of each setting that ``answers`` contains."""
    total, abnormal = answers["kind"] == "total", answers["abnormal"]
    named = {
        "total": total,
        "total, abnormal videos": total & abnormal,
        "total, normal videos": total & ~abnormal,
        "temporal": ~total,
    }
    return ((name, mask) for name, mask in named.items() if mask.any())


def accuracy_table(answers: pd.DataFrame, model: str) -> pd.DataFrame:
    """Return accuracies in per cent with 95% Wilson intervals over videos.

    Columns setting, model, value, low, high, n, unparsable (per cent), above_chance (the whole
    interval is). There is one question per video and kind.
    """
    rows = []
    for setting, mask in settings(answers):
        subset = answers[mask]
        correct, n = int(subset["correct"].sum()), len(subset)
        share = correct / n, *binomtest(correct, n).proportion_ci(method="wilson")
        unparsable = 100 * float(subset["chosen"].isna().mean())
        rows.append((setting, model, *(100 * x for x in share), n, unparsable))
    table = pd.DataFrame(rows, columns=[*ACCURACY, "unparsable"])
    return table.assign(above_chance=table["low"] > CHANCE)


def accuracy_differences(
    answers: Mapping[str, pd.DataFrame], n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Return each answerer's paired difference (points) to the one before, on the same questions.

    Columns difference, setting, value, low, high, n; bootstrap over videos.
    """
    rows, names = [], list(answers)
    for before, after in zip(names[:-1], names[1:], strict=True):
        old, new = answers[before], answers[after]
        if not old[["video", "kind", "right"]].equals(new[["video", "kind", "right"]]):
            raise InputError(f"{before} and {after} answered different questions")
        for setting, mask in settings(old):
            a, b = (table.loc[mask, "correct"] for table in (old, new))
            rows.append(_difference(f"{after} minus {before}", setting, a, b, n_boot, seed))
    return pd.DataFrame(rows, columns=DIFFERENCE)


def _difference(
    title: str, setting: str, old: pd.Series, new: pd.Series, n_boot: int, seed: int
) -> tuple[object, ...]:
    pair = old.to_numpy(float), new.to_numpy(float)
    interval = intervals.paired_difference(*pair, n_boot=n_boot, seed=seed)
    return title, setting, *(100 * value for value in interval[:3]), interval.n


def arm_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Return each arm's accuracy in per cent: columns of ``accuracy_table``, averaged over seeds.

    Intervals are Wilson's over the videos of a seed, averaged, as seeds answer the same questions.
    """
    rows = []
    for arm, part in answers.groupby("arm", sort=False):
        seeds = [accuracy_table(group, arm) for _, group in part.groupby("seed")]
        mean = pd.concat(seeds).groupby("setting", sort=False).mean(numeric_only=True)
        rows.append(mean.reset_index().assign(model=arm))
    return pd.concat(rows, ignore_index=True).drop(columns="above_chance")


def arm_differences(answers: pd.DataFrame, n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
    """Return each arm's gain in points over "none", as ``accuracy_differences``.

    ``answers`` are those of ``answer_all`` with arm and seed; correctness is averaged over seeds.
    """
    rows, keys = [], ["video", "kind"]
    arms = {a: t.groupby(keys)["correct"].mean() for a, t in answers.groupby("arm", sort=False)}
    for arm in [a for a in arms if a not in ("none", "blind")]:
        for kind in ("total", "temporal"):
            old, new = (arms[a].xs(kind, level="kind") for a in ("none", arm))
            rows.append(_difference(f"{arm} minus none", kind, old, new, n_boot, seed))
    return pd.DataFrame(rows, columns=DIFFERENCE)
