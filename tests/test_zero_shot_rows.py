"""Rows beside our own models: MSS by data set, CLIP's own view of a frame."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from test_video import encode

from companion import zero_shot_tables
from companion.profiles import load_params
from detectors.event_annotations import VideoTruth
from detectors.features import SnippetRule, decoded_pieces
from media.errors import InputError
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
    with pytest.raises(InputError, match="snippet_crops to 1"):
        SnippetRule(4, 1, 10, "clip")
