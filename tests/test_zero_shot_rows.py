"""Notebook 05: MSS by data set, CLIP's own view of a frame, what tuning forgets."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from faults.harness import refused
from PIL import Image
from test_video import encode

from companion import retention, zero_shot_tables
from companion.profiles import load_params
from detectors.event_annotations import VideoTruth
from detectors.features import SnippetRule, decoded_pieces
from media.files import write_json
from media.video import read_frames


def test_mss_of_a_domain_and_the_average_over_domains(monkeypatch):
    """A normal video between the prompts (0), an abnormal one at gap -.2, and in "two" at +.2."""
    P = load_params("smoke")
    prompts = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])  # normal, abnormal
    normal, abnormal = VideoTruth("n", (), (), False), VideoTruth("a", (), (), True)

    def tested(domain, wanted):
        x = np.array([[0.8, 0.6]]) if domain is P else np.array([[3.0, 4.0], [30.0, 40.0]])
        features = [np.array([[5.0, 0.0], [0.0, 0.1]]), x]  # the mean of units is between both
        test = zero_shot_tables.EvaluationSet(features, [normal, abnormal], [])
        yield "clip", SimpleNamespace(mean=torch.zeros(1)), prompts, test

    monkeypatch.setattr(zero_shot_tables, "tested", tested)
    other = SimpleNamespace(data=P.data)
    monkeypatch.setattr(zero_shot_tables, "domains", lambda P: {"one": P, "two": other})
    table = zero_shot_tables.mss_by_domain(P, ["clip"]).set_index("domain")
    assert table["value"].round(6).to_dict() == {"one": -0.1, "two": 0.1, "average": 0}
    assert table["n"].to_dict() == {"one": 2, "two": 2, "average": 4}
    assert table["value"].between(table["low"], table["high"]).all()


def test_clips_own_view_of_a_frame_is_open_clips(tmp_path):
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 256, (8, 16, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    path = encode(tmp_path / "v.mp4", [wide] * 4, size=(64, 128))
    rule = SnippetRule(4, 1, 1, "clip")
    [piece] = decoded_pieces([path], (32, 32), rule, tmp_path / "cache", 1)
    native = Image.fromarray(read_frames(path, [2], (64, 128))[0])
    options = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    theirs = open_clip.image_transform(32, is_train=False, **options)(native)
    np.testing.assert_array_equal(piece.frames[0], (255 * theirs).round().permute(1, 2, 0))
    squashed = decoded_pieces([path], (32, 32), SnippetRule(4, 1), tmp_path / "cache", 1)
    assert abs(next(squashed).frames[0].astype(int) - piece.frames[0]).mean() > 10
    assert "snippet_crops to 1" in refused(SnippetRule, 4, 1, 10, "clip")


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
    assert "has 3 class folders, not 2" in refused(retention.imagenet_hits, Oracle(), tmp_path)
    assert "has no class folders" in refused(retention.imagenet_hits, Oracle(), tmp_path / "none")


def test_coco_recall_counts_any_caption_of_an_image(tmp_path):
    """Image 7 is red, 3 green; the second caption of 7 says green."""
    images = [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "b.png"}]
    texts = [(3, "a green thing"), (7, "something red"), (7, "all green")]
    notes = [{"image_id": i, "caption": text} for i, text in texts]
    write_json(tmp_path / "captions_val2017.json", {"images": images, "annotations": notes})
    picture(tmp_path / "val2017" / "a.png", COLOURS["red"])
    picture(tmp_path / "val2017" / "b.png", COLOURS["green"])
    hits = retention.coco_hits(Oracle(), tmp_path)
    assert hits["COCO, image to text: R@1"].tolist() == [1, 1]
    assert hits["COCO, text to image: R@1"].tolist() == [1, 1, 0]
    (tmp_path / "val2017" / "b.png").write_text("torn")
    assert "b.png: not a readable image" in refused(retention.coco_hits, Oracle(), tmp_path)


def test_nothing_named_is_said_and_not_invented(monkeypatch):
    P = load_params("smoke", {"world": "vagta"})
    monkeypatch.setattr(retention.tuned_models, "stage_model", lambda P, stage: Oracle())
    with pytest.warns(UserWarning, match="not measured: set retention_imagenet"):
        table = retention.retention_table(P, ["clip"])
    assert table["setting"].tolist() == ["not measured"] and np.isnan(table["value"]).all()
