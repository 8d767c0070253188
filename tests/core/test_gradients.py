"""Gradient rules: every op's samples against finite differences, and torch as the judge of kinks, ties and edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from core.test_ops import in_half, make_node
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, Rewriter, TensorType, Value, sym
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, infer, lookup, rewriter

Array = np.ndarray[Any, Any]

#: Float ops on which no gradient is defined: recurrent layers are trained step by step, or in the framework.
WITHOUT = {"constant", "stop_gradient", "lstm", "gru", "rnn"}


def reverse(r: Rewriter, node: Node, grads: Sequence[Value | None]) -> list[Value | None]:
    """Gradients of the node's inputs by its rule, or else by the rules of what it decomposes to."""
    op = lookup(node.op)
    if op.vjp is not None:
        return list(op.vjp(r, node, node.inputs, node.outputs, grads))
    assert op.decompositions, f"{node.op} has neither a gradient rule nor decompositions"
    mark = len(r.nodes)
    outputs = next(iter(op.decompositions.values()))(r, node, node.inputs)
    inner = r.nodes[mark:]
    known: dict[Value, Value] = {v: g for v, g in zip(outputs, grads, strict=True) if g is not None}
    # What depends on integers and constants alone has no gradient to pass on.
    carrying = {v for v in node.inputs if v.type.is_float}
    for n in inner:
        if any(v in carrying for v in n.inputs):
            carrying.update(v for v in n.outputs if v.type.is_float)
    for n in reversed(inner):
        given = [known.get(v) for v in n.outputs]
        if all(g is None for g in given) or not any(v in carrying for v in n.inputs):
            continue
        for v, g in zip(n.inputs, reverse(r, n, given), strict=True):
            if g is not None and v in carrying:
                known[v] = g if v not in known else r.add("add", [known[v], g])
    return [known.get(v) for v in node.inputs]


def gradients(
    name: str, types: Sequence[TensorType], attrs: Mapping[str, Any], arrays: Sequence[Array], given: Sequence[Array | None]
) -> list[Array | None]:
    """What the rule of the op ``name`` gives for ``arrays`` of ``types``, with ``given`` as the gradients of its results."""
    inputs = tuple(Value(t, f"x{i}") for i, t in enumerate(types))
    outputs = tuple(Value(t, f"y{i}") for i, t in enumerate(infer(name, types, attrs)))
    node = Node(name, inputs, outputs, attrs, "sample")
    grads = [None if g is None else Value(v.type, f"g{i}") for i, (v, g) in enumerate(zip(outputs, given, strict=True))]
    all_inputs = (*inputs, *(v for v in grads if v is not None))
    r = rewriter(Graph(all_inputs, (), (node,), outputs))
    r.emit(node)
    found = reverse(r, node, grads)
    for v, g in zip(inputs, found, strict=True):
        assert g is None or (g.shape == v.shape and g.dtype == v.dtype), f"{g!r} is the gradient of {v!r}"
    wanted = tuple(g for g in found if g is not None)
    graph = Graph(all_inputs, (), tuple(r.nodes), wanted)
    with np.errstate(all="ignore"):
        results = iter(run_graph(graph, [*arrays, *(g for g in given if g is not None)], {}))
    return [None if g is None else next(results) for g in found]


def types_of(arrays: Sequence[Array]) -> list[TensorType]:
    return [TensorType(a.shape, str(a.dtype)) for a in arrays]


def in_float64(sample: Sample) -> tuple[list[Array], dict[str, Any]]:
    attrs = {k: "float64" if k == "dtype" and v == "float32" else v for k, v in sample.attrs.items()}
    return [a.astype(np.float64) if a.dtype == np.float32 else a for a in sample.inputs], attrs


def differentiable(op: OpDef, sample: Sample) -> bool:
    arrays, attrs = in_float64(sample)
    outputs = infer(op.name, types_of(arrays), attrs)
    floats = [a for a in arrays if a.dtype == np.float64]
    return outputs[0].is_float and bool(floats) and all(np.isfinite(a).all() for a in floats) and op.name not in WITHOUT


