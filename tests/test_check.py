"""The check of features names the rule that made them, and refuses those of another model."""

import shutil

import numpy as np
import pytest
import torch

from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from detectors import check
from detectors.check import extracted_anew, main, rule_table, verdict
from detectors.features import SnippetRule, embed_crops, extract_features, feature_file, take_crop
from media.video import probe, read_frames


@pytest.fixture(scope="module")
def model():
    return AlertCLIP(load_backbone("miniclip")).eval()


@pytest.fixture(scope="module")
def video(root):
    return next((root / "lib/miniworld/example").rglob("*.mp4"))


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(check, "ROWS", 2)


def test_our_own_rule_is_named(model, video, tmp_path):
    rule = SnippetRule(8, 8, 10)
    [folder] = extract_features([model], {video: [7]}, rule, tmp_path / "f", tmp_path / "cache", 1)
    features = np.load(feature_file(folder, video, 7)).astype(np.float16)  # as it is released
    rows, rules = extracted_anew(model, video, len(features))
    table = rule_table(features[rows], rules)
    expected = "fits: frames: mean of 8; squashed, crop 7 of 146 x 146 (cosine 1.0"
    assert verdict(table).startswith(expected)
    alike = table.assign(cosine=0.9999)
    assert verdict(alike).startswith(f"{len(table)} rules give the same here")


@torch.inference_mode()
def test_another_resize_is_named(model, video):
    info = probe(video)
    width = round(128 * 8 / 7 * info.width / info.height)
    frames = torch.from_numpy(read_frames(video, range(0, info.frames - 7, 8), (146, width), info))
    features = embed_crops(model, take_crop(frames, (128, 128), 4), SnippetRule(1, 1, 1))[0]
    rows, rules = extracted_anew(model, video, len(features))
    table = rule_table(features[rows], rules)
    assert f"first; short side, crop 4 of 146 x {width} (cosine 1.0" in verdict(table)
    wrong = table.assign(cosine=table["cosine"] - 0.1)
    assert verdict(wrong).startswith("no rule fits; nearest: frames: first; short side")


def test_the_command_reports_and_refuses(model, video, tmp_path, capsys):
    [folder] = extract_features(
        [model], {video: [0]}, SnippetRule(8, 1, 1), tmp_path / "f", tmp_path / "cache", 1
    )
    ask = [str(folder), "--model", "miniclip", "--benchmark", "miniworld"]
    main([*ask, "--video", str(video)])
    said = capsys.readouterr().out
    assert "layout: 1 as NAME__0.npy; 128 wide" in said and "1 per 8.00" in said
    assert "cosine with class prompts 0." in said and "fits: frames: middle" in said
    other = shutil.copy(video, tmp_path / "other.mp4")
    with pytest.raises(SystemExit, match="other: no feature file of this name"):
        main([*ask, "--video", str(other)])
    file = feature_file(folder, video, 0)
    np.save(file, np.load(file)[:, ::-1])  # the same numbers, of another space
    with pytest.raises(SystemExit, match="features of another model than miniclip"):
        main(ask)
