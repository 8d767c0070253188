"""How plans are run, on a stand-in for the GPU: arena, CUDA graphs, copies, host steps, errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from backend_cuda import fake
from dfp.helpers import Net, random_inputs, reference
from nnaccel_backend_cuda import probe
from nnaccel_backend_cuda.backend import CudaBackend
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.errors import OutOfMemoryError
from nnaccel_core.ir import Graph, sym
from nnaccel_core.options import Options
from nnaccel_frontend_torch.bridge import TorchCpuBridge


class HostBridge(TorchCpuBridge):
    device = "cuda"


class Gpu:
    """A backend on the stand-in."""

    def __init__(self) -> None:
        self.device = fake.Device()
        self.bridge = HostBridge()

    def open(self) -> CudaBackend:
        backend = CudaBackend(probe.machine(0), "cuda:0")
        backend._kernels = fake.Loader(self.device)  # type: ignore[assignment]
        backend.use(self.bridge)
        return backend

    def segment(self, graph: Graph, params: dict[str, Any] | None = None) -> CompiledSegment:
        live = {name: (lambda t=t: t) for name, t in (params or {}).items()}
        return CompiledSegment(graph, self.open(), self.bridge, Options(libraries=False), live)

    def call(self, segment: CompiledSegment, env: dict[str, int], tensors: list[Any], stream: int = 0) -> list[Any]:
        built = segment.built(env)
        assert built.prepared is not None
        outputs = [self.bridge.allocate(t) for t in built.output_types]
        pointers = [t.data_ptr() for t in tensors]
        built.executable.run(pointers, built.prepared.addresses, [o.data_ptr() for o in outputs], 1, stream)
        return outputs


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    found = Gpu()
    module = fake.cupy(found.device)
    monkeypatch.setattr(probe, "cupy", lambda: module)
    for name in ("memory", "executable"):
        monkeypatch.setattr(f"nnaccel_backend_cuda.{name}.cupy", lambda: module)
    probe.machine.cache_clear()
    yield found
    probe.machine.cache_clear()


def example(last: bool = True) -> tuple[Graph, dict[str, Any], Any]:
    net = Net(last)
    x = net.input("n", 4, 6, 6)
    y = net.relu6(net.depthwise(x))
    y = net.max_pool(net.op("sigmoid", y), 2, 2, 0)
    y = net.op("reshape", net.mean(y, 2, 3, keep=False), shape=(sym("n"), 4))
    return net.graph(net.op("softmax", y, axis=1)), {}, net


def tensors_of(graph: Graph, n: int, seed: int = 0) -> tuple[dict[str, Any], list[Any], Any]:
    arrays = random_inputs(graph, {"n": n}, seed)
    want = reference(graph, arrays)[graph.outputs[0]]

    def laid(v: Any) -> Any:
        t = v.type
        back = [t.layout.index(a) for a in range(t.rank)]
        return torch.from_numpy(np.ascontiguousarray(np.transpose(arrays[v], t.layout))).permute(back)

    return {p.name: laid(p) for p in graph.params}, [laid(v) for v in graph.inputs], want


def test_first_call_runs_steps_later_ones_a_graph(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    results = []
    for k in range(4):
        gpu.device.log.clear()
        results += gpu.call(segment, {"n": 2}, inputs)
        assert ("graph" in gpu.device.log) == (k >= 1)
        assert ("capture" in gpu.device.log) == (k == 1)
    for r in results:
        np.testing.assert_allclose(r.numpy(), want, rtol=1e-5, atol=1e-6)
    assert len({r.data_ptr() for r in results}) == 4
    assert segment.built({"n": 2}).executable.graph_state() == "replayed"  # type: ignore[attr-defined]


def test_other_inputs_through_one_graph_and_two_sizes_in_one_arena(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, _, _ = tensors_of(graph, 2)
    arrays = random_inputs(graph, {"n": 2})
    segment = gpu.segment(graph, params)
    for seed in range(6):
        n = 2 + seed % 2 * 3
        fresh = np.random.default_rng(seed).normal(size=(n, 4, 6, 6)).astype(np.float32)
        known = reference(graph, {**arrays, graph.inputs[0]: fresh})[graph.outputs[0]]
        x = torch.from_numpy(np.ascontiguousarray(fresh.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
        (got,) = gpu.call(segment, {"n": n}, [x])
        np.testing.assert_allclose(got.numpy(), known, rtol=1e-5, atol=1e-6)


def test_new_parameters_make_a_new_graph(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    for _ in range(3):
        gpu.call(segment, {"n": 2}, inputs)
    for p in params.values():
        p.mul_(0.5)
    arrays = random_inputs(graph, {"n": 2})
    want = reference(graph, {v: a * np.float32(0.5) if v in graph.params else a for v, a in arrays.items()})[graph.outputs[0]]
    segment.refresh()
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_a_refused_capture_runs_steps(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    gpu.device.refuse = True
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    state = segment.built({"n": 2}).executable.graph_state()  # type: ignore[attr-defined]
    assert state.startswith("capturing failed: operation not permitted")


def test_graphs_can_be_switched_off(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNACCEL_CUDA_GRAPHS", "0")
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 1)
    segment = gpu.segment(graph, params)
    for _ in range(3):
        gpu.call(segment, {"n": 1}, inputs)
    assert "graph" not in gpu.device.log


def test_another_stream_waits(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 1)
    segment = gpu.segment(graph, params)
    gpu.call(segment, {"n": 1}, inputs, stream=0)
    assert "wait" not in gpu.device.log
    gpu.call(segment, {"n": 1}, inputs, stream=99)
    assert gpu.device.log.count("wait") == 1


def test_misaligned_inputs_are_copied(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 1)
    segment = gpu.segment(graph, params)
    flat = torch.empty(inputs[0].numel() + 1)
    shifted = flat[1:].view(1, 6, 6, 4).permute(0, 3, 1, 2)
    shifted.copy_(inputs[0])
    for _ in range(3):  # the first call runs steps: the stand-in's kernels refuse addresses that are not aligned
        (got,) = gpu.call(segment, {"n": 1}, [shifted])
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_out_of_memory(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 1)
    segment = gpu.segment(graph, params)
    segment.backend.scratch._bridge = None  # type: ignore[attr-defined]
    built = segment.built({"n": 1})
    gpu.call(segment, {"n": 1}, inputs)
    gpu.device.limit = 16  # the graph's copies of inputs and results do not fit
    with pytest.raises(OutOfMemoryError, match=r"needs \d+ bytes .* of scratch memory on cuda:0; 1024 of 2048 MiB are free"):
        gpu.call(segment, {"n": 1}, inputs)
    gpu.device.limit = 1 << 40
    (got,) = gpu.call(segment, {"n": 1}, inputs)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert built.executable.call_bytes(1) > 0  # type: ignore[attr-defined]


def test_operators_on_the_host(gpu: Gpu) -> None:
    from nnaccel_core.ir import Node
    from nnaccel_core.ops import registry

    op = next(o for o in registry.all_ops() if o.name == "topk")
    assert op.host
    net = Net()
    x = net.op("relu", net.input("n", 8))
    attrs = {"k": 3, "axis": 1, "largest": True, "sorted": True}
    types = registry.infer("topk", [x.type], attrs)
    outputs = tuple(type(x)(t, f"top{i}") for i, t in enumerate(types))
    net.nodes.append(Node("topk", (x,), outputs, attrs, "top"))
    graph = net.graph(net.op("relu", outputs[0]))
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert segment.built({"n": 2}).executable.graph_state() == "runs operators on the host"  # type: ignore[attr-defined]


def test_profile_names_every_step(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 1)
    segment = gpu.segment(graph, params)
    built = segment.built({"n": 1})
    built.executable.profiling = True
    gpu.call(segment, {"n": 1}, inputs)
    steps = [s.origin for s in built.placed.plan.steps]
    assert [name for name, _ in built.executable.profile()] == steps
