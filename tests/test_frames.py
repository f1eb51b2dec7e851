"""Frames one can trust: the number drawn into a frame is read back, whatever the file and door."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from test_video import spoilt

from alertclip.anomaly_curve import Sampling
from alertclip.cache import FrameCache
from alertclip.video import probe, read_frames, uniform_indices
from detectors.features import SnippetRule, decoded_pieces

FRAMES, SIZE, BITS = 40, (32, 64), 8  # H, W; a number is shown as black and white bars
CODECS = {
    "mp4": ["libx264", "mpeg4"],
    "mov": ["libx264"],
    "mkv": ["libx264", "libvpx", "mjpeg"],
    "ts": ["libx264", "mpeg2video"],
    "avi": ["mpeg4"],
    "mpg": ["mpeg2video"],
    "flv": ["libx264"],
}
RATES = {"constant": Fraction(30000, 1001), "varies": None}
CUTS = ("whole", "copied from the middle", "one bad packet", "torn")


def drawn(number: int) -> np.ndarray:
    bits = [(number >> bit) & 1 for bit in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 25, SIZE[1] // BITS)
    return np.broadcast_to(row[None, :, None], (*SIZE, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    bars = np.asarray(frames).mean(axis=(1, 3)).reshape(len(frames), BITS, -1).mean(axis=2)
    return ((bars > 128) @ (1 << np.arange(BITS))).tolist()


def shown_at(number: int, rate: Fraction | None) -> Fraction:
    """Presentation time (s); without a rate 25 a second, then 5."""
    half = FRAMES // 2
    late = Fraction(half, 25) + Fraction(number - half, 5)
    return number / rate if rate else Fraction(number, 25) if number < half else late


def render(path: Path, codec: str, bframes: int, rate: Fraction | None) -> Path:
    first = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=first) as container:
        options = {"g": "16", "bf": str(bframes), "b": "2000000"}
        if codec == "libx264":
            options |= {"x264-params": "open-gop=0", "crf": "10"}
        stream = container.add_stream(codec, rate=rate or 25, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.time_base = 1 / (rate or Fraction(25))
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="rgb24")
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(shown_at(number, rate) / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copied(source: Path, path: Path) -> Path:
    """As ``ffmpeg -ss`` with ``-c copy`` cuts: an edit list, or a start before the key frame."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [p for p in old.demux(video=0) if p.size]
        begin = sorted(p.pts for p in packets)[FRAMES // 2]
        key = max(i for i, p in enumerate(packets) if p.is_keyframe and p.pts <= begin)
        for packet in packets[key:]:
            packet.pts, packet.dts, packet.stream = packet.pts - begin, packet.dts - begin, stream
            new.mux(packet)
    return path


def truth(path: Path) -> list[int]:
    """What sequential decoding shows, packet by packet."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            try:
                found += [f.to_ndarray(format="rgb24") for f in packet.decode()]
            except av.FFmpegError:
                continue
    return numbers(np.stack(found))


def doors(path: Path, info, folder: Path) -> Iterator[tuple[str, np.ndarray, list[int]]]:
    """Every way in which frames are read: its name, the frames, and the numbers asked for."""
    everything = np.arange(info.frames)
    shuffled = np.random.default_rng(0).permutation(info.frames)[:9]
    yield "figures", read_frames(path, shuffled, SIZE, info), shuffled
    cache, chosen = FrameCache(folder / "cache", SIZE), uniform_indices(info, 0, info.duration, 8)
    cache.info(path, lambda info: [chosen])
    yield "training", cache.get(path, chosen), chosen
    yield "screening", read_frames(path, everything, SIZE, info), everything
    pieces = list(Sampling(SIZE, 1, 1, 7, "AUTO").pieces(path))
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
            timeless = container in ("avi", "mpg") and rate == "varies"
            if (
                split
                or timeless
                or (bframes and not reorders)
                or (codec == "mpeg4" and rate == "varies")
            ):
                continue
            yield container, codec, bframes, rate, cut


def spoil(source: Path, path: Path, cut: str) -> Path:
    if cut == "copied from the middle":
        return copied(source, path)
    if cut == "one bad packet":
        return spoilt(source, path, FRAMES - 5)
    if cut == "torn":
        content = source.read_bytes()
        path.write_bytes(content[: len(content) * 3 // 4])
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
        expected, info = truth(path), probe(path)
        held = [n for n in range(info.frames) if n not in info.lost]
        seen = dict(zip(held, expected, strict=True))
        for door, frames, asked in doors(path, info, folder):
            found, wanted = numbers(frames), [seen[n] for n in info.shown(asked)]
            assert found == wanted, (case, door)
        if codec == "mpeg4" and cut in ("one bad packet", "torn"):
            continue  # it paints over what is bad, and the bars cannot be read
        times = np.array([float(shown_at(n, RATES[rate])) for n in expected])
        found = info.clock[held] - info.clock[held[0]]
        np.testing.assert_allclose(found, times - times[0], atol=2e-3, err_msg=str(case))
