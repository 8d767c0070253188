"""Gradients on stand-ins for the GPU and cuDNN: which of them the library gets, how weights lie, what is captured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend_cuda.test_convolutions import use
from backend_cuda.test_executable import Gpu, example, gpu, tensors_of
from dfp.helpers import Net
from nnaccel_backend_cuda import executable, probe
from nnaccel_backend_cuda.cut import Cut, dear, heavy
from nnaccel_core.api import Captured
from nnaccel_core.driver.training import TrainedSegment
from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.ir.program import Program
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import assign_layouts
from nnaccel_core.plan import BufferRef, LibraryStep, Plan

__all__ = ["gpu"]

functional = torch.nn.functional


@pytest.fixture
def library(gpu: Gpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gpu:
    monkeypatch.setenv("NNACCEL_CACHE_DIR", str(tmp_path))
    use(gpu, monkeypatch)
    monkeypatch.setattr(probe.cupy().cuda, "get_elapsed_time", lambda a, b: 1e-6)  # faster than any estimate of ours
    return gpu


def network() -> Graph:
    """Three convolutions: dense with a stride, depthwise, and one of a window of one element."""
    net = Net(last=False)
    x = net.input("n", 6, 7, 7)
    y = net.op("relu", net.conv(x, 8, 3, 2))
    y = net.op("sigmoid", net.depthwise(y))
    return net.graph(net.conv(y, 5, bias=False))


def judge(x: Any, p: list[Any]) -> Any:
    y = functional.conv2d(x, p[0], p[1], stride=2, padding=1).relu()
    y = functional.conv2d(y, p[2], p[3], padding=1, groups=8).sigmoid()
    return functional.conv2d(y, p[4])


def trained(gpu: Gpu, graph: Graph, tracked: list[Any]) -> TrainedSegment:
    names = [v.name for v in graph.params]
    getters = {name: (lambda t=t: t) for name, t in zip(names, tracked, strict=True)}
    captured = Captured(Program((), (), ()), getters, tracked=getters)
    flags = [True] * (1 + len(names))
    return TrainedSegment(graph, flags, (), gpu.open(), gpu.bridge, Options(tf32=("conv",)), captured)


def laid(segment: TrainedSegment, given: list[Any]) -> list[Any]:
    layouts = segment.layouts()
    found = []
    for t, layout in zip(given, layouts, strict=True):
        if layout is None:
            found.append(t)
        else:
            back = [layout.index(a) for a in range(t.dim())]
            found.append(t.permute(layout).contiguous().permute(back))
    return found


def test_gradients_through_the_library(library: Gpu) -> None:
    graph = network()
    torch.manual_seed(0)
    params = [torch.randn(tuple(v.shape)) * 0.3 for v in graph.params]  # type: ignore[arg-type]
    x, seed = torch.randn(2, 6, 7, 7), torch.randn(2, 5, 4, 4)
    segment = trained(library, graph, params)
    for step in range(3):
        results, kept = segment.forward([x], params)
        places = {"input": [x], "output": [*results, *kept], "grad": [seed]}
        found = segment.backward(laid(segment, [places[s.place][s.index] for s in segment.sources]), params)
        leaves = [t.clone().requires_grad_() for t in (x, *params)]
        want = judge(leaves[0], leaves[1:])
        torch.testing.assert_close(results[0], want, rtol=1e-4, atol=1e-4)
        want.backward(seed)
        for leaf, at in zip(leaves, segment.gradient_of, strict=True):
            assert at is not None
            torch.testing.assert_close(found[at], leaf.grad, rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for p in params:
                p.mul_(0.9 - 0.1 * step)  # what derives from parameters is derived anew
    _, backward = segment.segments()
    steps = backward.built({"n": 2}).placed.plan.steps
    ran = sorted(s.candidate.reason.split()[1] for s in steps if isinstance(s, LibraryStep))
    assert ran == ["conv_backward_data"] * 2 + ["conv_backward_weights"] * 3


def test_nothing_is_derived_on_the_host(library: Gpu) -> None:
    graph = network()
    params = [torch.randn(tuple(v.shape)) for v in graph.params]  # type: ignore[arg-type]
    segment = trained(library, graph, params)
    x = torch.randn(2, 6, 7, 7)
    segment.forward([x], params)
    (forward,) = segment.segments()
    assert not forward.prepare.nodes
    steps = forward.built({"n": 2}).placed.plan.steps
    assert sum(isinstance(s, LibraryStep) and not s.candidate.packs for s in steps) == 2
    assert forward.prepared_bytes() == 0


def test_weights_of_dense_convolutions_lie_as_images_do() -> None:
    laid_out = assign_layouts(network(), weights_last=True)
    convolutions = [n for n in laid_out.nodes if n.op == "conv"]
    assert [n.inputs[1].type.same_memory(channels_last(4)) for n in convolutions] == [True, False, True]
    assert sum(n.op == "reorder" and n.inputs[0] in laid_out.params for n in laid_out.nodes) == 2  # none for the 1x1 window
    kept = assign_layouts(network())
    assert kept.nodes[1].inputs[1].type.layout == identity(4)


def test_rounded_weights_are_kept_as_convolutions_read_them() -> None:
    x, w = Value(TensorType((2, 8, 6, 6), "bfloat16"), "x"), Value(TensorType((16, 8, 3, 3), "float32"), "w")
    low, y = Value(TensorType((16, 8, 3, 3), "bfloat16"), "low"), Value(TensorType((2, 16, 6, 6), "bfloat16"), "y")
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    nodes = (Node("cast", (w,), (low,), {"dtype": "bfloat16"}), Node("conv", (x, low), (y,), attrs))
    laid_out = assign_layouts(Graph((x,), (w,), nodes, (y, low)), [None, None], weights_last=True)
    assert laid_out.outputs[1].type.same_memory(channels_last(4))
    (convolution,) = (n for n in laid_out.nodes if n.op == "conv")
    assert convolution.inputs[1] is laid_out.outputs[1]


def test_a_graph_is_not_captured_where_copies_outweigh_launches() -> None:
    def reason(nbytes: int, cut: Cut, count: int = 10) -> str:
        given, result = TensorType((nbytes // 4,), "float32"), TensorType((16,), "float32")
        refs = (BufferRef("input", 0, 0, given),), (BufferRef("output", 0, 0, result),)
        step = LibraryStep(None, *refs, None, "layer")  # type: ignore[arg-type]
        return dear(Plan("p", (step,) * count, (given,), (), (result,)), cut, 3e12)

    none = Cut(0, 10, frozenset(), frozenset())
    assert "1024 MiB" in reason(1 << 30, none)  # the device is busy for longer than ten launches take
    assert reason(1 << 10, none) == ""
    assert reason(1 << 20, none, 200) == ""  # launches take longer
    assert reason(1 << 30, Cut(1, 10, frozenset({0}), frozenset())) == ""
    given = TensorType((1 << 28,), "float32")
    ref = (BufferRef("input", 0, 0, given),)
    plan = Plan("p", (LibraryStep(None, ref, (), None, "layer"),), (given,), (), ())  # type: ignore[arg-type]
    assert "held twice" in heavy(plan, none, 3e12) and heavy(plan, Cut(1, 1, frozenset({0}), frozenset()), 3e12) == ""


def test_large_results_are_replayed_in_place_while_addresses_stay(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a framework's caching allocator has it in a loop; other addresses run step by step, and nothing is overwritten."""
    monkeypatch.setattr(executable, "dear", lambda *_: "too much to copy")
    monkeypatch.setattr(executable, "copying_bytes", lambda *_: 0)
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    built = segment.built({"n": 2})
    assert built.prepared is not None
    first, second = ([gpu.bridge.allocate(t) for t in built.output_types] for _ in range(2))
    for t in (*first, *second):
        t.zero_()
    seen = []
    for outputs in (first, first, first, second, first, second):
        gpu.device.log.clear()
        for t in outputs:
            t.fill_(7.0)
        kept = [t.clone() for t in (second if outputs is first else first)]
        addresses = [t.data_ptr() for t in inputs], built.prepared.addresses, [t.data_ptr() for t in outputs]
        built.executable.run(*addresses, 1, 0)
        np.testing.assert_allclose(outputs[0].numpy(), want, rtol=1e-5, atol=1e-6)
        assert all(torch.equal(a, b) for a, b in zip(kept, second if outputs is first else first, strict=True))
        assert "copy" not in gpu.device.log
        seen.append(("capture" in gpu.device.log, "graph" in gpu.device.log))
    assert seen == [(False, False), (True, True), (False, True), (False, False), (False, True), (True, True)]
    assert built.executable.graph_state() == "replayed"  # type: ignore[attr-defined]


