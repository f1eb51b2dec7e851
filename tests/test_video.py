"""Videos: frames by number, what they hold, remembered; bad files are named."""

import os
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest

from alertclip import video
from alertclip.cache import FrameCache, parallel_fill, parallel_probe
from alertclip.video import DecodeError, probe, read_frames

FRAMES, FPS, SIZE = 40, 30, (48, 64)  # H, W


def write_ids(path: Path, frames: int = FRAMES, **options: str) -> Path:
    """A video whose grey level tells the frame number; with B-frames, as x264 makes them."""
    pictures = (np.full((*SIZE, 3), 10 + 5 * i, np.uint8) for i in range(frames))
    return encode(path, pictures, options=options)


def encode(
    path: Path, pictures, codec: str = "libx264", options=None, size=SIZE, coding=None, **tags
) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=FPS, options=coding or {})
        (stream.height, stream.width), stream.pix_fmt = size, "yuv420p"
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            for name, value in tags.items():
                setattr(frame, name, value)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def torn(folder: Path) -> Path:
    """A video without its last fifth, whose header still promises all of it."""
    whole = write_ids(folder / "whole.mp4", movflags="faststart").read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: int(len(whole) * 0.8)])
    return folder / "torn.mp4"


def spoilt(source: Path, path: Path, number: int) -> Path:
    """A copy with a packet, one of those from ``number`` on, that no decoder understands."""
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = source.read_bytes()
    packet = next(packet for packet in packets[number:] if content.count(packet) == 1)
    path.write_bytes(content.replace(packet, b"\xff" * len(packet)))
    return path


def ids(frames: np.ndarray) -> list[int]:
    return np.round((frames.mean(axis=(1, 2, 3)) - 10) / 5).astype(int).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ids(tmp_path_factory.mktemp("video") / "ids é.mp4")


def test_frames_are_the_ones_asked_for(clip):
    assert ids(read_frames(clip, range(FRAMES), SIZE)) == list(range(FRAMES))
    wanted = [39, 0, 17, 17, 3]
    for size in ((20, 30), (16, 24)):
        frames = read_frames(clip, wanted, size)
        assert ids(frames) == wanted and frames.shape == (5, *size, 3) and frames.dtype == np.uint8
    with pytest.raises(DecodeError, match=r"ids é\.mp4"):
        read_frames(clip, [0, FRAMES], SIZE)


def test_resize_squashes(tmp_path):
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:, 32:] = 255
    path = encode(tmp_path / "halves.mp4", [picture])
    frame = read_frames(path, [0], (32, 32))[0]
    assert frame.shape == (32, 32, 3)
    assert frame[:, :14].max() < 20 and frame[:, 18:].min() > 235


def test_a_file_whose_header_promises_too_much(tmp_path):
    path = torn(tmp_path)
    count = probe(path).frames
    assert 0 < count < FRAMES and probe(path).report == f"decoded {count} of 40 frames"
    for wrong in ([], [-1]):
        with pytest.raises(DecodeError, match="at least 0"):
            read_frames(path, wrong, SIZE)
    assert ids(read_frames(path, range(count), SIZE)) == list(range(count))
    with pytest.raises(DecodeError, match=rf"torn\.mp4: frame {count} asked for"):
        read_frames(path, [count], SIZE)


def test_probe_counts_and_remembers_by_content(clip, tmp_path, monkeypatch):
    def nobody(path):
        raise AssertionError("decoded again")

    monkeypatch.setattr(video, "_known", {})
    store, copy = tmp_path / "store", tmp_path / "copy.mp4"
    info = probe(clip, store)
    assert (info.frames, info.fps, info.width, info.height) == (FRAMES, FPS, 64, 48)
    assert info.duration == pytest.approx(FRAMES / FPS)
    copy.write_bytes(clip.read_bytes())
    video._known.clear()
    assert probe(copy, store, nobody) == info
    (store / f"{info.sha256}.json").write_text("{}")
    video._known.clear()
    assert probe(clip, store, nobody) == info  # nor hashed


def bad_files(folder: Path, clip: Path) -> dict[str, Path]:
    contents = {"cut.mp4": clip.read_bytes()[:2000], "text.mp4": b"no video\n", "zero.mp4": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in (*contents, "missing.mp4", "x" * 300)}


def test_unreadable_files_are_named(tmp_path, clip):
    for name, path in bad_files(tmp_path, clip).items():
        with pytest.raises(DecodeError, match=name):
            probe(path)
        with pytest.raises(DecodeError, match=name):
            read_frames(path, [0], SIZE)
    assert probe(clip).frames == FRAMES


