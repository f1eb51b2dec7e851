"""Zero-shot and open-vocabulary detection, in the training domain and outside it.

Zero-shot: snippet features against the fixed prompts, nothing trained. Open vocabulary: a detector
trained on base classes meets novel ones (Alert-CLIP, Table 1; OVVAD, Wu et al., CVPR 2024).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import normalize

from alertclip.model import AlertCLIP
from alertclip.mss import encode_sets, zero_shot_margin
from companion import detector_tables
from companion.detector_tables import Curves
from companion.extraction import domains, evaluation_set, extract_for_all, snippet_rule
from companion.profiles import Params
from companion.result_tables import per_cent
from companion.tuned_models import STAGES, Stage, prompts_of, stage_model
from detectors.benchmarks import load_benchmark
from detectors.recognition import open_vocabulary
from media.errors import InputError

Level = Literal["snippet", "temporal"]


def zero_shot_curves(P: Params, wanted: Sequence[Stage], level: Level) -> list[Curves]:
    """Zero-shot scores of all frames of a benchmark's test videos, per backbone.

    snippet: the image embedding of a snippet; temporal: its output of the temporal transformer in
    windows of ``num_frames`` snippets, which untuned CLIP does not have (there both are equal).
    """
    extract_for_all(P, wanted, "vadclip", training=False)
    length, curves = snippet_rule(P.detector, "vadclip").length, []
    for stage in wanted:
        model = stage_model(P, stage)
        sets = encode_sets(model.encode_text, prompts_of(P).sets)
        test = evaluation_set(P, model, "vadclip")
        videos = []
        for features, truth in zip(test.features, test.truths, strict=True):
            v = embed_snippets(model, features, P.data.num_frames, level)
            videos.append(detector_tables.held_scores(truth, zero_shot_margin(v, *sets), length))
        curves.append(Curves(STAGES[stage], [videos]))
    return curves


def zero_shot_table(P: Params, wanted: Sequence[Stage], level: Level) -> pd.DataFrame:
    """Zero-shot AUC, AP and AnoAUC (per cent) of every domain, beside the paper's.

    Columns domain, setting, model, value, low, high, n, paper.
    """
    tables = []
    for title, domain in domains(P).items():
        curves = zero_shot_curves(domain, wanted, level)
        resampled = detector_tables.resample_models(domain, curves)
        table = detector_tables.backbone_table(resampled, f"Zero-shot, {title}")
        named = f"{title}: " + table["setting"]
        tables.append(table.assign(domain=title, setting=named).drop(columns="seed_sd"))
    return pd.concat(tables, ignore_index=True)


@torch.inference_mode()
def embed_snippets(
    model: AlertCLIP, features: np.ndarray, num_frames: int, level: Level
) -> np.ndarray:
    """Unit embeddings (n, D) of snippet features (n, D), before or after the temporal model."""
    v = normalize(torch.from_numpy(features).to(model.mean.device), dim=-1)
    if level == "temporal":
        parts = v.split(num_frames)
        whole = [torch.ones(1, len(part), dtype=torch.bool, device=v.device) for part in parts]
        pairs = zip(parts, whole, strict=True)
        v = torch.cat([model.pool_frames(part[None], mask).z[0] for part, mask in pairs])
    return normalize(v.float(), dim=-1).cpu().numpy()


def open_vocabulary_table(P: Params, wanted: Sequence[Stage]) -> pd.DataFrame:
    """VadCLIP's AUC and AP (per cent) overall, on base and on novel classes; trained on base alone.

    Columns subset, normals, metric, value, low, high, n, model; mean over the detector seeds. A
    profile on a benchmark without such a partition names another in ``open_vocabulary_changes``.
    """
    P = P.changed(P.evaluation.open_vocabulary_changes)
    benchmark, tables = load_benchmark(P.detector.benchmark), []
    if not (benchmark.base and benchmark.novel):
        raise InputError(
            f"{benchmark.title} has no base and novel classes: set open_vocabulary_changes, such"
            " as {benchmark: ucf_crime}"
        )
    base, novel, draws = benchmark.base, benchmark.novel, (P.evaluation.bootstrap_samples, P.seed)
    for scored in detector_tables.score_stages(P, "vadclip", wanted, base):
        table = open_vocabulary(scored.columns, scored.truths, base, novel, *draws)
        tables.append(table.assign(model=scored.model))
    return per_cent(pd.concat(tables, ignore_index=True))
