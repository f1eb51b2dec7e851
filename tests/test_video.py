"""Videos: frames by number, probing and caching; bad files are named."""

from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import av
import numpy as np
import pytest

from media import video
from media.cache import FrameCache, parallel_fill, parallel_probe
from media.video import DecodeError, probe, read_frames

FRAMES, FPS, SIZE = 40, 30, (48, 64)  # H, W


def write_ids(path: Path, frames: int = FRAMES, **options: str) -> Path:
    """Write a video whose grey level encodes the frame number; with B-frames, as x264's default."""
    pictures = (np.full((*SIZE, 3), 10 + 5 * i, np.uint8) for i in range(frames))
    return encode(path, pictures, options=options)


def encode(
    path, pictures, codec="libx264", options=None, size=SIZE, coding=None, shown=None, rate=FPS
) -> Path:
    """Write a video; ``shown`` gives each frame's time (s) as a Fraction, else ``rate`` does."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate, options=coding or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = tick = 1 / Fraction(rate)
        container.start_encoding()  # without a frame too
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt)
            if shown:
                frame.time_base, frame.pts = tick, round(shown(number) / tick)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def spoilt(source: Path, path: Path, number: int) -> Path:
    """Write a copy with one undecodable packet, the first from ``number`` on that is unique."""
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
    wanted = [39, 0, 17, 17, 3]
    frames = read_frames(clip, wanted, (20, 30))
    assert ids(frames) == wanted and frames.shape == (5, 20, 30, 3) and frames.dtype == np.uint8
    wrong = [([], "at least 0"), ([-1], "at least 0"), ([0, FRAMES], r"ids é\.mp4: frame 40 asked")]
    for asked, message in wrong:
        with pytest.raises(DecodeError, match=message):
            read_frames(clip, asked, SIZE)


def test_probe_counts_and_remembers_by_content(clip, tmp_path, monkeypatch):
    nobody = Mock(side_effect=AssertionError("decoded again"))
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


def test_frames_chosen_while_counting_are_not_decoded_again(clip, tmp_path, monkeypatch):
    """A wrong promise of the container means another choice; too many frames are not held."""
    monkeypatch.setattr(video, "_known", {})
    cache, kept, promised = FrameCache(tmp_path / "cache", SIZE), tmp_path / "cache/frames", []
    choose = lambda path, info: promised.append(info.frames) or [[3, 9]]  # noqa: E731
    bad = spoilt(clip, tmp_path / "bad.mp4", 9)
    assert parallel_probe(cache, [bad], 1, choose)[bad].decoded == FRAMES - 1
    assert promised == [FRAMES] and not kept.exists()
    infos = parallel_probe(cache, [clip], 1, lambda path, info: [[2, info.frames - 1], [0, 2]])
    assert infos[clip].frames == FRAMES
    with monkeypatch.context() as patch:
        patch.setattr("media.cache.read_frames", None)
        assert ids(cache.get(clip, [2, 39])) == [2, 39] and ids(cache.get(clip, [0, 2])) == [0, 2]
    monkeypatch.setattr("media.cache.THROUGH", 1)
    copy = write_ids(tmp_path / "copy.mp4", 20)
    info = cache.info(copy, lambda path, info: [[3, 4]])
    assert info.frames == 20 and len(list(kept.iterdir())) == 2


def test_cache_is_keyed_by_content_and_filled_once(tmp_path, clip):
    cache, bad = FrameCache(tmp_path / "cache", (16, 24)), [tmp_path / "cut.mp4"]
    bad[0].write_bytes(clip.read_bytes()[:2000])
    bad += [tmp_path / "missing.mp4", tmp_path / ("x" * 300)]
    infos = parallel_probe(cache, [clip, *bad], workers=2)
    assert infos[clip].frames == FRAMES
    assert all(path.name in infos[path] for path in bad)
    failed = parallel_fill(cache, [(clip, [0, 9]), (bad[0], [0]), (clip, [1])], workers=2)
    assert list(failed) == [1] and "cut.mp4" in failed[1]
    stored = sorted((tmp_path / "cache/frames").iterdir())
    assert len(stored) == 2 and cache.file(clip, [0, 9]) in stored
    twin = tmp_path / "twin.mp4"
    twin.write_bytes(clip.read_bytes())
    assert cache.file(twin, [1]) == cache.file(clip, [1])
    assert isinstance(cache.get(clip, [0, 9]), np.memmap)


def test_real_videos_hold_every_official_interval(shared_data):
    rows = (shared_data / "ucf_crime/lists/Temporal_Anomaly_Annotation.txt").read_text()
    intervals = {row.split()[0]: [int(x) for x in row.split()[2:]] for row in rows.splitlines()}
    expected = {"Arson016": 1795, "Burglary033": 1259, "Explosion021": 782}
    expected |= {"Normal_Videos_641": 3600, "RoadAccidents022": 716, "RoadAccidents133": 673}
    for path in sorted((shared_data / "ucf_crime/videos").iterdir()):
        info = probe(path)
        name = path.name if path.name in intervals else path.stem
        # Arson016 is annotated to 1796, one more than it holds: intervals are clipped to the video.
        assert info.fps == 30 and max(intervals[name]) <= info.frames + 1
        assert info.frames == expected.pop(path.name[:-9])
    assert not expected


def test_decord_serves_a_long_video_of_which_it_gives_the_same_frames(tmp_path, monkeypatch):
    pytest.importorskip("decord")
    path, asked = write_ids(tmp_path / "long.mp4", 40), []
    opened = video._decord_reader
    monkeypatch.setattr(video, "_decord_reader", lambda *a: asked.append(a[1]) or opened(*a))
    short = probe(path)
    assert not short.decord and not asked
    monkeypatch.setattr(video, "THROUGH", 8)
    info = video._with_decord(path, short)
    assert info.decord and asked == [video.PROOF]
    frames = read_frames(path, [30, 3, 17], (32, 32), info)
    assert len(asked) == 2
    np.testing.assert_array_equal(frames, read_frames(path, [30, 3, 17], (32, 32), short))
    other = video._with_decord(path, replace(short, fps=2 * short.fps))  # other times
    assert not other.decord


def test_a_container_whose_index_misleads_is_read_from_the_start(tmp_path, monkeypatch):
    pictures = (np.full((*SIZE, 3), 10 + 5 * i, np.uint8) for i in range(40))
    path = encode(tmp_path / "keys.mp4", pictures, coding={"g": "20", "bf": "0"})
    info, opened = probe(path), video.opened
    assert info.keyframes == (0, 20)

    @contextmanager
    def misled(*arguments):
        with opened(*arguments) as (container, stream):
            late = round(info.clock[20] / stream.time_base)
            seek = lambda _, stream: container.seek(late, stream=stream)  # noqa: E731
            yield SimpleNamespace(seek=seek, demux=container.demux), stream

    monkeypatch.setattr(video, "opened", misled)
    assert ids(read_frames(path, [5, 8, 25], SIZE, info)) == [5, 8, 25]
