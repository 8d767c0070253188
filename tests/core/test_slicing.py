"""Batch slicing: which graphs may be sliced, and into what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.graphs import CONV, Builder, conv_bn_relu_net
from nnaccel_core.api import Machine
from nnaccel_core.driver.slicing import (
    CALL_SECONDS,
    CALL_SHARE,
    batch_symbol,
    cached_slice,
    choose,
    layers,
    slices,
    worthy_slice,
)
from nnaccel_core.driver.stages import connect, crossing, parts_of
from nnaccel_core.ir import Graph, Node, TensorType, Update, Value, evaluate, sym
from nnaccel_core.ops import registry
from nnaccel_core.passes.pipeline import GRAPH_PASSES, run_passes
from nnaccel_core.testing.interpreter import InterpreterBackend

MACHINE = Machine("x86", "test", "avx2", 2, 32, 32 << 10, 512 << 10, 32 << 20, 200e9, 25e9)


def test_a_convolutional_network_can_be_sliced():
    assert batch_symbol(run_passes(conv_bn_relu_net(sym("n")), GRAPH_PASSES)) == "n"


def test_a_fixed_batch_cannot():
    assert batch_symbol(run_passes(conv_bn_relu_net(2), GRAPH_PASSES)) is None


def _mixing():
    n = sym("n")
    b = Builder()
    x = b.input(n, 4)
    yield "softmax over the batch", b.done(b("softmax", x, axis=0))
    b = Builder()
    x = b.input(n, 4)
    yield "sum over the batch", b.done(b("add", x, b("reduce_sum", x, axes=(0,), keepdims=True)))
    b = Builder()
    x = b.input(n, 4)
    yield "flip of the batch", b.done(b("flip", x, axes=(0,)))
    b = Builder()
    x = b.input(n, 4)
    yield "roll of the batch", b.done(b("roll", x, shifts=(1,), axes=(0,)))
    b = Builder()
    x = b.input(n, 4)
    yield "concat of batches", b.done(b("concat", x, x, axis=0))
    b = Builder()
    x = b.input(n, 4)
    yield "product of samples", b.done(b("matmul", x, x, transpose_b=True))
    b = Builder()
    x = b.input(n, 4)
    yield "transposed batch", b.done(b("transpose", b("relu", b("transpose", x, perm=(1, 0))), perm=(1, 0)), b("relu", x))
    b = Builder()
    x = b.input(n, 4)
    yield "batch folded into another axis", b.done(b("reshape", x, shape=(n * 2, 2)))
    b = Builder()
    x = b.input(n, 4)
    yield "a host operator", b.done(b("cumsum", x, axis=0))
    b = Builder()
    x, y = b.input(n, 4), b.input(sym("m"), 4)
    yield "two batches", b.done(b("relu", x), b("relu", y))
    b = Builder()
    x, p = b.input(n, 4), b.param(4)
    total = b("reduce_sum", x, axes=(0,), keepdims=False)
    yield "an update", b.done(b("relu", x), updates=(Update(p, total),))
    b = Builder()
    x = b.input(n, 4)
    yield "an output without the batch", b.done(b("relu", x), b("reduce_sum", x, axes=(0,), keepdims=False))


@pytest.mark.parametrize(("what", "graph"), list(_mixing()), ids=[w for w, _ in _mixing()])
def test_what_mixes_samples_is_never_sliced(what, graph):
    assert batch_symbol(graph) is None


def test_parameters_may_broadcast_over_the_batch():
    b = Builder()
    x = b.input(sym("n"), 3, 5, 5)
    y = b("conv", b("add", x, b.param(1, 3, 1, 1)), b.param(4, 3, 3, 3), **CONV)
    assert batch_symbol(b.done(b("matmul", b("reshape", y, shape=(sym("n"), 100)), b.param(100, 7)))) == "n"


@given(st.integers(0, 300), st.sampled_from([1, 2, 4, 8, 16]))
def test_slices_add_up(total, largest):
    found = slices(total, largest)
    assert sum(found) == total
    assert all(s <= largest for s in found)
    assert max(found) - min(found) <= 1
    assert len(found) == max(1, -(-total // largest))
    assert list(found) == sorted(found, reverse=True)


def test_heavy_weights_ask_for_larger_slices():
    assert cached_slice(14_000_000, 0.6e9, MACHINE) >= 1
    assert cached_slice(102_000_000, 8.2e9, MACHINE) <= cached_slice(553_000_000, 31e9, MACHINE)
    assert cached_slice(10**12, 1.0, MACHINE) == 64
    assert cached_slice(0, 1e9, MACHINE) == 1


def test_the_backend_chooses_or_leaves_it_to_the_core():
    class Chooses(InterpreterBackend):
        def largest_slice(self, layers: Any) -> int:
            return len(layers())

        def stages(self, layers: Any) -> Any:
            return ((0, 2), (2, 16))

    graph = residuals()
    found = layers(graph, "n")
    assert choose(graph, "n", Chooses(MACHINE, "cpu")) == (len(found), ((0, 2), (found[2].node, 16)))
    weights, flops = sum(a.weights for a in found), sum(a.flops for a in found)
    moved = sum(evaluate(v.type.nbytes, {"n": 1}) for v in (*graph.inputs, *graph.outputs))
    wanted = max(cached_slice(weights, flops, MACHINE), worthy_slice(flops, moved, MACHINE))
    assert choose(graph, "n", InterpreterBackend(MACHINE, "cpu")) == (wanted, ())


def test_slices_are_worth_a_call():
    """Elements of a vector are samples, too: one at a time, 4096 of them took 4096 calls."""
    n = sym("n")
    x = Value(TensorType((n,), "float32"), "x")
    y = Value(TensorType((n,), "float32"), "y")
    vector = Graph((x,), (), (Node("relu", (x,), (y,), {}, "layer"),), (y,), name="vector")
    assert batch_symbol(vector) == "n"
    size, stages = choose(vector, "n", InterpreterBackend(MACHINE, "cpu"))
    assert size * 8 >= MACHINE.bandwidth * CALL_SECONDS / CALL_SHARE > size * 4 and stages == ()
    assert worthy_slice(1e12, 4, MACHINE) == 1, "samples that take long enough run one by one"


def test_layers_of_a_network():
    first, second, *_, product = layers(residuals(), "n")
    assert (first.flops, first.weights, first.outputs) == (2 * 4 * 27 * 64, 4 * 4 * 27, 4 * 64)
    assert first.nbytes == 4 * (3 + 4) * 64 and second.nbytes == 4 * (4 + 4) * 64
    assert (product.weights, product.outputs) == (4 * 256 * 5, 5)


def residuals() -> Graph:
    """Convolutions with a residual around the second, and a product of what is left at the end."""
    b = Builder()
    x = b.input(sym("n"), 3, 8, 8)
    y = b("relu", b("conv", x, b.param(4, 3, 3, 3), **CONV))
    z = b("relu", b("add", b("conv", y, b.param(4, 4, 3, 3), **CONV), y))
    z = b("conv", z, b.param(4, 4, 3, 3), **CONV)
    return b.done(b("matmul", b("reshape", z, shape=(sym("n"), 256)), b.param(256, 5)))


def test_where_stages_may_begin_and_what_crosses():
    graph = residuals()
    found = {graph.nodes[a.node].op + str(a.node): a for a in layers(graph, "n")}
    image = 4 * 4 * 64
    assert [a.enters for a in found.values()] == [None, image, image, None], "nothing before the first; the last reads a view"
    assert [a.held for a in found.values()] == [image, 2 * image, 2 * image, image + 4 * 5]
    for a in found.values():
        assert (crossing(graph, a.node) is None) == (a.enters is None), "both say where it can be cut"
    two = next(a.node for a in found.values() if a.node and graph.nodes[a.node].op == "conv")
    parts = parts_of(graph, [0, two])
    assert [len(p.nodes) for p in parts] == [two, len(graph.nodes) - two]
    assert parts[0].outputs == parts[1].inputs == crossing(graph, two)
    assert parts[1].outputs == graph.outputs
    assert sorted(p.name for g in parts for p in g.params) == sorted(p.name for p in graph.params)
    inside = next(i for i, n in enumerate(graph.nodes) if n.op == "add")
    assert len(crossing(graph, inside) or ()) == 2, "the residual too"


def test_no_stage_ends_behind_a_result():
    b = Builder()
    x = b.input(sym("n"), 4)
    y = b("relu", x)
    z = b("softmax", y, axis=1)
    graph = b.done(y, b("exp", z))
    assert crossing(graph, 1) is None


def test_three_stages_of_which_the_last_reads_from_both():
    b = Builder()
    x = b.input(sym("n"), 4)
    y = b("softmax", x, axis=1)
    z = b("softmax", y, axis=1)
    graph = b.done(b("add", b("softmax", z, axis=1), y))
    parts = parts_of(graph, [0, 1, 2])
    connected, held = connect(parts, [None] * 3, graph, [1, 0, 2])  # type: ignore[list-item]
    assert held == [y, z]
    assert [p.inputs for p in connected] == [(("input", 0),), (("held", 0),), (("held", 1), ("held", 0))]
    assert [p.outputs for p in connected] == [(("held", 0),), (("held", 1),), (("output", 0),)]
    assert [(p.begin, p.end) for p in connected] == [(0, 1), (1, 1), (1, 3)]


def test_a_network_that_asks_for_the_batch_size_is_not_sliced() -> None:
    """A slice would be told its own size: a mean over the batch written by hand would be another number."""
    x = Value(TensorType((sym("n"), 4), "float32"), "x")
    (size,) = registry.infer("extent", [], {"dim": sym("n"), "dtype": "float32"})
    count, out = Value(size, "count"), Value(x.type, "out")
    nodes = (Node("extent", (), (count,), {"dim": sym("n"), "dtype": "float32"}), Node("div", (x, count), (out,)))
    assert batch_symbol(Graph((x,), (), nodes, (out,))) is None
    other = (Node("extent", (), (count,), {"dim": 4, "dtype": "float32"}), Node("div", (x, count), (out,)))
    assert batch_symbol(Graph((x,), (), other, (out,))) == "n"
