"""The number drawn into a frame is read back, whatever the file and the way of reading."""

import struct
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from itertools import product
from operator import methodcaller
from pathlib import Path

import av
import numpy as np
import pytest
from test_video import encode, spoilt

from alertclip.anomaly_curve import sampled_pieces
from detectors.features import SnippetRule, decoded_pieces
from media.cache import FrameCache
from media.survey import uniform_indices
from media.video import Scaler, probe, read_frames

FRAMES, SIZE, BITS = 40, (32, 64), 8  # H, W; a number is shown as black and white bars
CODECS = {"mp4": ["libx264", "mpeg4"], "mov": ["libx264"], "mkv": ["libx264", "libvpx", "mjpeg"],
          "ts": ["libx264", "mpeg2video"], "avi": ["mpeg4", "libx264"], "mpg": ["mpeg2video"],
          "flv": ["libx264"]}  # fmt: skip
RATES = {"constant": Fraction(30000, 1001), "varies": None}
CUTS = ("whole", "copied from the middle", "one bad packet", "torn")


def drawn(number: int) -> np.ndarray:
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 25, SIZE[1] // BITS)
    noise = np.random.default_rng(number).integers(0, 20, (*SIZE, 3), np.uint8)  # no two alike
    return row[None, :, None] + noise


def numbers(frames: np.ndarray) -> list[int]:
    bars = np.asarray(frames).mean(axis=(1, 3)).reshape(len(frames), BITS, -1).mean(axis=2)
    return ((bars > 128) @ (1 << np.arange(BITS))).tolist()


def shown_at(number: int, rate: Fraction | None) -> Fraction:
    """Presentation time (s); without a rate, 25 fps and then 5 fps."""
    half = FRAMES // 2
    late = Fraction(half, 25) + Fraction(number - half, 5)
    return number / rate if rate else Fraction(number, 25) if number < half else late


def render(path: Path, codec: str, bframes: int, rate: Fraction | None) -> Path:
    first = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    coding = {"g": "16", "bf": str(bframes), "b": "2000000"}
    if codec == "libx264":
        coding |= {"x264-params": "open-gop=0", "crf": "10"}
    pictures, shown = map(drawn, range(FRAMES)), partial(shown_at, rate=rate)
    return encode(path, pictures, codec, first, SIZE, coding, shown, rate or 25)


