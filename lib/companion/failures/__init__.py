"""Where and why the model fails: degraded clips measured, worst errors shown (supplementary E)."""

from companion.failures.gallery import (
    Panels,
    caption_panels,
    error_panels,
    real_panels,
    worst_errors,
)
from companion.failures.measurement import (
    Sample,
    degraded_frames,
    degraded_scores,
    load_samples,
    measure,
)
from companion.failures.statistics import all_curves, curves, reference_curves

__all__ = [
    "Panels",
    "Sample",
    "all_curves",
    "caption_panels",
    "curves",
    "degraded_frames",
    "degraded_scores",
    "error_panels",
    "load_samples",
    "measure",
    "real_panels",
    "reference_curves",
    "worst_errors",
]
