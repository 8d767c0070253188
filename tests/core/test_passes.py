"""Passes: what each one does to a small graph, and that none changes what random graphs compute."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.graphs import CONV, Builder, conv_bn_relu_net, random_values
from nnaccel_core.interp import run_graph, run_values
from nnaccel_core.ir import Graph, channels_last, sym
from nnaccel_core.ir.verify import verify
from nnaccel_core.ops.registry import infer
from nnaccel_core.passes import canonicalize, fold, layout
from nnaccel_core.passes.pipeline import GRAPH_PASSES, run_passes
from nnaccel_core.passes.prepare import split_prepare


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def check_same(before: Graph, after: Graph, env=None, tol=1e-4) -> None:
    verify(after, infer, "test")
    inputs, params = random_values(before, env=env)
    for a, b in zip(run_graph(before, inputs, params), run_graph(after, inputs, params), strict=True):
        np.testing.assert_allclose(a, b, rtol=tol, atol=tol)


def test_identities_go():
    b = Builder()
    x = b.input(2, 3)
    y = b("reshape", x, shape=(2, 3))
    y = b("transpose", y, perm=(0, 1))
    y = b("cast", y, dtype="float32")
    y = b("slice", y, starts=(0, 0), ends=(2, 3), steps=(1, 1))
    y = b("relu", y)
    before = b.done(y)
    after = canonicalize.eliminate_identities(before)
    assert ops(after) == ["relu"]
    check_same(before, after)


def test_an_output_that_is_the_input_stays():
    b = Builder()
    x = b.input(2, 3)
    after = canonicalize.eliminate_identities(b.done(b("reshape", x, shape=(2, 3))))
    assert after.outputs == (x,)


def test_views_merge():
    b = Builder()
    x = b.input(2, 3, 4)
    y = b("reshape", b("reshape", x, shape=(6, 4)), shape=(24,))
    z = b("transpose", b("transpose", x, perm=(2, 0, 1)), perm=(1, 2, 0))
    before = b.done(y, z)
    after = canonicalize.eliminate_identities(canonicalize.merge_views(before))
    assert ops(after) == ["reshape"]
    check_same(before, after)


def test_constants_fold():
    b = Builder()
    x = b.input(3)
    y = b("mul", b("add", b.const([1.0, 2.0, 3.0]), b.const(1.0)), x)
    before = b.done(y)
    after = canonicalize.fold_constants(before)
    assert Counter(ops(after)) == {"constant": 1, "mul": 1}
    check_same(before, after)


def test_common_subexpressions_merge():
    b = Builder()
    x = b.input(3)
    y = b("add", b("exp", x), b("exp", x))
    before = b.done(y)
    after = canonicalize.eliminate_common_subexpressions(before)
    assert ops(after) == ["exp", "add"]
    check_same(before, after)


def test_batch_norm_folds_into_conv_and_matmul():
    before = conv_bn_relu_net(sym("n"))
    after = fold.fold_batch_norm(before)
    assert "batch_norm" not in ops(after)
    split = split_prepare(run_passes(before, GRAPH_PASSES))
    assert ops(split.main) == ["conv", "relu", "conv", "clip", "add", "max_pool", "reduce_mean", "reshape", "matmul", "softmax"]
    check_same(before, after, {"n": 2})

    b = Builder()
    x = b.input(4, 6)
    y = b("matmul", x, b.param(5, 6), transpose_b=True)
    y = b("batch_norm", y, *(b.param(5) for _ in range(4)), eps=1e-3)
    before = b.done(y)
    after = fold.fold_batch_norm(before)
    assert "batch_norm" not in ops(after)
    check_same(before, after)


def test_batch_norm_does_not_fold_into_a_shared_or_returned_conv():
    b = Builder()
    x = b.input(1, 3, 5, 5)
    y = b("conv", x, b.param(4, 3, 3, 3), **CONV)
    z = b("batch_norm", y, *(b.param(4) for _ in range(4)), eps=1e-5)
    assert "batch_norm" in ops(fold.fold_batch_norm(b.done(z, y)))
    assert "batch_norm" in ops(fold.fold_batch_norm(b.done(b("add", z, y))))


def test_bias_folds_only_per_channel():
    b = Builder()
    x = b.input(1, 3, 5, 5)
    y = b("add", b("conv", x, b.param(4, 3, 3, 3), **CONV), b.param(4, 1, 1))
    before = b.done(y)
    after = fold.fold_bias(before)
    assert ops(split_prepare(after).main) == ["conv"]
    check_same(before, after)
    b = Builder()
    x = b.input(1, 3, 5, 5)
    y = b("add", b("conv", x, b.param(5, 3, 3, 3), **CONV), b.param(5))  # along the width, not the channels
    before = b.done(y)
    after = fold.fold_bias(before)
    assert "add" in ops(after)
    check_same(before, after)


def test_layouts_become_channels_last_with_copies_at_the_edges():
    graph = run_passes(conv_bn_relu_net(2), GRAPH_PASSES)
    laid = layout.materialize_outputs(layout.assign_layouts(graph))
    verify(laid, infer)
    split = split_prepare(laid)
    assert ops(split.main).count("reorder") == 1  # the image; pooled 1x1 needs none
    assert ops(split.prepare).count("reorder") == 1  # the depthwise weights
    convs = [n for n in laid.nodes if n.op == "conv"]
    assert all(n.output.type.layout == channels_last(4) for n in convs)
    check_same(graph, laid)


def test_output_layout_is_what_the_caller_wants():
    b = Builder()
    x = b.input(1, 3, 5, 5)
    y = b("conv", x, b.param(4, 3, 3, 3), **CONV)
    graph = b.done(y)
    row_major = layout.assign_layouts(graph)
    assert row_major.outputs[0].type.layout == (0, 1, 2, 3)
    last = layout.assign_layouts(graph, [channels_last(4)])
    assert last.outputs[0].type.layout == channels_last(4)
    assert ops(last).count("reorder") == ops(row_major).count("reorder") - 1


def test_outputs_get_memory_of_their_own():
    b = Builder()
    x, p = b.input(2, 3), b.param(2, 3)
    y = b("relu", x)
    graph = b.done(x, p, y, y, b("reshape", y, shape=(6,)), b.const([1.0]))
    after = layout.materialize_outputs(graph)
    roots = [layout.view_root(v, after.producers()) for v in after.outputs]
    assert len(set(roots)) == 6
    assert not set(roots) & {x, p}
    check_same(graph, after)


def test_prepare_takes_all_that_depends_on_parameters_only():
    graph = conv_bn_relu_net(2)
    split = split_prepare(run_passes(graph, GRAPH_PASSES))
    inputs, params = random_values(graph)
    values = run_values(split.prepare, [], params)
    named = {p.name: values[p] for p in split.main.params}
    assert len(named) == len(split.main.params)
    want = run_graph(graph, inputs, params)
    np.testing.assert_allclose(run_graph(split.main, inputs, named)[0], want[0], rtol=1e-4, atol=1e-5)


def test_in_training_element_wise_results_stay_with_what_they_join():
    """Running statistics times their momentum: no pass of their own at each step."""
    b = Builder()
    statistics, mean, scale, w, x = b.param(6), b.input(6), b.param(6), b.param(6, 4), b.input(2, 6)
    new = b("add", b("mul", statistics, b.const(0.9)), mean)
    wide = b("mul", x, b("exp", scale))  # would be computed for each row
    graph = b.done(new, b("matmul", wide, b("neg", w)))
    assert ops(split_prepare(graph).prepare) == ["constant", "mul", "exp", "neg"]
    live = split_prepare(graph, live=True)
    assert ops(live.prepare) == ["exp", "neg"] and statistics in live.main.params
    inputs, params = random_values(graph)
    prepared = run_values(live.prepare, [], params)
    named = {p.name: prepared[p] for p in live.main.params}
    for got, want in zip(run_graph(live.main, inputs, named), run_graph(graph, inputs, params), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5)


def test_prepare_leaves_what_is_as_large_as_the_batch():
    b = Builder()
    n = sym("n")
    x = b.input(n, 3)
    graph = b.done(b("add", x, b("exp", b("expand", b("neg", b.param(3)), shape=(n, 3)))))
    split = split_prepare(graph)
    assert ops(split.prepare) == ["neg"] and ops(split.main) == ["expand", "exp", "add"]


@st.composite
def random_graphs(draw) -> Graph:
    """Random chains and joins of image ops on a symbolic batch."""
    b = Builder()
    n = sym("n")
    live = [b.input(n, 4, 6, 6)]
    for _ in range(draw(st.integers(1, 7))):
        v = draw(st.sampled_from(live))
        kind = draw(
            st.sampled_from(
                [
                    "relu",
                    "clip",
                    "sigmoid",
                    "add",
                    "mul",
                    "param",
                    "conv",
                    "dw",
                    "bn",
                    "pool",
                    "avg",
                    "shrink",
                    "twins",
                    "view",
                    "mean",
                    "same",
                    "cat",
                ]
            )
        )
        c = v.shape[1]
        if kind in ("relu", "sigmoid"):
            w = b(kind, v)
        elif kind == "clip":
            w = b("clip", v, min=-1.0, max=1.0)
        elif kind in ("add", "mul"):
            partners = [u for u in live if u.shape == v.shape]
            w = b(kind, v, draw(st.sampled_from(partners)))
        elif kind == "param":
            w = b("add", v, b.param(c, 1, 1))
        elif kind == "conv":
            w = b("conv", v, b.param(4, c, 1, 1), **{**CONV, "padding": ((0, 0), (0, 0))})
        elif kind == "dw":
            w = b("conv", v, b.param(c, 1, 3, 3), **{**CONV, "groups": c})
        elif kind == "bn":
            w = b("batch_norm", v, *(b.param(c) for _ in range(4)), eps=1e-5)
        elif kind == "pool":
            w = b("max_pool", v, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False)
        elif kind == "avg":
            w = b("avg_pool", v, kernel=(3, 3), stride=(1, 1), padding=((1, 1), (1, 1)), ceil_mode=False, count_include_pad=False)
        elif kind == "shrink" and min(v.shape[2:]) >= 2:
            w = b("max_pool", v, kernel=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)), dilation=(1, 1), ceil_mode=False)
        elif kind == "twins":
            point = {**CONV, "padding": ((0, 0), (0, 0))}
            w = b("concat", *(b("conv", v, b.param(2, c, 1, 1), b.param(2), **point) for _ in range(2)), axis=1)
        elif kind == "view":
            w = b("transpose", b("transpose", v, perm=(0, 2, 3, 1)), perm=(0, 3, 1, 2))
        elif kind == "cat":
            partners = [u for u in live if u.shape[2:] == v.shape[2:] and u.shape[1] < 16]
            w = b("concat", v, draw(st.sampled_from(partners)) if partners else v, axis=1)
        elif kind == "mean":
            w = b("add", v, b("reduce_mean", v, axes=(2, 3), keepdims=True))
        else:
            w = b("reshape", v, shape=v.shape)
        live.append(w)
    outs = draw(st.lists(st.sampled_from(live), min_size=1, max_size=2))
    return b.done(*outs)


PASSES = [
    *GRAPH_PASSES,
    ("assign_layouts", layout.assign_layouts),
    ("materialize_outputs", layout.materialize_outputs),
    ("split_prepare", lambda g: split_prepare(g) and g),
]


@settings(max_examples=60, deadline=None)
@given(random_graphs())
def test_passes_keep_the_meaning_of_random_graphs(graph):
    inputs, params = random_values(graph, env={"n": 2})
    want = run_graph(graph, inputs, params)
    current = graph
    for name, run in PASSES:
        current = verify(run(current), infer, name)
        for a, w in zip(run_graph(current, inputs, params), want, strict=True):
            np.testing.assert_allclose(a, w, rtol=2e-4, atol=2e-4, err_msg=f"after {name}\n{current}")


@pytest.mark.parametrize("name", [n for n, _ in GRAPH_PASSES])
def test_passes_are_idempotent_on_the_sample_net(name):
    run = dict(GRAPH_PASSES)[name]
    once = run(conv_bn_relu_net(2))
    assert ops(run(once)) == ops(once)