CASES = [
    pytest.param(op, s, id=f"{op.name}-{i}") for op in all_ops() for i, s in enumerate(op.samples()) if differentiable(op, s)
]


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_gradients_of_half_precision_are_of_it(op: OpDef, sample: Sample) -> None:
    """Sums inside may be in float32."""
    node = in_half(make_node(op, sample), "bfloat16")
    grads = [Value(v.type, f"g{i}") if v.type.is_float else None for i, v in enumerate(node.outputs)]
    r = rewriter(Graph((*node.inputs, *(g for g in grads if g is not None)), (), (node,), node.outputs))
    r.emit(node)
    for v, g in zip(node.inputs, reverse(r, node, grads), strict=True):
        assert g is None or (g.shape == v.shape and g.dtype == v.dtype)


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_finite_differences(op: OpDef, sample: Sample) -> None:
    arrays, attrs = in_float64(sample)
    rng = np.random.default_rng(0)
    given: list[Array | None] = []
    for t in infer(op.name, types_of(arrays), attrs):
        given.append(np.asarray(rng.normal(size=t.shape)) if t.is_float else None)

    def value(xs: Sequence[Array]) -> float:
        return sum(float((g * y).sum()) for g, y in zip(given, op.ref(xs, attrs), strict=True) if g is not None)

    found = gradients(op.name, types_of(arrays), attrs, arrays, given)
    step = 1e-6
    for i, got in enumerate(found):
        if arrays[i].dtype != np.float64:
            assert got is None
            continue
        direction = np.asarray(rng.normal(size=arrays[i].shape))
        ends = [[a + s * step * direction if k == i else a for k, a in enumerate(arrays)] for s in (1, -1)]
        numeric = (value(ends[0]) - value(ends[1])) / (2 * step)
        exact = 0.0 if got is None else float((got * direction).sum())
        assert exact == pytest.approx(numeric, rel=2e-5, abs=2e-6), f"input {i}"


def test_every_float_op_is_covered() -> None:
    """An op with floating-point results has a rule, or decompositions that have."""
    tested = {c.values[0].name for c in CASES}
    for op in all_ops():
        samples = [s for s in op.samples() if s.inputs and differentiable(op, s)]
        assert op.name in tested or not samples
        assert op.vjp or op.decompositions or not samples, op.name


# --- torch decides ------------------------------------------------------------------------------------------------

