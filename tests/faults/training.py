"""Damaged stage folders, unfit weights, and impossible parameters."""

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tiny_clip
import torch
from safetensors.torch import load_file, save_file
from test_training import STAGE, TRAINING, Clips, tiny_model
from test_video import SIZE, write_ids
from tiny_detectors import own_state, vadclip
from torch.utils.data import get_worker_info

from alertclip.backbone import CONFIG, load_backbone
from alertclip.checkpoint import checkpoints, latest_checkpoint, read_history
from alertclip.clips import ClipDataset
from alertclip.export import export_open_clip, load_alertclip
from alertclip.records import Item, Region
from alertclip.training import fit
from companion.profiles import load_params
from companion.stage_runs import started_clips
from detectors.checkpoints import load_vadclip
from media.cache import FrameCache
from media.files import write_json

from .harness import Case, no_trace, pickle_with_code, refused

EARLIER, NEWEST = "goes on from the checkpoint before", "goes on from the newest checkpoint"
NOT_LOADED, WEIGHTS = "weights refused", "trainable.safetensors"


def train(out: Path, model: torch.nn.Module | None = None, **options: Any) -> dict:
    """Train the tiny model for four steps, or those still missing; returns its weights."""
    model = model or tiny_model()
    options = {"regions": True, "seed": 3, "device": "cpu"} | options
    fit(model, options.pop("clips", Clips(6)), None, STAGE, TRAINING, out, **options)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@cache
def trained() -> tuple[Path, dict]:
    out = Path(tempfile.mkdtemp()) / "stage"
    return out, train(out)


def go_on(damage: Callable[[Path], object], start: int, folder: Path) -> str:
    """Damage a stage and train on from step ``start``: it ends in the same weights."""
    whole, weights = trained()
    out = folder / "stage"
    shutil.copytree(whole, out)
    trace = damage(out)
    assert latest_checkpoint(out)["step"] == start
    again = train(out)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
    assert [row["step"] for row in read_history(out).steps] == [1, 2, 3, 4]
    no_trace(trace)
    return f"(goes on from step {start})"


def other_backbone(folder: Path) -> str:
    whole, weights = trained()
    shutil.copytree(whole, folder / "stage")
    train(folder / "stage", tiny_model(seed=1))
    aside = next(folder.glob("stage-*"))
    return f"(the former run is kept as {'stage-' + 'x' * len(aside.name[6:])})"


class Killed(Clips):
    """Clips whose loader is killed, as by a full /dev/shm."""

    def __getitem__(self, i: int) -> dict:
        if get_worker_info():
            os.kill(os.getpid(), signal.SIGBUS)
        return super().__getitem__(i)


def out_of_memory(folder: Path) -> str:
    model = tiny_model()
    model.temporal.forward = lambda *_: torch.empty(1 << 50)
    return refused(train, folder / "stage1", model)


def load_changed(change: Callable[[Path], object], folder: Path) -> str:
    (folder / CONFIG).write_text(json.dumps({"model_cfg": tiny_clip.config()}))
    save_file(tiny_clip.clip().state_dict(), folder / "open_clip_model.safetensors")
    trace = change(folder / "open_clip_model.safetensors")
    message = refused(load_backbone, f"local-dir:{folder}")
    no_trace(trace)
    return message


def old_pickle(path: Path) -> Path:
    """The older file name, which open_clip also looks for, as a pickle with code."""
    path.unlink()
    return pickle_with_code(path.with_name("open_clip_pytorch_model.bin"))


def reshaped(path: Path) -> None:
    tensors = load_file(path).items()
    save_file({n: torch.cat([t, t[:1]]) if t.ndim else t for n, t in tensors}, path)


def wrapped(folder: Path) -> str:
    """A detector's weights, named as by DataParallel and torch.compile."""
    state, other = own_state(vadclip(seed=1)), vadclip(seed=5, stirred=False)
    torch.save({f"module._orig_mod.{n}": t for n, t in state.items()}, folder / "a.pth")
    load_vadclip(other, folder / "a.pth")
    assert all(torch.equal(other.state_dict()[n], t) for n, t in state.items())
    torch.save(state | {"linear.bias": state["linear.bias"] * torch.nan}, folder / "a.pth")
    return refused(load_vadclip, other, folder / "a.pth")


