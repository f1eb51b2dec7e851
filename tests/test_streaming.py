"""A video decoded once: the same bits as decord, counted and kept on the way, in pieces."""

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from test_video import FPS, FRAMES, SIZE, ids, write_ids

from alertclip import decoding, video
from alertclip.cache import FrameCache, parallel_probe
from alertclip.streaming import FrameStream
from alertclip.video import DecodeError, probe


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ids(tmp_path_factory.mktemp("video") / "ids.mp4")


TAGS = {"plain": {}, "bt709": {"colorspace": 1}, "full range": {"color_range": 2}}


def scene(path: Path, codec: str = "libx264", size: tuple[int, int] = (90, 118), **tags) -> Path:
    """Noise with some structure, so that a wrong filter or colour matrix shows."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for _ in range(12):
            picture = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), size[::-1])
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            for name, value in tags.items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display rotation, as telephones do, into the header of an MP4 file."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # version 0: the matrix a b u c d v x y w
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[start + 4 * place : start + 4 * place + 4] = struct.pack(">i", value << 16)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("size", [(32, 32), (90, 118), (147, 160)])
def test_pyav_and_decord_give_the_same_bits(tmp_path, size):
    """So that a video decoded once from end to end fills the cache as decord would have."""
    made = [scene(tmp_path / f"{name}.mp4", **tags) for name, tags in TAGS.items()]
    made.append(scene(tmp_path / "old.mp4", "mpeg4"))
    for angle, matrix in {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}.items():
        made.append(turn(scene(tmp_path / f"{angle}.mp4"), matrix))
    for path in made:
        both = [
            f(str(path), [0, 7, 3], size) for f in (decoding.decode_decord, decoding.decode_pyav)
        ]
        assert np.array_equal(*both), path.name


def test_real_videos_give_the_same_bits(shared_data):
    for path in sorted((shared_data / "ucf_crime/videos").iterdir()):
        both = [
            f(str(path), [1, 50, 99], (224, 224))
            for f in (decoding.decode_decord, decoding.decode_pyav)
        ]
        assert np.array_equal(*both), path.name


def test_a_turned_video_tells_its_upright_size(tmp_path, worker):
    info = probe(turn(scene(tmp_path / "a.mp4"), (0, 1, -1, 0)), worker=worker)
    assert (info.width, info.height) == (90, 118)


def test_a_video_is_read_through_once(clip, worker, tmp_path, monkeypatch):
    """Counting keeps the chosen frames; what the container promised wrongly is chosen again."""
    facts, found = video.count_and_read(clip, worker, lambda info: [[3, 39], [0, 3]], SIZE)
    assert facts == {"frames": FRAMES, "fps": FPS, "width": 64, "height": 48}
    assert [ids(frames) for _, frames in found] == [[3, 39], [0, 3]]
    whole = write_ids(tmp_path / "whole.mp4", movflags="faststart").read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: int(len(whole) * 0.8)])
    asked = []
    choose = lambda info: asked.append(info.frames) or [[0]]  # noqa: E731
    facts, found = video.count_and_read(tmp_path / "torn.mp4", worker, choose, SIZE)
    assert asked == [FRAMES] and 0 < facts["frames"] < FRAMES and not found
    monkeypatch.setattr(video, "THROUGH", 1)
    assert video.count_and_read(clip, worker, lambda info: [[3, 4]], SIZE) == (
        {"frames": FRAMES, "fps": FPS, "width": 64, "height": 48},
        [],
    )


def test_frames_kept_while_counting_are_not_decoded_again(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_known", {})
    cache = FrameCache(tmp_path, SIZE)
    infos = parallel_probe(cache, [clip], 1, lambda path, info: [[2, info.frames - 1]])
    assert infos[clip].frames == FRAMES
    monkeypatch.setattr("alertclip.cache.read_frames", None)
    assert ids(cache.get(clip, [2, 39])) == [2, 39]


@pytest.mark.parametrize("count", [4, 7, 99])
def test_a_stream_comes_in_pieces(clip, worker, count):
    pieces = list(FrameStream(clip, SIZE, worker).pieces(stride=3, count=count))
    assert [i for piece in pieces for i in ids(piece.frames)] == list(range(0, FRAMES, 3))
    assert all(len(piece.frames) == count and piece.facts is None for piece in pieces[:-1])
    assert pieces[-1].facts["frames"] == FRAMES


def test_a_stream_ends_where_decoding_does(clip, worker, tmp_path):
    torn = tmp_path / "torn.mp4"
    whole = write_ids(tmp_path / "whole.mp4", movflags="faststart").read_bytes()
    torn.write_bytes(whole[: int(len(whole) * 0.8)])
    [piece] = FrameStream(torn, SIZE, worker).pieces(stride=1, count=99)
    assert 0 < piece.facts["frames"] == len(piece.frames) < FRAMES
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DecodeError, match=r"text\.mp4: cannot be decoded"):
        FrameStream(tmp_path / "text.mp4", SIZE, worker)
