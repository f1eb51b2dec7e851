"""Training of both stages with one loop: ``run_stage`` for a profile, ``fit`` for anything else."""

from alertclip.training.log import History, read_history
from alertclip.training.loop import TrainingError, fit
from alertclip.training.settings import StageSettings, stage_settings
from alertclip.training.stage import run_stage

__all__ = [
    "History",
    "StageSettings",
    "TrainingError",
    "fit",
    "read_history",
    "run_stage",
    "stage_settings",
]
