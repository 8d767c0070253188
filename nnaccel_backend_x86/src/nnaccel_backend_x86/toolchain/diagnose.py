"""What `nnaccel doctor` says about the compilers of generated kernels."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_backend_x86.toolchain.find import INSTALL_COMMAND, find_cc, find_ispc, find_linker
from nnaccel_backend_x86.toolchain.install import install_ispc
from nnaccel_core.api import Diagnosis
from nnaccel_core.errors import ToolchainError


def diagnose() -> Sequence[Diagnosis]:
    """One line each for ISPC, the C compiler that replaces it, and the linker."""
    lines = []
    try:
        ispc = find_ispc()
    except ToolchainError as e:
        lines.append(Diagnosis("ISPC", False, str(e), "unset NNACCEL_ISPC"))
        ispc = None
    else:
        if ispc is None:
            detail = "not found; generated kernels are compiled by the C compiler and run slower"
            lines.append(Diagnosis("ISPC", False, detail, INSTALL_COMMAND, install_ispc))
        else:
            lines.append(Diagnosis("ISPC", True, f"{ispc.version} ({ispc.source}: {ispc.command[-1]})"))
    cc = find_cc()
    if cc is not None:
        lines.append(Diagnosis("C compiler", True, cc))
    elif ispc is None:
        detail = "not found, and no ISPC either: nothing can be generated"
        lines.append(Diagnosis("C compiler", False, detail, "apt-get install gcc"))
    linker = find_linker()
    if linker is not None:
        lines.append(Diagnosis("linker", True, linker[0]))
    else:
        lines.append(Diagnosis("linker", False, "neither ld nor a C compiler is on PATH", "apt-get install binutils"))
    return lines
