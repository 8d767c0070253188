"""From generated kernels to functions on a GPU: printed, compiled by NVRTC, kept on disk, loaded through CuPy."""

from __future__ import annotations

import ctypes
import functools
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from nnaccel_backend_cuda import nvrtc
from nnaccel_backend_cuda.probe import cupy
from nnaccel_core import debug
from nnaccel_core.api import Machine
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.errors import NnaccelError, ToolchainError
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.printer_cuda import FLAGS, CudaPrinter
from nnaccel_core.loopir.source import KernelSource

#: Bump when what surrounds printed kernels changes: symbols, launch conventions.
ABI = "1"
#: Compiles that take longer than this are announced.
SLOW_SECONDS = 2.0
#: Seconds between the starts of two kernels of a CUDA graph.
START = 2.5e-6


#: ``run(addresses, stream)`` enqueues a kernel.
Run = Callable[[Sequence[int], int], None]


@functools.cache
def _written(name: str) -> str:
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return re.sub(r'^#include "(.*)"$', lambda found: _written(found[1]), text, flags=re.M)


def written(name: str, constants: Mapping[str, int | str], before: Sequence[str] = ()) -> str:
    """The file ``name`` (``"stem.cu"``) of this package, with ``constants`` and then the lines ``before`` in front of it."""
    return "\n".join([*(f"#define {key} {value}" for key, value in constants.items()), *before, _written(name)])


