"""How plans are run, on a stand-in for the GPU: arena, CUDA graphs, copies, host steps, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from backend_cuda import fake
from dfp.helpers import Net, random_inputs, reference
from nnaccel_backend_cuda import cut, probe
from nnaccel_backend_cuda.backend import CudaBackend
from nnaccel_core.api import Machine
from nnaccel_core.driver.segment import CompiledSegment
from nnaccel_core.driver.slicing import SlicedExecutable, sliced
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

    def segment(self, graph: Graph, params: dict[str, Any] | None = None, **options: Any) -> CompiledSegment:
        live = {name: (lambda t=t: t) for name, t in (params or {}).items()}
        return CompiledSegment(graph, self.open(), self.bridge, Options(libraries=False, **options), live)

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
    graph = chain(2)
    params, inputs, want = tensors_of(graph, 1)
    segment = gpu.segment(graph, params, dfp=False)
    segment.backend.scratch._bridge = None  # type: ignore[attr-defined]
    executable: Any = segment.built({"n": 1}).executable
    gpu.call(segment, {"n": 1}, inputs)
    _, more, _ = tensors_of(graph, 8)
    segment.built({"n": 8})
    gpu.device.limit = executable._graph_bytes + 1024  # what is there may be had again, and little more
    with pytest.raises(OutOfMemoryError, match=r"needs \d+ bytes .* of scratch memory on cuda:0; 1024 of 2048 MiB are free"):
        gpu.call(segment, {"n": 8}, more)
    for _ in range(2):
        (got,) = gpu.call(segment, {"n": 1}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert executable.call_bytes(1) > 0


def test_the_arena_grows_once_for_all_plans(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 2)
    _, more, _ = tensors_of(graph, 6)
    segment = gpu.segment(graph, params)
    segment.built({"n": 2})
    segment.built({"n": 6})
    for _ in range(3):
        gpu.call(segment, {"n": 2}, inputs)
        gpu.call(segment, {"n": 6}, more)
    assert segment.backend.scratch.generation == 1  # type: ignore[attr-defined]
    assert gpu.device.log.count("capture") == 2


def test_what_is_only_expected_is_not_needed(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    segment.backend.scratch._bridge = None  # type: ignore[attr-defined]
    segment.built({"n": 64})
    executable: Any = segment.built({"n": 2}).executable
    gpu.device.limit = executable._graph_bytes + 4096
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert segment.backend.scratch.nbytes <= executable._graph_bytes  # type: ignore[attr-defined]


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


# --- large inputs and results ------------------------------------------------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(cut, "LAUNCH", 0.0)
    monkeypatch.setattr(cut, "MOST_OUTSIDE", 1)


def chain(length: int = 3, late: bool = False) -> Graph:
    """Layers to run one by one; ``late``: the input is added in the end."""
    net = Net()
    x = y = net.input("n", 4, 8, 8)
    for _ in range(length):
        y = net.op("softmax", y, axis=1)
        y = net.max_pool(y, 3, 1, 1)
    return net.graph(net.op("add", y, x) if late else y)


def copies(gpu: Gpu, segment: CompiledSegment, tensors: list[Any], n: int = 2) -> tuple[Any, int]:
    """The result of a call that replays a graph, and how many copies it took."""
    for _ in range(2):
        gpu.call(segment, {"n": n}, tensors)
    gpu.device.log.clear()
    (got,) = gpu.call(segment, {"n": n}, tensors)
    assert gpu.device.log.count("graph") == 1
    return got, gpu.device.log.count("copy")


def test_large_inputs_and_results_are_not_copied(gpu: Gpu, large: None) -> None:
    graph = chain()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params, dfp=False)
    got, count = copies(gpu, segment, inputs)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert count == 0
    executable: Any = segment.built({"n": 2}).executable
    steps = len(executable.plan.steps)
    assert (executable.cut.begin, executable.cut.end) == (1, steps - 1) and steps >= 3
    assert [line.partition("_")[0] for line in gpu.device.log] == ["softmax", "graph", "max"], "one in front, one behind"
    assert executable.call_bytes(1) < executable._whole_bytes


def test_small_ones_are_copied(gpu: Gpu) -> None:
    graph = chain()
    params, inputs, want = tensors_of(graph, 2)
    got, count = copies(gpu, gpu.segment(graph, params, dfp=False), inputs)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert count == 2


def test_an_input_that_a_late_step_reads_too_is_copied(gpu: Gpu, large: None) -> None:
    graph = chain(late=True)
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params, dfp=False)
    got, count = copies(gpu, segment, inputs)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert count == 1
    assert not segment.built({"n": 2}).executable.cut.inputs  # type: ignore[attr-defined]


def test_results_of_earlier_calls_stay(gpu: Gpu, large: None) -> None:
    graph = chain()
    params, _, _ = tensors_of(graph, 2)
    segment = gpu.segment(graph, params, dfp=False)
    results, wants = [], []
    for seed in range(5):
        _, inputs, want = tensors_of(graph, 2, seed)
        results += gpu.call(segment, {"n": 2}, inputs)
        wants.append(want)
    for got, want in zip(results, wants, strict=True):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


def test_misaligned_large_inputs_and_results(gpu: Gpu, large: None) -> None:
    graph = chain()
    params, inputs, want = tensors_of(graph, 1)
    segment = gpu.segment(graph, params, dfp=False)
    flat = torch.empty(inputs[0].numel() + 1)
    shifted = flat[1:].view(1, 8, 8, 4).permute(0, 3, 1, 2)
    shifted.copy_(inputs[0])
    built = segment.built({"n": 1})
    assert built.prepared is not None
    for k in range(5):
        given = shifted if k != 3 else inputs[0]  # the aligned one in between: the graph is the same
        memory = torch.full((want.size + 2,), -7.0)
        place = memory.data_ptr() + 4
        built.executable.run([given.data_ptr()], built.prepared.addresses, [place], 1, 0)
        np.testing.assert_allclose(memory[1:-1].numpy().reshape(1, 8, 8, 4).transpose(0, 3, 1, 2), want, rtol=1e-5, atol=1e-6)
        assert memory[0] == memory[-1] == -7.0
    assert gpu.device.log.count("capture") == 1


def test_a_plan_of_few_steps_on_large_tensors_runs_without_a_graph(gpu: Gpu, large: None) -> None:
    net = Net()
    graph = net.graph(net.op("relu", net.input("n", 64)))
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": 2}, inputs)
        np.testing.assert_allclose(got.numpy(), want)
    assert not {"graph", "capture", "copy"} & set(gpu.device.log)
    state = segment.built({"n": 2}).executable.graph_state()  # type: ignore[attr-defined]
    assert state == "all steps touch large inputs or results, where the caller has them"


def test_parameters_that_are_views_at_odd_addresses(gpu: Gpu) -> None:
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 1)
    odd = {}
    for name, p in params.items():
        flat = torch.empty(p.numel() + 1)
        odd[name] = torch.as_strided(flat, p.shape, p.stride(), 1)
        odd[name].copy_(p)
        assert odd[name].data_ptr() % 16
    segment = gpu.segment(graph, odd)
    for _ in range(3):  # the stand-in's kernels refuse addresses that are not aligned
        (got,) = gpu.call(segment, {"n": 1}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)


# --- slices ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "sizes"), [(8, {4}), (7, {4, 3}), (4, set())])
def test_equal_slices_share_a_graph(gpu: Gpu, total: int, sizes: set[int]) -> None:
    net = Net()
    x = net.input("n", 3, 7, 5)  # 420 bytes a sample: slices begin at addresses that are not aligned
    y = net.op("softmax", net.max_pool(net.op("softmax", x, axis=1), 3, 1, 1), axis=1)
    graph = net.graph(net.op("reshape", net.mean(y, 2, 3, keep=False), shape=(sym("n"), 3)))
    params, inputs, want = tensors_of(graph, total)
    segment = gpu.segment(graph, params)
    segment.slice = 4
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": total}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    assert set(sliced(segment.built({"n": total}).executable)) == sizes
    assert gpu.device.log.count("capture") == max(1, len(sizes))


def test_a_slice_needs_less_memory(gpu: Gpu) -> None:
    graph = chain(2)
    needed = []
    for slicing in (False, 4):
        built = gpu.segment(graph, dfp=False, slicing=slicing).built({"n": 16}).executable
        parts = [p.executable for p in built.parts] if isinstance(built, SlicedExecutable) else [built]
        needed.append(max(e._whole_bytes for e in parts))  # type: ignore[attr-defined]
    assert needed[1] < 0.3 * needed[0]


# --- stages ------------------------------------------------------------------------------------------------------------------


def network() -> Graph:
    """Two layers of images, with a residual across the cut in front of the second pool, and two of what is left of them."""
    net = Net()
    x = net.op("softmax", net.input("n", 4, 6, 6), axis=1)
    y = net.op("softmax", net.max_pool(x, 3, 1, 1), axis=1)
    z = net.mean(net.op("add", net.max_pool(y, 3, 1, 1), x), 2, 3, keep=False)
    return net.graph(net.op("softmax", net.op("reshape", z, shape=(sym("n"), 4)), axis=1))


@pytest.mark.parametrize("total", [2, 3, 8, 7])
def test_stages_with_slices_of_their_own(gpu: Gpu, total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaBackend, "stages", lambda self, layers: ((0, 3), (3, 6)))
    graph = network()
    params, inputs, want = tensors_of(graph, total)
    segment = gpu.segment(graph, params, dfp=False)
    for _ in range(3):
        (got,) = gpu.call(segment, {"n": total}, inputs)
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-5, atol=1e-6)
    built = segment.built({"n": total})
    orders = {2: [], 3: [], 7: [(3, 2, 2), (4, 3)], 8: [(3, 3, 2), (4, 4)]}[total]
    assert [sliced(b.executable) for b in built.stages] == orders, "small batches run in one piece"
    captures = sum(len(set(order)) for order in orders) or 1
    assert gpu.device.log.count("capture") == captures
    if orders:
        assert [len(b.placed.plan.outputs) for b in built.stages] == [2, 1], "the residual crosses too"


def test_stages_are_explained_and_verified(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    from nnaccel_core.driver import explain, verify

    monkeypatch.setattr(CudaBackend, "stages", lambda self, layers: ((0, 2), (3, 8)))
    graph = network()
    params, inputs, _ = tensors_of(graph, 4)
    segment = gpu.segment(graph, params, dfp=False)
    (got,) = gpu.call(segment, {"n": 4}, inputs)
    built = segment.built({"n": 4})
    reports = [explain._segment(segment, b, None) for b in explain._variants(segment)]
    assert [r.name for r in reports] == ["main.1", "main.2"]
    assert [r.slices for r in reports] == [(2, 2), ()]
    assert sum(len(r.groups) for r in reports) == sum(len(b.placed.plan.steps) for b in built.stages)
    assert verify._in_segment(segment, built, inputs, [got.numpy()]) == ""
    text = verify._in_segment(segment, built, inputs, [got.numpy() + 1])
    assert "is right by itself, but result 0 of all together is not" in text


def test_a_batch_of_a_large_network_runs_in_stages(gpu: Gpu) -> None:
    """The backend's own choice: large images first, then many weights."""
    from nnaccel_backend_cuda import slices
    from nnaccel_core.driver import slicing

    machine = Machine("cuda", "large", "sm_90", 132, 16, 227 << 10, 50 << 20, 0, 67e12, 4.8e12)
    net = Net()
    x = net.op("relu", net.conv(net.input("n", 3, 224, 224), 64, 3))
    x = net.max_pool(net.op("relu", net.conv(x, 64, 3)), 2, 2, 0)
    for width in (128, 256, 512, 512):
        x = net.max_pool(net.op("relu", net.conv(net.op("relu", net.conv(x, width, 3)), width, 3)), 2, 2, 0)
    layers = slicing.layers(net.graph(x), "n")
    found = slices.stages(layers, machine)
    starts = [at for at, _ in found]
    assert len(found) > 1 and starts == sorted(set(starts)) and starts[0] == 0
    assert found[0][1] < found[-1][1] <= slices.BATCH
    parts = [layers[a:b] for a, b in pairwise([*starts, len(layers)])]
    whole = max(a.held for a in layers) * slices.BATCH
    memory = max(n * max(a.held for a in part) for part, (_, n) in zip(parts, found, strict=True))
    assert memory + sum((layers[at].enters or 0) * slices.BATCH for at in starts[1:]) < 0.4 * whole
    time = sum(slices.seconds(a, machine, n) * slices.BATCH / n for part, (_, n) in zip(parts, found, strict=True) for a in part)
    assert time <= sum(slices.seconds(a, machine, slices.BATCH) for a in layers) * (1 + slices.TOLERANCE)
    small = [replace(a, held=100) for a in layers]
    assert slices.stages(small, machine) == [(0, slices.BATCH)], "little memory is not worth slices"
    assert slices.stages((), machine) == [(0, slices.BATCH)]
