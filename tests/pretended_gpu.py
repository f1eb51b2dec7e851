"""A pretended GPU: tensors that say cuda:0 and compute on the processor.

Whatever would fail on a GPU fails here too: an operation on tensors of both devices, and numpy on
a tensor of the GPU. Nothing is said of speed or of the GPU's own rounding.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CUDA = torch.device("cuda", 0)
MAY_MIX = "copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_"  # as on a GPU


class OnGPU(torch.Tensor):
    """A tensor that lies on the GPU, as it says; ``data_`` lies on the processor."""

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    @staticmethod
    def __new__(cls, tensor: torch.Tensor) -> "OnGPU":
        """Wrap a tensor of the processor; for autograd a meta tensor, which needs no driver."""
        made = torch.Tensor._make_wrapper_subclass(
            cls, tensor.size(), strides=tensor.stride(), dtype=tensor.dtype, device="meta",
            storage_offset=tensor.storage_offset(),
        )  # fmt: skip
        made.data_ = tensor
        return made

    def tolist(self) -> list:
        """As of a true tensor; of subclasses torch refuses it."""
        return self.cpu().tolist()

    def new_tensor(self, values: Any) -> torch.Tensor:
        """As of a true tensor, whose device decides."""
        return torch.tensor(values, dtype=self.dtype).to("cuda")

    def __getitem__(self, index: Any) -> torch.Tensor:
        """As of a true tensor; a list would become a tensor of this one's meta device."""
        return super().__getitem__(torch.tensor(index) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"OnGPU({tuple(self.shape)})"


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, after a check that its tensors lie on one device."""
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, OnGPU)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnGPU)]
    if there and any(t.ndim for t in here) and name not in MAY_MIX:
        shapes = [tuple(t.shape) for t in here]
        raise RuntimeError(f"{name}: tensors of cuda:0 and of the processor, {shapes}")
    device = kwargs.get("device")
    if name == "empty" and str(device) == "meta" and 0 not in args[0]:
        raise RuntimeError("numbers of Python, which torch does not copy to what it takes for meta")
    to_gpu = bool(there) if device is None else torch.device(device).type != "cpu"
    if name in MAY_MIX and name != "_to_copy":  # the first decides
        to_gpu = isinstance(args[0], OnGPU)
    plain = tree_map_only(OnGPU, lambda t: t.data_, (args, kwargs))
    values = {k: "cpu" if k == "device" and v is not None else v for k, v in plain[1].items()}
    result = func(*plain[0], **values)
    if func._schema.is_mutable and there and result is not None:
        mutated = {id(t.data_): t for t in there}
        return tree_map(lambda r: mutated.get(id(r), r), result)
    wrap = OnGPU if to_gpu else (lambda t: t)
    return tree_map_only(torch.Tensor, wrap, result)


class PretendedGPU(TorchDispatchMode):
    """Inside: device="cuda" makes and moves tensors, without a driver."""

    def __init__(self) -> None:
        super().__init__()
        torch._C._ensureCUDADeviceGuardSet()  # one that does nothing where there is no GPU

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})
