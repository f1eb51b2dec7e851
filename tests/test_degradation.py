"""Degradations: clean is exact, units hold, levels are ordered, geometry moves the boxes."""

import numpy as np
import pytest
import torch
from faults.harness import refused

from companion.degradation import DEGRADATIONS, Clip, degrade

LEVELS = {  # mild to severe, on frames of 48 x 64, and one that is refused
    "blur": ([0.5, 1, 2, 4], -1),
    "darkness": ([1, 2, 4, 8], -1),
    "noise": ([5, 10, 40, 80], np.inf),
    "compression": ([90, 50, 20, 5], 0),
    "resolution": ([40, 24, 12, 6], 96),
    "occlusion": ([0.1, 0.25, 0.5, 1.0], 1.2),
    "actor size": ([0.9, 0.7, 0.5, 0.25], 0),
}


def clip() -> Clip:
    """Three smooth coloured frames 48 x 64; the second region is not in the first frame."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64] / 48
    waves = [np.sin(6 * x * a + 5 * y * b + c) for a, b, c in rng.uniform(0.5, 2, (9, 3))]
    frames = (127 + 100 * np.array(waves)).reshape(3, 3, 48, 64).astype(np.uint8)
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.75]] * 3, [[0.5, 0.5, 1.0, 1.0]] * 3])
    present = torch.tensor([[True, True, True], [False, True, True]])
    return Clip(torch.from_numpy(frames), boxes, present)


def plain(value: int, *size: int) -> Clip:
    """One grey frame of a size, without boxes."""
    frames = torch.full((1, 3, *size), value, dtype=torch.uint8)
    return Clip(frames, torch.zeros(0, 1, 4), torch.zeros(0, 1, dtype=torch.bool))


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_levels_do_more_and_more_damage_the_same_for_a_seed(kind):
    start, before, (levels, wrong) = clip(), clip().frames, LEVELS[kind]
    assert degrade(start, kind, DEGRADATIONS[kind].clean, 0) is start
    assert kind in refused(degrade, start, kind, wrong, 0)
    degraded = [degrade(start, kind, level, 3) for level in levels]
    if kind == "actor size":  # pixels move, so damage is the length that the boxes lose
        errors = [-float(d.boxes[..., 2:].sub(d.boxes[..., :2]).sum()) for d in degraded]
    else:
        errors = [float((before.float() - d.frames.float()).square().mean()) for d in degraded]
        assert errors[0] > 0
    assert errors == sorted(errors)
    assert torch.equal(start.frames, before)  # the clip itself is kept
    assert all(d.frames.dtype == torch.uint8 and d.frames.shape == before.shape for d in degraded)
    same, other = (degrade(start, kind, levels[1], seed).frames for seed in (3, 4))
    assert torch.equal(same, degraded[1].frames)
    assert torch.equal(other, same) == (kind not in ("noise", "occlusion"))


def test_blur_has_the_stated_width_and_resolution_no_detail_finer_than_its_pixels():
    point = plain(0, 49, 49)
    point.frames[..., 24, 24] = 255
    row = degrade(point, "blur", 1.0, 0).frames[0, 0, 24].double()
    distance = torch.arange(49) - 24.0
    assert float((row * distance**2).sum() / row.sum()) == pytest.approx(1, rel=0.1)
    assert row.argmax() == 24
    stripes = plain(0, 48, 64)
    stripes.frames[..., ::2] = 200  # one pixel wide: gone at half the height
    blurred = degrade(stripes, "resolution", 24, 0).frames.float()
    assert blurred.std() < 1 and blurred.mean() == pytest.approx(100, 1)


def test_a_stop_halves_linear_light_and_jpeg_keeps_channels_in_order():
    """sRGB 188 is half of full light, a quarter is .5371; the toe: 12.92 * 255 / 512."""
    for grey, stops, dark in ((188, 1, 137), (255, 9, 6)):
        assert degrade(plain(grey, 4, 4), "darkness", stops, 0).frames.unique().tolist() == [dark]
    red = plain(0, 16, 16)
    red.frames[:, 0] = 200
    compressed = degrade(red, "compression", 50, 0).frames[0].float()
    assert compressed[0].mean() > 150 > 60 > compressed[2].mean()


def test_noise_has_the_stated_deviation_and_grows_in_place():
    grey = plain(128, 96, 96)
    mild, strong = (degrade(grey, "noise", s, 5).frames.float() - 128 for s in (10, 20))
    assert mild.std() == pytest.approx(10, rel=0.03) and abs(mild.mean()) < 0.3
    assert (strong - 2 * mild).abs().max() <= 1.5  # one field, rounded twice


def test_covers_are_nested_and_take_the_share_of_present_boxes_only():
    start, last = clip(), None
    for share in (0.25, 0.5, 1.0):
        covered = degrade(start, "occlusion", share, 0)
        changed = (covered.frames != start.frames).any(dim=1)  # (T, H, W)
        inside = changed[0, 12:36, 16:32]
        assert changed[0].sum() == inside.sum()  # region 2 is not in frame 0
        assert inside.float().mean() == pytest.approx(share, abs=0.09)
        assert changed[1, 24:, 32:].float().mean() == pytest.approx(share, abs=0.09)
        assert torch.equal(covered.boxes, start.boxes)
        if last is not None:  # equal by chance to the mean
            assert (last & ~changed).float().sum() <= 0.02 * last.sum()
        last = changed


def test_zoom_out_moves_boxes_with_the_pixels():
    frames = torch.zeros(1, 3, 48, 64, dtype=torch.uint8)
    frames[..., 12:36, 16:32] = 240  # fills its box, so the box can be read off the pixels
    start = Clip(frames, torch.tensor([[[0.25, 0.25, 0.5, 0.75]]]), torch.tensor([[True]]))
    smaller = degrade(start, "actor size", 0.5, 0)
    rows, columns = (smaller.frames[0, 0] > 200).nonzero().unbind(1)
    seen = [columns.min() / 64, rows.min() / 48, (columns.max() + 1) / 64, (rows.max() + 1) / 48]
    torch.testing.assert_close(smaller.boxes[0, 0], torch.stack(seen))
    torch.testing.assert_close(smaller.boxes[0, 0], torch.tensor([0.375, 0.375, 0.5, 0.625]))
    assert (smaller.frames[0, :, 0, 0] == frames.float().mean().round()).all()  # padding
