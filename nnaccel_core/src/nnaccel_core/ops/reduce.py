"""Reductions, softmax, and the normalizations built on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, numpy_dtype, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Cast, Index, Load, Nest, Scalar, Unary
from nnaccel_core.ops.elementwise import axis_names
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, register, require_equal, scalar


def reduced_shape(shape: Sequence[Dim], axes: Sequence[int], keepdims: bool) -> tuple[Dim, ...]:
    return tuple(1 if k in axes else d for k, d in enumerate(shape) if keepdims or k not in axes)


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if any(not 0 <= a < x.rank for a in attrs["axes"]):
        raise ShapeError(f"axes {attrs['axes']} are not all in 0..{x.rank - 1}")
    return (TensorType(reduced_shape(x.shape, attrs["axes"], attrs["keepdims"]), x.dtype),)


def _reduction_nest(node: Node, combine: str, final: Callable[[Dim], Scalar] | None) -> tuple[Nest]:
    x, axes, keep = node.inputs[0], node.attrs["axes"], node.attrs["keepdims"]
    names = axis_names(node.output.type.rank)
    index: list[Dim] = []
    out_axis = 0
    for k in range(x.type.rank):
        if k in axes:
            index.append(sym(f"r{k}"))
            out_axis += keep
        else:
            index.append(sym(names[out_axis]))
            out_axis += 1
    reduce = tuple((f"r{k}", x.shape[k]) for k in sorted(axes))
    count = product(x.shape[k] for k in axes)
    return (Nest(node.output, names, Load(x, tuple(index)), reduce, combine, final(count) if final else None),)


def _samples() -> Iterable[Sample]:
    x = np.random.default_rng(9).normal(size=(2, 6, 5, 7)).astype(np.float32)
    for axes in ((3,), (2, 3), (1,), (0, 1, 2, 3)):
        for keep in (True, False):
            yield Sample((x,), {"axes": axes, "keepdims": keep}, 1e-4)


def reduction(name: str, ref: Callable[..., Array], combine: str, mean: bool = False) -> OpDef:
    """Register a reduction over ``attrs["axes"]``."""

    def run(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        out = ref(xs[0], axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"])
        return (np.asarray(out).astype(xs[0].dtype),)

    def loop(node: Node) -> tuple[Nest]:
        dtype = "float32" if node.inputs[0].dtype in ("float16", "bfloat16") else node.inputs[0].dtype
        final = (lambda n: Binary("div", Acc(), Cast(Index(n), dtype))) if mean else None
        return _reduction_nest(node, combine, final)

    return register(OpDef(name, _infer, run, limit="io", loop=loop, samples=_samples, flops=lambda n: n.inputs[0].type.size))


reduction("reduce_sum", np.sum, "sum")
reduction("reduce_mean", np.mean, "sum", mean=True)
reduction("reduce_max", np.max, "max")
reduction("reduce_min", np.min, "min")
reduction("reduce_prod", np.prod, "prod")


# --- softmax --------------------------------------------------------------------------------------------------


def _infer_axis(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if not 0 <= attrs["axis"] < x.rank:
        raise ShapeError(f"axis {attrs['axis']} is not in 0..{x.rank - 1}")
    if not x.is_float:
        raise ShapeError(f"needs a floating-point input, not {x.dtype}")
    return (TensorType(x.shape, x.dtype),)


def _softmax_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    e = np.exp(x - x.max(axis=attrs["axis"], keepdims=True))
    return ((e / e.sum(axis=attrs["axis"], keepdims=True)).astype(xs[0].dtype),)


def _log_softmax_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    x = x - x.max(axis=attrs["axis"], keepdims=True)
    return ((x - np.log(np.exp(x).sum(axis=attrs["axis"], keepdims=True))).astype(xs[0].dtype),)


def _softmax_nests(node: Node, log: bool) -> tuple[Nest, ...]:
    x, axis, out = node.inputs[0], node.attrs["axis"], node.output
    names = axis_names(x.type.rank)
    point = [sym(n) for n in names]
    row: list[Dim] = [0 if k == axis else a for k, a in enumerate(point)]
    along: list[Dim] = [sym("r") if k == axis else a for k, a in enumerate(point)]
    row_type = TensorType(reduced_shape(x.shape, (axis,), True), x.dtype)
    biggest, total = Value(row_type, "max"), Value(row_type, "sum")
    reduce = (("r", x.shape[axis]),)
    top = Nest(biggest, names, Load(x, tuple(along)), reduce, "max")
    if log:
        term: Scalar = Unary("exp", Binary("sub", Load(x, tuple(along)), Load(biggest, tuple(row))))
        sums = Nest(total, names, term, reduce, "sum")
        shifted = Binary("sub", Load(x, tuple(point)), Load(biggest, tuple(row)))
        return top, sums, Nest(out, names, Binary("sub", shifted, Unary("log", Load(total, tuple(row)))))
    e = Value(TensorType(x.shape, x.dtype, x.type.layout), "exp")
    exps = Nest(e, names, Unary("exp", Binary("sub", Load(x, tuple(point)), Load(biggest, tuple(row)))))
    sums = Nest(total, names, Load(e, tuple(along)), reduce, "sum")
    return top, exps, sums, Nest(out, names, Binary("div", Load(e, tuple(point)), Load(total, tuple(row))))


def _softmax_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    y, g, o = outs[0], gs[0], n.origin
    dot = r.add("reduce_sum", [r.add("mul", [g, y], origin=o)], {"axes": (n.attrs["axis"],), "keepdims": True}, origin=o)
    return (r.add("mul", [y, r.add("sub", [g, dot], origin=o)], origin=o),)


def _axis_samples() -> Iterable[Sample]:
    x = np.random.default_rng(10).normal(size=(3, 7, 4, 19)).astype(np.float32) * 4
    yield Sample((x,), {"axis": 3})
    yield Sample((x,), {"axis": 1})
    yield Sample((x[0, :, 0],), {"axis": 1})


register(
    OpDef(
        "softmax",
        _infer_axis,
        _softmax_ref,
        _softmax_vjp,
        "io",
        loop=lambda n: _softmax_nests(n, False),
        samples=_axis_samples,
        flops=lambda n: 12 * n.output.type.size,
    )
)
register(
    OpDef(
        "log_softmax",
        _infer_axis,
        _log_softmax_ref,
        None,
        "io",
        loop=lambda n: _softmax_nests(n, True),
        samples=_axis_samples,
        flops=lambda n: 12 * n.output.type.size,
    )
)


# --- normalization --------------------------------------------------------------------------------------------


def _batch_norm_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if x.rank < 2:
        raise ShapeError("needs x of rank >= 2 (N, C, ...)")
    for t, what in zip(types[1:], ("scale", "bias", "mean", "var"), strict=True):
        if t.rank != 1:
            raise ShapeError(f"{what} must have one axis")
        require_equal(t.shape[0], x.shape[1], f"{what} against the channels of x")
    return (TensorType(x.shape, x.dtype),)


def _batch_norm_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, scale, bias, mean, var = (a.astype(np.float64) for a in xs)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    factor = scale / np.sqrt(var + attrs["eps"])
    return (((x - mean.reshape(shape)) * factor.reshape(shape) + bias.reshape(shape)).astype(xs[0].dtype),)


def batch_norm_affine(r: Rewriter, node: Node, inputs: Sequence[Value]) -> tuple[Value, Value]:
    """``(factor, shift)`` of one axis each with ``batch_norm(x) == x * factor + shift``; depends on parameters only."""
    _, scale, bias, mean, var = inputs
    o = node.origin
    eps = scalar(r, node.attrs["eps"], var.dtype, o)
    inverse = r.add("rsqrt", [r.add("add", [var, eps], origin=o)], origin=o)
    factor = r.add("mul", [scale, inverse], origin=o, name="bn_factor")
    shift = r.add("sub", [bias, r.add("mul", [mean, factor], origin=o)], origin=o, name="bn_shift")
    return factor, shift


def per_channel(r: Rewriter, v: Value, rank: int, origin: str) -> Value:
    """A one-axis value reshaped to broadcast along axis 1 of a tensor of ``rank``."""
    return r.add("reshape", [v], {"shape": (v.shape[0], *([1] * (rank - 2)))}, origin=origin)


def _batch_norm_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    factor, shift = batch_norm_affine(r, node, inputs)
    rank, o = inputs[0].type.rank, node.origin
    scaled = r.add("mul", [inputs[0], per_channel(r, factor, rank, o)], origin=o)
    return (r.add("add", [scaled, per_channel(r, shift, rank, o)], origin=o),)


def _batch_norm_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(11)
    for shape in ((2, 5, 4, 3), (4, 6)):
        c = shape[1]
        stats = tuple(rng.uniform(0.5, 2, c).astype(np.float32) for _ in range(4))
        yield Sample((rng.normal(size=shape).astype(np.float32), *stats), {"eps": 1e-5}, 1e-4)


register(
    OpDef(
        "batch_norm",
        _batch_norm_infer,
        _batch_norm_ref,
        limit="io",
        decompositions={"affine": _batch_norm_decompose},
        samples=_batch_norm_samples,
    )
)


def _layer_norm_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, axis = types[0], attrs["axis"]
    if not 0 <= axis < x.rank:
        raise ShapeError(f"axis {axis} is not in 0..{x.rank - 1}")
    for t in types[1:]:
        if t.rank != x.rank - axis:
            raise ShapeError(f"scale and bias need the {x.rank - axis} normalized axes")
        for a, b in zip(t.shape, x.shape[axis:], strict=True):
            require_equal(a, b, "normalized shape")
    return (TensorType(x.shape, x.dtype),)


def _layer_norm_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    axes = tuple(range(attrs["axis"], x.ndim))
    centered = x - x.mean(axis=axes, keepdims=True)
    out = centered / np.sqrt((centered**2).mean(axis=axes, keepdims=True) + attrs["eps"])
    if len(xs) > 1:
        out = out * xs[1]
    if len(xs) > 2:
        out = out + xs[2]
    return (out.astype(xs[0].dtype),)


def _layer_norm_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    x, o = inputs[0], node.origin
    over = {"axes": tuple(range(node.attrs["axis"], x.type.rank)), "keepdims": True}
    centered = r.add("sub", [x, r.add("reduce_mean", [x], over, origin=o)], origin=o)
    var = r.add("reduce_mean", [r.add("mul", [centered, centered], origin=o)], over, origin=o)
    eps = r.add("constant", [], {"value": np.asarray(node.attrs["eps"], numpy_dtype(x.dtype))}, origin=o)
    out = r.add("mul", [centered, r.add("rsqrt", [r.add("add", [var, eps], origin=o)], origin=o)], origin=o)
    if len(inputs) > 1:
        out = r.add("mul", [out, inputs[1]], origin=o)
    if len(inputs) > 2:
        out = r.add("add", [out, inputs[2]], origin=o)
    return (out,)


def _layer_norm_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(12)
    x = rng.normal(size=(3, 4, 37)).astype(np.float32) * 3 + 1
    w, b = rng.normal(size=(2, 37)).astype(np.float32)
    yield Sample((x, w, b), {"axis": 2, "eps": 1e-5}, 1e-4)
    yield Sample((x,), {"axis": 1, "eps": 1e-5}, 1e-4)


register(
    OpDef(
        "layer_norm",
        _layer_norm_infer,
        _layer_norm_ref,
        limit="io",
        decompositions={"moments": _layer_norm_decompose},
        samples=_layer_norm_samples,
    )
)
