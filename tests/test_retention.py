"""Retention on folders laid out as ImageNet and COCO are, with an oracle for a model."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from companion import retention
from companion.profiles import load_params
from media.errors import InputError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Oracle:
    """Embeds an image as its mean colour and a text as the colour it names."""

    image_size, mean = (8, 8), torch.zeros(1)

    def image_features(self, pixels):
        return pixels.float().mean(dim=(2, 3)) / 255

    def encode_text(self, texts):
        named = [next((c for n, c in COLOURS.items() if n in text), (1, 1, 1)) for text in texts]
        return torch.nn.functional.normalize(torch.tensor(named).float(), dim=-1)


def picture(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path)


def test_imagenet_hits_follow_the_folders_order(tmp_path, monkeypatch):
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", list(COLOURS))
    for i, colour in enumerate(COLOURS.values()):
        picture(tmp_path / f"n{i:03d}" / "a.png", colour)
    picture(tmp_path / "n000" / "b.png", COLOURS["blue"])  # a red one that looks blue
    hits = retention.imagenet_hits(Oracle(), tmp_path)
    assert hits.tolist() == [1, 0, 1, 1]
    monkeypatch.setattr(open_clip, "IMAGENET_CLASSNAMES", ["red", "green"])
    with pytest.raises(InputError, match="has 3 class folders, not 2"):
        retention.imagenet_hits(Oracle(), tmp_path)
    with pytest.raises(InputError, match="has no class folders"):
        retention.imagenet_hits(Oracle(), tmp_path / "none")


def test_coco_recall_counts_any_caption_of_an_image(tmp_path):
    """Image 7 is red, 3 green; the second caption of 7 says green."""
    images = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}]
    texts = [(3, "a green thing"), (7, "something red"), (7, "all green")]
    notes = [{"image_id": i, "caption": text} for i, text in texts]
    (tmp_path / "captions_val2017.json").write_text(
        json.dumps({"images": images, "annotations": notes})
    )
    picture(tmp_path / "val2017" / "a.png", COLOURS["red"])
    picture(tmp_path / "val2017" / "b.png", COLOURS["green"])
    hits = retention.coco_hits(Oracle(), tmp_path)
    assert hits["COCO, image to text: R@1"].tolist() == [1, 1]
    assert hits["COCO, text to image: R@1"].tolist() == [1, 1, 0]
    (tmp_path / "val2017" / "b.png").write_text("torn")
    with pytest.raises(InputError, match="b.png: not a readable image"):
        retention.coco_hits(Oracle(), tmp_path)


def test_nothing_named_is_said_and_not_invented(monkeypatch):
    P = load_params("smoke", {"world": "vagta"})
    monkeypatch.setattr(retention.tuned_models, "stage_model", lambda P, stage: Oracle())
    with pytest.warns(UserWarning, match="not measured: set retention_imagenet"):
        table = retention.retention_table(P, ["clip"])
    assert table["setting"].tolist() == ["not measured"] and np.isnan(table["value"]).all()
