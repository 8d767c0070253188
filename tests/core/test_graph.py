"""Graphs: verification, printing, the interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.graphs import Builder, conv_bn_relu_net, random_values
from nnaccel_core.errors import InputError, VerifyError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, TensorType, Update, Value, prune, sym
from nnaccel_core.ir.verify import verify
from nnaccel_core.ops.registry import collect_guards, infer


def test_a_good_graph_verifies_and_prints():
    graph = conv_bn_relu_net(sym("n"))
    assert verify(graph, infer) is graph
    text = str(graph)
    assert "%v0 = conv(%x0, %p0" in text
    assert "float32[n, 8, 9, 9]" in text
    assert "# layer0" in text


def test_symbolic_batch_runs_at_any_size():
    graph = conv_bn_relu_net(sym("n"))
    one, params = random_values(graph, env={"n": 1})
    (y1,) = run_graph(graph, one, params)
    (y3,) = run_graph(graph, [np.concatenate(one * 3)], params)
    np.testing.assert_allclose(y3, np.concatenate([y1] * 3), rtol=1e-5)


def test_wrong_inputs_are_named():
    graph = conv_bn_relu_net(2)
    inputs, params = random_values(graph)
    with pytest.raises(InputError, match="takes 1 inputs, got 2"):
        run_graph(graph, inputs * 2, params)
    with pytest.raises(InputError, match=r"%x0.*\[1, 3, 9, 9\]"):
        run_graph(graph, [inputs[0][:1]], params)


def _broken() -> list[tuple[str, Graph]]:
    b = Builder()
    x = b.input(2, 3)
    y = b("relu", x)
    good = b.done(y)
    node = good.nodes[0]
    stray = Value(TensorType((2, 3), "float32"), "stray")
    wrong = Value(TensorType((9, 9), "float32"), "wrong")
    return [
        ("before it is defined", replace(good, nodes=(replace(node, inputs=(stray,)),))),
        ("assigns %v0 again", replace(good, nodes=(node, node))),
        ("never computed", replace(good, outputs=(stray,))),
        ("is typed", replace(good, nodes=(replace(node, outputs=(wrong,)),), outputs=(wrong,))),
        ("neither input nor parameter", replace(good, updates=(Update(y, y),))),
        ("unknown op", replace(good, nodes=(Node("nonsense", (x,), (stray,)),))),
        ("given twice", replace(good, inputs=(x, x))),
    ]


@pytest.mark.parametrize(("text", "graph"), _broken(), ids=[t for t, _ in _broken()])
def test_broken_graphs_are_refused(text, graph):
    with pytest.raises(VerifyError, match=text) as e:
        verify(graph, infer, "some_pass")
    assert "after some_pass" in str(e.value)


def test_prune_drops_what_nobody_needs():
    b = Builder()
    x, p, q = b.input(2), b.param(2), b.param(2)
    y = b("add", x, p)
    b("mul", x, q)
    pruned = prune(b.done(y))
    assert [n.op for n in pruned.nodes] == ["add"]
    assert pruned.params == (p,)


def test_undecidable_equality_becomes_a_guard():
    n, m = sym("n"), sym("m")
    with collect_guards() as guards:
        infer("add", [TensorType((n, 2), "float32"), TensorType((m, 2), "float32")], {})
    assert guards == [(n, m)]
