"""NVRTC, NVIDIA's run-time compiler, through its C interface: CUDA C++ to machine code. Needs no GPU.

The library is looked for in ``$NNACCEL_NVRTC``, in what the process has loaded already, in the wheels ``nvidia-cuda-nvrtc*``
(PyTorch and CuPy bring them), on the loader's path and in ``$CUDA_PATH`` or ``/usr/local/cuda``. One library serves the process.
"""

from __future__ import annotations

import ctypes
import functools
import glob
import os
import sys
from collections.abc import Iterator, Sequence

from nnaccel_core.errors import ToolchainError

#: What to do when there is none.
INSTALL = "pip install nvidia-cuda-nvrtc"
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


def _candidates() -> Iterator[str]:
    own = os.environ.get("NNACCEL_NVRTC")
    if own:
        yield own
        return
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            loaded = [line.split(maxsplit=5)[5].strip() for line in maps if "/libnvrtc.so" in line]
    except OSError:
        loaded = []
    yield from dict.fromkeys(loaded)
    for folder in sys.path:
        yield from sorted(glob.glob(os.path.join(folder, "nvidia", "c*", "lib", "libnvrtc.so.1[0-9]")), reverse=True)
    yield from _NAMES
    for root in (os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"):
        if root:
            yield from (os.path.join(root, "lib64", name) for name in _NAMES)


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The library.

    Raises:
        ToolchainError: none was found; says how to install it.
    """
    for path in _candidates():
        try:
            found = ctypes.CDLL(path)
        except OSError:
            continue
        found.nvrtcGetErrorString.restype = ctypes.c_char_p
        return found
    raise ToolchainError(
        f"NVRTC, which compiles generated kernels, was not found; install it with: {INSTALL} (or set NNACCEL_NVRTC to its path)"
    )


def path() -> str:
    """Where the library lies.

    Raises:
        ToolchainError: there is none.
    """
    return str(library()._name)


def version() -> tuple[int, int]:
    """The library's version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "asking for the version")
    return major.value, minor.value


def _check(status: int, what: str) -> None:
    if status:
        text = library().nvrtcGetErrorString(status)
        raise ToolchainError(f"NVRTC failed in {what}: {text.decode() if text else status}")


def compile(source: str, name: str, options: Sequence[str]) -> bytes:
    """The machine code (a cubin) of ``source``; runs without Python's lock, so that several threads compile at a time.

    Args:
        name: shown in messages of the compiler.
        options: the compiler's, among them ``--gpu-architecture=sm_XY``.

    Raises:
        ToolchainError: NVRTC is missing, or refused the source; carries its log.
    """
    lib = library()
    program = ctypes.c_void_p()
    _check(lib.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None), f"opening {name}")
    try:
        given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        status = lib.nvrtcCompileProgram(program, len(options), given)
        if status:
            size = ctypes.c_size_t()
            lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value + 1)
            lib.nvrtcGetProgramLog(program, log)
            raise ToolchainError(f"NVRTC refused {name} ({' '.join(options)}):\n{log.value.decode(errors='replace')}")
        size = ctypes.c_size_t()
        _check(lib.nvrtcGetCUBINSize(program, ctypes.byref(size)), f"compiling {name}")
        code = ctypes.create_string_buffer(size.value)
        _check(lib.nvrtcGetCUBIN(program, code), f"compiling {name}")
        return code.raw
    finally:
        lib.nvrtcDestroyProgram(ctypes.byref(program))
