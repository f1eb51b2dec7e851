"""AnomalyCLIP, a weakly supervised detector that also names the anomaly of each frame.

Zanella, Liberatori, Menapace, Poiesi, Wang and Ricci, "Delving into CLIP latent space for video
anomaly recognition", CVIU 2024 (official code: lucazanella/AnomalyCLIP). Not to be confused with
"AnomalyCLIP: Object-agnostic prompt learning for zero-shot anomaly detection" by Zhou, Pang, Tian,
He and Chen (ICLR 2024, zqhang/AnomalyCLIP), an unrelated method for defects in industrial images.

Equations and sections are the paper's. Where its text and the released code differ, the setting
``variant`` chooses; the default is the code, which made the published numbers.
"""

from detectors.anomalyclip.checkpoint import load_checkpoint, save_checkpoint
from detectors.anomalyclip.inference import FrameScores, score_video, score_videos
from detectors.anomalyclip.model import AnomalyCLIP
from detectors.anomalyclip.selector import normality_prototype
from detectors.anomalyclip.settings import PRESETS, AnomalyCLIPSettings, preset
from detectors.anomalyclip.training import fit

__all__ = [
    "PRESETS",
    "AnomalyCLIP",
    "AnomalyCLIPSettings",
    "FrameScores",
    "fit",
    "load_checkpoint",
    "normality_prototype",
    "preset",
    "save_checkpoint",
    "score_video",
    "score_videos",
]
