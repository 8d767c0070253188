"""Compiles printed kernels and runs them through ctypes."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.ir import evaluate
from nnaccel_core.loopir import interp
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.printer_c import FLAGS, CPrinter
from nnaccel_core.loopir.printer_ispc import FLAGS as ISPC_FLAGS
from nnaccel_core.loopir.printer_ispc import IspcPrinter


def _ispc() -> tuple[str, ...]:
    """The words that start ISPC: the one the x86 backend finds, so that both are tested with the same; () without."""
    try:
        from nnaccel_backend_x86.toolchain import find_ispc
    except ImportError:
        path = os.environ.get("NNACCEL_ISPC") or shutil.which("ispc")
        return (path,) if path else ()
    found = find_ispc()
    return found.command if found else ()


ISPC = _ispc()
CC = shutil.which(os.environ.get("CC", "gcc"))

#: Dialects that can be built here; the tests name the others as skipped.
DIALECTS = {"c": CC, "ispc": ISPC and CC}
REASONS = {"c": "no C compiler found (set CC)", "ispc": "ISPC not found (run: nnaccel doctor --fix)"}


@functools.cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="loopir-"))


def _run(command: Sequence[str], text: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}\n{text}"


def build(dialect: str, text: str) -> ctypes.CDLL:
    """The shared library of a printed module."""
    base = _folder() / f"m{len(list(_folder().iterdir()))}"
    library = base.with_suffix(".so")
    if dialect == "c":
        source = base.with_suffix(".c")
        source.write_text(text)
        strict = ("-Wall", "-Werror", "-Wno-unused-variable", "-Wno-unused-function")
        _run([str(CC), *FLAGS, *strict, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], text)
    else:
        source, object_file = base.with_suffix(".ispc"), base.with_suffix(".o")
        source.write_text(text)
        _run([*ISPC, *ISPC_FLAGS, "--target=host", "--werror", str(source), "-o", str(object_file)], text)
        _run([str(CC), "-shared", str(object_file), "-o", str(library), "-lm"], text)
    return ctypes.CDLL(str(library))


def printer(dialect: str) -> CPrinter | IspcPrinter:
    return CPrinter() if dialect == "c" else IspcPrinter()


def call(
    library: ctypes.CDLL, symbol: str, kernel: Kernel, arrays: Sequence[np.ndarray[Any, Any]], dims: Mapping[str, int],
    tasks: range | None = None,
) -> None:  # fmt: skip
    """Run a built kernel; each array has the memory its buffer's strides describe (row-major unless given)."""
    env = interp.dims_env(kernel, dims)
    count = math.prod(evaluate(extent, env) for _, extent in kernel.tasks)
    need = interp.scratch_bytes(kernel, env)
    room = np.full(need + 128, 0xA5, np.uint8)
    at = -room.ctypes.data % 64
    pointers = (ctypes.c_void_p * len(arrays))(*[a.ctypes.data for a in arrays])
    values = (ctypes.c_int64 * max(1, len(kernel.dims)))(*[env[d] for d in kernel.dims])
    span = range(count) if tasks is None else tasks
    function = getattr(library, symbol)
    function.restype = None
    function(pointers, values, ctypes.c_void_p(room.ctypes.data + at), ctypes.c_int64(span.start), ctypes.c_int64(span.stop))
    assert (room[:at] == 0xA5).all() and (room[at + need :] == 0xA5).all(), "wrote outside the scratch memory"


def assembly(text: str) -> str:
    """What ISPC makes of a printed module for AVX2."""
    source = _folder() / "look.ispc"
    source.write_text(text)
    _run([*ISPC, *ISPC_FLAGS, "--target=avx2-i32x8", "--emit-asm", str(source), "-o", str(source.with_suffix(".s"))], text)
    return source.with_suffix(".s").read_text()
