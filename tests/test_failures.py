"""Attention against boxes, curves and the choice of errors: by hand and on small models."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_clip
import torch
from test_video import SIZE, write_ids

from alertclip.clips import ClipDataset
from alertclip.embeddings import ClipEmbeddings
from alertclip.records import Item, Keyframe, Region
from companion import failure_gallery, failure_measures
from companion.degradation import DEGRADATIONS, Clip
from companion.failure_measures import box_cover, box_measures, curves, lend
from companion.profiles import from_flat
from companion.relevance import FrameMaps
from companion.tuned_models import StageResult
from media.cache import FrameCache

LEVELS = {"blur": [4.0, 1.0], "compression": [10, 40], "actor size": [0.5]}
P = from_flat({"bootstrap_samples": 50, "failure_levels": LEVELS, "evaluation_batch_size": 3})


def boxed(boxes: list, present: list) -> Clip:
    """Frames 24 x 32 with boxes (R, T, 4)."""
    frames = torch.zeros(len(present[0]), 3, 24, 32, dtype=torch.uint8)
    return Clip(frames, torch.tensor(boxes).float(), torch.tensor(present))


def test_cover_is_the_union_of_present_boxes_in_whole_pixels():
    left, top = [0.0, 0.0, 0.25, 1.0], [0.0, 0.0, 1.0, 1 / 3]
    clip = boxed([[left, left], [top, top]], [[True, True], [False, True]])
    cover = box_cover(clip, torch.tensor([0, 1]), (3, 4))  # patches of 8 x 8
    assert cover[0].tolist() == [[1, 0, 0, 0]] * 3
    assert cover[1].tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]  # counted once
    part = boxed([[[0.125, 0.0, 0.25, 1 / 6]]], [[True]])  # 4 x 4 of the first patch's 8 x 8
    assert box_cover(part, torch.tensor([0]), (3, 4))[0, 0].tolist() == [0.25, 0, 0, 0]


def test_box_measures_by_hand():
    """The box covers one of twelve patches and three quarters of the next."""
    clip = boxed([[[0.0, 0.0, 0.4375, 1 / 3]] * 2], [[True, True]])
    uniform, peaked = torch.full((2, 3, 4), 1 / 12), torch.zeros(2, 3, 4)
    peaked[0, 0, 1], peaked[0, 2, 3] = 0.6, 0.4  # the peak touches the box
    peaked[1, 0, 0], peaked[1, 2, 3] = 0.1, 0.9  # it does not
    values = box_measures(FrameMaps(uniform, peaked), clip, torch.tensor([0, 1]))
    assert [values["area"], values["mass_rollout"]] == pytest.approx([1.75 / 12] * 2)
    assert [values["reach"], values["hits_rollout"]] == pytest.approx([2 / 12] * 2)  # chance: ties
    assert values["mass_relevance"] == pytest.approx((0.6 * 0.75 + 0.1) / 2)
    assert values["hits_relevance"] == 0.5


def test_scores_of_degraded_clips():
    """Two abnormal and two normal clips of three frames and a padded one; actor in frames 1, 2."""
    models = {"CLIP": tiny_clip.alertclip("avg"), "Full": tiny_clip.alertclip("tok", seed=1)}
    tiny_clip.stir(models["Full"])
    start = boxed([[[0.25, 0.0, 0.75, 0.5]] * 4], [[False, True, True, False]])
    start = replace(start, mask=torch.tensor([True, True, True, False]))
    samples = [
        replace(start, frames=tiny_clip.frames(4, seed=i), key=f"{name}.mp4#0-8",
                label=int(i < 2), located=i < 2)
        for i, name in enumerate("abcd")
    ]  # fmt: skip
    scores = failure_measures.degraded_scores(P, models, samples)
    assert len(scores) == 2 * 4 * 8
    # Steps start as the clip is and get worse.
    part = scores[(scores["model"] == "CLIP") & (scores["key"] == "a.mp4#0-8")]
    levels = {kind: rows["level"].tolist() for kind, rows in part.groupby("kind")}
    inf = DEGRADATIONS["compression"].clean
    assert levels == {"blur": [0, 1, 4], "compression": [inf, 40, 10], "actor size": [1, 0.5]}
    values = ["margin", "area", "mass_rollout", "mass_relevance", "hits_relevance"]
    first = scores[scores["step"] == 0].set_index(["kind", "model", "key"])[values]
    for kind in LEVELS:
        pd.testing.assert_frame_equal(first.loc[kind], first.loc["blur"])
    # The margin is that of the clip alone.
    full, clip = models["Full"], samples[2]
    with torch.no_grad():
        embedding = full.encode_clip(clip.frames[None], clip.mask[None]).embedding[0]
    alone = float(embedding @ failure_measures.anomaly_direction(P, full))
    margin = first.loc[("compression", "Full", "c.mp4#0-8"), "margin"]
    assert margin == pytest.approx(alone, abs=1e-6)
    # Attention is measured on annotated clips alone.
    measured = scores.groupby("key")["area"].apply(lambda area: area.notna().all())
    assert measured.tolist() == [True, True, False, False] and scores["margin"].notna().all()
    area = scores.dropna(subset="area").groupby(["kind", "step"])["area"].unique()
    assert (area["actor size", 0], area["actor size", 1]) == ([0.25], [0.0625])


def test_curves_by_hand():
    """One model, kind and step; two abnormal clips with a box, two normal ones without."""
    table = pd.DataFrame({"margin": [0.3, 0.1, 0.2, 0.0], "label": [1, 1, 0, 0],
                          "video": list("abcd"), "area": [0.1, 0.4, np.nan, np.nan],
                          "reach": [0.2, 0.6, np.nan, np.nan],
                          "mass_rollout": [0.3, 0.6, np.nan, np.nan],
                          "hits_relevance": [1.0, 0.5, np.nan, np.nan]})  # fmt: skip
    table = table.assign(model="CLIP", kind="blur", step=0, level=0.0)
    lift = curves(P, table, "rollout").iloc[0]
    assert lift["value"] == pytest.approx(0.9 / 0.5) and lift["n"] == 2  # not the mean of ratios
    assert lift["low"] == pytest.approx(1.5) and lift["high"] == pytest.approx(3.0)
    hits = curves(P, table, "pointing").iloc[0]
    assert (hits["value"], hits["chance"]) == (pytest.approx(75), pytest.approx(40))
    margin = curves(P, table, "margin").set_index("of")["value"]
    assert margin.to_dict() == pytest.approx({"abnormal clips": 0.2, "normal clips": 0.1})
    auc = curves(P, table, "auc").iloc[0]
    assert auc["value"] == pytest.approx(75) and auc["n"] == 4
    assert (auc["title"], auc["unit"]) == ("Blur", DEGRADATIONS["blur"].unit)


def test_worst_errors_go_by_margin_and_then_by_name():
    """Embeddings whose margin is given: P_A = e1, P_N = e2."""
    margins, labels = [0.1, -0.2, -0.2, 0.4, 0.3, 0.4, 0.0], [1, 1, 1, 1, 0, 0, 0]
    unit, none = np.stack([margins, np.zeros(7)], axis=1), np.zeros((7, 1))
    classes = ["Fire" if label else "Normal" for label in labels]
    clips = ClipEmbeddings(unit, none, none, none, none, np.array(labels), classes, list("fcbazyx"))
    result = StageResult("full", clips, np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
    errors = failure_gallery.worst_errors(result, 2)
    assert errors["key"].tolist() == ["b", "c", "y", "z"]
    assert errors["error"].tolist() == ["missed"] * 2 + ["false alarm"] * 2
    assert errors["passed_by"].tolist() == [1, 1, 0.75, 0.75]


def test_a_clip_carries_annotated_tracks_and_lends_them(tmp_path):
    video = "UCF_Crimes_Videos/UCF_Crimes/Videos/Fighting/Fighting002_x264.mp4"
    (tmp_path / video).parent.mkdir(parents=True)
    write_ids(tmp_path / video)
    track = (Keyframe(6, (0.0, 0.0, 0.5, 0.5)), Keyframe(16, (0.5, 0.5, 1.0, 1.0), False))
    item = Item(video, "", (Region("street"), Region("men fight", track)))
    dataset = ClipDataset(tmp_path, [item], 8, FrameCache(tmp_path / "cache", SIZE), workers=1)
    clip = failure_measures.load_clip(dataset, 0)
    assert clip.located and clip.boxes.shape == (1, 8, 4)  # the whole-frame region is no actor
    times = dataset[0]["times"]
    assert clip.seen.tolist() == [i for i, t in enumerate(times) if 0.2 <= t <= 0.6]
    np.testing.assert_array_equal(clip.frames.permute(0, 2, 3, 1), dataset[0]["frames"])
    calm = replace(clip, boxes=clip.boxes[:0], present=clip.present[:0], label=0, located=False)
    calm = replace(calm, mask=torch.arange(8) < 2)
    lent = lend(clip, calm)
    assert torch.equal(lent.boxes, clip.boxes) and not lent.located
    assert torch.equal(lent.present[0], clip.present[0] & calm.mask)


def test_real_clips_are_skipped_with_a_reason(tmp_path, capsys):
    assert failure_gallery.real_gallery(from_flat({"world": "miniworld"}), "", "") is None
    assert "synthetic" in capsys.readouterr().out
    P = from_flat({"failure_videos": str(tmp_path)})
    assert failure_gallery.real_gallery(P, "", "") is None
    assert "has none of Abuse011" in capsys.readouterr().out