class Handwritten(Protocol):
    """Kernels written by hand, ready to run.

    Attributes:
        workspace: bytes that a run takes.
    """

    workspace: int

    def run(self, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Enqueue; ``addresses`` are those of a candidate's inputs, then of its outputs."""


class Function:
    """A loaded kernel. Launched through the driver: CuPy's own call looks at each argument, at 20 us for a kernel of fifteen."""

    def __init__(self, kernel: Any) -> None:
        """``kernel``: CuPy's, on the current device."""
        self._kernel = kernel  # keeps its module loaded
        self._handle = int(kernel.kernel.ptr)

    def allow_shared(self, nbytes: int) -> None:
        """Let blocks have ``nbytes`` of dynamic shared memory."""
        self._kernel.max_dynamic_shared_size_bytes = max(nbytes, self._kernel.max_dynamic_shared_size_bytes)

    def bound(self, grid: int, block: int, shared: int, pointers: int, dims: Sequence[Any]) -> Run:
        """How to run ``grid`` blocks of ``block`` threads with ``shared`` bytes, on ``pointers`` addresses, then ``dims`` (numpy
        integers). Not to be called by two threads at once: the arguments' memory is used again."""
        places = (ctypes.c_void_p * max(1, pointers))()
        kinds = {4: ctypes.c_int32, 8: ctypes.c_int64}
        held = [kinds[d.itemsize](int(d)) for d in dims]
        each = [ctypes.addressof(places) + k * ctypes.sizeof(ctypes.c_void_p) for k in range(pointers)]
        arguments = (ctypes.c_void_p * max(1, pointers + len(held)))(*each, *map(ctypes.addressof, held))
        launch, handle = driver().cuLaunchKernel, self._handle

        def run(addresses: Sequence[int], stream: int, held: Any = held) -> None:
            places[:pointers] = addresses
            status = launch(handle, grid, 1, 1, block, 1, 1, shared, stream, arguments, None)
            if status:
                raise NnaccelError(f"a kernel of {grid} blocks of {block} threads could not be launched: {error_name(status)}")

        return run


@functools.lru_cache(maxsize=1)
def driver() -> ctypes.CDLL:
    """CUDA's driver library.

    Raises:
        ToolchainError: it was not found.
    """
    try:
        found = ctypes.CDLL("libcuda.so.1")
    except OSError as e:
        raise ToolchainError(f"CUDA's driver library cannot be opened ({e}); install the NVIDIA driver") from e
    number, address = ctypes.c_uint, ctypes.c_void_p
    found.cuLaunchKernel.argtypes = [address, *[number] * 7, address, address, address]
    return found


def error_name(status: int) -> str:
    """What the driver calls an error."""
    text = ctypes.c_char_p()
    if driver().cuGetErrorName(ctypes.c_int(status), ctypes.byref(text)) or not text.value:
        return f"error {status}"
    return text.value.decode()


class KernelLoader:
    """Loads kernels for one device. Thread-safe."""

    def __init__(self, machine: Machine, index: int, cache: DiskCache | None = None) -> None:
        self.machine = machine
        self.index = index
        self.cache = cache if cache is not None else DiskCache()
        self._printer = CudaPrinter()
        self._loaded: dict[str, Function] = {}
        self._lock = threading.Lock()

    def load(self, wanted: Sequence[tuple[Kernel | KernelSource, bool]]) -> list[Function]:
        """Functions of ``(kernel, whether it needs 64-bit indices)``; compiles what is not known yet.

        Raises:
            ToolchainError: NVRTC is missing or refused a kernel.
        """
        keys = [self._key(kernel, wide) for kernel, wide in wanted]
        with self._lock:
            todo = {k: w for k, w in zip(keys, wanted, strict=True) if k not in self._loaded}
            missing = {}
            for key, (kernel, wide) in todo.items():
                entry = self.cache.get("cubin", key)
                if entry is not None:
                    self._loaded[key] = self._function(str(entry), _symbol(kernel))
                else:
                    missing[key] = (kernel, wide)
            if missing:
                self._compile(missing)
            return [self._loaded[k] for k in keys]

    def text(self, symbol: str, text: str) -> Function:
        """The function ``symbol`` of a text in CUDA C++.

        Raises:
            ToolchainError: NVRTC is missing or refused it.
        """
        options = self._options(wide=False)
        key = make_key(text, " ".join(options), _version(), ABI)
        with self._lock:
            found = self._loaded.get(symbol + key)
            if found is None:
                entry = self.cache.get("cubin", key)
                if entry is None:
                    debug.dump("code", f"{symbol}.cu", lambda: text)
                    entry = self.cache.put("cubin", key, nvrtc.compile(text, f"{symbol}.cu", options))
                found = self._loaded[symbol + key] = self._function(str(entry), symbol)
            return found

    def _key(self, kernel: Kernel | KernelSource, wide: bool) -> str:
        options = " ".join(self._options(wide))
        if isinstance(kernel, KernelSource) and kernel.identity:
            return make_key(kernel.identity, kernel.name, options, _version(), ABI)
        made = kernel.kernel if isinstance(kernel, KernelSource) else kernel
        return make_key(self._printer.module([("k", made)]), kernel.name, options, _version(), ABI)

    def _options(self, wide: bool) -> tuple[str, ...]:
        return (*FLAGS, f"--gpu-architecture={self.machine.isa}", *(("-DNN_WIDE",) if wide else ()))

    def _compile(self, missing: dict[str, tuple[Kernel | KernelSource, bool]]) -> None:
        started = time.perf_counter()

        def one(item: tuple[str, tuple[Kernel | KernelSource, bool]]) -> tuple[str, str, bytes]:
            key, (kernel, wide) = item
            made = kernel.kernel if isinstance(kernel, KernelSource) else kernel
            symbol = _symbol(kernel)
            text = self._printer.module([(symbol, made)])
            debug.dump("code", f"{symbol}.cu", lambda: text)
            return key, symbol, nvrtc.compile(text, f"{symbol}.cu", self._options(wide))

        with ThreadPoolExecutor(min(len(missing), 16)) as pool:
            for done, (key, symbol, code) in enumerate(pool.map(one, missing.items()), 1):
                self._loaded[key] = self._function(str(self.cache.put("cubin", key, code)), symbol)
                if time.perf_counter() - started > SLOW_SECONDS:
                    debug.log(debug.PLUGINS, f"compiling kernels for {self.machine.name}: {done} of {len(missing)}")
        debug.log(debug.TIMES, lambda: f"compiled {len(missing)} kernels in {time.perf_counter() - started:.2f} s")

    def _function(self, path: str, symbol: str) -> Function:
        with cupy().cuda.Device(self.index):
            return Function(cupy().RawModule(path=path).get_function(symbol))


def _version() -> str:
    """The compiler's version, as far as it is known without one: found entries need no compiler."""
    try:
        return ".".join(map(str, nvrtc.version()))
    except Exception:
        return "none"


def _symbol(kernel: Kernel | KernelSource) -> str:
    return "nnk_" + re.sub(r"[^A-Za-z0-9_]", "_", kernel.name)
