"""A stand-in for CuPy whose device memory is the host's and whose kernels run on the loop IR's interpreter.

Streams run at once; while one is being captured, what is enqueued is recorded instead and runs when the graph is launched.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nnaccel_core.ir import evaluate, numpy_dtype
from nnaccel_core.loopir import interp


class Device:
    """What happened: ``log`` has a line for each launch, copy and capture; ``refuse`` makes captures fail."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.refuse = False
        self.limit = 1 << 40

    def do(self, what: str, action: Callable[[], None]) -> None:
        self.log.append(what)
        if self.recording is not None:
            self.recording.append(action)
        else:
            action()


class _Context:
    def __init__(self, *_: Any, **__: Any) -> None:
        self.ptr = 7

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


class _Memory:
    def __init__(self, nbytes: int) -> None:
        self.raw = np.zeros(nbytes + 512, np.uint8)
        self.ptr = -(-self.raw.ctypes.data // 512) * 512
        self.size = nbytes


def cupy(device: Device) -> Any:
    """The module."""

    class Stream(_Context):
        null = _Context()

        def begin_capture(self) -> None:
            device.log.append("capture")
            device.recording = []

        def end_capture(self) -> Any:
            actions, device.recording = device.recording or [], None

            def upload(stream: Any) -> None:
                device.log.append("upload")

            return types.SimpleNamespace(graphExec=actions, upload=upload, launch=lambda stream: launch(actions, stream))

    def copy(target: int, source: int, n: int, kind: int = 0, stream: int = 0) -> None:
        device.do("copy", lambda: ctypes.memmove(target, source, n) and None)

    def launch(actions: Sequence[Callable[[], None]], stream: int) -> None:
        device.log.append("graph")
        for a in actions:
            a()

    def alloc(nbytes: int) -> _Memory:
        if nbytes > device.limit:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
        return _Memory(nbytes)

    properties = {
        "name": b"fake", "major": 9, "minor": 0, "multiProcessorCount": 4, "l2CacheSize": 1 << 20, "sharedMemPerBlock": 48 << 10,
    }  # fmt: skip
    attributes = {
        "ClockRate": 1e6, "MemoryClockRate": 1e6, "GlobalMemoryBusWidth": 1024, "MaxSharedMemoryPerBlockOptin": 227 << 10,
    }  # fmt: skip
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDevice=lambda: 0, getDeviceProperties=lambda i: properties, deviceSynchronize=lambda: None,
        memGetInfo=lambda: (1 << 30, 1 << 31), memcpy=copy, memcpyAsync=copy, streamSynchronize=lambda s: None,
        streamIsCapturing=lambda s: False, streamWaitEvent=lambda s, e, f=0: device.log.append("wait"),
        eventRecord=lambda e, s: None, graphLaunch=launch, memsetAsync=lambda p, v, n, s: None,
    )  # fmt: skip

    class Gpu(_Context):
        pass

    Gpu.attributes = attributes  # type: ignore[attr-defined]
    cuda = types.SimpleNamespace(
        runtime=runtime, Device=Gpu, Stream=Stream, ExternalStream=_Context, Event=_Context, alloc=alloc, Memory=alloc,
        get_elapsed_time=lambda a, b: 1.0,
    )  # fmt: skip
    return types.SimpleNamespace(cuda=cuda, __version__="fake")


class Loader:
    """In place of `KernelLoader`: functions that interpret their kernels."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def load(self, wanted: Sequence[tuple[Any, bool]]) -> list[Any]:
        return [_Function(self.device, getattr(kernel, "kernel", kernel)) for kernel, _ in wanted]


class _Function:
    def __init__(self, device: Device, kernel: Any) -> None:
        self.device, self.kernel = device, kernel

    def allow_shared(self, nbytes: int) -> None:
        pass

    def bound(self, grid: int, block: int, shared: int, pointers: int, dims: Sequence[Any]) -> Callable[..., None]:
        def run(addresses: Sequence[int], stream: int) -> None:
            assert len(addresses) == pointers
            self._launch((grid,), (block,), (*addresses, *dims), shared)

        return run

    def _launch(self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int) -> None:
        if self.device.refuse and self.device.recording is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        k = self.kernel
        count = len(k.buffers)
        dims = dict(zip(k.dims, map(int, args[count:]), strict=True))
        assert all(isinstance(d, (np.int32, np.int64)) for d in args[count:])
        assert grid == (evaluate(k.task_count(), dims),) and block[0] % 32 == 0
        assert interp.scratch_bytes(k, dims) <= shared_mem <= 227 << 10
        places = [int(a) for a in args[:count]]

        def run() -> None:
            arrays = []
            for b, address in zip(k.buffers, places, strict=True):
                assert address % 16 == 0
                shape = tuple(evaluate(d, dims) for d in b.shape)
                strides = tuple(evaluate(s, dims) for s in b.element_strides())
                arrays.append(view(address, shape, strides, numpy_dtype(b.dtype)))
            interp.run(k, arrays, dims)

        self.device.do(k.name, run)


def view(address: int, shape: tuple[int, ...], strides: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """The memory at ``address`` as an array; strides in elements."""
    if 0 in shape:
        return np.empty(shape, dtype)
    span = (1 + sum((d - 1) * s for d, s in zip(shape, strides, strict=True))) * dtype.itemsize
    raw = (ctypes.c_uint8 * span).from_address(address)
    return np.ndarray(shape, dtype, raw, 0, [s * dtype.itemsize for s in strides])
