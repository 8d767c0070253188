"""``verify=True`` on the interpreter: wrong results are refused, and the wrong group is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.graphs import CONV, Builder, random_values
from driver.wrong import wrong_backend
from nnaccel_core.api import Backend, Captured, Pass
from nnaccel_core.driver import verify
from nnaccel_core.driver.session import Compiled
from nnaccel_core.errors import MismatchError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Foreign, Graph, Program, Segment, Update, sym
from nnaccel_core.options import VERIFIED_CALLS, Options
from nnaccel_core.testing.conformance import compile_graph
from nnaccel_core.testing.memory import NumpyBridge


def net(batch: Any = 2) -> Graph:
    """conv, tanh, conv, tanh, pooling; origins are layer0, layer1, ..."""
    b = Builder()
    x = b.input(batch, 2, 4, 4)
    y = b("tanh", b("conv", x, b.param(3, 2, 3, 3), **CONV))
    y = b("tanh", b("conv", y, b.param(3, 3, 3, 3), **CONV))
    return b.done(b("reduce_mean", y, axes=(2, 3), keepdims=False), y)


def verified(backend: Backend, graph: Graph | None = None) -> None:
    graph = graph or net(sym("n"))
    inputs, params = random_values(graph, env={"n": 2})
    compiled = compile_graph(graph, backend, params, Options(verify=True))
    assert compiled.to_verify == VERIFIED_CALLS == 2
    want = run_graph(graph, inputs, params)
    for left in (1, 0):
        verify.check(compiled, inputs, compiled(inputs), want)
        assert compiled.to_verify == left


def test_right_results_pass():
    verified(wrong_backend(op="none"))
    verified(wrong_backend(op="tanh", error=0.0))
    verified(wrong_backend(op="tanh", error=1e-6))


@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_the_wrong_group_is_named(layer):
    with pytest.raises(MismatchError) as caught:
        verified(wrong_backend(layer=layer))
    text = str(caught.value)
    assert f"The first group that differs is {layer} [tanh] (interpreter: wrong library call): the largest error is" in text
    assert text.startswith("verify: result ") and " of main on interp is not the framework's: the largest error is" in text


def test_without_verify_nothing_is_due():
    assert compile_graph(net(), wrong_backend(), {}).to_verify == 0


def test_rounding_of_earlier_groups_is_not_blamed():
    """A group is judged by what it makes of its own inputs: after a wrong tanh, the right ones are not blamed."""
    with pytest.raises(MismatchError, match="first group that differs is layer1 "):
        verified(wrong_backend(error=0.5, layer="layer1"))


def test_memory_that_overlaps_is_told_apart(monkeypatch):
    graph = net()
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, wrong_backend(op="none"), params, Options(verify=True))
    outputs = compiled(inputs)
    (segment,) = compiled.segments.values()
    (built,) = segment._built.values()
    run = built.executable.run

    def racing(inputs: Any, prepared: Any, results: Any, threads: int, stream: int) -> None:
        run(inputs, prepared, results, threads, stream)
        t = built.placed.plan.outputs[0]
        from nnaccel_core.testing.memory import host_view

        host_view(results[0], t)[...] += 1

    monkeypatch.setattr(built.executable, "run", racing)
    with pytest.raises(MismatchError, match="groups of main is right by itself, but result 0 of all together is not"):
        verify.check(compiled, inputs, compiled(inputs), outputs)


def test_a_wrong_pass_is_named(monkeypatch):
    def spoil(graph: Graph) -> Graph:
        nodes = (replace(n, op="sigmoid") if n.op == "tanh" and n.origin == "layer3" else n for n in graph.nodes)
        return replace(graph, nodes=tuple(nodes))

    added = [Pass("good", lambda g: g), Pass("spoil", spoil)]
    monkeypatch.setattr("nnaccel_core.hooks.manager.passes", lambda stage, device, own: [*own, *added])
    with pytest.raises(MismatchError, match="The graph pass 'spoil' changed what main computes: result 0"):
        verified(wrong_backend(op="none"))


def test_a_wrong_capture_is_told_apart():
    graph = net()
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, wrong_backend(op="none"), params, Options(verify=True))
    want = [w + 1 for w in run_graph(graph, inputs, params)]
    with pytest.raises(MismatchError, match=r"captured wrongly.*Layers captured: layer0, layer1, layer2, layer3, layer4"):
        verify.check(compiled, inputs, compiled(inputs), want)
    with pytest.raises(MismatchError, match="returned 2 tensors, the framework 1"):
        verify.check(compiled, inputs, compiled(inputs), want[:1])


def test_segments_after_foreign_parts_and_updates():
    """The second segment is wrong; the first updates a parameter, which locating must not do again."""

    def part(name_in: str, name_out: str, origin: str, update: bool) -> Segment:
        b = Builder()
        x = b.input(3)
        moved = b("add", b.param(3), x) if update else x
        graph = b.done(b("tanh", moved), updates=(Update(b.params[0], moved),) if update else ())
        nodes = tuple(replace(n, origin=origin) for n in graph.nodes)
        return Segment(replace(graph, nodes=nodes), (name_in,), (name_out,))

    double = Foreign(lambda a: (a * 2,), ("a",), ("b",), "no mapping")
    program = Program(("x",), (part("x", "a", "one", True), double, part("b", "y", "two", False)), ("y",))
    state = np.zeros(3, np.float32)
    compiled = Compiled(
        Captured(program, {"p0": lambda: state}), wrong_backend(layer="two"), NumpyBridge(), Options(verify=True)
    )
    x = np.array([0.1, 0.2, 0.3], np.float32)
    got = compiled([x])
    state[:] = 0
    want = [np.tanh(2 * np.tanh(x))]
    with pytest.raises(MismatchError, match=r"first group that differs is two \[tanh\]"):
        verify.check(compiled, [x], got, want)
    np.testing.assert_array_equal(state, 0)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


@pytest.mark.parametrize(("got", "want", "text"), [
    (f32(1, 2), f32(1, 2), None),
    (f32(1, 2.0001), f32(1, 2), None),
    (f32(1, 2.01), f32(1, 2), r"largest error is 0.01 at \[1\]"),
    (f32(1e-6, 100), f32(0, 100), None),
    (f32(0, np.nan, np.inf, -np.inf), f32(0, np.nan, np.inf, -np.inf), None),
    (f32(0, 5.0), f32(0, np.nan), r"5.0 instead of nan at \[1\]"),
    (f32(np.nan, 0), f32(1, 0), r"nan instead of 1.0 at \[0\]"),
    (f32(np.inf), f32(-np.inf), "inf instead of -inf"),
    (f32(1e-9), f32(0), None),
    (np.array([1, 2]), np.array([1, 2]), None),
    (np.array([1, 4]), np.array([1, 2]), "1 of 2 elements differ, by up to 2"),
    (np.array([True]), np.array([False]), "1 of 1 elements differ"),
    (f32(1, 2), f32(1), r"float32\[2\] instead of float32\[1\]"),
    (f32(1), np.array([1.0]), "float32.* instead of float64"),
    (f32(), f32(), None),
    (np.array([1 + 1e-9]), np.array([1.0]), "largest error"),
])  # fmt: skip
def test_difference(got, want, text):
    found = verify.difference(got, want)
    if text is None:
        assert found is None
    else:
        import re

        assert re.search(text, found.text)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_batches_that_run_in_slices(n):
    graph = net(sym("n"))
    inputs, params = random_values(graph, env={"n": n})
    compiled = compile_graph(graph, wrong_backend(layer="layer3"), params, Options(verify=True))
    (segment,) = compiled.segments.values()
    segment.slice = 2
    with pytest.raises(MismatchError, match="first group that differs is layer3 "):
        verify.check(compiled, inputs, compiled(inputs), run_graph(graph, inputs, params))
