"""Convolutions through cuDNN, on stand-ins for it and for the GPU: what is proposed, tuned, kept, and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend_cuda import fake_cudnn
from backend_cuda.test_executable import Gpu, gpu, tensors_of
from dfp.helpers import Net
from nnaccel_backend_cuda import convolutions, cudnn_graphs, executable, tuning
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.ir import Graph
from nnaccel_core.options import Options
from nnaccel_core.plan import LibraryStep

__all__ = ["gpu"]


@pytest.fixture
def library(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path))
    use(gpu, monkeypatch)
    return gpu


def use(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, refuses: tuple[str, ...] = ()) -> None:
    from nnaccel_backend_cuda import probe

    module = fake_cudnn.cudnn(gpu.device, refuses)
    for target in (cudnn_graphs, tuning, executable):
        monkeypatch.setattr(target, "frontend", lambda: module)
    monkeypatch.setattr(tuning, "cupy", probe.cupy)


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

    monkeypatch.setattr(tuning.cupy().cuda, "Memory", refuse)
    check(library, residual_block(), Options())
    library.device.log.clear()
    check(library, residual_block(), Options())
    assert "deserialized" not in library.device.log, "an untimed plan was kept"


def test_no_further_plan_without_a_budget(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    log = library.device.log
    monkeypatch.setenv("NNACCEL_CUDA_TUNING", "0")
    check(library, residual_block(), Options())
    assert "built 1" in log and "built 2" not in log
    log.clear()
    check(library, residual_block(), Options())
    assert "built 1" not in log, "what is kept is taken"
    monkeypatch.setenv("NNACCEL_CUDA_TUNING", "5")
    check(library, residual_block(), Options())
    assert "built 2" in log, "what was cut short is tuned again when there is more time"
    log.clear()
    check(library, residual_block(), Options())
    assert not any(line.startswith("built") for line in log)


def test_autotune_gives_more_time(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    log = library.device.log
    monkeypatch.setenv("NNACCEL_CUDA_TUNING", "0")
    check(library, residual_block(), Options())
    assert "built 2" not in log
    check(library, residual_block(), Options(autotune=5))
    assert "built 2" in log, "what was cut short is tuned again, in this process too"
    log.clear()
    check(library, residual_block(), Options(autotune=5))
    assert not any(line.startswith("built") for line in log)


def test_a_budget_that_is_no_number(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNACCEL_CUDA_TUNING", "long")
    with pytest.raises(ValueError, match="NNACCEL_CUDA_TUNING is the seconds that tuning may take, not 'long'"):
        check(library, residual_block(), Options())


def test_the_fastest_plan_is_chosen(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {0: 5e-7, 1: 4e-7, 2: 3e-7}
    monkeypatch.setattr(tuning.Tuner, "_seconds", lambda self, d, index, pointers, workspace: found[index])
    segment = check(library, residual_block(), Options())
    assert all("(eng2)" in r for r in libraries(segment))


def libraries(segment: CompiledSegment) -> list[str]:
    """What the steps run by libraries are."""
    found = [s.candidate.reason for s in segment.built({"n": 2}).placed.plan.steps if isinstance(s, LibraryStep)]
    assert found
    return found


def test_clearly_slower_plans_are_timed_less(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0] * 3 + [9.0] * 300)  # of a first graph: rough, then in a row; all others are slower
    monkeypatch.setattr(tuning.cupy().cuda, "get_elapsed_time", lambda a, b: next(clock))
    net = Net()
    check(library, net.graph(net.conv(net.input("n", 8, 6, 6), 16, 3, 2)), Options())
    assert library.device.log.count("capture") == 1 + 1  # one plan's timing, and the network's own graph


def two_convolutions(more: bool) -> Graph:
    """An addition of two convolutions' results; ``more``: and one of the first kind of convolution to something else."""
    net = Net()
    x = net.op("relu", net.conv(net.input("n", 8, 4, 4), 8, 3))
    y = net.op("relu", net.op("add", net.conv(x, 8, 3), net.conv(x, 8, 1)))
    return net.graph(net.op("relu", net.op("add", net.conv(y, 8, 3), y)) if more else y)


@pytest.fixture
def quick(library: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's plans take next to no time, so that they are chosen."""
    monkeypatch.setattr(tuning.cupy().cuda, "get_elapsed_time", lambda a, b: 1e-4)


@pytest.mark.parametrize("more", [False, True])
def test_one_of_two_convolutions_takes_their_addition(library: Gpu, quick: None, more: bool) -> None:
    segment = check(library, two_convolutions(more), Options())
    specs = list(segment.backend.tuner()._plans)  # type: ignore[attr-defined]
    fused = [s for s in specs if ("add",) in s.steps]
    assert [s.w.dims[-1] for s in fused] == [3 if more else 1], "the graph that another layer needs too, else the later layer"
    assert sum("add" in r for r in libraries(segment)) == 1 + more


def test_the_other_takes_what_the_first_cannot(library: Gpu, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    build = tuning.build_graph

    def refuse(spec: convolutions.ConvSpec, handle: Any) -> Any:
        if spec.w.dims[-1] == 1 and ("add",) in spec.steps:
            raise RuntimeError("no engine proposed a plan")
        return build(spec, handle)

    monkeypatch.setattr(tuning, "build_graph", refuse)
    segment = check(library, two_convolutions(False), Options())
    assert sum("add" in r for r in libraries(segment)) == 1


def test_tuning_leaves_the_stream_of_calls_alone(library: Gpu) -> None:
    """A call of another thread may be under way."""
    backend = library.open()
    tuner = backend.tuner()
    assert tuner is not None
    streams: list[tuple[Any, Any]] = []
    module = tuning.frontend()
    module.set_stream = lambda handle, stream: streams.append((handle, stream))
    assert backend.candidates(residual_block(), {"n": 2}, Options())
    assert streams and all(handle is not tuner.handle for handle, _ in streams)
