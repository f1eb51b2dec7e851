"""Zero-shot and open-vocabulary detection, in the training domain and outside it.

Zero-shot: snippet features against the fixed prompts, nothing trained. Open vocabulary: a detector
trained on base classes is tested on novel ones (Alert-CLIP, Table 1; OVVAD, Wu et al., CVPR 2024).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from alertclip.intervals import Statistic, bootstrap_interval, mean
from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets, set_similarities, signed_score, zero_shot_margin
from companion import detector_tables
from companion.detector_tables import Curves, held_scores
from companion.extraction import domains, evaluation_set, extract_for_all
from companion.profiles import Params
from companion.result_tables import per_cent, with_paper
from companion.tuned_models import STAGES, Stage, prompts_of, stage_model
from detectors.features import snippet_rule
from detectors.fitting import EvaluationSet
from detectors.recognition import open_vocabulary
from media.errors import InputError

PromptVectors = tuple[np.ndarray, np.ndarray]
"""Unit embeddings of P_N (C_N, D) and P_A (C_A, D)."""
Level = Literal["snippet", "temporal"]


def tested(
    P: Params, wanted: Sequence[Stage]
) -> Iterator[tuple[Stage, AlertCLIP, PromptVectors, EvaluationSet]]:
    """Each model with its prompt embeddings and its features of the test videos."""
    extract_for_all(P, wanted, "vadclip", training=False)
    for stage in wanted:
        model = stage_model(P, stage)
        sets = encode_sets(model.encode_text, prompts_of(P).sets)
        yield stage, model, sets, evaluation_set(P, model, "vadclip")


def zero_shot_curves(P: Params, wanted: Sequence[Stage], level: Level) -> list[Curves]:
    """Zero-shot scores of all frames of a benchmark's test videos, per backbone.

    snippet: from the image embedding of a snippet; temporal: from the temporal transformer's output
    in windows of ``num_frames`` snippets (untuned CLIP has none: both are equal).
    """
    curves = []
    for stage, model, sets, test in tested(P, wanted):
        vectors = [embed_snippets(model, x, P.data.num_frames, level) for x in test.features]
        scores = [zero_shot_margin(v, *sets) for v in vectors]
        curves.append(held_curves(P, STAGES[stage], test, scores))
    return curves


def held_curves(P: Params, name: str, test: EvaluationSet, scores: Iterable[np.ndarray]) -> Curves:
    """A model's snippet scores (n,) of each test video, repeated for the frames they cover."""
    length = snippet_rule(P.detector, "vadclip").length
    pairs = zip(test.truths, scores, strict=True)
    return Curves(name, [[held_scores(truth, snippets, length) for truth, snippets in pairs]])


def zero_shot_table(P: Params, wanted: Sequence[Stage], level: Level) -> pd.DataFrame:
    """Zero-shot AUC, AP and AnoAUC (per cent) of every domain, beside the paper's.

    Columns domain, setting, model, value, low, high, n, paper.
    """
    return by_domain(P, lambda domain: zero_shot_curves(domain, wanted, level))


def by_domain(P: Params, curves: Callable[[Params], list[Curves]]) -> pd.DataFrame:
    """Table as in ``zero_shot_table`` from the scores that ``curves`` gives for each domain."""
    tables = []
    for title, domain in domains(P).items():
        resampled = detector_tables.resample_models(domain, curves(domain))
        table = detector_tables.backbone_table(resampled, f"Zero-shot, {title}")
        settings = f"{title}: " + table["setting"]
        tables.append(table.assign(domain=title, setting=settings).drop(columns="seed_sd"))
    return pd.concat(tables, ignore_index=True)


def mss_by_domain(P: Params, wanted: Sequence[Stage]) -> pd.DataFrame:
    """MSS on the test videos of every domain, and the mean over domains (Alert-CLIP, Table 1).

    A video's embedding is the mean over its snippets. Columns model, domain, value, low, high, n,
    paper; intervals resample videos.
    """
    signed: dict[Stage, dict[str, np.ndarray]] = {stage: {} for stage in wanted}
    for title, domain in domains(P).items():
        for stage, model, sets, test in tested(domain, wanted):
            videos = [embed_snippets(model, x, P.data.num_frames, "snippet") for x in test.features]
            v = np.stack([snippets.mean(axis=0) for snippets in videos])
            v /= np.linalg.norm(v, axis=1, keepdims=True)
            abnormal = np.array([truth.is_abnormal for truth in test.truths])
            signed[stage][title] = signed_score(set_similarities(v, *sets), abnormal)
    rows = []
    for stage, scores in signed.items():
        intervals = {t: bootstrap_interval(x, mean, *P.draws) for t, x in scores.items()}
        parts = list(scores.values())
        intervals["average"] = bootstrap_interval(np.concatenate(parts), _average(parts), *P.draws)
        rows += [{"model": STAGES[stage], "domain": t, **i._asdict()} for t, i in intervals.items()]
    return with_paper(pd.DataFrame(rows), "mss", "domain")


def _average(parts: Sequence[np.ndarray]) -> Statistic:
    """Mean over parts of each part's mean, as a statistic on the concatenated parts."""
    part_of = np.repeat(range(len(parts)), [len(part) for part in parts])
    masks = [part_of == index for index in range(len(parts))]
    return lambda x, weights: np.mean([mean(x[mask], weights[:, mask]) for mask in masks], axis=0)


@torch.inference_mode()
def embed_snippets(
    model: AlertCLIP, features: np.ndarray, num_frames: int, level: Level
) -> np.ndarray:
    """Unit embeddings (n, D) of snippet features (n, D), before or after the temporal model."""
    v = normalize(torch.from_numpy(features).to(model.mean.device), dim=-1)
    if level == "temporal":
        windows = v.split(num_frames)
        masks = [torch.ones(1, len(x), dtype=torch.bool, device=v.device) for x in windows]
        pairs = zip(windows, masks, strict=True)
        v = torch.cat([model.pool_frames(x[None], mask).z[0] for x, mask in pairs])
    return normalize(v.float(), dim=-1).cpu().numpy()


def open_vocabulary_table(P: Params, wanted: Sequence[Stage]) -> pd.DataFrame:
    """VadCLIP trained on base classes: AUC and AP (per cent) on all, base and novel classes.

    Columns subset, normals, metric, value, low, high, n, model; mean over detector seeds. For a
    benchmark without base and novel classes, ``open_vocabulary_changes`` names another one.
    """
    P = P.changed(P.evaluation.open_vocabulary_changes)
    benchmark, tables = P.benchmark, []
    if not (benchmark.base and benchmark.novel):
        raise InputError(
            f"{benchmark.title} has no base and novel classes: set open_vocabulary_changes, such"
            " as {benchmark: ucf_crime}"
        )
    parts = benchmark.base, benchmark.novel
    for scored in detector_tables.score_stages(P, "vadclip", wanted, benchmark.base):
        table = open_vocabulary(scored.columns, scored.truths, *parts, *P.draws)
        tables.append(table.assign(model=scored.model))
    return per_cent(pd.concat(tables, ignore_index=True))