def test_small_operands_that_move_are_copied_around_a_replay(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable, "dear", lambda *_: "too much to copy")
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    built = segment.built({"n": 2})
    assert built.prepared is not None
    outputs = [[gpu.bridge.allocate(t) for t in built.output_types] for _ in range(6)]
    seen = []
    for k, results in enumerate(outputs):
        gpu.device.log.clear()
        given = [t.clone() for t in inputs]
        addresses = [t.data_ptr() for t in given], built.prepared.addresses, [t.data_ptr() for t in results]
        built.executable.run(*addresses, 1, 0)
        np.testing.assert_allclose(results[0].numpy(), want, rtol=1e-5, atol=1e-6)
        seen.append(("capture" in gpu.device.log, "graph" in gpu.device.log, gpu.device.log.count("copy")))
        inputs = given  # kept alive, so that addresses differ
        for earlier in outputs[:k]:
            np.testing.assert_allclose(earlier[0].numpy(), want, rtol=1e-5, atol=1e-6)
    assert seen[:2] == [(False, False, 0), (False, False, 0)]
    assert seen[2][:2] == (True, True) and all(s[:2] == (False, True) for s in seen[3:])
    assert all(s[2] >= 2 for s in seen[2:])


def test_kept_tensors_lie_in_a_block_that_comes_again(library: Gpu) -> None:
    graph = network()
    torch.manual_seed(0)
    params = [torch.randn(tuple(v.shape)) * 0.3 for v in graph.params]  # type: ignore[arg-type]
    segment = trained(library, graph, params)
    x = torch.randn(2, 6, 7, 7)
    _, kept, block = segment.forward_in_block([x], params)
    assert block is not None and kept
    held = [t.data_ptr() for t in kept]
    before = [t.clone() for t in kept]
    results, others, second = segment.forward_in_block([x + 1], params)  # while the first is held
    assert {t.data_ptr() for t in others}.isdisjoint(held)
    assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
    del kept, block
    _, again, block = segment.forward_in_block([x], params)
    assert [t.data_ptr() for t in again] == held
    assert all(torch.equal(a, b) for a, b in zip(again, before, strict=True))
    del again, block, others, second, results
    segment.release()
    assert not segment._blocks._waiting


