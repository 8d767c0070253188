"""numpy arrays in CPU memory as the core sees them."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from nnaccel_core.api import Bridge
from nnaccel_core.ir import TensorType

#: Bytes; a cache line, and as wide as any vector register.
ALIGNMENT = 64
_DTYPES = {
    np.dtype(d): d for d in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
}  # fmt: skip


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """A new row-major array at a multiple of `ALIGNMENT` bytes, uninitialized."""
    nbytes = dtype.itemsize
    for d in shape:
        nbytes *= d
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    out: np.ndarray[Any, Any] = np.ndarray(shape, dtype, raw, start)
    return out


def ir_dtype(dtype: np.dtype[Any]) -> str | None:
    """The IR's name of a numpy dtype; None where it has none (strings, complex numbers, unsigned integers beyond a byte)."""
    return _DTYPES.get(dtype)


def is_array(value: Any) -> bool:
    """Whether ``value`` is a numpy array, or one of CuPy's on a GPU."""
    cupy = sys.modules.get("cupy")
    return isinstance(value, np.ndarray) or (cupy is not None and isinstance(value, cupy.ndarray))


class Tracked(np.ndarray[Any, Any]):
    """An array on the tape of a training step: gradients of it are taken. A view; users never see one."""


class NumpyCpuBridge(Bridge):
    """numpy arrays; results are new, row-major and aligned."""

    framework = "onnx"
    device = "cpu"

    def __init__(self) -> None:
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not under Linux
            cores = os.cpu_count() or 1
        given = os.environ.get("OMP_NUM_THREADS", "")
        self._threads = max(1, int(given)) if given.isdecimal() else cores

    def type_of(self, tensor: Any) -> TensorType | None:
        """The type of a row-major array; None for others."""
        name = _DTYPES.get(tensor.dtype)
        return TensorType(tensor.shape, name) if name is not None and tensor.flags.c_contiguous else None

    def dense(self, tensor: Any) -> Any:
        """A row-major copy."""
        out = aligned(tensor.shape, tensor.dtype)
        out[...] = tensor
        return out

    def address(self, tensor: Any) -> int:
        """Address of the first element."""
        return tensor.__array_interface__["data"][0]  # type: ignore[no-any-return]

    def allocate(self, type: TensorType) -> Any:
        """A new aligned array of static ``type``, in logical axis order."""
        shape: tuple[int, ...] = type.physical_shape  # type: ignore[assignment]
        out = aligned(shape, np.dtype(type.dtype))
        back = [type.layout.index(a) for a in range(type.rank)]
        return out.transpose(back) if back != list(range(type.rank)) else out

    def numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The array itself."""
        return np.asarray(tensor)

    def copy(self, target: Any, source: Any) -> None:
        """Write ``source`` over ``target``."""
        target[...] = source

    def tracks(self, tensor: Any) -> bool:
        """Whether ``tensor`` is on the tape."""
        return type(tensor) is Tracked

    def threads(self) -> int:
        """As many as this process may use cores, or ``OMP_NUM_THREADS``."""
        return self._threads
