"""Data or framework: is it VAGTA's choice of videos or the tuning? (supplementary B.3).

"Original framework" is VadCLIP on untuned CLIP. "VAGTA" is read as: train the detector only on the
videos that VAGTA annotates; the paper does not say it.
"""

from collections.abc import Sequence

import pandas as pd

from companion.profiles import Params
from detectors.backbone_tables import Scored, backbone_table, resample_models, score_stages
from detectors.benchmarks import load_benchmark
from detectors.weakly_supervised import chosen_videos, detector_benchmark

FRAMEWORKS = ("CLIP", "Full")  # the original one, and Alert-CLIP


def data_framework_table(P: Params, scored: Sequence[Scored]) -> pd.DataFrame:
    """VadCLIP trained on all videos or the annotated ones, on CLIP and on Full.

    ``scored`` are the backbones trained on all. Columns setting, model, videos, value, low, high,
    n, paper. Where every training video is annotated, both rows are the same detector.
    """
    curated = P.changed({"detector_subset": "annotated"})
    every, some = (_names(params) for params in (P, curated))
    first = [s for s in scored if s.model in FRAMEWORKS]
    second = first
    if some != every:
        second = score_stages(curated, first[0].detector, [s.stage for s in first])
    tables = []
    for title, names, part in (("original data", every, first), ("VAGTA", some, second)):
        paper = f"Data versus framework, {load_benchmark(P.detector.benchmark).title}, {title}"
        table = backbone_table(resample_models(P, part), paper)
        table = table[table["setting"].isin(["frame AUC", "frame AP"])]
        setting = f"{title}: " + table["setting"]
        tables.append(table.assign(setting=setting, videos=len(names)))
    return pd.concat(tables, ignore_index=True).drop(columns="seed_sd")


def _names(P: Params) -> list[str]:
    benchmark, root = detector_benchmark(P)
    return [video.path.stem for video in chosen_videos(P, benchmark, root)]