def not_finite(folder: Path) -> str:
    model = tiny_clip.alertclip()
    torch.nn.init.constant_(model.clip.ln_final.weight, torch.nan)
    return refused(load_alertclip, export_open_clip(model, folder / "export", {}))


def lost_clip(folder: Path) -> str:
    """A clip becomes unreadable before training resumes: it stops, or goes on without the clip."""
    data, cache = SimpleNamespace(skip_lost_clips=False), FrameCache(folder / "cache", SIZE)
    P: Any = SimpleNamespace(run_dir=folder, tuned_dir=folder, data=data)
    names = "a.mp4", "b.mp4", "late.mp4"
    items = [Item(name, "Normal video: a", (Region("a"),)) for name in names]

    def begun() -> tuple[Any, str]:
        clips = ClipDataset(folder, items, 4, cache, 1)
        return started_clips(P, clips, folder / "stage1")

    for length, name in enumerate(names[:2], start=8):
        write_ids(folder / name, length)
    clips, digest = begun()
    assert len(clips) == 2
    write_json(folder / "stage1/run.json", {"data": digest})
    write_ids(folder / "late.mp4", 20)  # what can be read only now does not join
    clips, same = begun()
    assert same == digest and [clips[i]["key"] for i in range(2)] == [*names[:2]]
    (folder / "a.mp4").unlink()
    message = refused(begun)
    data.skip_lost_clips = True
    clips, same = begun()
    assert same == digest and [clips[i]["key"] for i in range(2)] == ["b.mp4"] * 2
    write_ids(folder / "b.mp4", 12)  # another video is another run
    assert begun()[1] != digest
    return message


def append(out: Path, content: bytes) -> None:
    with open(out / "log.jsonl", "ab") as stream:
        stream.write(content)


def spoil(name: str, change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda out: change(checkpoints(out)[-1] / name)


STAGES: list[tuple[str, str, Callable[[Path], object], int]] = [
    ("newest weights are a pickle with code", EARLIER, spoil(WEIGHTS, pickle_with_code), 2),
    ("newest state is a pickle with code", EARLIER, spoil("state.pt", pickle_with_code), 2),
    ("a folder checkpoint-best", NEWEST, lambda out: (out / "checkpoint-best").mkdir(), 4),
    ("a log with a torn line", NEWEST, lambda out: append(out, b'{"split": "tr'), 4),
    ("a log with rows of others", NEWEST, lambda out: append(out, b"[]\n{}\n"), 4),
]
UNFIT = "needs .* that fits it"
LOADED: list[tuple[str, Callable[[Path], object], str]] = [
    ("a pickle with code in it", pickle_with_code, UNFIT),
    ("an older file with code in it", old_pickle, UNFIT),
    ("cut short", lambda path: os.truncate(path, 3000), UNFIT),
    ("other shapes", reshaped, UNFIT),
    ("a config cut short", lambda path: os.truncate(path.with_name(CONFIG), 40), "not valid UTF-8"),
]
EARLY = "stops before any work"
CASES = [
    *(Case(f"stage: {given}", done, "goes on from", partial(go_on, damage, start))
      for given, done, damage, start in STAGES),
    *(Case(f"weights: {given}", NOT_LOADED, says, partial(load_changed, change))
      for given, change, says in LOADED),
    Case("stage: a clip lost on the way", "stops, or skips it with skip_lost_clips",
         r"a.mp4: 1 clips .*a.mp4: no such file.*skip_lost_clips=true", lost_clip),
    Case("weights: an export with NaN", NOT_LOADED, "ln_final.weight .*not finite", not_finite),
    Case("weights: a wrapped detector's, then with NaN", "loaded; NaN refused",
         "a.pth: linear.bias holds NaN", wrapped),
    Case("stage: begun from other weights", "set aside", "is kept as", other_backbone),
    Case("training: out of memory", "says what to lower", "checkpointing=all", out_of_memory),
    Case("training: a loader that is killed", "names shared memory",
         "loads clips was killed.*shm-size=8g.*workers=0",
         lambda folder: refused(train, folder / "stage1", clips=Killed(6), workers=1)),
    Case("training: no clips", EARLY, "no training clips",
         lambda folder: refused(train, folder / "stage1", clips=Clips(0))),
    Case("parameter: no frames", EARLY, "num_frames",
         lambda _: refused(load_params, "smoke", {"num_frames": 0})),
]  # fmt: skip
