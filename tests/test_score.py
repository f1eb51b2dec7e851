"""Scoring videos: every frame gets a row, bad files are named, nothing is overwritten."""

import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from faults.harness import refused
from test_video import encode
from torch import nn

from alertclip import anomaly_curve, score
from alertclip.prompts import load_prompts
from media import files

BLUE, RED = (20, 20, 220), (220, 20, 20)


class ColourModel(nn.Module):
    """Replaces AlertCLIP: a frame's embedding is its mean colour, abnormal prompts are red."""

    image_size, grid = (32, 32), (2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        self.mean = torch.zeros(1)
        self.longest = 0

    def encode_frames(self, frames: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(v=frames.float().mean(dim=(-1, -2)))

    def pool_frames(self, v: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
        self.longest = max(self.longest, v.shape[1])
        return SimpleNamespace(z=v)

    def encode_text(self, sentences: list[str]) -> torch.Tensor:
        abnormal = load_prompts(score.PROMPTS).sets.abnormal
        colours = [RED if sentence in abnormal else BLUE for sentence in sentences]
        return nn.functional.normalize(torch.tensor(colours, dtype=torch.float32), dim=-1)


def write_video(path: Path, frames: int = 40) -> Path:
    """A video that is blue, then red, at 30 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = [BLUE] * (frames // 2) + [RED] * (frames - frames // 2)
    return encode(path, (np.full((48, 64, 3), colour, np.uint8) for colour in colours), "mpeg4")


@pytest.fixture
def model(monkeypatch) -> ColourModel:
    model = ColourModel().eval()
    monkeypatch.setattr(score, "load_model", lambda *_: (model, "colour model, not tuned"))
    even = torch.full((1, 2, 2), 0.25)  # it has no attention to show
    monkeypatch.setattr(score, "attention_maps", lambda _, frames: even.expand(len(frames), 2, 2))
    return model


def test_curve_has_a_row_per_frame_and_finds_the_event(model, tmp_path):
    prompts = anomaly_curve.embed_prompts(model, load_prompts(score.PROMPTS))
    video = write_video(tmp_path / "a.mp4")
    curve = anomaly_curve.score_video(model, video, prompts, num_frames=4, stride=4)
    table = curve.table
    assert table["frame"].tolist() == list(range(40))
    assert table["time_s"].iloc[-1] == pytest.approx(39 / 30)
    assert table["score"].between(0, 1).all()
    assert (table["score"][:20] < 0.1).all() and (table["score"][20:] > 0.9).all()
    assert curve.captions[-1] in load_prompts(score.PROMPTS).sets.abnormal
    assert model.longest == 4, "a window must not grow with the video"


def mixing(v: torch.Tensor, mask: torch.Tensor) -> SimpleNamespace:
    """Every frame sees the mean of its window."""
    v = v * mask[..., None]
    return SimpleNamespace(z=v + v.sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None])


@pytest.mark.parametrize("decoders", [1, 2, 9])
def test_videos_scored_together_score_as_alone(model, tmp_path, monkeypatch, decoders):
    """Long videos are cut into pieces; windows never reach into another video."""
    monkeypatch.setattr(anomaly_curve, "BATCH", 16)
    monkeypatch.setattr(anomaly_curve, "has_bf16", lambda device: True)
    monkeypatch.setattr(model, "pool_frames", mixing)
    prompts = anomaly_curve.embed_prompts(model, load_prompts(score.PROMPTS))
    lengths = [16, 3, 90, 7, 33]
    videos = [write_video(tmp_path / f"{n}.mp4", n) for n in lengths]
    (tmp_path / "text.mp4").write_text("no video")
    paths = [videos[0], tmp_path / "text.mp4", *videos[1:], videos[0], tmp_path / "none.mp4"]
    options = {"num_frames": 4, "stride": 2, "decoders": decoders}
    curves = {}
    for path, curve in anomaly_curve.score_videos(model, paths, prompts, **options):
        assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()
        assert path not in curves
        curves[path] = curve
    assert "cannot be decoded" in str(curves.pop(tmp_path / "text.mp4"))
    assert "none.mp4: no such file" in str(curves.pop(tmp_path / "none.mp4"))
    assert set(curves) == set(videos)
    for path, curve in curves.items():
        alone = anomaly_curve.score_video(model, path, prompts, 4, stride=2)
        pd.testing.assert_frame_equal(curve.table, alone.table)
        assert curve.captions == alone.captions and len(curve.table) == int(path.stem)


def test_every_file_of_a_folder_is_in_the_summary(model, tmp_path, capsys):
    """Names of any bytes, links, other suffixes, bad files; a second call keeps the rows."""
    folder, out = tmp_path / "videos", tmp_path / "videos/out"
    good = write_video(folder / "b/clip.mp4", 4)
    for name in [b"a/clip.mp4", b"\xff\xfe.mp4", b"$1 {x} $y_.MKV", b"x" * 250 + b".mp4"]:
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name))
        path.parent.mkdir(exist_ok=True)
        shutil.copy(good, path)
    (folder / "hub.mp4").symlink_to(good)
    os.mkfifo(folder / "pipe.mp4")
    for name in ("broken.avi", "notes.txt"):
        (folder / name).write_text("no video")
    assert score.main([str(folder), str(tmp_path / "missing.mp4"), "--out", str(out)]) == 1
    assert "not tuned" in capsys.readouterr().out
    summary = pd.read_csv(out / "summary.csv", keep_default_na=False, dtype=str)
    assert len(summary) == 10 == summary["video"].nunique()
    assert Counter(summary["status"]) == {"scored": 6, "failed": 3, "skipped": 1}
    reasons = " ".join(summary["reason"][summary["status"] == "failed"])
    assert "broken.avi: cannot be decoded" in reasons and reasons.count("no such file") == 2
    scored = summary["output"][summary["status"] == "scored"]
    assert {r"\xff\xfe", "$1 {x} $y_", "hub", "a__clip", "b__clip"} < {*scored}
    outputs = {f"{name}{end}" for name in scored for end in (".csv", ".png")}
    assert {path.name for path in out.iterdir()} == {*outputs, "summary.csv", score.LOCK}
    other = write_video(tmp_path / "other/hub.mp4", 4)
    assert score.main([str(other), "--out", str(out)]) == 0
    again = pd.read_csv(out / "summary.csv", keep_default_na=False, dtype=str)
    assert again[:10].equals(summary) and again["output"][10] == "other__hub"
    (out / "summary.csv").write_text("a,b\n1,2\n")
    assert score.main([str(other), "--out", str(out)]) == 2


def test_results_may_stand_beside_the_videos(tmp_path):
    clip, other, below = tmp_path / "clip.mp4", tmp_path / "other.dat", tmp_path / "scores/made.mp4"
    below.parent.mkdir()
    for path in (clip, other, below):
        path.touch()
    assert files.find_files([tmp_path], below.parent) == ([clip], [other])
    assert files.find_files([tmp_path, other], tmp_path) == ([clip, other, below], [])


def test_output_names_never_collide():
    paths = ["/x/a/clip.mp4", "/y/a/clip.mp4", "/x/a/clip.avi", "/x/Clip.mp4", "/x/summary.mp4"]
    paths += ["/x/a__clip.mp4", "/x/alone.mp4", "/x/alone.mp4"]
    names = score.output_names([Path(path) for path in paths])
    assert len(names) == 7 and len({name.casefold() for name in names.values()} | {"summary"}) == 8
    assert names[Path("/x/alone.mp4")] == "alone"
    alike = [Path(f"/{a}/{b}.mp4") for a in "xX" for b in ("clip", "Clip", "CLIP")]
    assert len({name.casefold() for name in score.output_names(alike).values()}) == len(alike)


def test_bad_options_are_refused(model, tmp_path, capsys, monkeypatch):
    for option in ("--num-frames=0", "--stride=1.5", "--fps=0"):
        with pytest.raises(SystemExit):
            score.main(["v.mp4", "--out", str(tmp_path), option])
    assert score.main(["v.mp4", "--out", str(tmp_path), "--prompts", "none.yaml"]) == 2
    assert "none.yaml" in capsys.readouterr().err
    monkeypatch.undo()
    assert score.main(["v.mp4", "--out", str(tmp_path), "--model", "ViT-B-32-quickgelu"]) == 2
    assert "--pretrained" in capsys.readouterr().err, "random weights must not score silently"
    (tmp_path / score.META).write_text("{}")
    assert "drop --pretrained" in refused(score.load_model, str(tmp_path), "openai", "cpu")
    assert "v.mp4: no such file" in refused(anomaly_curve.score_video, model, "v.mp4", None)
