"""The settings of a run as one table, so that the ledger reads them like any other number."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from companion.profiles import Params
from detectors.anomalyclip.settings import anomalyclip_settings
from detectors.benchmarks import load_benchmark
from detectors.training_protocol import DetectorParams
from detectors.vadclip.settings import vadclip_settings
from vagpt.temporal_classifier import ClassifierSettings

BENCHMARKS = ("ucf_crime", "xd_violence", "shanghaitech", "ubnormal", "msad")


def settings_table(P: Params) -> pd.DataFrame:
    """Columns name, value: parameters of the run, presets of the detectors, counts of benchmarks.

    Presets are the published ones in the run's variant (official code or paper), before the
    profile's changes to them: ``vadclip.ucf.window``; counts: ``ucf_crime.train.normal``.
    """
    values = {name: v for name, v in P.flat().items() if not isinstance(v, dict)}
    for stage in ("stage1", "stage2"):
        if steps := values[f"{stage}_steps"]:
            values[f"{stage}_epochs"] = f"{steps} steps"  # they override the epochs
    rows = list(values.items())
    rows += [*_vadclip(P), *_anomalyclip(P)]
    used = ClassifierSettings(P.qa.learning_rate, P.qa.batch_size, P.qa.hidden, P.qa.epochs, P.seed)
    rows += [(f"temporal_classifier.{k}", v) for k, v in asdict(used).items()]
    rows += [row for name in BENCHMARKS for row in _counts(name)]
    return pd.DataFrame(rows, columns=["name", "value"])


def _vadclip(P: Params) -> Iterator[tuple[str, Any]]:
    for preset in ("ucf", "xd"):
        published = DetectorParams(vadclip_preset=preset, variant=P.detector.variant)
        values = vadclip_settings(published).model_dump()
        values["context_tokens"] = values["prefix"] + values["postfix"]
        yield from ((f"vadclip.{preset}.{name}", value) for name, value in values.items())


def _anomalyclip(P: Params) -> Iterator[tuple[str, Any]]:
    for preset in ("ucf", "xd", "sht"):
        published = DetectorParams(anomalyclip_preset=preset, variant=P.detector.variant)
        values = anomalyclip_settings(published).model_dump()
        values["videos_per_batch"] = 2 * values["batch_size"]
        values["masked_per_cent"] = round(100 * (1 - values["keep_probability"]), 6)
        values["warmup_per_cent"] = 100 * values["warmup_epochs"] / values["epochs"]
        yield from ((f"anomalyclip.{preset}.{name}", value) for name, value in values.items())


def _counts(name: str) -> Iterator[tuple[str, int]]:
    benchmark = load_benchmark(name)
    for split, counts in benchmark.counts.items():
        yield from ((f"{name}.{split}.{label}", n) for label, n in counts.items())
        yield f"{name}.{split}", sum(counts.values())
    yield f"{name}.videos", sum(sum(counts.values()) for counts in benchmark.counts.values())
    yield f"{name}.classes", len(benchmark.abnormal_classes)
