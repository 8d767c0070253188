"""What users see where something is missing. None of this needs a GPU."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from backend_cuda import fake
from nnaccel_backend_cuda import cudnn_graphs, doctor, nvrtc, probe, products
from nnaccel_backend_cuda.backend import CudaBackend
from nnaccel_core.errors import DeviceError, ToolchainError
from nnaccel_core.hooks.manager import Manager
from nnaccel_core.hooks.plugins import Plugins


def manager() -> Manager:
    from importlib import metadata

    point = metadata.EntryPoint("cuda", "nnaccel_backend_cuda.plugin", "nnaccel")
    return Manager(Plugins(lambda: [point]))


def without_cupy() -> Any:
    raise ToolchainError(f"the CUDA backend needs CuPy, which cannot be imported (gone); install it with: {probe.INSTALL}")


class CudaError(Exception):
    """Named as CuPy's own."""


CudaError.__name__ = "CUDARuntimeError"


def cupy_that_says(error: str, driver: int = 0) -> Any:
    module = fake.cupy(fake.Device())

    def refuse() -> int:
        raise CudaError(error)

    module.cuda.runtime.getDeviceCount = refuse
    module.cuda.runtime.driverGetVersion = lambda: driver
    module.cuda.runtime.runtimeGetVersion = lambda: 13000
    return module


def test_listing_the_plugin_imports_no_gpu_library() -> None:
    code = "import sys, nnaccel_backend_cuda.plugin as p; (b,) = p.nnaccel_register_backends(); assert b.devices == ('cuda',);"
    code += "assert not {'cupy', 'cudnn', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "cupy", without_cupy)
    assert CudaBackend.probe() is None and CudaBackend.count() == 0
    with pytest.raises(DeviceError, match=r"'cuda' is not present .*needs CuPy.*install it with: pip install cupy-cuda13x"):
        manager().backend_for("cuda")
    assert next((d.what, d.ok) for d in doctor.diagnose()) == ("CuPy", False)


@pytest.mark.parametrize(
    ("error", "driver", "message"),
    [
        ("cudaErrorInsufficientDriver: too old", 0, "no NVIDIA driver is installed"),
        ("cudaErrorInsufficientDriver: too old", 12020, "driver is for CUDA 12.2, CuPy for CUDA 13.0; update the driver"),
        ("cudaErrorNoDevice: none", 13000, "no NVIDIA GPU is visible"),
        ("cudaErrorInitializationError: bad", 13000, "CUDA cannot be started: cudaErrorInitializationError: bad"),
    ],
)
def test_without_a_usable_gpu(monkeypatch: pytest.MonkeyPatch, error: str, driver: int, message: str) -> None:
    monkeypatch.setattr(probe, "cupy", lambda: cupy_that_says(error, driver))
    with pytest.raises(DeviceError, match=message):
        manager().backend_for("cuda:0")
    gpu = next(d for d in doctor.diagnose() if d.what == "GPU")
    assert not gpu.ok and message in gpu.detail


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake.cupy(fake.Device())
    monkeypatch.setattr(probe, "cupy", lambda: module)
    probe.machine.cache_clear()
    cls, name = manager().backend_for("cuda")
    assert cls is CudaBackend and name == "cuda"
    with pytest.raises(DeviceError, match="there is no device 'cuda:1' on this machine"):
        manager().backend_for("cuda:1")
    probe.machine.cache_clear()


def test_a_gpu_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake.cupy(fake.Device())
    properties = {**module.cuda.runtime.getDeviceProperties(0), "major": 6, "minor": 1}
    module.cuda.runtime.getDeviceProperties = lambda i: properties
    monkeypatch.setattr(probe, "cupy", lambda: module)
    probe.machine.cache_clear()
    with pytest.raises(DeviceError, match=r"fake has sm_61; nnaccel needs compute capability 7\.0 or newer"):
        CudaBackend(probe.machine(0), "cuda:0")
    probe.machine.cache_clear()


def test_missing_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNACCEL_NVRTC", "/nowhere/libnvrtc.so")
    nvrtc.library.cache_clear()
    with pytest.raises(ToolchainError, match="pip install nvidia-cuda-nvrtc"):
        nvrtc.library()
    monkeypatch.setattr(products, "_candidates", lambda: iter(()))
    products.library.cache_clear()
    with pytest.raises(ToolchainError, match="pip install nvidia-cublas"):
        products.library()
    monkeypatch.setattr(cudnn_graphs, "_module", None)
    monkeypatch.setitem(sys.modules, "cudnn", None)
    with pytest.raises(ToolchainError, match="pip install nvidia-cudnn-frontend"):
        cudnn_graphs.frontend()
    lines = {d.what: d for d in doctor.diagnose()}
    for what in ("NVRTC", "cuDNN", "cuBLASLt"):
        assert not lines[what].ok and "pip install" in lines[what].fix
    nvrtc.library.cache_clear()
    products.library.cache_clear()