def copied(source: Path, path: Path) -> Path:
    """Cut as by ``ffmpeg -ss`` with ``-c copy``: an edit list, or a start before the key frame."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [p for p in old.demux(video=0) if p.size]
        begin = sorted(p.pts for p in packets)[FRAMES // 2]
        key = max(i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= begin)
        for packet in packets[key:]:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            new.mux(packet)
    return path


def sequential(path: Path, picture=methodcaller("to_ndarray", format="rgb24")):
    """Times and frames from decoding packet by packet the last video stream in the file."""
    decoded = []
    with av.open(str(path)) as container:
        for packet in container.demux(container.streams.video[-1]):
            with suppress(av.FFmpegError):
                decoded += [(frame.time, picture(frame)) for frame in packet.decode()]
    times, frames = zip(*decoded, strict=True)
    return times, np.stack(frames)


def not_lost(info) -> list[int]:
    return [number for number in range(info.frames) if number not in info.lost]


def doors(path: Path, info, folder: Path) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """Every way to read frames: its name, the frames, and the frame numbers asked for."""
    everything = np.arange(info.frames)
    shuffled = np.random.default_rng(0).permutation(info.frames)[:9]
    yield "figures", read_frames(path, shuffled, SIZE, info), shuffled
    cache, chosen = FrameCache(folder / "cache", SIZE), uniform_indices(info, 0, info.duration, 8)
    cache.info(path, lambda path, info: [chosen])
    yield "training", cache.get(path, chosen), chosen
    yield "screening", read_frames(path, everything, SIZE, info), everything
    pieces = list(sampled_pieces(path, SIZE, 1, 1, 7, "AUTO"))
    assert pieces[-1].info.report == info.report
    yield "score", np.concatenate([piece.frames for piece in pieces]), pieces[-1].sampled
    parts = list(decoded_pieces([path], SIZE, SnippetRule(4, 4, 1), folder / "features", 1))
    assert parts[-1].reason == info.report
    frames = np.concatenate([part.frames for part in parts])
    yield "features", frames, np.arange(len(frames))


def cases() -> Iterator[tuple]:
    for container, codecs in CODECS.items():
        for codec, bframes, rate, cut in product(codecs, (0, 2), RATES, CUTS):
            reorders = codec in ("libx264", "mpeg4", "mpeg2video")
            split = container in ("ts", "mpg") and cut == "one bad packet"  # in small packets
            split |= (container, codec, cut) == ("avi", "libx264", "one bad packet")  # no times
            timeless = container in ("avi", "mpg") or codec == "mpeg4"
            if not (split or (timeless and rate == "varies") or (bframes and not reorders)):
                yield container, codec, bframes, rate, cut


def spoil(source: Path, path: Path, cut: str) -> Path:
    if cut == "copied from the middle":
        return copied(source, path)
    if cut == "one bad packet":
        return spoilt(source, path, 31)  # the last before a key frame
    if cut == "torn":
        path.write_bytes(source.read_bytes()[: source.stat().st_size * 3 // 4])
        return path
    return source


@pytest.mark.parametrize("container", CODECS)
def test_numbers_drawn_into_frames_are_read_back(tmp_path, container):
    for number, case in enumerate(c for c in cases() if c[0] == container):
        _, codec, bframes, rate, cut = case
        folder = tmp_path / str(number)
        folder.mkdir()
        source = render(folder / f"source.{container}", codec, bframes, RATES[rate])
        path = spoil(source, folder / f"case.{container}", cut)
        expected, info = numbers(sequential(path)[1]), probe(path)
        held = not_lost(info)
        seen = dict(zip(held, expected, strict=True))
        for door, frames, asked in doors(path, info, folder):
            # The last picture of a torn file may be half there: decoders differ in it.
            whole = [i for i, n in enumerate(asked) if cut != "torn" or n + 1 < info.frames]
            wanted = [seen[n] for n in info.shown(asked)]
            assert numbers(frames[whole]) == [wanted[i] for i in whole], (case, door)
        if codec != "libx264" and cut in ("one bad packet", "torn"):
            continue  # these paint over what is bad, and the bars cannot be read
        times = np.array([float(shown_at(n, RATES[rate])) for n in expected])
        clock = info.clock[held] - info.clock[held[0]]
        whole = slice(-1 if cut == "torn" else None)  # the last picture may be half there
        np.testing.assert_allclose(
            clock[whole], (times - times[0])[whole], atol=2e-3, err_msg=str(case)
        )


def turn(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write a display rotation into the header of an MP4 file, as phones do."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44  # version 0: the matrix a b u c d v x y w
    for place, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[start + 4 * place : start + 4 * place + 4] = struct.pack(">i", value << 16)
    path.write_bytes(content)
    return path


MATRICES = [m for i, j in product((1, -1), repeat=2) for m in ((i, 0, 0, j), (0, i, j, 0))]


@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_stand_as_a_player_shows_them(tmp_path, matrix):
    """The white corner, top left when recorded, is where the matrix takes it; nothing is cut."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:16, :24] = 255
    path = turn(encode(tmp_path / "a.mp4", [picture], size=(64, 96)), matrix)
    info, (a, b, c, d) = probe(path), matrix  # x' = a x + c y, y' = b x + d y
    assert (info.width, info.height) == ((96, 64) if a else (64, 96))
    frame, corner = read_frames(path, [0], (40, 40))[0], (-(b + d < 0), -(a + c < 0))
    assert frame[corner].min() > 235 and (frame.mean(axis=2) > 128).mean() == 1 / 16


TRUTHS = {
    "cut.mp4": (142, ""),
    "hang.ts": (360, ""),
    "one_bad_packet.mp4": (200, "decoded 199 of 200 frames"),
    "two_streams.mkv": (200, ""),
}


@pytest.mark.parametrize("name", TRUTHS)
def test_real_cases_are_read_as_sequential_decoding_shows_them(shared_data, name):
    path, size = shared_data / "cases" / name, (24, 32)
    info, (times, frames) = probe(path), sequential(path, Scaler(size))
    assert (info.frames, info.report) == TRUTHS[name]
    held = not_lost(info)
    np.testing.assert_allclose(info.clock[held], np.subtract(times, times[0]), atol=1e-3)
    order = np.random.default_rng(0).permutation(len(held))
    read = read_frames(path, np.take(held, order), size, info)
    np.testing.assert_array_equal(read, frames[order])


def test_a_damaged_first_key_frame_moves_no_other(tmp_path):
    source = render(tmp_path / "source.mp4", "libx264", 0, RATES["constant"])
    path = spoilt(source, tmp_path / "case.mp4", 0)
    info = probe(path)
    assert info.lost and info.report
    held = not_lost(info)
    assert numbers(read_frames(path, held, SIZE, info)) == held
