"""Decoding: the right frames, honest counts, and no file that stops the run."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest

from alertclip import decoding, video
from alertclip.cache import FrameCache, ahead, parallel_fill, parallel_probe
from alertclip.video import DecodeError, DecodeWorker, probe, read_frames, uniform_indices

FRAMES, FPS, SIZE = 40, 30, (48, 64)  # H, W


def write_ids(path: Path, frames: int = FRAMES, **options: str) -> Path:
    """A video whose grey level tells the frame number; with B-frames, as x264 makes them."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for i in range(frames):
            picture = np.full((*SIZE, 3), 10 + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def ids(frames: np.ndarray) -> list[int]:
    return np.round((frames.mean(axis=(1, 2, 3)) - 10) / 5).astype(int).tolist()


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return write_ids(tmp_path_factory.mktemp("video") / "ids é.mp4")


@pytest.fixture
def hanging(tmp_path, monkeypatch) -> str:
    """A decoder that hangs in native code and never lets go of the interpreter, but for PyAV."""
    (tmp_path / "hanging.py").write_text(
        "import ctypes, sys\n"
        "from alertclip import decoding\n"
        "def hang(*_):\n"
        "    ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the interpreter lock\n"
        "decoding.decode_decord = hang\n"
        "decoding.serve(sys.stdin.buffer, sys.stdout.buffer, decoding.Decoder())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "hanging"


@pytest.mark.parametrize("backend", ["decord", "pyav"])
def test_frames_are_the_ones_asked_for(clip, worker, backend):
    pytest.importorskip({"pyav": "av"}.get(backend, backend))
    decode = {"decord": decoding.decode_decord, "pyav": decoding.decode_pyav}[backend]
    assert ids(decode(str(clip), range(FRAMES), SIZE)) == list(range(FRAMES))
    wanted = [39, 0, 17, 17, 3]
    frames = read_frames(clip, wanted, (20, 30), backend, worker)
    assert ids(frames) == wanted and frames.shape == (5, 20, 30, 3) and frames.dtype == np.uint8


def test_pyav_serves_widths_that_decord_cannot_write(clip, worker):
    assert ids(read_frames(clip, [2, 1], (16, 24), "decord", worker)) == [2, 1]


def test_resize_squashes_in_the_decoder(tmp_path, worker):
    with av.open(str(tmp_path / "halves.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        picture = np.zeros((*SIZE, 3), np.uint8)
        picture[:, 32:] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    for backend in ("decord", "pyav"):
        frame = read_frames(tmp_path / "halves.mp4", [0], (32, 32), backend, worker)[0]
        assert frame.shape == (32, 32, 3)
        assert frame[:, :14].max() < 20 and frame[:, 18:].min() > 235


def test_probe_counts_and_remembers_by_content(clip, worker, tmp_path, monkeypatch):
    info = probe(clip, tmp_path / "store", worker)
    assert (info.frames, info.fps, info.width, info.height) == (FRAMES, FPS, 64, 48)
    assert info.duration == pytest.approx(FRAMES / FPS)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    monkeypatch.setattr(video, "_known", {})
    nobody = DecodeWorker(module="no_such_module")
    assert probe(copy, tmp_path / "store", nobody) == info  # nothing was decoded again
    (tmp_path / "store" / f"{info.sha256}.json").write_text("{}")
    monkeypatch.setattr(video, "_known", {})
    assert probe(clip, tmp_path / "store", nobody) == info  # nor hashed
    with pytest.raises(DecodeError, match="crashed"):
        probe(write_ids(tmp_path / "other.mp4", 5), None, nobody)


def test_index_past_the_end_is_refused(clip, worker):
    for backend in ("decord", "pyav"):
        with pytest.raises(DecodeError, match=r"ids é\.mp4"):
            read_frames(clip, [0, FRAMES], SIZE, backend, worker)
    probe(clip, worker=worker)
    with pytest.raises(DecodeError, match="frame 40 asked for, 40 decode"):
        read_frames(clip, [FRAMES], SIZE, worker=worker)
    for wrong in ([], [-1]):
        with pytest.raises(DecodeError, match="at least 0"):
            read_frames(clip, wrong, SIZE, worker=worker)


def test_a_file_whose_header_promises_too_much(tmp_path, worker):
    whole = write_ids(tmp_path / "whole.mp4", movflags="faststart").read_bytes()
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(whole[: int(len(whole) * 0.8)])
    count = probe(torn, worker=worker).frames
    assert 0 < count < FRAMES
    for backend in ("decord", "pyav"):
        assert ids(read_frames(torn, range(count), SIZE, backend, worker)) == list(range(count))
    with pytest.raises(DecodeError, match=rf"torn\.mp4: frame {count} asked for"):
        read_frames(torn, [count], SIZE, worker=worker)


def bad_files(folder: Path, clip: Path) -> dict[str, Path]:
    contents = {
        "cut.mp4": clip.read_bytes()[:2000],
        "text.mp4": b"no video\n" * 99,
        "zero.mp4": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    paths = {name: folder / name for name in contents}
    return paths | {"missing.mp4": folder / "missing.mp4", "x" * 300: folder / ("x" * 300)}


def test_unreadable_files_are_named(tmp_path, clip, worker):
    for name, path in bad_files(tmp_path, clip).items():
        with pytest.raises(DecodeError, match=name):
            probe(path, worker=worker)
        for backend in ("decord", "pyav"):
            with pytest.raises(DecodeError, match=name):
                read_frames(path, [0], SIZE, backend, worker)
    assert probe(clip, worker=worker).frames == FRAMES


def test_a_decoder_that_hangs_is_killed_and_pyav_reads_instead(clip, hanging):
    patient, hasty = DecodeWorker(5, hanging), DecodeWorker(1, hanging)
    began = time.monotonic()
    assert ids(read_frames(clip, [5], SIZE, worker=patient)) == [5]
    with pytest.raises(DecodeError, match=r"ids é\.mp4: .*no answer in 1 s"):
        hasty.ask(clip, what="read", indices=[5], size=SIZE, backend="decord")
    assert 6 <= time.monotonic() - began < 60
    patient.close()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no alarms")
def test_a_hung_decoder_does_not_outlive_its_caller(clip, hanging):
    request = f'{{"what": "read", "path": "{clip}", "indices": [0], "size": [8, 8], '
    request += '"backend": "decord", "limit": 0.5}\n'
    process = subprocess.run(
        [sys.executable, "-m", hanging],
        input=request.encode(),
        env=video._environment(),
        capture_output=True,
        timeout=30,
    )
    assert process.returncode == -signal.SIGALRM


def _read_in_child(path: Path) -> None:
    os._exit(0 if ids(read_frames(path, [7], SIZE)) == [7] else 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_loaders_leave_the_parents_decoder_alone(clip):
    assert ids(read_frames(clip, [3], SIZE)) == [3]
    before = video._worker._process.pid
    child = get_context("fork").Process(target=_read_in_child, args=(clip,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert ids(read_frames(clip, [4], SIZE)) == [4]
    assert video._worker._process.pid == before


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


def test_uniform_indices_are_centres_of_equal_bins():
    assert uniform_indices(0, 8, 1, 8, 4).tolist() == [1, 3, 5, 7]
    assert uniform_indices(1, 2, 30, 300, 3).tolist() == [35, 45, 55]
    assert uniform_indices(1, 2, 4, 300, 16).tolist() == [4, 5, 6, 7]  # end-exclusive
    assert uniform_indices(9, 99, 1, 10, 4).tolist() == [9]  # clipped to the video
    assert uniform_indices(0.99, 1.0, 25, 300, 4).tolist() == [25]  # never empty
    for count in (1, 7, 256):
        for frames in (1, 255, 256, 257, 108_000):
            indices = uniform_indices(0, frames / FPS, FPS, frames, count)
            assert len(indices) == min(count, frames)
            assert (np.diff(indices) > 0).all() and 0 <= indices[0] <= indices[-1] < frames


def test_real_videos_hold_every_official_interval(shared_data, worker):
    rows = (shared_data / "ucf_crime/lists/Temporal_Anomaly_Annotation.txt").read_text()
    intervals = {row.split()[0]: [int(x) for x in row.split()[2:]] for row in rows.splitlines()}
    counted = {}
    for path in sorted((shared_data / "ucf_crime/videos").iterdir()):
        info = probe(path, worker=worker)
        name = path.name if path.name in intervals else path.stem
        assert (info.fps, info.width, info.height) == (30, 320, 240)
        # Arson016 is annotated to 1796, one more than it holds: intervals are clipped to the video.
        assert max(intervals[name]) <= info.frames + 1
        counted[path.name[:-9]] = info.frames
        read_frames(path, [info.frames - 1], SIZE, worker=worker)
    assert counted == {
        "Arson016": 1795,
        "Burglary033": 1259,
        "Explosion021": 782,
        "Normal_Videos_641": 3600,
        "RoadAccidents022": 716,
        "RoadAccidents133": 673,
    }


def test_work_ahead_keeps_order_and_is_bounded():
    """Results come in order, errors of a video as text, and no more is begun than is held."""
    begun = []

    def work(item, worker):
        begun.append(item)
        if item == 3:
            raise DecodeError("item 3 is torn")
        return item * 10

    for i, result in enumerate(ahead(work, range(20), workers=2)):
        assert result == ("item 3 is torn" if i == 3 else i * 10)
        assert len(begun) <= i + 4  # what was given, and one item per worker and one ahead
    assert sorted(begun) == list(range(20))
    with pytest.raises(OSError):
        list(ahead(lambda item, worker: Path("/nowhere").read_text(), [1], workers=1))
