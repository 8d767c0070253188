"""What `nnaccel doctor` says about the GPU and the libraries around it."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_backend_cuda import cudnn_graphs, nvrtc, probe, products
from nnaccel_core.api import Diagnosis
from nnaccel_core.errors import ToolchainError


def diagnose() -> Sequence[Diagnosis]:
    """One line for CuPy, each GPU, NVRTC, cuDNN and cuBLASLt."""
    return [*_gpus(), _nvrtc(), _cudnn(), _cublas()]


def _gpus() -> list[Diagnosis]:
    try:
        cupy = probe.cupy()
    except ToolchainError as e:
        return [Diagnosis("CuPy", False, str(e), f"{probe.INSTALL}")]
    lines = [Diagnosis("CuPy", True, str(cupy.__version__))]
    count = probe.count()
    if not count:
        return [*lines, Diagnosis("GPU", False, probe.problem(), "")]
    for i in range(count):
        m = probe.machine(i)
        detail = (
            f"{m.name}: {m.isa}, {m.cores} multiprocessors, {m.l1 >> 10} KiB shared memory, L2 {m.l2 >> 20} MiB, "
            f"{m.bandwidth / 1e9:.0f} GB/s, {m.flops / 1e12:.0f} TFLOP/s in float32"
        )
        if probe.too_old(i):
            lines.append(Diagnosis(f"GPU {i}", False, f"{detail}; older than compute capability {probe.OLDEST}", ""))
        else:
            lines.append(Diagnosis(f"GPU {i}", True, detail))
    return lines


def _nvrtc() -> Diagnosis:
    try:
        return Diagnosis("NVRTC", True, f"{'.'.join(map(str, nvrtc.version()))} ({nvrtc.path()})")
    except ToolchainError as e:
        return Diagnosis("NVRTC", False, str(e), nvrtc.INSTALL)


def _cudnn() -> Diagnosis:
    try:
        return Diagnosis("cuDNN", True, f"{cudnn_graphs.version()} (backend, frontend)")
    except ToolchainError as e:
        return Diagnosis("cuDNN", False, f"{e}; without it convolutions run on generated kernels, slowly", cudnn_graphs.INSTALL)


def _cublas() -> Diagnosis:
    try:
        return Diagnosis("cuBLASLt", True, str(products.library()._name))
    except ToolchainError as e:
        return Diagnosis("cuBLASLt", False, str(e), products.INSTALL)
