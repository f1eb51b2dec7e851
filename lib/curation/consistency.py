"""Whether a clip shows the class it is filed under, and how clearly, by CLIP.

CLIP compares the labelled class with the other abnormal ones. Untuned it cannot tell a normal
event from the abnormal one that resembles it (Alert-CLIP, Fig. 1), so clips filed as normal are
not judged and score 5.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alertclip.embeddings import ClipEmbeddings
from alertclip.model import AlertCLIP
from alertclip.prompts import Prompts
from curation.quality import level

# Log-odds of the labelled class against the likeliest other class: at -3 the model holds the other
# for twenty times as likely. Clarity: share of frames on which the labelled class is the likeliest.
# Both chosen on the mini world's development clips.
CLASS_LEVELS = (-3.0, -2.0, -1.0, 0.0)
CLARITY_LEVELS = (0.1, 0.2, 0.35, 0.5)


def class_embeddings(model: AlertCLIP, names: Sequence[str], prompts: Prompts) -> np.ndarray:
    """Unit mean text embedding of each class's prompts, or of its name: (C, D)."""
    texts = []
    for name in names:
        words = name.replace("_", " ").lower()
        sentences = prompts.classes.get(name) or [f"a video of {words}"]
        mean = model.encode_text(list(sentences)).float().detach().cpu().numpy().mean(axis=0)
        texts.append(mean / np.linalg.norm(mean))
    return np.stack(texts)


def score_consistency(
    clips: ClipEmbeddings, texts: np.ndarray, classes: Sequence[str], scale: float
) -> pd.DataFrame:
    """Scores of each clip from class ``texts`` (C, D) and the model's logit ``scale``.

    ``classes`` names the texts: abnormal classes only, at least two. Columns class, clarity,
    class_note, clarity_note, class_log_odds, clarity_share (nan where not judged).
    """
    rows = []
    for i, name in enumerate(clips.classes):
        if name not in classes or len(classes) < 2:
            rows.append((5, 5, "not judged", "not judged", np.nan, np.nan))
            continue
        own = list(classes).index(name)
        odds, other = (found[i] for found in _log_odds(scale * clips.embedding @ texts.T, own))
        frames = clips.v[i][clips.mask[i]]
        share = (_log_odds(scale * frames @ texts.T, own)[0] > 0).mean()
        scores = level(odds, CLASS_LEVELS), level(share, CLARITY_LEVELS)
        against = f"log-odds {odds:+.1f} against {classes[other]}"
        rows.append((*scores, against, f"likeliest on {share:.0%} of frames", odds, share))
    columns = ["class", "clarity", "class_note", "clarity_note", "class_log_odds", "clarity_share"]
    return pd.DataFrame(rows, columns=columns)


def _log_odds(logits: np.ndarray, own: int) -> tuple[np.ndarray, np.ndarray]:
    """Logit of class ``own`` minus the best other, (n, C) -> (n,), and the index of that other."""
    others = logits.copy()
    others[:, own] = -np.inf
    return logits[:, own] - others.max(axis=1), others.argmax(axis=1)
