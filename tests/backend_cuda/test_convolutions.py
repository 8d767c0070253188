"""Convolutions through cuDNN, on stand-ins for it and for the GPU: what is proposed, tuned, kept, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend_cuda import fake_cudnn
from backend_cuda.test_executable import Gpu, gpu, tensors_of
from dfp.helpers import Net
from nnaccel_backend_cuda import convolutions
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.ir import Graph
from nnaccel_core.options import Options

__all__ = ["gpu"]


@pytest.fixture
def library(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path))
    use(gpu, monkeypatch)
    return gpu


def use(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, refuses: tuple[str, ...] = ()) -> None:
    from nnaccel_backend_cuda import probe

    module = fake_cudnn.cudnn(gpu.device, refuses)
    monkeypatch.setattr(convolutions, "frontend", lambda: module)
    monkeypatch.setattr(convolutions, "cupy", probe.cupy)
    monkeypatch.setattr("nnaccel_backend_cuda.executable.frontend", lambda: module)


def residual_block() -> Graph:
    net = Net()
    x = net.input("n", 8, 6, 6)
    y = net.op("relu", net.conv(x, 16, 3, 2))
    z = net.conv(y, 16, 3)
    return net.graph(net.op("relu", net.op("add", z, y)))


def check(gpu: Gpu, graph: Graph, options: Options) -> CompiledSegment:
    params, inputs, want = tensors_of(graph, 2)
    live = {name: (lambda t=t: t) for name, t in params.items()}
    segment = CompiledSegment(graph, gpu.open(), gpu.bridge, options, live)
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-4)
    return segment


def test_fused_with_a_fence_in_front_of_additions(library: Gpu) -> None:
    segment = check(library, residual_block(), Options(tf32=("conv",)))
    steps = segment.built({"n": 2}).placed.plan.steps
    reasons = [s.candidate.reason for s in steps]  # type: ignore[union-attr]
    assert [r.split(" (")[0] for r in reasons] == ["cuDNN conv + relu", "cuDNN conv + add + relu"]
    log = [line for line in library.device.log if line == "fence" or line.startswith("cudnn")][-3:]
    assert log == ["cudnn conv+bias+relu", "fence", "cudnn conv+bias+add+relu"]


def test_refused_fusions_run_unfused(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    use(library, monkeypatch, ("add", "relu"))
    segment = check(library, residual_block(), Options())
    ops = [s.origin for s in segment.built({"n": 2}).placed.plan.steps]
    assert len(ops) == 4  # two convolutions, the activation, the addition with its activation


def test_full_float32_leaves_tensor_cores_out(library: Gpu) -> None:
    check(library, residual_block(), Options(tf32=()))
    assert any("tensor cores" in line for line in library.device.log)
    library.device.log.clear()
    check(library, residual_block(), Options(tf32=("conv",)))
    assert not any("tensor cores" in line for line in library.device.log)


def test_plans_are_kept_on_disk(library: Gpu) -> None:
    check(library, residual_block(), Options())
    library.device.log.clear()
    check(library, residual_block(), Options())
    assert "deserialized" in library.device.log
    assert not any(line.startswith("without") for line in library.device.log), "a plan was built again"


def test_too_little_memory_to_time_plans(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(nbytes: int) -> Any:
        raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(convolutions.cupy().cuda, "Memory", refuse)
    check(library, residual_block(), Options())
    library.device.log.clear()
    check(library, residual_block(), Options())
    assert "deserialized" not in library.device.log, "an untimed plan was kept"