def test_addresses_that_never_settle_are_not_captured_for_ever(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executable, "dear", lambda *_: "too much to copy")
    monkeypatch.setattr(executable, "copying_bytes", lambda *_: 0)
    monkeypatch.setattr(executable, "CAPTURES", 2)
    graph, _, _ = example()
    params, inputs, _ = tensors_of(graph, 2)
    segment = gpu.segment(graph, params)
    built = segment.built({"n": 2})
    assert built.prepared is not None
    for _ in range(5):
        outputs = [gpu.bridge.allocate(t) for t in built.output_types]
        for _ in range(2):
            given = [t.data_ptr() for t in inputs], built.prepared.addresses, [t.data_ptr() for t in outputs]
            built.executable.run(*given, 1, 0)
    assert gpu.device.log.count("capture") <= 2


def test_a_pass_of_training_is_replayed_in_place_or_on_copies_where_addresses_never_settle(
    gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies would take less time than launches, but twice the memory: they are made only where there is no other way."""
    monkeypatch.setattr(executable, "heavy", lambda *_: "held twice")
    monkeypatch.setattr(executable, "copying_bytes", lambda *_: 0)
    graph, _, _ = example()
    params, inputs, want = tensors_of(graph, 2)
    built = gpu.segment(graph, params, live=True).built({"n": 2})
    assert built.prepared is not None
    plan: Any = built.executable
    given = [t.data_ptr() for t in inputs], built.prepared.addresses
    outputs = [gpu.bridge.allocate(t) for t in built.output_types]
    for _ in range(3):
        built.executable.run(*given, [t.data_ptr() for t in outputs], 1, 0)
    assert gpu.device.log.count("graph") == 2 and "copy" not in gpu.device.log
    held = plan.scratch.nbytes
    kept = []
    for k in range(executable.PATIENCE + 3):
        kept.append([gpu.bridge.allocate(t) for t in built.output_types])
        gpu.device.log.clear()
        built.executable.run(*given, [t.data_ptr() for t in kept[-1]], 1, 0)
        assert ("graph" in gpu.device.log) == (k >= executable.PATIENCE + 2)
        np.testing.assert_allclose(kept[-1][0].numpy(), want, rtol=1e-5, atol=1e-6)
    assert plan.scratch.nbytes > held
