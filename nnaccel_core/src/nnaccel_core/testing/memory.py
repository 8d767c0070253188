"""Host memory and numpy tensors behind the plug-in interfaces: for tests and for backends that run on the host."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from nnaccel_core.api import Bridge, Memory
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import TensorType, evaluate, numpy_dtype
from nnaccel_core.plan import BufferRef

ALIGNMENT = 64


def host_view(address: int, type: TensorType, strides: tuple[int, ...] | None = None) -> np.ndarray[Any, Any]:
    """A numpy view of host memory at ``address`` as static ``type``, in logical axis order. The caller keeps it alive."""
    dtype = numpy_dtype(type.dtype)
    shape: tuple[int, ...] = type.shape  # type: ignore[assignment]
    elements: tuple[int, ...] = strides if strides is not None else type.strides()  # type: ignore[assignment]
    if 0 in shape:
        return np.empty(shape, dtype)
    span = 1 + sum((d - 1) * s for d, s in zip(shape, elements, strict=True))
    raw = (ctypes.c_uint8 * (span * dtype.itemsize)).from_address(address)
    flat = np.ctypeslib.as_array(raw).view(dtype)
    return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in elements])


class HostMemory(Memory):
    """64-byte aligned host memory."""

    def __init__(self, nbytes: int) -> None:
        try:
            self._raw = np.empty(nbytes + ALIGNMENT, np.uint8)
        except MemoryError as e:
            raise OutOfMemoryError(f"{nbytes} bytes of host memory could not be allocated") from e
        base = self._raw.ctypes.data
        self.address = -(-base // ALIGNMENT) * ALIGNMENT
        self.nbytes = nbytes

    def numpy(self, type: TensorType) -> np.ndarray[Any, Any]:
        return host_view(self.address, type)


class NumpyBridge(Bridge):
    """numpy arrays as the framework's tensors."""

    framework = "numpy"
    device = "interp"

    def type_of(self, tensor: Any) -> TensorType | None:
        t = TensorType(tensor.shape, str(tensor.dtype))
        order = sorted(range(tensor.ndim), key=lambda a: (-tensor.strides[a], -tensor.shape[a], a))
        found = t.with_layout(tuple(order))
        wanted = tuple(evaluate(s, {}) * tensor.itemsize for s in found.strides())
        dense = all(d == 1 or a == b for d, a, b in zip(tensor.shape, tensor.strides, wanted, strict=True))
        return found if dense else None

    def dense(self, tensor: Any) -> Any:
        return np.ascontiguousarray(tensor).reshape(tensor.shape)

    def address(self, tensor: Any) -> int:
        return int(tensor.ctypes.data)

    def allocate(self, type: TensorType) -> Any:
        back = [type.layout.index(a) for a in range(type.rank)]
        shape = [evaluate(d, {}) for d in type.physical_shape]
        return np.empty(shape, numpy_dtype(type.dtype)).transpose(back)

    def numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        return np.asarray(tensor)

    def copy(self, target: Any, source: Any) -> None:
        target[...] = source


def view_of(ref: BufferRef, addresses: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The placed tensor ``ref``; ``addresses`` maps each space to a list of addresses (arena: one address)."""
    base = addresses[ref.space] if ref.space == "arena" else addresses[ref.space][ref.index]
    return host_view(base + ref.offset, ref.type, ref.strides)
