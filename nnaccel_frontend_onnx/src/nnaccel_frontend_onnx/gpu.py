"""CuPy arrays in the memory of an NVIDIA GPU as the core sees them.

numpy arrays are copied there and results back; arrays that lie there already (CuPy's, or another framework's by DLPack) are
read where they lie, and results are then CuPy arrays, which others take by DLPack.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnaccel_core.api import Bridge, Captured
from nnaccel_core.ir import Foreign, TensorType
from nnaccel_frontend_onnx.bridge import ir_dtype

#: ``kDLCUDA`` and ``kDLCUDAManaged`` of DLPack.
_ON_GPU = (2, 13)


class CupyCudaBridge(Bridge):
    """CuPy arrays on the current GPU, in the order of CuPy's current stream."""

    framework = "onnx"
    device = "cuda"

    def __init__(self) -> None:
        import cupy

        self._cupy: Any = cupy
        #: types of arrays that a call may bring
        self.arrays: tuple[type, ...] = (np.ndarray, cupy.ndarray)

    # --- between the host, other frameworks and the GPU -----------------------------------------------------------

    def current(self, device: str) -> Any:
        """A context in which ``device`` (``"cuda:1"``, say) is CuPy's current GPU."""
        _, _, number = device.partition(":")
        return self._cupy.cuda.Device(int(number)) if number else contextlib.nullcontext()

    def taken(self, value: Any) -> Any:
        """``value``, or a CuPy array over the same memory where it lies on a GPU."""
        if isinstance(value, self.arrays) or not hasattr(value, "__dlpack_device__"):
            return value
        return self._cupy.from_dlpack(value) if int(value.__dlpack_device__()[0]) in _ON_GPU else value

    def is_placed(self, value: Any) -> bool:
        """Whether ``value`` is an array on a GPU."""
        return isinstance(value, self._cupy.ndarray)

    def place(self, value: Any) -> Any:
        """A copy on the GPU of a numpy array of the IR's dtypes; anything else as it is."""
        on_host = isinstance(value, np.ndarray) and not self.is_placed(value)
        return self._cupy.asarray(value) if on_host and ir_dtype(value.dtype) is not None else value

    def fetch(self, value: Any) -> Any:
        """A copy in host memory of an array on a GPU; anything else as it is."""
        return self._cupy.asnumpy(value) if self.is_placed(value) else value

    def concatenate(self, parts: Sequence[Any]) -> Any:
        """Arrays joined along their first axis."""
        return self._cupy.concatenate(parts) if all(map(self.is_placed, parts)) else np.concatenate([*map(self.fetch, parts)])

    def around_host(self, captured: Captured) -> Captured:
        """``captured`` with arrays brought to the host, and back, around the parts that onnx's evaluator runs."""

        def wrapped(call: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
            return lambda *values: [self.place(r) for r in call(*map(self.fetch, values))]

        parts = [replace(p, call=wrapped(p.call)) if isinstance(p, Foreign) else p for p in captured.program.parts]
        return replace(captured, program=replace(captured.program, parts=tuple(parts)))

    # --- what the core asks ---------------------------------------------------------------------------------------

    def type_of(self, tensor: Any) -> TensorType | None:
        """The type of a row-major array on a GPU; None for others."""
        if not self.is_placed(tensor) or not tensor.flags.c_contiguous:
            return None
        name = ir_dtype(tensor.dtype)
        return TensorType(tensor.shape, name) if name is not None else None

    def dense(self, tensor: Any) -> Any:
        """A row-major copy, where ``tensor`` lies."""
        return self._cupy.array(tensor, order="C") if self.is_placed(tensor) else np.array(tensor, order="C")

    def address(self, tensor: Any) -> int:
        """Address of the first element."""
        return int(tensor.data.ptr)

    def allocate(self, type: TensorType) -> Any:
        """A new array of static ``type``, uninitialized, in logical axis order."""
        out = self._cupy.empty(type.physical_shape, type.dtype)
        back = [type.layout.index(a) for a in range(type.rank)]
        return out.transpose(back) if back != list(range(type.rank)) else out

    def numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        """The values in host memory."""
        return np.asarray(self.fetch(tensor))

    def copy(self, target: Any, source: Any) -> None:
        """Write ``source`` over ``target``."""
        target[...] = self.place(source)

    def stream(self) -> int:
        """CuPy's current stream."""
        return int(self._cupy.cuda.get_current_stream().ptr)
