"""What GPUs there are and what they can do."""

from __future__ import annotations

import functools
from typing import Any

from nnaccel_core.api import Machine
from nnaccel_core.errors import ToolchainError

#: Oldest compute capability whose instructions generated kernels may use (shuffles with masks, 16-bit conversions).
OLDEST = (7, 0)
#: float32 operations of one multiprocessor in one clock: a multiply-add for each of its lanes.
LANES = {(7, 0): 64, (7, 5): 64, (8, 0): 64}
OTHER_LANES = 128
INSTALL = "pip install cupy-cuda13x (or cupy-cuda12x for a driver of CUDA 12)"


@functools.lru_cache(maxsize=1)
def cupy() -> Any:
    """CuPy.

    Raises:
        ToolchainError: it cannot be imported; says how to install it.
    """
    try:
        import cupy as found
        import cupy.cuda
    except ImportError as e:
        raise ToolchainError(f"the CUDA backend needs CuPy, which cannot be imported ({e}); install it with: {INSTALL}") from e
    return found


def count() -> int:
    """How many usable GPUs there are; 0 without a driver, or with one too old for CuPy (`problem` says which)."""
    try:
        return int(cupy().cuda.runtime.getDeviceCount())
    except ToolchainError:
        return 0
    except Exception as e:  # CuPy's own error class lives in a module that may not be there
        if type(e).__name__ != "CUDARuntimeError":
            raise
        return 0


def problem() -> str:
    """Why `count` is 0, with what mends it."""
    try:
        runtime = cupy().cuda.runtime
    except ToolchainError as e:
        return str(e)
    try:
        if runtime.getDeviceCount():
            return ""
    except Exception as e:
        if "InsufficientDriver" in str(e):
            try:
                driver = runtime.driverGetVersion()
            except Exception:
                driver = 0
            if not driver:
                return "no NVIDIA driver is installed, or this process cannot see it (in a container: run it with --gpus all)"
            needs = runtime.runtimeGetVersion()
            return (
                f"the NVIDIA driver is for CUDA {_version(driver)}, CuPy for CUDA {_version(needs)}; update the driver, or "
                f"install the CuPy of the driver's version"
            )
        if "NoDevice" not in str(e):
            return f"CUDA cannot be started: {e}"
    return "no NVIDIA GPU is visible (look at nvidia-smi and CUDA_VISIBLE_DEVICES)"


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


@functools.lru_cache(maxsize=16)
def machine(index: int) -> Machine:
    """The GPU number ``index``, by the driver's own figures; bandwidth and operations a second are the data sheet's."""
    runtime = cupy().cuda.runtime
    p = runtime.getDeviceProperties(index)
    name = p["name"].decode() if isinstance(p["name"], bytes) else str(p["name"])
    major, minor, cores = int(p["major"]), int(p["minor"]), int(p["multiProcessorCount"])
    attributes = cupy().cuda.Device(index).attributes
    clock = float(attributes["ClockRate"]) * 1e3
    memory_clock = float(attributes["MemoryClockRate"]) * 1e3
    bandwidth = 2 * memory_clock * float(attributes["GlobalMemoryBusWidth"]) / 8
    lanes = LANES.get((major, minor), OTHER_LANES)
    return Machine(
        kind="cuda",
        name=name,
        isa=f"sm_{major}{minor}",
        cores=cores,
        simd_bytes=16,
        l1=int(attributes.get("MaxSharedMemoryPerBlockOptin", 0)) or int(p["sharedMemPerBlock"]),
        l2=int(p["l2CacheSize"]),
        l3=0,
        flops=2.0 * lanes * cores * clock,
        bandwidth=bandwidth,
    )


def too_old(index: int) -> bool:
    """Whether the GPU's compute capability is below `OLDEST`."""
    p = cupy().cuda.runtime.getDeviceProperties(index)
    return (int(p["major"]), int(p["minor"])) < OLDEST
