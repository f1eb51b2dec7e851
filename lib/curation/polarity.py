"""Whether a hard negative inverts the polarity of its caption, and whether it shows by its words.

Judges are text encoders with the fixed prompt sets (S_A - S_N, Alert-CLIP), or a bag-of-words
classifier trained on the file's own captions. A judge is worth what it is worth on the captions.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

from alertclip.intervals import bootstrap_interval
from alertclip.prompts import PromptSets, load_prompts
from alertclip.zero_shot import zero_shot_margin
from companion import tuned_models
from companion.profiles import ROOT, Params
from curation.audit import share_interval
from detectors.frame_metrics import auc_statistic

Encode = Callable[[list[str]], np.ndarray]
"""n texts -> (n, D) unit embeddings."""
FOLDS = 5
BATCH = 256
WORDS_JUDGE = "words of the captions"


def encoders(P: Params, wanted: Sequence[tuned_models.Stage]) -> dict[str, Encode]:
    """Text encoders of the stages, by their titles."""

    def encode(stage: tuned_models.Stage) -> Encode:
        model = tuned_models.stage_model(P, stage)
        return lambda texts: tuned_models.text_embeddings(model, texts)

    return {tuned_models.STAGES[stage]: encode(stage) for stage in wanted}


def sentence_encoder(folder: str) -> Encode:
    """A sentence-embedding model of transformers by folder: mean of its token embeddings."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()

    @torch.inference_mode()
    def encode(texts: list[str]) -> np.ndarray:
        inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        mean = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean, dim=-1).numpy()

    return encode


def margins(encode: Encode, texts: Sequence[str], sets: PromptSets) -> np.ndarray:
    """S_A - S_N of each text, (n,): above 0 the encoder takes it for abnormal."""
    normal, abnormal = encode(list(sets.normal)), encode(list(sets.abnormal))
    unique = list(dict.fromkeys(texts))
    parts = [encode(unique[i : i + BATCH]) for i in range(0, len(unique), BATCH)]
    found = zero_shot_margin(np.concatenate(parts), normal, abnormal)
    by_text = dict(zip(unique, found, strict=True))
    return np.array([by_text[text] for text in texts])


def judged(
    P: Params,
    regions: pd.DataFrame,
    table: pd.DataFrame,
    named: dict[str, Encode],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of captions (R,) and negatives (M,) by judge; above 0 = taken for abnormal."""
    sets = load_prompts(ROOT / P.evaluation.prompts).sets
    found = {
        name: (
            margins(encode, list(regions["caption"]), sets),
            margins(encode, list(table["negative"]), sets),
        )
        for name, encode in named.items()
    }
    if regions["abnormal"].nunique() == 2:
        found[WORDS_JUDGE] = words_judge(regions, table, P.seed)
    return found


def words_judge(
    regions: pd.DataFrame, table: pd.DataFrame, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Abnormality of captions (R,) and negatives (M,) by a classifier of the captions' words.

    Trained on the captions of other videos (five folds), so that no caption judges itself nor its
    own negatives.
    """
    captions, negatives = np.zeros(len(regions)), np.zeros(len(table))
    texts, labels = regions["caption"].to_numpy(str), regions["abnormal"].to_numpy(int)
    for train, test in _folds(regions["video"].to_numpy(str), seed):
        model = _classifier().fit(texts[train], labels[train])
        captions[test] = model.decision_function(texts[test])
        mine = table["video"].isin(set(regions["video"].iloc[test])).to_numpy()
        if mine.any():
            negatives[mine] = model.decision_function(table["negative"].to_numpy(str)[mine])
    return captions, negatives


def polarity_table(
    regions: pd.DataFrame,
    table: pd.DataFrame,
    scores: dict[str, tuple[np.ndarray, np.ndarray]],
    n_boot: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """What each judge makes of captions and negatives: judge, measure, value, low, high, n.

    Right sign of captions says what the judge is worth; right sign of negatives is the share with
    the wanted polarity; "moved" the share that lies further to the wanted side than its caption,
    which needs no threshold; the AUCs tell abnormal from normal texts. All shares of one.
    """
    rows = []
    abnormal, wanted = regions["abnormal"].to_numpy(), ~table["abnormal"].to_numpy()
    for judge, (captions, negatives) in scores.items():
        own = captions[table["region"].to_numpy()]
        right, moved = (negatives > 0) == wanted, np.where(wanted, 1, -1) * (negatives - own) > 0
        shares = [("captions, right sign", (captions > 0) == abnormal, regions)]
        for name, chosen in (("to abnormal", wanted), ("to normal", ~wanted)):
            if chosen.any():
                shares.append((f"{name}, right sign", right[chosen], table[chosen]))
                shares.append((f"{name}, moved", moved[chosen], table[chosen]))
        for measure, hits, part in shares:
            interval = share_interval(hits.astype(float), part["video"], n_boot, seed)
            rows.append({"judge": judge, "measure": measure, **interval._asdict()})
        for measure, values, labels, part in (
            ("captions, AUC", captions, abnormal, regions),
            ("negatives, AUC", negatives, wanted, table),
        ):
            groups = part["video"].to_numpy(str)
            interval = bootstrap_interval(values, auc_statistic(labels), n_boot, seed, groups)
            rows.append({"judge": judge, "measure": measure, **interval._asdict()})
    return pd.DataFrame(rows)


def shortcut_table(
    regions: pd.DataFrame, table: pd.DataFrame, n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """How often words alone tell the caption from its negatives, with no video looked at.

    A bag-of-words classifier of captions against negatives, trained on other videos, picks one of
    each region's texts, as the hard-negative loss asks of the model. Columns direction, value, low,
    high, n (regions with negatives), chance; shares of one.
    """
    own, theirs = _written_scores(regions, table, seed)
    best = pd.Series(theirs).groupby(table["region"].to_numpy()).agg(["max", "size"])
    part = regions.loc[best.index].assign(
        hit=(own[best.index] > best["max"]).astype(float), chance=1 / (1 + best["size"])
    )
    rows = []
    for name, rows_of in (
        ("all", part),
        ("abnormal to normal", part[part["abnormal"]]),
        ("normal to abnormal", part[~part["abnormal"]]),
    ):
        if len(rows_of):
            interval = share_interval(rows_of["hit"].to_numpy(), rows_of["video"], n_boot, seed)
            row = {"direction": name, **interval._asdict()}
            rows.append(row | {"chance": float(rows_of["chance"].mean())})
    return pd.DataFrame(rows)


def _written_scores(
    regions: pd.DataFrame, table: pd.DataFrame, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Caption-likeness of captions (R,) and negatives (M,), each by a model of other videos."""
    texts = np.concatenate([regions["caption"].to_numpy(str), table["negative"].to_numpy(str)])
    videos = np.concatenate([regions["video"].to_numpy(str), table["video"].to_numpy(str)])
    labels = np.arange(len(texts)) < len(regions)
    scores = np.zeros(len(texts))
    for train, test in _folds(videos, seed):
        model = _classifier().fit(texts[train], labels[train])
        scores[test] = model.decision_function(texts[test])
    return scores[: len(regions)], scores[len(regions) :]


def _folds(videos: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    folds = GroupKFold(min(FOLDS, len(set(videos))), shuffle=True, random_state=seed)
    return list(folds.split(videos, groups=videos))


def _classifier() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10.0, class_weight="balanced", max_iter=500))


def load_sentence_model(folder: Path | str | None) -> dict[str, Encode]:
    """The sentence encoder of a folder by its name; none without a folder."""
    return {f"sentences: {Path(folder).name}": sentence_encoder(str(folder))} if folder else {}
