"""`KernelCompiler`: kernels in, addresses out, with everything in between remembered."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnaccel_backend_x86.toolchain.build import Batch, Compiler, compile_library
from nnaccel_backend_x86.toolchain.find import INSTALL_COMMAND, find_ispc
from nnaccel_backend_x86.toolchain.targets import c_compiler, ispc_compiler
from nnaccel_core import debug
from nnaccel_core.api import Machine
from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.errors import ToolchainError
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource

if TYPE_CHECKING:
    from nnaccel_core.loopir.printer import Printer

#: Version of the convention by which kernels are called: void SYMBOL(void** buffers, const int64_t* dims,
#: uint8_t* scratch, int64_t begin, int64_t end).
ABI = "nnaccel-x86-kernel-1"
_PLACEHOLDER = "nnaccel_kernel"
#: Characters of source that one run of the compiler takes: some 3 s of ISPC, of which 0.3 s are its start.
BATCH = 60_000

_lock = threading.RLock()
#: Kernels loaded by this process: key -> address. Libraries are never unloaded, so addresses stay good.
_loaded: dict[str, int] = {}
_libraries: dict[str, ctypes.CDLL] = {}
_told_slower = False


def _after_fork() -> None:
    # A thread of the parent may have held the lock; it does not exist here and would never release it.
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


class KernelCompiler:
    """Compiles and loads generated kernels for one machine. Safe to use from several threads and processes.

    Kernels are keyed by their identity, or their printed text where they have none, the compiler, its flags and the
    machine; each is looked for among those loaded in this process, then in the disk cache; all that are missing are
    compiled together, in as many processes as there are cores.
    """

    def __init__(self, machine: Machine, cache: DiskCache | None = None) -> None:
        self.machine = machine
        self.cache = cache or DiskCache()
        self._compiler: Compiler | None = None

    def printer(self) -> Printer:
        """ISPC's printer when ISPC is usable, else the plain C one, which is slower and says so once.

        Raises:
            ToolchainError: there is neither ISPC nor a C compiler, or ``NNACCEL_ISPC`` is wrong.
        """
        # Imported when something has to be printed: with all kernels cached, nothing has.
        if self._choose().extension == ".ispc":
            from nnaccel_core.loopir.printer_ispc import IspcPrinter

            return IspcPrinter()
        from nnaccel_core.loopir.printer_c import CPrinter

        return CPrinter()

    def describe(self) -> str:
        """The compiler in use, for people ("ISPC 1.26.0")."""
        return self._choose().label

    def load(self, kernels: Sequence[Kernel | KernelSource]) -> list[int]:
        """Addresses of ``kernels``, each a function of the ABI above; compiles what is not known yet.

        Raises:
            ToolchainError: a compiler is missing or failed; says what it printed and where the source is kept.
        """
        compiler = self._choose()
        keys = [self._key(compiler, k) for k in kernels]
        if kernels and debug.enabled(debug.CODE):
            named = {_symbol(key): _made(kernel) for key, kernel in zip(keys, kernels, strict=True)}
            debug.dump("code", f"kernels{compiler.extension}", lambda: self.printer().module(list(named.items())))
        with _lock:
            self._load_cached([k for k in dict.fromkeys(keys) if k not in _loaded])
            missing = {key: _made(kernel) for key, kernel in zip(keys, kernels, strict=True) if key not in _loaded}
            if missing:
                self._compile(self.printer(), compiler, missing)
            return [_loaded[key] for key in keys]

    def _choose(self) -> Compiler:
        with _lock:
            if self._compiler is None:
                ispc = find_ispc()
                self._compiler = ispc_compiler(ispc, self.machine) if ispc is not None else c_compiler(self.machine)
                if ispc is None:
                    _tell_slower(self._compiler.label)
                debug.log(debug.PLUGINS, f"generated kernels are compiled by {self._compiler.label}")
            return self._compiler

    def _key(self, compiler: Compiler, kernel: Kernel | KernelSource) -> str:
        if isinstance(kernel, KernelSource) and kernel.identity:
            return make_key(kernel.identity, compiler.extension, compiler.identity, self.machine.key(), ABI)
        # The whole module of one kernel, so that the helpers it is printed with count too.
        text = self.printer().module([(_PLACEHOLDER, _made(kernel))])
        return make_key(text, compiler.identity, self.machine.key(), ABI)

    def _load_cached(self, keys: Sequence[str]) -> None:
        start = time.perf_counter()
        found = 0
        for key in keys:
            entry = self.cache.get("kernel", key)
            if entry is None:
                continue
            try:
                library_key = entry.read_text()
            except OSError:
                continue  # evicted meanwhile
            library = _libraries.get(library_key)
            if library is None:
                path = self.cache.get("library", library_key)
                if path is None:
                    continue
                try:
                    library = _libraries[library_key] = _open(path)
                except OSError as e:
                    warnings.warn(f"the cached kernels {path} cannot be loaded ({e}); they are compiled again", RuntimeWarning)
                    continue
            _loaded[key] = _address(library, _symbol(key))
            found += 1
        if keys:
            spent = time.perf_counter() - start
            debug.log(debug.TIMES, f"{found} of {len(keys)} kernels came from the disk cache in {spent * 1e3:.1f} ms")

    def _compile(self, printer: Printer, compiler: Compiler, missing: dict[str, Kernel]) -> None:
        batches = _split(printer, missing)
        library_key = make_key(*sorted(missing))
        # A folder of its own: whatever becomes of this compile, only whole results enter the cache.
        folder = Path(tempfile.mkdtemp(prefix="nnaccel-build-"))
        try:
            path = compile_library(compiler, batches, folder)
            try:
                library = _open(path)
            except OSError:
                # The temporary folder may be mounted without the right to execute, the cache with it.
                try:
                    library = _open(self.cache.put("library", library_key, path))
                except OSError as e:
                    raise ToolchainError(f"compiled kernels cannot be loaded: {e}; if the folder is mounted without the right to "
                                         f"execute, set TMPDIR or NNACCEL_CACHE_DIR to another") from e  # fmt: skip
            else:
                self.cache.put("library", library_key, path)
            for key in missing:
                self.cache.put("kernel", key, library_key.encode())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        _libraries[library_key] = library
        for key in missing:
            _loaded[key] = _address(library, _symbol(key))


def _made(kernel: Kernel | KernelSource) -> Kernel:
    return kernel.kernel if isinstance(kernel, KernelSource) else kernel


def _split(printer: Printer, missing: dict[str, Kernel]) -> list[Batch]:
    """Batches evened out by length of source: as many as there are cores, or more, so that progress can be shown."""
    printed = {key: printer.function(_symbol(key), kernel) for key, kernel in missing.items()}
    length = sum(len(f.text) for f in printed.values())
    count = min(len(missing), max(len(os.sched_getaffinity(0)), -(-length // BATCH)))
    sized = sorted(((len(f.text), key) for key, f in printed.items()), reverse=True)
    groups: list[list[str]] = [[] for _ in range(count)]
    loads = [0] * count
    for size, key in sized:
        lightest = loads.index(min(loads))
        groups[lightest].append(key)
        loads[lightest] += size
    batches = []
    for group in groups:
        source = printer.join([printed[key] for key in group])
        batches.append(Batch(source, tuple(missing[key].name for key in group)))
    return batches


@functools.lru_cache(maxsize=1)
def _math_library() -> ctypes.CDLL:
    """The system's libm, visible to kernels, which are linked without it: that would need its development files."""
    return ctypes.CDLL("libm.so.6", mode=os.RTLD_NOW | os.RTLD_GLOBAL)


def _open(path: Path) -> ctypes.CDLL:
    _math_library()
    return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_LOCAL)


def _symbol(key: str) -> str:
    return f"nnaccel_k{key[:24]}"


def _address(library: ctypes.CDLL, symbol: str) -> int:
    address = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    assert address is not None  # a symbol that is found has an address
    return address


def _tell_slower(label: str) -> None:
    global _told_slower
    if not _told_slower:
        _told_slower = True
        warnings.warn(
            f"ISPC was not found: generated kernels are compiled by the C compiler ({label}) and run slower. To get ISPC, "
            f"run: {INSTALL_COMMAND}",
            RuntimeWarning,
        )
