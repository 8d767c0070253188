"""torch's tensors on device ``interp``: they stay where they are, in host memory."""

from __future__ import annotations

from typing import Any

from nnaccel_core.api import Bridge
from nnaccel_core.ir import TensorType
from nnaccel_core.ir.types import ITEMSIZE


class TorchInterpBridge(Bridge):
    """torch CPU tensors."""

    framework = "torch"
    device = "interp"
    home = "cpu"  # torch knows no device "interp": networks and arguments are on its CPU
    api = 0

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self._dtypes = {getattr(torch, name): name for name in ITEMSIZE}

    def type_of(self, tensor: Any) -> TensorType | None:
        if tensor.layout is not self._torch.strided or tensor.dtype not in self._dtypes or tensor.is_neg():
            return None
        order = sorted(range(tensor.dim()), key=lambda a: (-tensor.stride(a), -tensor.shape[a], a))
        found = TensorType(tuple(tensor.shape), self._dtypes[tensor.dtype], tuple(order))
        pairs = zip(tensor.shape, tensor.stride(), found.strides(), strict=True)
        return found if all(d == 1 or mine == dense for d, mine, dense in pairs) else None

    def dense(self, tensor: Any) -> Any:
        return tensor.detach().resolve_neg().clone(memory_format=self._torch.contiguous_format)

    def address(self, tensor: Any) -> int:
        return int(tensor.data_ptr())

    def allocate(self, type: TensorType) -> Any:
        dtype = getattr(self._torch, type.dtype)
        return self._torch.empty_strided(type.shape, type.strides(), dtype=dtype, device="cpu")

    def numpy(self, tensor: Any) -> Any:
        return tensor.detach().numpy()

    def copy(self, target: Any, source: Any) -> None:
        with self._torch.no_grad():
            target.copy_(source)

    def touched(self, tensor: Any) -> None:
        if not tensor.is_inference():
            self._torch.autograd.graph.increment_version(tensor)
