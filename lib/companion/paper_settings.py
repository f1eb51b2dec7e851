"""The settings of a run as one table, which the ledger compares with the papers' settings."""

import pandas as pd

from companion.profiles import Params
from detectors.anomalyclip.settings import anomalyclip_settings
from detectors.benchmarks import load_benchmark
from detectors.training_protocol import DetectorParams
from detectors.vadclip.settings import vadclip_settings

BENCHMARKS = ("ucf_crime", "xd_violence", "shanghaitech", "ubnormal", "msad")


def settings_table(P: Params) -> pd.DataFrame:
    """Columns name, value: parameters of the run, presets of the detectors, counts of benchmarks.

    Presets are the published ones in the run's variant (official code or paper), before the
    profile's changes to them.
    """
    values = {name: v for name, v in P.flat().items() if not isinstance(v, dict)}
    for stage in ("stage1", "stage2"):
        if steps := values[f"{stage}_steps"]:
            values[f"{stage}_epochs"] = f"{steps} steps"  # they override the epochs
    for name in ("ucf", "xd"):
        published = DetectorParams(vadclip_preset=name, variant=P.detector.variant)
        preset = vadclip_settings(published).model_dump()
        preset["context_tokens"] = preset["prefix"] + preset["postfix"]
        values |= _under(f"vadclip.{name}", preset)
    for name in ("ucf", "xd", "sht"):
        published = DetectorParams(anomalyclip_preset=name, variant=P.detector.variant)
        preset = anomalyclip_settings(published).model_dump()
        preset["videos_per_batch"] = 2 * preset["batch_size"]
        preset["masked_per_cent"] = round(100 * (1 - preset["keep_probability"]), 6)
        preset["warmup_per_cent"] = 100 * preset["warmup_epochs"] / preset["epochs"]
        values |= _under(f"anomalyclip.{name}", preset)
    names = ("learning_rate", "batch_size", "hidden", "epochs")
    used = {name: getattr(P.qa, name) for name in names} | {"seed": P.seed}
    values |= _under("temporal_classifier", used)
    for name in BENCHMARKS:
        values |= _under(name, benchmark_counts(name))
    return pd.DataFrame(values.items(), columns=["name", "value"])


def benchmark_counts(name: str) -> dict[str, int]:
    """Videos of a benchmark by split and label, by split, and in all; abnormal classes."""
    benchmark, counts = load_benchmark(name), {}
    for split, labels in benchmark.counts.items():
        counts |= _under(split, labels) | {split: sum(labels.values())}
    videos = sum(sum(labels.values()) for labels in benchmark.counts.values())
    return counts | {"videos": videos, "classes": len(benchmark.abnormal_classes)}


def _under(prefix: str, values: dict) -> dict:
    return {f"{prefix}.{name}": v for name, v in values.items()}
