"""The folder of a training stage: settings, log, and atomically written checkpoints.

run.json              everything that determines the result; another run never shares the folder
log.jsonl             one line per optimiser step and per validation
checkpoint-000100/    trainable.safetensors; state.pt with step, optimiser and random states
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, _weights_only_unpickler, nn
from torch._weights_only_unpickler import get_globals_in_pkl
from torch.serialization import _load, safe_globals

from media.errors import InputError
from media.files import atomic_write, read_json, sha256_json, share, write_json, writing

TRAINABLE, STATE, RUN, LOG = "trainable.safetensors", "state.pt", "run.json", "log.jsonl"


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def weights_hash(model: nn.Module) -> str:
    """Hexadecimal SHA-256 of a model's state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        data = tensor.cpu().reshape(-1).view(torch.uint8)  # numpy has no bf16
        digest.update(name.encode() + data.numpy().tobytes())
    return digest.hexdigest()


def random_states(device: torch.device) -> list[Tensor]:
    """The random states of torch that a forward pass on ``device`` uses."""
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


def set_random_states(states: list[Tensor], device: torch.device) -> None:
    """Restore what ``random_states`` returned; a GPU's state is skipped on a CPU."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Make ``out`` the folder of this run; that of another run is renamed, never overwritten.

    Changing a parameter and changing it back finds the first result again.
    """
    former = read_json(out / RUN) if (out / RUN).is_file() else None
    if former is not None and former != identity:
        kept = _kept_folder(out, former)
        out.rename(kept)
        changed = [n for n in sorted(former.keys() | identity) if former.get(n) != identity.get(n)]
        print(f"{out.name}: {', '.join(changed)} changed; the former run is kept as {kept.name}")
    if not out.exists() and _kept_folder(out, identity).exists():
        _kept_folder(out, identity).rename(out)
    for temporary in out.glob(".*"):  # left by a killed run
        shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
    write_json(out / RUN, identity)


def _kept_folder(out: Path, identity: Mapping[str, Any]) -> Path:
    return out.with_name(f"{out.name}-{sha256_json(identity)[:8]}")


def save_checkpoint(
    out: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    limit: int,
) -> Path:
    """Write ``out/checkpoint-<step>`` and delete the oldest beyond ``limit``."""
    folder = out / f"checkpoint-{step:06d}"
    tensors = {name: p.detach().cpu().contiguous() for name, p in trainable(model).items()}
    state = {"step": step, "optimizer": optimizer.state_dict(), "random": random_states(device)}
    with writing(folder), TemporaryDirectory(prefix=".", dir=out) as temporary:
        complete = Path(temporary) / folder.name
        complete.mkdir()
        save_file(tensors, complete / TRAINABLE)
        torch.save(state, buffer := BytesIO())  # so that a full disk raises OSError in our write
        (complete / STATE).write_bytes(buffer.getbuffer())
        share(complete)
        shutil.rmtree(folder, ignore_errors=True)
        complete.rename(folder)
    for old in checkpoints(out)[:-limit]:
        shutil.rmtree(old)
    return folder


def checkpoints(out: Path) -> list[Path]:
    """Checkpoint folders of a stage, oldest first; temporary folders start with a dot."""
    return sorted(path for path in out.glob("checkpoint-??????") if path.is_dir())


def latest_checkpoint(out: Path) -> dict[str, Any] | None:
    """The newest readable checkpoint: step, tensors, optimizer, random (states); None without one.

    Damaged checkpoints are printed and skipped.
    """
    for folder in reversed(checkpoints(out)):
        try:
            state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            return state | {"tensors": load_file(folder / TRAINABLE)}
        except Exception as error:  # damaged files raise errors without a common class
            print(f"{folder}: damaged ({type(error).__name__}), skipped")
    return None


