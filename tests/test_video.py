"""Decoding: the right frames, the same bits by both decoders, and no file that stops the run."""

import ctypes
import os
import signal
import struct
import subprocess
import sys
from multiprocessing import Pipe, get_context
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from alertclip import decoding, video
from alertclip.cache import FrameCache, parallel_fill, parallel_probe
from alertclip.video import DecodeError, DecodeWorker, NoAnswer, probe, read_frames

FRAMES, FPS, SIZE = 40, 30, (48, 64)  # H, W
both = pytest.mark.parametrize("backend", ["decord", "pyav"])
DECODERS = {"decord": decoding.decode_decord, "pyav": decoding.decode_pyav}


def write_ids(path: Path, frames: int = FRAMES, **options: str) -> Path:
    """A video whose grey level tells the frame number; with B-frames, as x264 makes them."""
    pictures = (np.full((*SIZE, 3), 10 + 5 * i, np.uint8) for i in range(frames))
    return encode(path, pictures, options=options)


def encode(path: Path, pictures, codec: str = "libx264", options=None, size=SIZE, **tags) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=FPS)
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


def ids(frames: np.ndarray) -> list[int]:
    return np.round((frames.mean(axis=(1, 2, 3)) - 10) / 5).astype(int).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ids(tmp_path_factory.mktemp("video") / "ids é.mp4")


def hang(*_: object) -> None:
    """Hang in native code and never let go of the interpreter, as decord can."""
    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter's lock


def hang_with_decord(path: str, indices: list[int], size: tuple[int, int], backend: str):
    return hang() if backend == "decord" else decoding.decode_pyav(path, indices, size)


@both
def test_frames_are_the_ones_asked_for(clip, worker, backend):
    assert ids(DECODERS[backend](str(clip), range(FRAMES), SIZE)) == list(range(FRAMES))
    wanted = [39, 0, 17, 17, 3]
    for size in ((20, 30), (16, 24)):  # decord cannot write the second: PyAV serves
        frames = read_frames(clip, wanted, size, backend, worker)
        assert ids(frames) == wanted and frames.shape == (5, *size, 3) and frames.dtype == np.uint8
    with pytest.raises(DecodeError, match=r"ids é\.mp4"):
        read_frames(clip, [0, FRAMES], SIZE, backend, worker)


@both
def test_resize_squashes(tmp_path, worker, backend):
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[:, 32:] = 255
    path = encode(tmp_path / "halves.mp4", [picture])
    frame = read_frames(path, [0], (32, 32), backend, worker)[0]
    assert frame.shape == (32, 32, 3)
    assert frame[:, :14].max() < 20 and frame[:, 18:].min() > 235


@both
def test_a_file_whose_header_promises_too_much(tmp_path, worker, backend):
    path = torn(tmp_path)
    count = probe(path, worker=worker).frames
    assert 0 < count < FRAMES
    for wrong in ([], [-1]):
        with pytest.raises(DecodeError, match="at least 0"):
            read_frames(path, wrong, SIZE, backend, worker)
    assert ids(read_frames(path, range(count), SIZE, backend, worker)) == list(range(count))
    with pytest.raises(DecodeError, match=rf"torn\.mp4: frame {count} asked for"):
        read_frames(path, [count], SIZE, worker=worker)


def scene(path: Path, codec: str = "libx264", **tags) -> Path:
    """Noise with some structure, so that a wrong filter or colour matrix shows."""
    rng, size = np.random.default_rng(0), (90, 118)
    noise = (rng.integers(0, 256, (9, 12, 3), np.uint8) for _ in range(12))
    pictures = (cv2.resize(picture, size[::-1]) for picture in noise)
    return encode(path, pictures, codec, size=size, **tags)


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display rotation, as telephones do, into the header of an MP4 file."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # version 0: the matrix a b u c d v x y w
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[start + 4 * place : start + 4 * place + 4] = struct.pack(">i", value << 16)
    path.write_bytes(content)
    return path


TAGS = {"plain": {}, "bt709": {"colorspace": 1}, "full range": {"color_range": 2}}
TURNS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


@pytest.mark.parametrize("size", [(32, 32), (90, 118), (147, 160)])
def test_pyav_and_decord_give_the_same_bits(tmp_path, worker, size):
    """So that a video decoded once from end to end fills the cache as decord would have."""
    made = [scene(tmp_path / f"{name}.mp4", **tags) for name, tags in TAGS.items()]
    made += [turn(scene(tmp_path / f"{angle}.mp4"), matrix) for angle, matrix in TURNS.items()]
    for path in [*made, scene(tmp_path / "old.mp4", "mpeg4")]:
        frames = [decode(str(path), [0, 7, 3], size) for decode in DECODERS.values()]
        assert np.array_equal(*frames), path.name
    upright = probe(tmp_path / "90.mp4", worker=worker)
    assert (upright.width, upright.height) == (90, 118)


def test_probe_counts_and_remembers_by_content(clip, worker, tmp_path, monkeypatch):
    def nobody(path, worker):
        raise AssertionError("decoded again")

    monkeypatch.setattr(video, "_known", {})
    store, copy = tmp_path / "store", tmp_path / "copy.mp4"
    info = probe(clip, store, worker)
    assert (info.frames, info.fps, info.width, info.height) == (FRAMES, FPS, 64, 48)
    assert info.duration == pytest.approx(FRAMES / FPS)
    copy.write_bytes(clip.read_bytes())
    video._known.clear()
    assert probe(copy, store, worker, nobody) == info
    (store / f"{info.sha256}.json").write_text("{}")
    video._known.clear()
    assert probe(clip, store, worker, nobody) == info  # nor hashed