KINKS = np.array([-20.0, -3.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 3.0, 6.0, 20.0, 25.0])
UNARY: list[tuple[str, Mapping[str, Any], Callable[[Any, Any], Any]]] = [
    ("relu", {}, lambda t, x: t.relu(x)),
    ("abs", {}, lambda t, x: t.abs(x)),
    ("clip", {"min": -1.0, "max": 3.0}, lambda t, x: t.clamp(x, -1, 3)),
    ("clip", {"min": float("-inf"), "max": 3.0}, lambda t, x: t.clamp(x, max=3)),
    ("clip", {"min": -1.0, "max": 3.0, "open": True}, lambda t, x: t.nn.functional.hardtanh(x, -1, 3)),
    ("clip", {"min": 0.0, "max": 6.0, "open": True}, lambda t, x: t.nn.functional.relu6(x)),
    ("leaky_relu", {"alpha": 0.1}, lambda t, x: t.nn.functional.leaky_relu(x, 0.1)),
    ("leaky_relu", {"alpha": -0.5}, lambda t, x: t.nn.functional.leaky_relu(x, -0.5)),
    ("elu", {"alpha": 1.5}, lambda t, x: t.nn.functional.elu(x, 1.5)),
    ("softplus", {"beta": 1.0, "threshold": 20.0}, lambda t, x: t.nn.functional.softplus(x)),
    ("hardsigmoid", {}, lambda t, x: t.nn.functional.hardsigmoid(x)),
    ("hardswish", {}, lambda t, x: t.nn.functional.hardswish(x)),
    ("silu", {}, lambda t, x: t.nn.functional.silu(x)),
    ("gelu", {"approximate": "none"}, lambda t, x: t.nn.functional.gelu(x)),
    ("gelu", {"approximate": "tanh"}, lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
    ("floor", {}, lambda t, x: t.floor(x)),
    ("round", {}, lambda t, x: t.round(x)),
    ("reduce_prod", {"axes": (0,), "keepdims": True}, lambda t, x: t.prod(x, 0, keepdim=True)),
    ("sort", {"axis": 0, "descending": True}, lambda t, x: t.sort(x, dim=0, descending=True, stable=True).values),
]


def compare(name: str, attrs: Mapping[str, Any], arrays: Sequence[Array], run: Callable[..., Any], rtol: float = 1e-9) -> None:
    """The rule's gradients of the float operands against torch's autograd."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    y = run(torch, *tensors)
    g = np.random.default_rng(3).normal(size=tuple(y.shape))
    y.backward(torch.tensor(g))
    count = len(infer(name, types_of(arrays), attrs))
    found = gradients(name, types_of(arrays), attrs, arrays, [g, *[None] * (count - 1)])
    for a, got, t in zip(arrays, found, tensors, strict=True):
        if a.dtype == np.float64:
            want = np.zeros(a.shape) if t.grad is None else t.grad.numpy()
            np.testing.assert_allclose(np.zeros(a.shape) if got is None else got, want, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("name", "attrs", "run"), UNARY)
def test_kinks(name: str, attrs: Mapping[str, Any], run: Callable[..., Any]) -> None:
    # torch has a sixth in float32 for hardsigmoid.
    compare(name, attrs, [KINKS], run, 1e-7 if name == "hardsigmoid" else 1e-9)


@pytest.mark.parametrize("name", ["relu", "clip", "leaky_relu"])
def test_nan(name: str) -> None:
    attrs = {"relu": {}, "clip": {"min": 0.0, "max": 1.0}, "leaky_relu": {"alpha": 0.1}}[name]
    run = {
        "relu": lambda t, x: t.relu(x),
        "clip": lambda t, x: t.clamp(x, 0, 1),
        "leaky_relu": lambda t, x: t.nn.functional.leaky_relu(x, 0.1),
    }[name]
    compare(name, attrs, [np.array([np.nan, 0.5, np.nan, -1.0])], run)


@pytest.mark.parametrize("name", ["maximum", "minimum", "pow", "mod", "div"])
def test_two_operands(name: str) -> None:
    a = np.array([[0.0, 1.0, 2.0, -3.0], [2.0, 2.0, 0.5, 7.5]])
    b = np.array([2.0, 1.0, 0.5, 2.0])
    run = {"mod": "remainder", "div": "div"}.get(name, name)
    if name == "pow":
        compare(name, {}, [np.abs(a), b], lambda t, x, y: t.pow(x, y))
        compare(name, {}, [np.zeros(3), np.array([0.0, 1.0, 2.0])], lambda t, x, y: t.pow(x, y))
    else:
        compare(name, {}, [a, b], lambda t, x, y: getattr(t, run)(x, y))


TIES = np.array([[1.0, 3.0, 3.0, -1.0, 3.0], [2.0, 2.0, 2.0, 2.0, 2.0], [0.0, -0.0, -5.0, -5.0, -7.0]])


@pytest.mark.parametrize("name", ["max", "min"])
@pytest.mark.parametrize(("axes", "keep"), [((1,), False), ((0,), True), ((0, 1), False)])
def test_ties_of_reductions(name: str, axes: tuple[int, ...], keep: bool) -> None:
    attrs = {"axes": axes, "keepdims": keep}
    compare(f"reduce_{name}", attrs, [TIES], lambda t, x: getattr(t, f"a{name}")(x, axes, keepdim=keep))


@pytest.mark.parametrize("zeros", [0, 1, 2])
def test_products_with_zeros(zeros: int) -> None:
    x = np.arange(1.0, 13.0).reshape(3, 4)
    x[1, :zeros] = 0
    compare("reduce_prod", {"axes": (1,), "keepdims": False}, [x], lambda t, v: t.prod(v, 1))


def test_where_with_infinite_branches() -> None:
    c = np.array([[True, False], [False, True]])
    a, b = np.array([[1.0, np.inf], [2.0, 3.0]]), np.array([0.0, np.nan])
    compare("where", {}, [c, a, b], lambda t, *v: t.where(*v))


def pool(kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> dict[str, Any]:
    two = {"kernel": (kernel,) * 2, "stride": (stride,) * 2, "padding": ((pad, pad),) * 2}
    return {**two, "dilation": (dilation,) * 2, "ceil_mode": ceil}


@pytest.mark.parametrize("case", [(2, 2, 0, 1, True), (3, 2, 1, 1, False), (3, 1, 1, 2, True), (2, 3, 0, 1, False)])
def test_max_pooling_with_ties_and_nan(case: tuple[int, int, int, int, bool]) -> None:
    x = np.random.default_rng(4).integers(0, 3, (2, 3, 9, 8)).astype(np.float64)
    x[0, 0, 3, 3] = x[0, 0, 4, 4] = np.nan
    attrs = pool(*case)
    compare("max_pool", attrs, [x], lambda t, v: t.nn.functional.max_pool2d(v, *case))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 8), (12, 3)])
def test_adaptive_max_pooling_with_ties(size: tuple[int, int]) -> None:
    x = np.random.default_rng(5).integers(0, 3, (2, 3, 9, 8)).astype(np.float64)
    compare("adaptive_max_pool", {"output_size": size}, [x], lambda t, v: t.nn.functional.adaptive_max_pool2d(v, size))


@pytest.mark.parametrize("include", [True, False])
def test_average_pooling_over_the_edge(include: bool) -> None:
    x = np.random.default_rng(6).normal(size=(1, 2, 8, 9))
    attrs = {**pool(3, 2, 1, 1, True), "count_include_pad": include}
    del attrs["dilation"]
    compare("avg_pool", attrs, [x], lambda t, v: t.nn.functional.avg_pool2d(v, 3, 2, 1, True, include))


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample_on_the_pixels(mode: str, padding: str, corners: bool) -> None:
    """An identity grid stands on the pixels and their borders, where every formula has a kink; some points lie outside."""
    torch = pytest.importorskip("torch")
    theta = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]], [[-1.5, 0, 0], [0, 1.25, 0.5]]], dtype=torch.float64)
    grid = torch.nn.functional.affine_grid(theta, [2, 3, 4, 5], align_corners=corners).numpy()
    x = np.random.default_rng(7).normal(size=(2, 3, 4, 5))
    names = {"linear": "bilinear", "cubic": "bicubic", "nearest": "nearest"}
    attrs = {"mode": mode, "padding": padding, "align_corners": corners}
    compare("grid_sample", attrs, [x, grid], lambda t, a, b: t.nn.functional.grid_sample(a, b, names[mode], padding, corners))


def test_embedding_rows_read_twice() -> None:
    table, index = np.random.default_rng(8).normal(size=(5, 3)), np.array([[0, 4, 4], [4, 1, 0]])
    compare("gather", {"axis": 0}, [table, index], lambda t, w, i: t.nn.functional.embedding(i, w))


def test_topk_of_equal_values() -> None:
    x = np.array([[1.0, 5.0, 5.0, 0.0], [2.0, 1.0, 4.0, 3.0]])
    compare("topk", {"axis": 1, "k": 3, "largest": True}, [x], lambda t, v: t.topk(v, 3, 1).values)


def test_statistics_of_large_means_keep_their_digits() -> None:
    """In float32, with a mean a thousand times the deviation: squares would lose all of the variance."""
    x = (np.random.default_rng(10).normal(size=(8, 2, 16, 16)) + 1000).astype(np.float32)
    types = types_of([x])
    inputs = tuple(Value(t, f"x{i}") for i, t in enumerate(types))
    outputs = tuple(Value(t, f"y{i}") for i, t in enumerate(infer("batch_norm_stats", types, {})))
    node = Node("batch_norm_stats", inputs, outputs, {}, "bn")
    r = rewriter(Graph(inputs, (), (node,), outputs))
    found = lookup("batch_norm_stats").decompositions["moments"](r, node, inputs)
    var = run_graph(Graph(inputs, (), tuple(r.nodes), (found[1],)), [x], {})[0]
    np.testing.assert_allclose(var, x.astype(np.float64).var(axis=(0, 2, 3)), rtol=1e-4)


# --- refusals, and shapes that are not known ----------------------------------------------------------------------


def test_scattering_maxima_is_refused_with_the_layer() -> None:
    x, i = np.ones((2, 3)), np.zeros((2, 1), np.int64)
    with pytest.raises(UnsupportedError, match=r"sample \(scatter_elements\).*'max'"):
        gradients("scatter_elements", types_of([x, i, x[:, :1]]), {"axis": 1, "reduction": "max"}, [x, i, x[:, :1]], [x])


BATCHED = {  # ops whose first operands have a batch: how many
    "conv": 1, "conv_transpose": 1, "max_pool": 1, "avg_pool": 1, "adaptive_avg_pool": 1, "adaptive_max_pool": 1,
    "reduce_mean": 1, "reduce_prod": 1, "softmax": 1, "batch_norm": 1, "batch_norm_stats": 1,
    "layer_norm": 1, "group_norm": 1, "local_response_norm": 1, "resize": 1, "grid_sample": 2, "concat": 3, "pad": 1,
    "matmul": 1, "conv_backward_data": 1, "conv_backward_weights": 2, "flip": 1, "cumsum": 1, "gather_elements": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", BATCHED)
def test_symbolic_batch(name: str) -> None:
    """Sizes are never part of a rule: a batch that is a symbol gives what the same number gives."""
    sample = next(iter(lookup(name).samples()))
    arrays, attrs = in_float64(sample)
    batch = arrays[0].shape[0]
    types = types_of(arrays)
    free = [
        TensorType((sym("B"), *t.shape[1:]), t.dtype) if i < BATCHED[name] and t.shape[0] == batch else t
        for i, t in enumerate(types)
    ]
    rng = np.random.default_rng(11)
    results = infer(name, types, attrs)
    given = [
        np.asarray(rng.normal(size=t.shape)) if k == 0 or name == "batch_norm_stats" else None for k, t in enumerate(results)
    ]
    for a, b in zip(gradients(name, types, attrs, arrays, given), gradients(name, free, attrs, arrays, given), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_symbolic_extent_of_a_padded_axis(mode: str) -> None:
    x = np.random.default_rng(12).normal(size=(3, 7))
    attrs = {"pads": ((0, 0), (2, 3)), "mode": mode, "value": 0.0}
    free = [TensorType((3, sym("T")), "float64")]
    g = np.random.default_rng(13).normal(size=(3, 12))
    known, unknown = (gradients("pad", t, attrs, [x], [g])[0] for t in (types_of([x]), free))
    assert known is not None and unknown is not None
    np.testing.assert_array_equal(known, unknown)