def restore(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the model's trainable parameters."""
    with torch.no_grad():
        for name, parameter in trainable(model).items():
            parameter.copy_(saved[name])


class History(NamedTuple):
    """Rows of the log: ``steps`` one per optimiser step, ``validation`` one per validation."""

    steps: list[dict[str, Any]]
    validation: list[dict[str, Any]]


def read_history(out: Path) -> History:
    """The history of the stage in ``out``; empty before its first step."""
    rows = list(_rows(out))
    splits = [[row for row in rows if row["split"] == name] for name in ("train", "validation")]
    return History(*splits)


def append_row(out: Path, row: dict[str, Any]) -> None:
    """Add one line to the log of the stage in ``out``."""
    with writing(out / LOG), open(out / LOG, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")


def trim_log(out: Path, step: int) -> None:
    """Drop the log's rows after ``step``, which will be written again."""
    rows = [row for row in _rows(out) if row["step"] <= step]
    with atomic_write(out / LOG) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _rows(out: Path) -> Iterator[dict[str, Any]]:
    path = out / LOG
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:  # torn by a crash: the log ends here
            return
        if not isinstance(row, dict) or not {"split", "step"} <= row.keys():
            return
        yield row


# Weights of other programs, read without running code from their files.
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # integers in OpenAI's archives
ARCHIVE = "TorchScript"  # OpenAI's models, all with QuickGELU, and LongCLIP, tuned from them
POSITIONS = "positional_embedding"
KEPT = 20  # first positions of CLIP, which LongCLIP keeps (Zhang et al., ECCV 2024, section 3.1)


def as_safetensors(path: Path) -> Path:
    """Convert a .pt, .pth, .bin or .ckpt file, once, and return the safetensors file beside it.

    Other paths are returned as they are. Raises InputError on a file that is neither a TorchScript
    archive nor a PyTorch file of plain tensors, and on a folder that is not writable.
    """
    if path.suffix not in PICKLED:
        return path
    converted = path.with_name(f"{path.name}.safetensors")
    try:
        source = f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
        if converted.is_file() and file_header(converted)[0].get("of") == source:
            return converted
        names = zipfile.ZipFile(path).namelist() if zipfile.is_zipfile(path) else []
        archive = any("/code/" in name for name in names)
        state = dict(_archive_module(path).tensors()) if archive else _file_state(path)
        state = {k: _own_copy(k, v) for k, v in state.items() if k not in NOT_WEIGHTS}
        if (stretched := state.pop(f"{POSITIONS}_res", None)) is not None:  # LongCLIP
            state[POSITIONS] = torch.cat([state[POSITIONS][:KEPT], stretched[KEPT:]])
            archive = True  # QuickGELU, as OpenAI's
    except Exception as error:  # damaged files raise errors without a common class
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(
            f"pretrained {path}: not readable as plain weights ({reason}); fetch it again, or"
            " convert it to .safetensors"
        ) from error
    with atomic_write(converted) as temporary:
        save_file(state, temporary, {"source": ARCHIVE if archive else "PyTorch", "of": source})
    return converted


def file_header(path: Path) -> tuple[dict[str, str], dict[str, list[int]]]:
    """Metadata and tensor shapes of a safetensors file; InputError if it is not one."""
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            return file.metadata() or {}, {n: file.get_slice(n).get_shape() for n in names}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None


def _own_copy(name: str, tensor: Tensor) -> Tensor:
    """A contiguous copy; ValueError if a tensor exceeds its storage and might fill the memory."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} is larger than its storage")
    return tensor.contiguous().clone()


def _file_state(path: Path) -> dict[str, Tensor]:
    """State dict of a PyTorch file; open_clip's checkpoints keep it under ``state_dict``."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    if not state:
        raise ValueError("it holds no tensors by name")
    return state


class _Module:
    """A module of an archive: its attributes, without class or code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by name, as in ``state_dict``."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            elif isinstance(value, _Module):
                yield from value.tensors(f"{prefix}{name}.")


def _archive_module(path: Path) -> _Module:
    """Read the module of a TorchScript archive with torch's weights-only unpickler."""
    reader = torch._C.PyTorchFileReader(str(path))
    classes = get_globals_in_pkl(BytesIO(reader.get_record("data.pkl")))
    with safe_globals([(_Module, name) for name in classes if name.startswith("__torch__")]):
        return _load(reader, "cpu", _weights_only_unpickler, encoding="utf-8")
