"""Which model scores: a tuned folder or any backbone, said in words."""

from pathlib import Path

from alertclip.backbone import brings_weights, load_backbone
from alertclip.errors import InputError
from alertclip.export import META, load_alertclip
from alertclip.files import read_json
from alertclip.model import AlertCLIP

FRAMES = 8  # a window where the model does not say


def load_model(name: str, pretrained: str | None, device: str) -> tuple[AlertCLIP, str]:
    """An AlertCLIP for scoring and one line that says which backbone it is and if it is tuned."""
    folder = Path(name.removeprefix("local-dir:"))
    if (folder / META).exists():
        model, line = load_alertclip(folder), f"tuned Alert-CLIP from {folder.name}"
    else:
        if not pretrained and not brings_weights(name):
            raise InputError(
                f"--model {name}: no folder with {META} (notebook 04 writes runs/<profile>/export);"
                " for an open_clip model give --pretrained too (such as openai), else it is random"
            )
        backbone = load_backbone(name, pretrained)
        model, line = AlertCLIP(backbone), f"{backbone.name}, not tuned for anomalies"
    return model.to(device).eval(), line


def trained_frames(name: str) -> int:
    """Frames per clip that an exported folder was trained with; 8 for any other model."""
    path = Path(name.removeprefix("local-dir:")) / META
    return read_json(path).get("num_frames", FRAMES) if path.exists() else FRAMES
