"""Weights in files of other programs, read without running anything that they hold.

OpenAI's checkpoints are TorchScript archives, open_clip's are PyTorch files. Both are converted
once, to safetensors beside them.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from alertclip.errors import InputError
from alertclip.files import atomic_write

PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers in OpenAI's archives
ARCHIVE = "TorchScript"  # OpenAI's models, all with QuickGELU
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
REFUSALS = (OSError, EOFError, KeyError, ValueError, TypeError, AttributeError, RuntimeError,
            StopIteration, pickle.UnpicklingError)  # fmt: skip


def as_safetensors(path: Path) -> Path:
    """``path`` itself, or the safetensors made once of a .pt, .pth, .bin or .ckpt file.

    InputError names a file that is neither a TorchScript archive nor a PyTorch file of plain
    tensors, and a folder in which nothing can be written.
    """
    if path.suffix not in PICKLED:
        return path
    made = path.with_name(f"{path.name}.safetensors")
    if made.is_file() and made.stat().st_mtime >= path.stat().st_mtime:
        return made
    try:
        archive = zipfile.is_zipfile(path) and any(map(_is_code, zipfile.ZipFile(path).namelist()))
        state = _archive_state(path) if archive else _file_state(path)
    except REFUSALS as error:
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise InputError(
            f"pretrained {path}: not readable as plain weights ({reason}); fetch it again, or"
            " convert it to .safetensors"
        ) from error
    state = {k: v.contiguous() for k, v in state.items() if k not in NOT_WEIGHTS}
    with atomic_write(made) as temporary:
        save_file(state, temporary, {"source": ARCHIVE if archive else "PyTorch"})
    return made


def _is_code(name: str) -> bool:
    return "/code/" in name


def _file_state(path: Path) -> dict[str, Tensor]:
    """State of a PyTorch file: open_clip's checkpoints keep it below state_dict."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {k.removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    if not state:
        raise ValueError("it holds no tensors by name")
    return state


class _Record:
    """A module of an archive: its attributes, without its class or its code."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Tensors(pickle.Unpickler):
    """Reads an archive's tree of modules; anything but tensors in records is refused."""

    def __init__(self, archive: zipfile.ZipFile, tree: str) -> None:
        super().__init__(archive.open(tree))
        self.archive, self.folder = archive, tree.removesuffix("data.pkl")

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Record
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return torch._utils._rebuild_tensor_v2
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")

    def persistent_load(self, key: tuple) -> torch.TypedStorage:
        _, dtype, number, *_ = key
        content = bytearray(self.archive.read(f"{self.folder}data/{number}"))
        storage = torch.frombuffer(content, dtype=torch.uint8).untyped_storage()
        return torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _archive_state(path: Path) -> dict[str, Tensor]:
    """State of a TorchScript archive by name, as its module's state_dict() would be."""
    with zipfile.ZipFile(path) as archive:
        tree = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        state: dict[str, Tensor] = {}
        waiting = [("", _Tensors(archive, tree).load())]
        while waiting:
            prefix, record = waiting.pop()
            for name, value in vars(record).items():
                if isinstance(value, Tensor):
                    state[prefix + name] = value
                elif isinstance(value, _Record):
                    waiting.append((f"{prefix}{name}.", value))
    return state


def check_fit(path: Path, name: str, config: dict[str, Any]) -> dict[str, str]:
    """Refuse a safetensors file of another CLIP than ``name``, naming a model that fits.

    Returns the file's metadata. Models without these weights, such as SigLIP, are not checked.
    """
    try:
        with safe_open(path, "pt") as file:
            keys = set(file.keys()) & {"visual.conv1.weight", "text_projection"}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"pretrained {path}: not a safetensors file ({error})") from None
    if shapes.items() - _shapes(config).items():
        configs = {n: open_clip.get_model_config(n) for n in open_clip.list_models()}
        right = [n for n, c in configs.items() if len(keys) == 2 and _shapes(c) == shapes]
        hint = f"; they fit {min(right, key=len)}" if right else ""
        raise InputError(f"pretrained {path}: weights of another model than {name}{hint}")
    return metadata


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes that tell CLIPs apart, from open_clip's model_cfg; nothing of other families."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "patch_size" not in vision or "width" not in vision or "width" not in text:
        return {}
    patch = vision["width"], 3, vision["patch_size"], vision["patch_size"]
    projection = text["width"], config["embed_dim"]
    return {"visual.conv1.weight": patch, "text_projection": projection}
