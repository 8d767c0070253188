"""TensorFlow's host memory as the core sees it: numpy views of tensors, and arrays that tensors are made of without a copy.

Compiled code runs inside TensorFlow's own graphs, where tensors reach Python as numpy arrays over TensorFlow's memory; results
are arrays of TensorFlow's alignment, which it takes over as they are.
"""

from __future__ import annotations

import ctypes
import math
import os
from typing import Any

import numpy as np

from nnaccel_core.api import Bridge
from nnaccel_core.ir import TensorType, identity

#: Bytes; TensorFlow copies what is aligned less.
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
    """The IR's name of a numpy dtype; None where it has none."""
    found = _DTYPES.get(dtype)
    return found if found is not None or dtype.name != "bfloat16" else "bfloat16"


class Borrowed:
    """Memory of TensorFlow's during a call of the native operation: as much of a tensor as running compiled code needs."""

    __slots__ = ("address", "dtype", "shape")

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.address = address
        self.shape = shape
        self.dtype = dtype

    def numpy(self) -> np.ndarray[Any, Any]:
        """The memory as a row-major array; not to be kept beyond the call."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        raw = memoryview((ctypes.c_uint8 * (math.prod(self.shape) * self.dtype.itemsize)).from_address(self.address))
        found: np.ndarray[Any, Any] = np.ndarray(self.shape, self.dtype, raw)
        return found


def address(array: np.ndarray[Any, Any]) -> int:
    """Address of the first element."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def physical(array: np.ndarray[Any, Any]) -> tuple[int, ...] | None:
    """The axes from outermost to innermost in memory, where the array is dense; else None."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    order = sorted(range(array.ndim), key=lambda a: (-array.strides[a], array.shape[a] != 1, a))
    return tuple(order) if array.transpose(order).flags.c_contiguous else None


class TensorFlowCpuBridge(Bridge):
    """numpy arrays over TensorFlow's memory, in host memory."""

    framework = "tf"
    device = "cpu"

    def __init__(self) -> None:
        self._bfloat16: Any = None
        self._plans: dict[TensorType, tuple[tuple[int, ...], np.dtype[Any], list[int] | None]] = {}
        try:
            cores = len(os.sched_getaffinity(0))
        except AttributeError:  # not under Linux
            cores = os.cpu_count() or 1
        self._cores = cores
        self._threads = 0

    def numpy_dtype(self, dtype: str) -> np.dtype[Any]:
        """numpy's dtype of an IR dtype; TensorFlow brings the one for bfloat16."""
        if dtype != "bfloat16":
            return np.dtype(dtype)
        if self._bfloat16 is None:
            import tensorflow as tf

            self._bfloat16 = np.dtype(tf.bfloat16.as_numpy_dtype)
        return np.dtype(self._bfloat16)

    def type_of(self, tensor: Any) -> TensorType | None:
        """The array's type with its layout; None where it is not dense."""
        name = ir_dtype(tensor.dtype)
        layout = identity(len(tensor.shape)) if type(tensor) is Borrowed else physical(tensor)
        return TensorType(tensor.shape, name, layout) if name is not None and layout is not None else None

    def lies_as(self, tensor: Any, type: TensorType) -> bool:
        """Whether the array lies in memory as ``type`` says."""
        if isinstance(tensor, Borrowed):
            return type.same_memory(identity(type.rank))
        return super().lies_as(tensor, type)

    def dtype_of(self, tensor: Any) -> str | None:
        """The array's element type."""
        return ir_dtype(tensor.dtype)

    def dense(self, tensor: Any) -> Any:
        """A row-major copy."""
        out = aligned(tensor.shape, tensor.dtype)
        out[...] = tensor
        return out

    def address(self, tensor: Any) -> int:
        """Address of the first element."""
        return tensor.address if type(tensor) is Borrowed else address(tensor)

    def allocate(self, type: TensorType) -> Any:
        """A new aligned array of static ``type``, in logical axis order."""
        plan = self._plans.get(type)
        if plan is None:
            shape: tuple[int, ...] = type.physical_shape  # type: ignore[assignment]
            back = [type.layout.index(a) for a in range(type.rank)]
            plan = (shape, self.numpy_dtype(type.dtype), back if back != list(range(type.rank)) else None)
            if len(self._plans) > 1024:
                self._plans = {}
            self._plans[type] = plan
        out = aligned(plan[0], plan[1])
        return out if plan[2] is None else out.transpose(plan[2])

    def numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The array itself; of bfloat16, which references compute in float32, a copy."""
        if isinstance(tensor, Borrowed):
            tensor = tensor.numpy()
        return tensor.astype(np.float32) if ir_dtype(tensor.dtype) == "bfloat16" else tensor  # type: ignore[no-any-return]

    def copy(self, target: Any, source: Any) -> None:
        """Write ``source`` over ``target``."""
        target[...] = source

    def threads(self) -> int:
        """As many as TensorFlow may use within an operation; by default all cores that this process may use."""
        if not self._threads:  # TensorFlow fixes them with its first operation
            import tensorflow as tf

            self._threads = tf.config.threading.get_intra_op_parallelism_threads() or self._cores
        return self._threads
