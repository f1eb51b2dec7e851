"""A simulated GPU: tensors that report cuda:0 and compute on the CPU.

What fails on a GPU fails here too: an operation on tensors of both devices, and numpy on a GPU
tensor. Speed and the GPU's own rounding are not simulated.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CUDA = torch.device("cuda", 0)
MAY_MIX = "copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"  # as on a GPU


class OnGPU(torch.Tensor):
    """A tensor that reports the GPU as its device; ``data_`` holds its values on the CPU."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    @staticmethod
    def __new__(cls, tensor: torch.Tensor) -> "OnGPU":
        """Wrap a CPU tensor; to autograd it is a meta tensor, which needs no driver."""
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls, tensor.size(), strides=tensor.stride(), dtype=tensor.dtype, device="meta",
            storage_offset=tensor.storage_offset(),
        )  # fmt: skip
        wrapper.data_ = tensor
        return wrapper

    def tolist(self) -> list:
        """As for a plain tensor; torch refuses it for subclasses."""
        return self.cpu().tolist()

    def new_tensor(self, values: Any) -> torch.Tensor:
        """As for a plain tensor, on the same device."""
        return torch.tensor(values, dtype=self.dtype).to("cuda")

    def __getitem__(self, index: Any) -> torch.Tensor:
        """As for a plain tensor; a list would become a tensor on the meta device."""
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({tuple(self.shape)})"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run one operation after a check that its tensors are on one device."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    on_cpu = [tensor for tensor in tensors if not isinstance(tensor, OnGPU)]
    if on_gpu and any(t.ndim for t in on_cpu) and name not in MAY_MIX:
        shapes = [tuple(t.shape) for t in on_cpu]
        raise RuntimeError(f"{name}: tensors of cuda:0 and of the processor, {shapes}")
    device = kwargs.get("device")
    if name == "empty" and str(device) == "meta" and 0 not in args[0]:
        raise RuntimeError("numbers of Python, which torch does not copy to what it takes for meta")
    to_gpu = bool(on_gpu) if device is None else torch.device(device).type != "cpu"
    if name in MAY_MIX and name != "_to_copy":  # the first decides
        to_gpu = isinstance(args[0], OnGPU)
    plain = tree_map_only(OnGPU, lambda t: t.data_, (args, kwargs))
    values = {k: "cpu" if k == "device" and v is not None else v for k, v in plain[1].items()}
    result = func(*plain[0], **values)
    if func._schema.is_mutable and on_gpu and result is not None:
        mutated = {id(t.data_): t for t in on_gpu}
        return tree_map(lambda r: mutated.get(id(r), r), result)
    wrap = OnGPU if to_gpu else (lambda t: t)
    return tree_map_only(torch.Tensor, wrap, result)


class PretendedGPU(TorchDispatchMode):
    """A context in which device="cuda" creates and moves tensors, without a driver."""

    def __init__(self) -> None:
        super().__init__()
        torch._C._ensureCUDADeviceGuardSet()  # does nothing without a GPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})
