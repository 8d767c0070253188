"""Which compiler serves a machine, and with which flags."""

from __future__ import annotations

import functools
import os
import subprocess

from nnaccel_backend_x86.toolchain.build import Compiler
from nnaccel_backend_x86.toolchain.find import INSTALL_COMMAND, Ispc, compiler_environment, find_cc, find_linker
from nnaccel_core.api import Machine
from nnaccel_core.cache import make_key
from nnaccel_core.errors import ToolchainError

#: ISA of a machine -> ISPC target: gangs as wide as one vector register.
ISPC_TARGETS = {"sse4": "sse4.2-i32x4", "avx": "avx1-i32x8", "avx2": "avx2-i32x8", "avx512": "avx512skx-x16"}

#: ISA of a machine -> the C compiler's architecture.
CC_ARCHITECTURES = {"sse4": "nehalem", "avx": "sandybridge", "avx2": "haswell", "avx512": "skylake-avx512"}


def ispc_compiler(ispc: Ispc, machine: Machine) -> Compiler:
    """ISPC with the flags for ``machine``, linked by the system's linker.

    Neither fast-math nor masked loads past the end of arrays: results stay IEEE, reads stay inside buffers. ISPC's own
    math library is accurate to a few ulp, vectorized, and needs nothing at link time.

    Raises:
        ToolchainError: there is no linker.
    """
    flags = (
        f"--target={_of(ISPC_TARGETS, machine)}", "--arch=x86-64", "-O3", "--pic", "--math-lib=default",
        "--opt=disable-assertions", "--wno-perf",
    )  # fmt: skip
    linker = find_linker()
    if linker is None:
        raise ToolchainError("no linker: neither ld nor a C compiler is on PATH; on Debian run: apt-get install binutils")
    return Compiler((*ispc.command, *flags), ".ispc", f"ISPC {ispc.version}", make_key(ispc.identity, *flags), linker)


def c_compiler(machine: Machine) -> Compiler:
    """The system's C compiler with the flags for ``machine``.

    Raises:
        ToolchainError: there is none.
    """
    from nnaccel_core.loopir.printer_c import FLAGS

    cc = find_cc()
    if cc is None:
        raise ToolchainError(f"neither ISPC nor a C compiler is installed; run: {INSTALL_COMMAND} (or: apt-get install gcc)")
    # The printer's own flags, but for the machine that was asked for: the cache may be shared between machines.
    flags = (*(f for f in FLAGS if not f.startswith("-march")), f"-march={_of(CC_ARCHITECTURES, machine)}", "-fPIC", "-w", "-c")
    version = _cc_version(cc, os.stat(os.path.realpath(cc)).st_mtime_ns)
    # Through the compiler, since C may call its run-time library (half-precision conversions).
    return Compiler((cc, *flags), ".c", version, make_key(version, *flags), (cc, "-shared"))


def _of(table: dict[str, str], machine: Machine) -> str:
    try:
        return table[machine.isa]
    except KeyError:
        raise ToolchainError(f"no compiler target for instruction set {machine.isa!r}; known: {', '.join(table)}") from None


@functools.lru_cache(maxsize=8)
def _cc_version(cc: str, changed: int) -> str:
    """First line of ``cc --version``; ``changed`` (the file's time) makes an upgrade be asked again."""
    try:
        done = subprocess.run([cc, "--version"], capture_output=True, text=True, timeout=60, env=compiler_environment())
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ToolchainError(f"the C compiler {cc} does not run: {e}") from e
    if done.returncode != 0 or not done.stdout.strip():
        raise ToolchainError(f"the C compiler {cc} does not run (exit status {done.returncode}): {done.stderr.strip()[:300]}")
    return done.stdout.strip().splitlines()[0]