def bad_files(folder: Path, clip: Path) -> dict[str, Path]:
    contents = {"cut.mp4": clip.read_bytes()[:2000], "text.mp4": b"no video\n", "zero.mp4": b""}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in (*contents, "missing.mp4", "x" * 300)}


def test_unreadable_files_are_named(tmp_path, clip, worker):
    for name, path in bad_files(tmp_path, clip).items():
        with pytest.raises(DecodeError, match=name):
            probe(path, worker=worker)
        for backend in ("decord", "pyav"):
            with pytest.raises(DecodeError, match=name):
                read_frames(path, [0], SIZE, backend, worker)
    assert probe(clip, worker=worker).frames == FRAMES


def test_a_decoder_that_hangs_is_killed_and_pyav_reads_instead(clip, monkeypatch):
    class Hasty(DecodeWorker):
        asked = []

        def run(self, path, function, *arguments):
            self.asked.append(arguments[-1])
            self.time_limit = 1 if arguments[-1] == "decord" else 60
            return super().run(path, function, *arguments)

    hasty = Hasty()
    monkeypatch.setattr(decoding, "decode", hang_with_decord)
    monkeypatch.setattr(video, "_hanging", set())
    with pytest.raises(NoAnswer, match=r"ids é\.mp4: .*no answer in 1 s"):
        hasty.run(clip, hang, "decord")
    for index in (5, 7):
        assert ids(read_frames(clip, [index], SIZE, worker=hasty)) == [index]
    assert hasty.asked[1:] == ["decord", "pyav", "pyav"]  # it hangs once per file
    hasty.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarms")
def test_a_hung_decoder_does_not_outlive_its_caller(clip):
    ours, theirs = Pipe()
    code = f"from alertclip.decoding import serve; serve({theirs.fileno()})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=environment
    )
    ours.send((0.5, hang, ()))
    ours.close()  # the caller dies
    assert process.wait(60) == -signal.SIGALRM


def _read_in_child(path: Path) -> None:
    os._exit(0 if ids(read_frames(path, [7], SIZE)) == [7] else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_loaders_leave_the_parents_decoder_alone(clip):
    assert ids(read_frames(clip, [3], SIZE)) == [3]
    before = video.own_worker()._process.pid
    child = get_context("fork").Process(target=_read_in_child, args=(clip,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ids(read_frames(clip, [4], SIZE)) == [4]
    assert video.own_worker()._process.pid == before


def test_counting_keeps_the_chosen_frames(clip, worker, tmp_path, monkeypatch):
    """What the container promised wrongly is chosen again; too many are not held."""
    held = {"frames": FRAMES, "fps": FPS, "width": 64, "height": 48}
    facts, found = video.count_and_read(clip, worker, lambda info: [[3, 39], [0, 3]], SIZE)
    assert facts == held and [ids(frames) for _, frames in found] == [[3, 39], [0, 3]]
    promised = []
    choose = lambda info: promised.append(info.frames) or [[0]]  # noqa: E731
    facts, found = video.count_and_read(torn(tmp_path), worker, choose, SIZE)
    assert promised == [FRAMES] and 0 < facts["frames"] < FRAMES and not found
    monkeypatch.setattr(video, "THROUGH", 1)
    assert video.count_and_read(clip, worker, lambda info: [[3, 4]], SIZE) == (held, [])


def test_frames_kept_while_counting_are_not_decoded_again(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "_known", {})
    cache = FrameCache(tmp_path, SIZE)
    infos = parallel_probe(cache, [clip], 1, lambda path, info: [[2, info.frames - 1]])
    assert infos[clip].frames == FRAMES
    monkeypatch.setattr(video, "read_frames", None)
    assert ids(cache.get(clip, [2, 39])) == [2, 39]


@pytest.mark.parametrize("count", [4, 7, 99])
def test_a_stream_comes_in_pieces_and_ends_where_decoding_does(clip, worker, tmp_path, count):
    pieces = list(worker.stream(clip, decoding.pieces, SIZE, 3, count, "AUTO"))
    assert [i for frames, _ in pieces for i in ids(frames)] == list(range(0, FRAMES, 3))
    assert all(len(frames) == count and facts is None for frames, facts in pieces[:-1])
    assert pieces[-1][1]["frames"] == FRAMES
    [(frames, facts)] = worker.stream(torn(tmp_path), decoding.pieces, SIZE, 1, 99, "AUTO")
    assert 0 < facts["frames"] == len(frames) < FRAMES


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


def test_real_videos_hold_every_official_interval(shared_data, worker):
    rows = (shared_data / "ucf_crime/lists/Temporal_Anomaly_Annotation.txt").read_text()
    intervals = {row.split()[0]: [int(x) for x in row.split()[2:]] for row in rows.splitlines()}
    counted = {}
    for path in sorted((shared_data / "ucf_crime/videos").iterdir()):
        info = probe(path, worker=worker)
        name = path.name if path.name in intervals else path.stem
        # Arson016 is annotated to 1796, one more than it holds: intervals are clipped to the video.
        assert info.fps == 30 and max(intervals[name]) <= info.frames + 1
        counted[path.name[:-9]] = info.frames
        frames = [decode(str(path), [1, 50, 99], (224, 224)) for decode in DECODERS.values()]
        assert np.array_equal(*frames), path.name
    expected = {"Arson016": 1795, "Burglary033": 1259, "Explosion021": 782}
    expected |= {"Normal_Videos_641": 3600, "RoadAccidents022": 716, "RoadAccidents133": 673}
    assert counted == expected
