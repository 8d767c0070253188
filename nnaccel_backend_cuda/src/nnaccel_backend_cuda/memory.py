"""Device memory: of prepared parameters, and scratch that all plans on a device share."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from nnaccel_backend_cuda.probe import cupy
from nnaccel_core.api import Bridge, Memory
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import TensorType, evaluate, numpy_dtype

_HOST_TO_DEVICE, _DEVICE_TO_HOST = 1, 2
#: What libraries want of the address of their workspace; frameworks' allocators differ in what they give.
ALIGNMENT = 256


def is_out_of_memory(e: BaseException) -> bool:
    """Whether ``e`` is what CuPy, CUDA or a framework raises when device memory is used up."""
    text = f"{type(e).__name__} {e}"
    words = ("OutOfMemoryError", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory")
    return any(word in text for word in words)


def physical(type: TensorType, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """``array`` (logical axis order) as it lies in memory as ``type``: contiguous, of the stored dtype's width."""
    laid = np.ascontiguousarray(np.transpose(array, type.layout), dtype=numpy_dtype(type.dtype))
    if type.dtype != "bfloat16":
        return laid
    bits = laid.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(laid), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def logical(type: TensorType, raw: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The inverse of `physical`, from bytes."""
    shape = [evaluate(d, {}) for d in type.shape]
    stored = raw.view(np.uint16).astype(np.uint32) << 16 if type.dtype == "bfloat16" else raw
    values = stored.view(np.float32) if type.dtype == "bfloat16" else stored.view(numpy_dtype(type.dtype))
    back = [type.layout.index(a) for a in range(len(shape))]
    return np.transpose(values.reshape([shape[a] for a in type.layout]), back)


class CudaMemory(Memory):
    """Memory of CuPy's pool on one device. Freed with the object, when the device has finished with it."""

    def __init__(self, nbytes: int, index: int) -> None:
        """
        Raises:
            OutOfMemoryError: there is not enough.
        """
        self.nbytes = nbytes
        self.index = index
        cp = cupy()
        with cp.cuda.Device(index):
            try:
                self._pointer = cp.cuda.alloc(nbytes)
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                free, total = cp.cuda.runtime.memGetInfo()
                raise OutOfMemoryError(
                    f"could not allocate {nbytes} bytes ({nbytes / 2**20:.1f} MiB) on cuda:{index} for prepared parameters; "
                    f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB are free"
                ) from e
        self.address = int(self._pointer.ptr)

    def numpy(self, type: TensorType) -> np.ndarray[Any, Any]:
        """A copy of the memory as ``type``, in logical axis order; waits for the device."""
        raw = np.empty(evaluate(type.nbytes, {}), np.uint8)
        runtime = cupy().cuda.runtime
        with cupy().cuda.Device(self.index):
            runtime.deviceSynchronize()
            if raw.nbytes:
                runtime.memcpy(raw.ctypes.data, self.address, raw.nbytes, _DEVICE_TO_HOST)
        return logical(type, raw)

    def write(self, type: TensorType, array: np.ndarray[Any, Any]) -> None:
        """Fill the memory; returns when the values have arrived."""
        self.fill(physical(type, array))

    def fill(self, raw: np.ndarray[Any, Any]) -> None:
        """Fill the memory with the bytes of a contiguous array."""
        if raw.nbytes:
            with cupy().cuda.Device(self.index):
                runtime = cupy().cuda.runtime
                # The pool may have given us memory that calls under way on other streams still read.
                runtime.deviceSynchronize()
                runtime.memcpy(self.address, raw.ctypes.data, raw.nbytes, _HOST_TO_DEVICE)
                # A copy from pageable memory may return once it is staged; other streams must not see the old values.
                runtime.deviceSynchronize()


class Scratch:
    """The arena of one device, shared by all plans and ordered by streams: a call's steps run between `enter` and `leave`.

    Attributes:
        lock: held while one call's work is enqueued, so that calls of several threads follow each other.
        generation: changes when the memory moves.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.lock = threading.RLock()
        self.generation = 0
        self.nbytes = 0
        self.address = 0
        self._expected = 0
        self._owner: Any = None
        self._bridge: Bridge | None = None
        self._last: tuple[int, Any] | None = None

    def use(self, bridge: Bridge) -> None:
        """Take memory from the framework's allocator from now on."""
        if bridge.device == "cuda":
            self._bridge = bridge

    def expect(self, nbytes: int) -> None:
        """Say that calls will need ``nbytes``, so that the arena need not grow, and graphs not be captured anew, plan by plan."""
        self._expected = max(self._expected, nbytes)

    def reserve(self, nbytes: int, what: str) -> None:
        """Make the arena at least ``nbytes``, better all that is expected; called under the lock, outside of captures.

        Raises:
            OutOfMemoryError: there is not enough; says how much ``what`` needs. The arena stays as it was.
        """
        if nbytes <= self.nbytes:
            return
        cp = cupy()
        with cp.cuda.Device(self.index):
            cp.cuda.runtime.deviceSynchronize()  # work of earlier calls may still be using the old one
            old, self._owner, self.address, self.generation = self.nbytes, None, 0, self.generation + 1
            self.nbytes = 0
            try:
                self._allocate_first(max(nbytes, self._expected), nbytes)
            except Exception as e:
                if not is_out_of_memory(e):
                    raise
                self._expected = old
                free, total = cp.cuda.runtime.memGetInfo()
                if old:
                    self._allocate(old)
                raise OutOfMemoryError(
                    f"{what} needs {nbytes} bytes ({nbytes / 2**20:.1f} MiB) of scratch memory on cuda:{self.index}; "
                    f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB are free. Use a smaller batch, or free other tensors"
                ) from e

    def private(self, nbytes: int) -> tuple[Any, int]:
        """Memory beside the arena: what keeps it, and its address, a multiple of `ALIGNMENT`."""
        owner: Any
        if self._bridge is not None:
            owner = self._bridge.allocate(TensorType((nbytes + ALIGNMENT,), "uint8"))
            address = self._bridge.address(owner)
        else:
            owner = cupy().cuda.alloc(nbytes + ALIGNMENT)
            address = int(owner.ptr)
        return owner, -(-address // ALIGNMENT) * ALIGNMENT

    def _allocate_first(self, wanted: int, needed: int) -> None:
        try:
            self._allocate(wanted)
        except Exception as e:
            if wanted == needed or not is_out_of_memory(e):
                raise
            self._expected = needed
            self._allocate(needed)

    def _allocate(self, nbytes: int) -> None:
        self._owner, self.address = self.private(nbytes)
        self.nbytes = nbytes

    def enter(self, stream: int) -> None:
        """Work that follows on ``stream`` comes after all earlier work on the arena. Under the lock."""
        if self._last is not None and self._last[0] != stream:
            cupy().cuda.runtime.streamWaitEvent(stream, self._last[1].ptr)

    def leave(self, stream: int) -> None:
        """Work enqueued so far is all of this call's. Under the lock."""
        event = self._last[1] if self._last is not None else cupy().cuda.Event(disable_timing=True)
        cupy().cuda.runtime.eventRecord(event.ptr, stream)
        self._last = (stream, event)
