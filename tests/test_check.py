"""The check of features: found by name, refused if of another model, their rule named."""

import shutil

import numpy as np
import pytest
import torch
from faults.harness import refused

from alertclip.backbone import load_backbone
from alertclip.model import AlertCLIP
from detectors import check
from detectors.features import SnippetRule, embed_crops, extract_features, feature_file, take_crop
from media.errors import InputError
from media.video import probe, read_frames

RNG = np.random.default_rng(0)
CONE = RNG.normal(size=16)  # features of a model lie around one direction


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "ROWS", 2)  # few are enough
        yield AlertCLIP(load_backbone("miniclip")).eval()


@pytest.fixture(scope="module")
def video(root):
    return next((root / "lib/miniworld/example").rglob("*.mp4"))


def test_our_own_rule_is_named(model, video, tmp_path):
    rule = SnippetRule(8, 8, 10)
    [folder] = extract_features([model], {video: [7]}, rule, tmp_path / "f", tmp_path / "cache", 1)
    features = np.load(feature_file(folder, video, 7)).astype(np.float16)  # as it is released
    rows, rules = check.extracted_anew(model, video, len(features))
    table = check.rule_table(features[rows], rules)
    expected = "fits: frames: mean of 8; squashed, crop 7 of 146 x 146 (cosine 1.0"
    assert check.verdict(table).startswith(expected)
    alike = table.assign(cosine=0.9999)
    assert check.verdict(alike).startswith(f"{len(table)} rules give the same here")


@torch.inference_mode()
def test_another_resize_is_named(model, video):
    info = probe(video)
    width = round(128 * 8 / 7 * info.width / info.height)
    frames = torch.from_numpy(read_frames(video, range(0, info.frames - 7, 8), (146, width), info))
    features = embed_crops(model, take_crop(frames, (128, 128), 4), SnippetRule(1, 1, 1))[0]
    rows, rules = check.extracted_anew(model, video, len(features))
    table = check.rule_table(features[rows], rules)
    assert f"first; short side, crop 4 of 146 x {width} (cosine 1.0" in check.verdict(table)
    wrong = table.assign(cosine=table["cosine"] - 0.1)
    assert check.verdict(wrong).startswith("no rule fits; nearest: frames: first; short side")


def test_the_command_reports_and_refuses(model, video, tmp_path, capsys):
    where = tmp_path / "f", tmp_path / "cache", 1
    [folder] = extract_features([model], {video: [0]}, SnippetRule(8, 1, 1), *where)
    ask = [str(folder), "--model", "miniclip", "--benchmark", "miniworld"]
    check.main([*ask, "--video", str(video)])
    output = capsys.readouterr().out
    assert "layout: 1 as NAME__0.npy; 128 wide" in output and "1 per 8.00" in output
    assert "cosine with class prompts 0." in output and "fits: frames: middle" in output
    with pytest.raises(SystemExit, match="other: no feature file of this name"):
        check.main([*ask, "--video", str(shutil.copy(video, tmp_path / "other.mp4"))])
    file = feature_file(folder, video, 0)
    np.save(file, np.load(file)[:, ::-1])  # the same numbers, of another space
    with pytest.raises(SystemExit, match="features of another model than miniclip"):
        check.main(ask)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def made(folder, name, rows=20, width=16, scale=10.0):
    x = CONE[:width] if width <= 16 else RNG.normal(size=width)
    path = folder / f"{name}.npy"
    np.save(path, (scale * unit(x + 0.3 * RNG.normal(size=(rows, width)))).astype(np.float16))
    return path


def test_files_are_found_by_name_in_any_folder(tmp_path):
    (tmp_path / "XDTestClipFeatures").mkdir()
    path = made(tmp_path / "XDTestClipFeatures", "v=a.b__#1_label_A__0")
    assert check.feature_index(tmp_path) == {"v=a.b__#1_label_A__0": path}
    made(tmp_path, path.stem)
    assert "share a name" in refused(check.feature_index, tmp_path)
    assert "no feature files" in refused(check.feature_index, tmp_path / "absent")


def test_features_of_another_model_are_refused(tmp_path):
    files = [made(tmp_path, f"v{i}") for i in range(4)]
    known = {"class prompts": unit(CONE + RNG.normal(size=(3, 16)))}
    summary = check.summarise(files)
    check.check_space(summary, known, "tiny")
    away = CONE[::-1] - (CONE[::-1] @ unit(CONE)) * unit(CONE)  # at a right angle
    with pytest.raises(InputError, match=r"another model than tiny: .* with class prompts"):
        check.check_space(summary, {"class prompts": away[None]}, "tiny")
    with pytest.raises(InputError, match="width 768, but tiny makes 16; .* likely of ViT-L/14"):
        check.check_space(check.summarise([made(tmp_path, "wide", width=768)]), known, "tiny")
    mixed = check.summarise([*files, made(tmp_path, "unit", scale=1)])
    assert "1 of 5 sampled files hold unit rows" in refused(check.check_space, mixed, known, "tiny")
    with pytest.raises(InputError, match="other.npy: width 8, but .*v0.npy has 16"):
        check.summarise([files[0], made(tmp_path, "other", width=8)])


def test_real_features_are_told_from_those_of_another_model(shared_data):
    folder, names = shared_data / "clip_features", ("ucf_crime", "xd_violence", "shanghaitech")
    text = {n: unit(np.load(folder / f"text/{n}_class_prompts.npy").astype(float)) for n in names}
    files = [*sorted(folder.glob("ucf_frames/*.npy")), *sorted(folder.glob("snippets/*.npy"))]
    for file in files:
        summary = check.summarise([file])
        cosines = check.check_space(summary, text, "").values()
        assert min(cosines) > 0.19 and max(cosines) < 0.26
        assert "ViT-B-16" in check.likely_model(summary)
    whole, rng, refused = check.summarise(files), np.random.default_rng(0), 0
    for _ in range(200):  # another model: the same cones along other axes
        other = {name: t[:, rng.permutation(512)] for name, t in text.items()}
        try:
            check.check_space(whole, other, "ViT-B-32-quickgelu")
        except InputError as error:
            refused += "likely of OpenAI's ViT-B/16" in str(error)
    assert refused >= 195  # by chance, .7 % of such cones lie less than 84 degrees apart
    with pytest.raises(InputError, match="5 of 11 sampled files hold unit rows"):
        check.check_space(whole, text, "ViT-B-16-quickgelu")
