"""Boxes over time: keyframes interpolated on the 25 fps clock of the annotations."""

import numpy as np

from alertclip.records import CLOCK, Box, Keyframe, Region

WHOLE_FRAME: Box = (0.0, 0.0, 1.0, 1.0)
HALF_WINDOW = 8  # annotation frames on each side of a track with a single keyframe (ours)


def frame_time(frame: float) -> float:
    """Seconds of a 1-based annotation frame."""
    return (frame - 1) / CLOCK


def track_span(track: tuple[Keyframe, ...]) -> tuple[float, float]:
    """First and last second with a box; a single keyframe stands for a short window."""
    start, end = frame_time(track[0].frame), frame_time(track[-1].frame)
    if len(track) > 1:
        return start, end
    return max(0.0, start - HALF_WINDOW / CLOCK), end + HALF_WINDOW / CLOCK


def region_span(region: Region) -> tuple[float, float] | None:
    """Seconds in which the region exists; None = the whole clip."""
    return track_span(region.track) if region.track else region.span


def box_at(track: tuple[Keyframe, ...], time: float) -> Box | None:
    """Box of a track at ``time`` (s), linear between keyframes; None where there is no box.

    A keyframe that is not enabled ends the track; a box is never held beyond the last keyframe.
    """
    if not track:
        return WHOLE_FRAME
    start, end = track_span(track)
    if not start - 1e-9 <= time <= end + 1e-9:
        return None
    if len(track) == 1:
        return track[0].box
    frame = _annotation_frame(time)
    frames = [k.frame for k in track]
    after = min(int(np.searchsorted(frames, frame, side="right")), len(track) - 1)
    before, following = track[after - 1], track[after]
    for keyframe in (before, following):
        if frame == keyframe.frame:
            return keyframe.box
    if not before.enabled:
        return None
    share = float(np.clip((frame - before.frame) / (following.frame - before.frame), 0, 1))
    return tuple(
        (1 - share) * a + share * b for a, b in zip(before.box, following.box, strict=True)
    )


def _annotation_frame(time: float) -> float:
    # A time computed from a frame number is that frame, whatever the last bit says.
    frame = time * CLOCK + 1
    return float(round(frame)) if abs(frame - round(frame)) < 1e-6 else frame


def boxes_at(region: Region, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (T, 4) of a region at ``times`` (T,) s and where it exists, mask (T,).

    Where no time falls into the region, the nearest one takes its box, so that every region keeps
    at least one frame.
    """
    boxes = np.tile(np.float32(WHOLE_FRAME), (len(times), 1))
    if not region.track:
        return boxes, _inside(region.span, times)
    found = [box_at(region.track, t) for t in times]
    mask = np.array([box is not None for box in found])
    for i, box in enumerate(found):
        if box is not None:
            boxes[i] = box
    if not mask.any():
        start, end = track_span(region.track)
        distance = np.maximum(start - times, times - end)
        nearest = int(distance.argmin())
        inside = float(np.clip(times[nearest], start, end))
        boxes[nearest] = box_at(region.track, inside) or region.track[0].box
        mask[nearest] = True
    return boxes, mask


def _inside(span: tuple[float, float] | None, times: np.ndarray) -> np.ndarray:
    if span is None:
        return np.ones(len(times), bool)
    mask = (times >= span[0]) & (times <= span[1])
    if not mask.any():
        mask[np.abs(times - sum(span) / 2).argmin()] = True
    return mask
