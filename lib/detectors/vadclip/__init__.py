"""VadCLIP, a weakly supervised detector with a classification and an alignment branch.

Wu, Zhou, Pang, Zhou, Yan, Wang and Zhang, "VadCLIP: Adapting vision-language models for weakly
supervised video anomaly detection", AAAI 2024 (official code: nwpu-zxr/VadCLIP). Equations are the
paper's. Where its text and the released code differ, the setting ``variant`` chooses; the default
is the code, which made the published numbers.
"""

from detectors.vadclip.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from detectors.vadclip.inference import SnippetScores, score_video, score_videos
from detectors.vadclip.model import VadCLIP
from detectors.vadclip.prompt import CLIPText, TextTower
from detectors.vadclip.settings import PRESETS, VadCLIPSettings, preset
from detectors.vadclip.training import fit, multi_hot, training_steps

__all__ = [
    "PRESETS",
    "CLIPText",
    "SnippetScores",
    "TextTower",
    "VadCLIP",
    "VadCLIPSettings",
    "fit",
    "load_checkpoint",
    "multi_hot",
    "preset",
    "read_checkpoint",
    "save_checkpoint",
    "score_video",
    "score_videos",
    "training_steps",
]