def _read_in_child(path: Path) -> None:
    os._exit(0 if ids(read_frames(path, [7], SIZE)) == [7] else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_loaders_decode_as_their_parent_does(clip):
    assert ids(read_frames(clip, [3], SIZE)) == [3]
    child = get_context("fork").Process(target=_read_in_child, args=(clip,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ids(read_frames(clip, [4], SIZE)) == [4]


def test_frames_chosen_while_counting_are_not_decoded_again(clip, tmp_path, monkeypatch):
    """What the container promised wrongly is chosen again; too many are not held."""
    monkeypatch.setattr(video, "_known", {})
    cache, kept, promised = FrameCache(tmp_path / "cache", SIZE), tmp_path / "cache/frames", []
    choose = lambda path, info: promised.append(info.frames) or [[3, 9]]  # noqa: E731
    bad = spoilt(clip, tmp_path / "bad.mp4", 9)
    assert parallel_probe(cache, [bad], 1, choose)[bad].decoded == FRAMES - 1
    assert promised == [FRAMES] and not kept.exists()
    infos = parallel_probe(cache, [clip], 1, lambda path, info: [[2, info.frames - 1], [0, 2]])
    assert infos[clip].frames == FRAMES
    with monkeypatch.context() as patch:
        patch.setattr("alertclip.cache.read_frames", None)
        assert ids(cache.get(clip, [2, 39])) == [2, 39] and ids(cache.get(clip, [0, 2])) == [0, 2]
    monkeypatch.setattr("alertclip.cache.THROUGH", 1)
    copy = write_ids(tmp_path / "copy.mp4", 20)
    assert cache.info(copy, lambda info: [[3, 4]]).frames == 20 and len(list(kept.iterdir())) == 2


def test_cache_is_keyed_by_content_filled_once_and_survives_damage(tmp_path, clip):
    cache = FrameCache(tmp_path / "cache", (16, 24))
    bad = bad_files(tmp_path, clip)
    infos = parallel_probe(cache, [clip, *bad.values()], workers=2)
    assert infos[clip].frames == FRAMES
    assert all(name in infos[path] for name, path in bad.items())
    requests = [(clip, [0, 9]), (bad["text.mp4"], [0]), (clip, [1])]
    failed = parallel_fill(cache, requests, workers=2)
    assert list(failed) == [1] and "text.mp4" in failed[1]
    stored = sorted((tmp_path / "cache/frames").iterdir())
    assert len(stored) == 2 and cache.file(clip, [0, 9]) in stored
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(clip.read_bytes())
    assert cache.file(twin, [1]) == cache.file(clip, [1])
    assert isinstance(cache.get(clip, [0, 9]), np.memmap)
    cache.file(clip, [0, 9]).write_bytes(b"torn")
    assert ids(cache.get(clip, [0, 9])) == [0, 9]


def test_real_videos_hold_every_official_interval(shared_data):
    rows = (shared_data / "ucf_crime/lists/Temporal_Anomaly_Annotation.txt").read_text()
    intervals = {row.split()[0]: [int(x) for x in row.split()[2:]] for row in rows.splitlines()}
    counted = {}
    for path in sorted((shared_data / "ucf_crime/videos").iterdir()):
        info = probe(path)
        name = path.name if path.name in intervals else path.stem
        # Arson016 is annotated to 1796, one more than it holds: intervals are clipped to the video.
        assert info.fps == 30 and max(intervals[name]) <= info.frames + 1
        counted[path.name[:-9]] = info.frames
    expected = {"Arson016": 1795, "Burglary033": 1259, "Explosion021": 782}
    expected |= {"Normal_Videos_641": 3600, "RoadAccidents022": 716, "RoadAccidents133": 673}
    assert counted == expected


def test_decord_serves_a_long_video_of_which_it_gives_the_same_frames(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    path, asked = write_ids(tmp_path / "long.mp4", 40), []
    opened = video._decord_reader
    monkeypatch.setattr(video, "_decord_reader", lambda *a: asked.append(a[1]) or opened(*a))
    short = video.probe(path)
    assert not short.decord and not asked
    monkeypatch.setattr(video, "THROUGH", 8)
    info = video._with_decord(path, short)
    assert info.decord and asked == [video.PROOF]
    found = video.read_frames(path, [30, 3, 17], (32, 32), info)
    assert len(asked) == 2
    np.testing.assert_array_equal(found, video.read_frames(path, [30, 3, 17], (32, 32), short))
    other = video._with_decord(path, replace(short, fps=2 * short.fps))  # other times
    assert not other.decord


def test_a_container_whose_index_misleads_is_read_from_the_start(tmp_path, monkeypatch):
    pictures = (np.full((*SIZE, 3), 10 + 5 * i, np.uint8) for i in range(40))
    path = encode(tmp_path / "keys.mp4", pictures, coding={"g": "20", "bf": "0"})
    info, opened = video.probe(path), video.opened
    assert info.keyframes == (0, 20)

    class Misleading:
        def __init__(self, container):
            self.container = container

        def seek(self, _, stream):
            self.container.seek(round(info.clock[20] / stream.time_base), stream=stream)

        def __getattr__(self, name):
            return getattr(self.container, name)

    @contextmanager
    def misled(*arguments):
        with opened(*arguments) as (container, stream):
            yield Misleading(container), stream

    whole = video.read_frames(path, [5, 8, 25], SIZE, info)
    monkeypatch.setattr(video, "opened", misled)
    np.testing.assert_array_equal(video.read_frames(path, [5, 8, 25], SIZE, info), whole)
    assert ids(whole) == [5, 8, 25]
