"""Loads the native runtime and oneDNN, and declares the C ABI of ``native/nnaccel_x86.h``.

The runtime needs ``libdnnl.so.3`` and ``libgomp.so.1``. Both are mapped first, under those names, so that the dynamic
linker gives the same copies to everybody: torch bundles a libgomp of the same name, and whichever came first serves both.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from ctypes import POINTER, Structure, c_char, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

import nnaccel_backend_x86
from nnaccel_core.errors import NnaccelError, OutOfMemoryError, ToolchainError

#: Developers' override: path of a runtime built by CMake, instead of the one in the installed package.
LIBRARY_VARIABLE = "NNACCEL_X86_LIBRARY"
ONEDNN_SONAME = "libdnnl.so.3"
ONEDNN_INSTALL = "pip install onednn-cpu-gomp==2023.2.0"
#: ``NNX_ABI`` of ``native/nnaccel_x86.h``: raised with every change of what a call means, not only of a signature.
ABI = 4


class Ref(Structure):
    """``nnx_ref``."""

    _fields_ = [("space", c_int64), ("index", c_int64), ("offset", c_int64)]


class Argument(Structure):
    """``nnx_argument``."""

    _fields_ = [("arg", c_int64), ("stride", c_int64), ("ref", Ref)]


class Info(Structure):
    """``nnx_info``."""

    _fields_ = [
        ("ok", c_int32),
        ("weights_tag", c_int32),
        ("weights_bytes", c_int64),
        ("scratch_bytes", c_int64),
        ("impl", c_char * 64),
        ("tag_name", c_char * 64),
        ("message", c_char * 256),
    ]


class Floats(Structure):
    """``nnx_floats``."""

    _fields_ = [("index", c_int64), ("count", c_int64), ("bytes", c_int64), ("exponent", c_uint64)]


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "nnx_abi": (c_int32, ()),
    "nnx_last_error": (c_char_p, ()),
    "nnx_onednn_version": (None, (POINTER(c_int32),)),
    "nnx_describe": (c_int32, (c_int64, c_void_p, c_void_p, c_int32, c_void_p)),
    "nnx_tag": (c_int32, (c_char_p,)),
    "nnx_builtin": (c_void_p, (c_char_p,)),
    "nnx_plan_new": (c_void_p, (c_int64, c_int64, c_void_p)),
    "nnx_plan_free": (None, (c_void_p,)),
    "nnx_plan_add_kernel": (
        c_int32,
        (c_void_p, c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_int32, c_char_p),
    ),
    "nnx_plan_add_primitive": (c_int32, (c_void_p, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_char_p)),
    "nnx_plan_prepare": (c_int32, (c_void_p, c_int32)),
    "nnx_plan_call_bytes": (c_int64, (c_void_p, c_int32)),
    "nnx_plan_run": (c_int32, (c_void_p, c_void_p, c_void_p, c_void_p, c_int32, c_void_p)),
    "nnx_all_finite": (c_int32, (c_int64, c_void_p, c_void_p, c_int32)),
    "nnx_call_begin": (c_int32, (c_void_p, c_int32, POINTER(c_void_p))),
    "nnx_call_arena": (c_void_p, (c_void_p,)),
    "nnx_call_steps": (c_int32, (c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_void_p, c_void_p)),
    "nnx_call_end": (None, (c_void_p,)),
    "nnx_memory_new": (c_void_p, (c_int64,)),
    "nnx_memory_free": (None, (c_void_p, c_int64)),
    "nnx_memory_take": (c_void_p, (c_int64,)),
    "nnx_memory_give": (None, (c_void_p, c_int64)),
    "nnx_memory_spare_bytes": (c_int64, ()),
    "nnx_arena_idle_bytes": (c_int64, ()),
    "nnx_arena_trim": (None, ()),
}

_lock = threading.Lock()


def _distribution_files(distribution: str, name: str) -> Iterator[Path]:
    try:
        files = importlib.metadata.files(distribution) or ()
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == name:
            yield Path(str(file.locate()))


def find_onednn() -> Path | None:
    """The installed ``libdnnl.so.3``: the wheel's own file, else the environment's lib folder; None when absent."""
    candidates = [*_distribution_files("onednn-cpu-gomp", ONEDNN_SONAME), Path(sys.prefix, "lib", ONEDNN_SONAME)]
    return next((p.resolve().parent / ONEDNN_SONAME for p in candidates if p.exists()), None)


def find_runtime() -> Path | None:
    """The native runtime: `LIBRARY_VARIABLE`, else the file in this package; None when it was never built.

    An editable installation has the Python files in the source tree and the library among the installed packages:
    both are on the package's path.
    """
    override = os.environ.get(LIBRARY_VARIABLE)
    folders = [Path(__file__).parent, *map(Path, nnaccel_backend_x86.__path__)]
    paths = [Path(override)] if override else [folder / "libnnaccel_x86.so" for folder in folders]
    return next((path for path in paths if path.exists()), None)


def load_openmp() -> None:
    """Map ``libgomp.so.1`` under that name: the copy already there, the system's, or the one torch bundles.

    Raises:
        ToolchainError: there is none.
    """
    try:
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        return
    except OSError as e:
        reason = str(e)
    torch = importlib.util.find_spec("torch")  # finds the package without importing it
    for folder in torch.submodule_search_locations or () if torch else ():
        bundled = Path(folder, "lib", "libgomp.so.1")
        if bundled.exists():
            ctypes.CDLL(str(bundled), mode=ctypes.RTLD_GLOBAL)
            return
    raise ToolchainError(f"the OpenMP runtime libgomp.so.1 is missing ({reason}); on Debian run: apt-get install libgomp1")


@functools.lru_cache(maxsize=1)
def _load() -> ctypes.CDLL:
    runtime = find_runtime()
    if runtime is None:
        wanted = os.environ.get(LIBRARY_VARIABLE)
        if wanted:
            raise ToolchainError(f"{LIBRARY_VARIABLE} names {wanted}, which does not exist; unset it, or build the library")
        raise ToolchainError(
            "the x86 runtime libnnaccel_x86.so is not in the package nnaccel_backend_x86; "
            "install the package (pip install ./nnaccel_backend_x86), which builds it"
        )
    load_openmp()
    onednn = find_onednn()
    try:
        # Where no wheel has it, the dynamic linker may still know one (LD_LIBRARY_PATH, a system package).
        ctypes.CDLL(str(onednn) if onednn else ONEDNN_SONAME, mode=ctypes.RTLD_GLOBAL)
    except OSError as e:
        raise ToolchainError(f"oneDNN ({ONEDNN_SONAME}) cannot be loaded: {e}; run: {ONEDNN_INSTALL}") from e
    try:
        library = ctypes.CDLL(str(runtime))
    except OSError as e:
        raise ToolchainError(f"the x86 runtime cannot be loaded: {e}; reinstall nnaccel_backend_x86") from e
    for name, (result, arguments) in _SIGNATURES.items():
        try:
            function = getattr(library, name)
        except AttributeError as e:
            raise ToolchainError(f"{runtime} has no {name}: {_another_version()}") from e
        function.restype = result
        function.argtypes = arguments
        if name == "nnx_abi" and library.nnx_abi() != ABI:
            raise ToolchainError(f"{runtime} has version {library.nnx_abi()} of the interface, not {ABI}: {_another_version()}")
    return library


def _another_version() -> str:
    if os.environ.get(LIBRARY_VARIABLE):
        return f"it was built from other sources; build it again, or unset {LIBRARY_VARIABLE}"
    return "it is of another version; reinstall nnaccel_backend_x86"


def library() -> ctypes.CDLL:
    """The loaded runtime.

    Raises:
        ToolchainError: the runtime, oneDNN or OpenMP is missing; says how to install it.
    """
    with _lock:
        return _load()


def check(status: int, what: str, nbytes: int = 0) -> None:
    """Turn a status of the C ABI into an exception.

    Raises:
        OutOfMemoryError: says how much ``what`` needed (``nbytes`` when the runtime does not know).
        NnaccelError: the runtime's own text.
    """
    if status == 0:
        return
    text = (library().nnx_last_error() or b"").decode(errors="replace")
    if status == 2:
        size = int(text) if text.isdigit() else nbytes
        amount = f"could not allocate {size} bytes ({size / 2**20:.1f} MiB)" if size else "memory ran out"
        raise OutOfMemoryError(f"{what}: {amount}; use a smaller batch or image")
    raise NnaccelError(f"{what}: {text}")


def onednn_version() -> str:
    """Version of the loaded oneDNN, such as ``3.2.0``."""
    found = (c_int32 * 3)()
    library().nnx_onednn_version(found)
    return ".".join(map(str, found))
