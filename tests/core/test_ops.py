"""Every operator on its samples: inference, reference, naive loop nests and decompositions agree."""

from __future__ import annotations

import numpy as np
import pytest

from nnaccel_core.errors import ShapeError, UnsupportedError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, TensorType, Value
from nnaccel_core.loopir.nests import run_nests
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, infer, lookup, rewriter

CASES = [pytest.param(op, s, id=f"{op.name}-{i}") for op in all_ops() for i, s in enumerate(op.samples())]


def make_node(op: OpDef, sample: Sample) -> Node:
    inputs = tuple(Value(TensorType(a.shape, str(a.dtype)), f"x{i}") for i, a in enumerate(sample.inputs))
    outputs = tuple(Value(t, f"y{i}") for i, t in enumerate(infer(op.name, [v.type for v in inputs], sample.attrs)))
    return Node(op.name, inputs, outputs, sample.attrs, "sample")


def make_graph(node: Node) -> Graph:
    return Graph(node.inputs, (), (node,), node.outputs)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_inference_agrees_with_the_reference(op, sample):
    node = make_node(op, sample)
    for value, array in zip(node.outputs, op.ref(sample.inputs, sample.attrs), strict=True):
        assert value.shape == np.shape(array)
        assert value.dtype == str(np.asarray(array).dtype)


@pytest.mark.parametrize(("op", "sample"), [c for c in CASES if c.values[0].loop])
def test_loop_nests_agree_with_the_reference(op, sample):
    node = make_node(op, sample)
    nests = op.loop(node)
    assert nests[-1].out in node.outputs
    got = run_nests(nests, dict(zip(node.inputs, sample.inputs, strict=True)), {})
    for value, want in zip(node.outputs, op.ref(sample.inputs, sample.attrs), strict=True):
        np.testing.assert_allclose(got[value], want, rtol=sample.rtol, atol=sample.rtol)


@pytest.mark.parametrize(("op", "sample"), [c for c in CASES if c.values[0].decompositions])
def test_decompositions_agree_with_the_reference(op, sample):
    node = make_node(op, sample)
    for way in op.decompositions.values():
        r = rewriter(make_graph(node))
        for old, new in zip(node.outputs, way(r, node, node.inputs), strict=True):
            r.alias(old, new)
        got = run_graph(r.finish(), list(sample.inputs), {})
        for a, want in zip(got, op.ref(sample.inputs, sample.attrs), strict=True):
            np.testing.assert_allclose(a, want, rtol=1e-4, atol=1e-4)


HALVES = [c for c in CASES if c.values[0].decompositions and c.values[1].inputs[0].dtype == np.float32]


def in_half(node: Node, dtype: str) -> Node:
    """``node`` on operands of ``dtype`` instead of float32."""

    def narrowed(v: Value) -> Value:
        return Value(TensorType(v.shape, dtype), v.name) if v.dtype == "float32" else v

    kept = 4 if node.op == "sdpa_backward" else None  # the log-sum-exp
    inputs = [v if i == kept else narrowed(v) for i, v in enumerate(node.inputs)]
    kinds = infer(node.op, [v.type for v in inputs], node.attrs)
    return Node(node.op, inputs, [Value(t, v.name) for t, v in zip(kinds, node.outputs, strict=True)], node.attrs, "half")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("op", "sample"), HALVES)
def test_decompositions_in_half_precision(op, sample, dtype):
    """They keep their results' types; numbers are those of float64, rounded once or a few times (numpy has no bfloat16)."""
    node = in_half(make_node(op, sample), dtype)
    for way in op.decompositions.values():
        r = rewriter(make_graph(node))
        made = way(r, node, node.inputs)
        assert [v.type for v in made] == [v.type for v in node.outputs]
        for old, new in zip(node.outputs, made, strict=True):
            r.alias(old, new)
        graph = r.finish()
        if dtype == "float16":
            given = [a.astype(np.float16) if v.dtype == "float16" else a for a, v in zip(sample.inputs, node.inputs, strict=True)]
            want = op.ref([a.astype(np.float64) if a.dtype == np.float16 else a for a in given], sample.attrs)
            for a, b in zip(run_graph(graph, given, {}), want, strict=True):
                np.testing.assert_allclose(a.astype(np.float64), b, rtol=1e-2, atol=1e-2)


def test_all_ops_but_internal_ones_have_samples():
    without = {op.name for op in all_ops() if not list(op.samples())}
    assert without == {"constant", "pack"}


def test_nan_goes_through_as_in_the_framework():
    x = np.array([np.nan, -1.0, 2.0], np.float32)
    for name, attrs in (("relu", {}), ("clip", {"min": 0.0, "max": 1.0}), ("leaky_relu", {"alpha": 0.1})):
        op = lookup(name)
        node = make_node(op, Sample((x,), attrs))
        (want,) = op.ref([x], attrs)
        got = run_nests(op.loop(node), {node.inputs[0]: x}, {})[node.output]
        assert np.isnan(want[0])
        assert np.isnan(got[0])


@pytest.mark.parametrize(
    ("op", "shapes", "attrs", "text"),
    [
        ("add", [(2, 3), (2, 4)], {}, "differ"),
        ("matmul", [(2, 3), (4, 5)], {}, "inner dimensions"),
        (
            "conv",
            [(1, 3, 4, 4), (2, 4, 3, 3)],
            {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1},
            "channels",
        ),
        (
            "conv",
            [(1, 3, 2, 2), (2, 3, 3, 3)],
            {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": 1},
            "larger",
        ),
        ("reshape", [(2, 3)], {"shape": (7,)}, "elements"),
        ("softmax", [(2, 3)], {"axis": 2}, "axis"),
        ("concat", [(2, 3), (3, 3)], {"axis": 1}, "axis 0"),
        ("transpose", [(2, 3)], {"perm": (0, 0)}, "permutation"),
        ("slice", [(4,)], {"starts": (2,), "ends": (5,), "steps": (1,)}, "leaves"),
    ],
)
def test_bad_shapes_are_refused_with_the_layer(op, shapes, attrs, text):
    with pytest.raises(ShapeError, match=text) as e:
        infer(op, [TensorType(s, "float32") for s in shapes], attrs, "block.3.layer")
    assert "block.3.layer" in str(e.value)


def test_dtype_mismatch_is_refused():
    with pytest.raises(ShapeError, match="dtypes"):
        infer("add", [TensorType((2,), "float32"), TensorType((2,), "int64")], {})


def test_unknown_op_is_named():
    with pytest.raises(UnsupportedError, match=r"'frobnicate'.*head\.fc"):
        lookup("frobnicate", "head.fc")
