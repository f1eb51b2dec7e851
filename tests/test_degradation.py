"""Degradations: clean is exact, units hold, levels are ordered, geometry moves the boxes."""

import math

import numpy as np
import pytest
import torch

from alertclip.errors import InputError
from companion.degradation import DEGRADATIONS, Clip, degrade

LEVELS = {  # mild to severe, on frames of 48 x 64
    "blur": [0.5, 1, 2, 4],
    "darkness": [1, 2, 4, 8],
    "noise": [5, 10, 40, 80],
    "compression": [90, 50, 20, 5],
    "resolution": [40, 24, 12, 6],
    "occlusion": [0.1, 0.25, 0.5, 1.0],
    "actor size": [0.9, 0.7, 0.5, 0.25],
}


def clip(seed: int = 0) -> Clip:
    """Three smooth coloured frames 48 x 64; the second region is not in the first frame."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64] / 48
    waves = [np.sin(6 * x * a + 5 * y * b + c) for a, b, c in rng.uniform(0.5, 2, (9, 3))]
    frames = (127 + 100 * np.array(waves)).reshape(3, 3, 48, 64).astype(np.uint8)
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.75]] * 3, [[0.5, 0.5, 1.0, 1.0]] * 3])
    present = torch.tensor([[True, True, True], [False, True, True]])
    return Clip(torch.from_numpy(frames), boxes, present)


def plain(frames: torch.Tensor) -> Clip:
    """A clip without boxes."""
    return Clip(
        frames, torch.zeros(0, len(frames), 4), torch.zeros(0, len(frames), dtype=torch.bool)
    )


def damage(kind: str, before: Clip, after: Clip) -> float:
    """Mean squared difference; for zoom, where pixels move, the area that the boxes lose."""
    if kind == "actor size":
        sides = (before.boxes - after.boxes)[..., 2:] - (before.boxes - after.boxes)[..., :2]
        return float(sides.sum())
    return float((before.frames.float() - after.frames.float()).square().mean())


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_the_clean_level_returns_the_very_clip(kind):
    start = clip()
    assert degrade(start, kind, DEGRADATIONS[kind].clean, 0) is start


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_levels_do_more_and_more_damage_the_same_for_a_seed(kind):
    start = clip()
    before = start.frames.clone()
    degraded = [degrade(start, kind, level, 3) for level in LEVELS[kind]]
    errors = [damage(kind, start, d) for d in degraded]
    assert errors == sorted(errors) and errors[0] > 0
    torch.testing.assert_close(start.frames, before, rtol=0, atol=0)  # the clip itself is kept
    for level, found in zip(LEVELS[kind], degraded, strict=True):
        assert found.frames.dtype == torch.uint8 and found.frames.shape == before.shape
        again = degrade(start, kind, level, 3)
        torch.testing.assert_close(found.frames, again.frames, rtol=0, atol=0)
    other = degrade(start, kind, LEVELS[kind][1], 4).frames
    assert torch.equal(other, degraded[1].frames) == (kind not in ("noise", "occlusion"))


def test_blur_has_the_stated_width():
    point = torch.zeros(1, 3, 49, 49, dtype=torch.uint8)
    point[..., 24, 24] = 255
    row = degrade(plain(point), "blur", 1.0, 0).frames[0, 0, 24].double()
    distance = torch.arange(49) - 24.0
    variance = float((row * distance**2).sum() / row.sum())
    assert variance == pytest.approx(1, rel=0.1)
    assert row.argmax() == 24


def test_a_stop_halves_linear_light():
    grey = torch.full((1, 3, 4, 4), 188, dtype=torch.uint8)  # sRGB 188 is half of full light
    found = degrade(plain(grey), "darkness", 1, 0)
    assert set(found.frames.unique().tolist()) == {137}  # a quarter: sRGB .5371
    white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    deep = degrade(plain(white), "darkness", 9, 0)
    assert deep.frames.unique().tolist() == [6]  # the linear toe: 12.92 * 255 / 512


def test_noise_has_the_stated_deviation_and_grows_in_place():
    grey = plain(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8))
    mild, strong = (degrade(grey, "noise", s, 5).frames.float() - 128 for s in (10, 20))
    assert mild.std() == pytest.approx(10, rel=0.03) and abs(mild.mean()) < 0.3
    assert (strong - 2 * mild).abs().max() <= 1.5  # one field, rounded twice


def test_jpeg_is_libjpegs_and_keeps_channels_in_order():
    red = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    red[:, 0] = 200
    found = degrade(plain(red), "compression", 50, 0)
    assert found.frames[0, 0].float().mean() > 150 > 60 > found.frames[0, 2].float().mean()
    blocky = degrade(clip(), "compression", 5, 0).frames[0, 1].float()
    steps = (blocky[:, 1:] - blocky[:, :-1]).abs().mean(dim=0)  # between columns x and x + 1
    edges = steps[7::8].mean()
    assert edges > 2 * steps.mean()  # the 8 x 8 blocks show


def test_resolution_keeps_no_detail_finer_than_its_pixels():
    stripes = torch.zeros(1, 3, 48, 64, dtype=torch.uint8)
    stripes[..., ::2] = 200  # one pixel wide: gone at half the height
    found = degrade(plain(stripes), "resolution", 24, 0)
    assert found.frames.float().std() < 1 and found.frames.float().mean() == pytest.approx(100, 1)
    with pytest.raises(InputError, match="96 px is above"):
        degrade(clip(), "resolution", 96, 0)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_occlusion_covers_the_share_of_present_boxes_only(share):
    start = clip()
    found = degrade(start, "occlusion", share, 0)
    changed = (found.frames != start.frames).any(dim=1)  # (T, H, W)
    inside = changed[0, 12:36, 16:32]
    assert changed[0].sum() == inside.sum()  # region 2 is not in frame 0
    assert inside.float().mean() == pytest.approx(share, abs=0.09)
    assert changed[1, 24:, 32:].float().mean() == pytest.approx(share, abs=0.09)
    torch.testing.assert_close(found.boxes, start.boxes)


def test_covers_are_nested():
    start = clip()
    masks = [
        (degrade(start, "occlusion", share, 7).frames != start.frames).any(dim=1)
        for share in (0.2, 0.5, 0.9)
    ]
    for small, large in zip(masks[:-1], masks[1:], strict=True):
        assert (small & ~large).float().sum() <= 0.02 * small.sum()  # equal by chance to the mean


def test_zoom_out_moves_boxes_with_the_pixels():
    frames = torch.zeros(1, 3, 48, 64, dtype=torch.uint8)
    frames[..., 12:36, 16:32] = 240  # fills its box, so the box can be read off the pixels
    start = Clip(frames, torch.tensor([[[0.25, 0.25, 0.5, 0.75]]]), torch.tensor([[True]]))
    found = degrade(start, "actor size", 0.5, 0)
    rows, columns = (found.frames[0, 0] > 200).nonzero().unbind(1)
    seen = [columns.min() / 64, rows.min() / 48, (columns.max() + 1) / 64, (rows.max() + 1) / 48]
    torch.testing.assert_close(found.boxes[0, 0], torch.stack(seen))
    torch.testing.assert_close(found.boxes[0, 0], torch.tensor([0.375, 0.375, 0.5, 0.625]))
    mean = frames.float().mean().round()
    assert (found.frames[0, :, 0, 0] == mean).all()  # padding


REFUSED = {"blur": -1, "noise": math.inf, "compression": 0, "occlusion": 1.2, "actor size": 0}


@pytest.mark.parametrize("kind, level", REFUSED.items())
def test_what_is_no_level_is_refused(kind, level):
    with pytest.raises(InputError, match=kind):
        degrade(clip(), kind, level, 0)
