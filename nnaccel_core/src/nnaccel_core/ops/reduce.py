"""Reductions, softmax, and the normalizations built on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Cast, Index, Load, Nest, Scalar, Unary
from nnaccel_core.ops.elementwise import axis_names, unbroadcast
from nnaccel_core.ops.norm_train import number
from nnaccel_core.ops.registry import (
    Array,
    Attrs,
    Emitter,
    OpDef,
    Sample,
    Vjp,
    constant,
    register,
    require_equal,
    sum_dtype,
    unary_vjp,
)


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
    long = [k for k in axes if x.shape[k] != 1] or list(axes)[-1:]  # axes of extent 1 need no loop
    index: list[Dim] = []
    out_axis = 0
    for k in range(x.type.rank):
        if k in axes:
            index.append(sym(f"r{k}") if k in long else 0)
            out_axis += keep
        else:
            index.append(sym(names[out_axis]))
            out_axis += 1
    reduce = tuple((f"r{k}", x.shape[k]) for k in sorted(long))
    count = product(x.shape[k] for k in axes)
    return (Nest(node.output, names, Load(x, tuple(index)), reduce, combine, final(count) if final else None),)


def _samples() -> Iterable[Sample]:
    x = np.random.default_rng(9).normal(size=(2, 6, 5, 7)).astype(np.float32)
    for axes in ((3,), (2, 3), (1,), (0, 1, 2, 3)):
        for keep in (True, False):
            yield Sample((x,), {"axes": axes, "keepdims": keep}, 1e-4)


def _kept(e: Emitter, n: Node, x: Value, v: Value) -> Value:
    """A reduced value with its reduced axes."""
    shape = reduced_shape(x.shape, n.attrs["axes"], True)
    return v if n.attrs["keepdims"] else e("reshape", v, shape=shape)


def _sum_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    return e("expand", _kept(e, n, x, g), shape=x.shape)


def _mean_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    count = number(e.r, product(x.shape[k] for k in n.attrs["axes"]), x.dtype, n.origin)
    return e("expand", _kept(e, n, x, e("div", g, count)), shape=x.shape)


def _extreme_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    """Evenly to all elements that are the extreme one."""
    won = e("eq", x, _kept(e, n, x, y))
    count = e("reduce_sum", e("cast", won, dtype=x.dtype), axes=n.attrs["axes"], keepdims=True)
    return e("where", won, e("div", _kept(e, n, x, g), count), 0.0)


def _prod_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    """The product of all other elements; where one element is 0, only its own is not."""
    over = {"axes": n.attrs["axes"], "keepdims": True}
    zero = e("eq", x, 0.0)
    zeros = e("reduce_sum", e("cast", zero, dtype=x.dtype), **over)
    rest = e("where", zero, 1.0, x)
    product_of_rest = e("reduce_prod", rest, **over)
    alone = e("where", e("eq", zeros, 1.0), product_of_rest, 0.0)
    others = e("where", e("eq", zeros, 0.0), e("div", product_of_rest, rest), 0.0)
    return e("mul", _kept(e, n, x, g), e("where", zero, alone, others))


def reduction(name: str, ref: Callable[..., Array], combine: str, vjp: Vjp, mean: bool = False) -> OpDef:
    """Register a reduction over ``attrs["axes"]``."""

    def run(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        out = ref(xs[0], axis=tuple(attrs["axes"]), keepdims=attrs["keepdims"])
        return (np.asarray(out).astype(xs[0].dtype),)

    def loop(node: Node) -> tuple[Nest]:
        dtype = "float32" if node.inputs[0].dtype in ("float16", "bfloat16") else node.inputs[0].dtype
        final = (lambda n: Binary("div", Acc(), Cast(Index(n), dtype))) if mean else None
        return _reduction_nest(node, combine, final)

    return register(OpDef(name, _infer, run, vjp, "io", loop=loop, samples=_samples, flops=lambda n: n.inputs[0].type.size))


reduction("reduce_sum", np.sum, "sum", unary_vjp(_sum_vjp))
reduction("reduce_mean", np.mean, "sum", unary_vjp(_mean_vjp), mean=True)
reduction("reduce_max", np.max, "max", unary_vjp(_extreme_vjp))
reduction("reduce_min", np.min, "min", unary_vjp(_extreme_vjp))
reduction("reduce_prod", np.prod, "prod", unary_vjp(_prod_vjp))


def sum_per_channel(r: Rewriter, x: Value, origin: str) -> Value:
    """The sum of ``x`` (N, C, ...) over all axes but 1, in stages: over rows, the rest of an image, and the batch.

    Sums are short, and there are many of them; what computes a row of ``x`` can sum it while it is at hand.
    """
    last = x.type.rank - 1
    for axes in ((last,) if last > 1 else (), tuple(range(2, last))):
        if axes:
            x = r.add("reduce_sum", [x], {"axes": axes, "keepdims": True}, origin=origin)
    return r.add("reduce_sum", [x], {"axes": (0, *range(2, last + 1)), "keepdims": False}, origin=origin)


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


def _log_softmax_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    total = e("reduce_sum", g, axes=(n.attrs["axis"],), keepdims=True)
    return e("sub", g, e("mul", e("exp", y), total))


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
        unary_vjp(_log_softmax_vjp),
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
    eps = constant(r, node.attrs["eps"], var.dtype, o)
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


def _batch_norm_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    """All but ``dx`` from two sums per channel, of ``g`` and of ``g`` times what is normalized."""
    e, g, (x, scale, _, mean, var) = Emitter(r, n.origin), gs[0], ins
    inverse = e("rsqrt", e("add", var, n.attrs["eps"]))
    factor = e("mul", scale, inverse)
    dbias = sum_per_channel(r, g, n.origin)
    centered = e("sub", x, per_channel(r, mean, x.type.rank, n.origin))
    dscale = e("mul", sum_per_channel(r, e("mul", g, centered), n.origin), inverse)
    dvar = e("mul", e("mul", dscale, -0.5), e("mul", factor, inverse))
    dx = e("mul", g, per_channel(r, factor, x.type.rank, n.origin))
    return dx, dscale, dbias, e("neg", e("mul", factor, dbias)), dvar


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
        _batch_norm_vjp,
        "io",
        decompositions={"affine": _batch_norm_decompose},
        samples=_batch_norm_samples,
        pointwise=True,
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
    e, dtype = Emitter(r, node.origin), sum_dtype(inputs[0].dtype)
    x, *rest = (e.cast(v, dtype) for v in inputs)
    out, _ = normal_form(e, x, range(node.attrs["axis"], x.type.rank), node.attrs["eps"])
    for op, v in zip(("mul", "add"), rest, strict=False):
        out = e(op, out, v)
    return (e.cast(out, inputs[0].dtype),)


def normal_form(e: Emitter, x: Value, axes: Sequence[int], eps: float, centered: bool = True) -> tuple[Value, Value]:
    """``x`` with mean 0 (if ``centered``) and mean square 1 over ``axes``, and the factor that made it so."""
    over = {"axes": tuple(axes), "keepdims": True}
    if centered:
        x = e("sub", x, e("reduce_mean", x, **over))
    inverse = e("rsqrt", e("add", e("reduce_mean", e("mul", x, x), **over), eps))
    return e("mul", x, inverse), inverse


def normal_form_vjp(e: Emitter, g: Value, normal: Value, inverse: Value, axes: Sequence[int], centered: bool = True) -> Value:
    """The gradient of what `normal_form` was given, from the gradient ``g`` of its result ``normal``."""
    over = {"axes": tuple(axes), "keepdims": True}
    along = e("mul", normal, e("reduce_mean", e("mul", g, normal), **over))
    if centered:
        along = e("add", along, e("reduce_mean", g, **over))
    return e("mul", e("sub", g, along), inverse)


def last_axes_vjp(centered: bool) -> Vjp:
    """The gradient rule of a normalization over all axes from ``attrs["axis"]`` on, then scaled and shifted."""

    def vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
        e, dtype = Emitter(r, n.origin), sum_dtype(ins[0].dtype)
        g, x, *rest = (e.cast(v, dtype) for v in (gs[0], *ins))
        axes = range(n.attrs["axis"], x.type.rank)
        normal, inverse = normal_form(e, x, axes, n.attrs["eps"], centered)
        grads = [normal_form_vjp(e, e("mul", g, rest[0]) if rest else g, normal, inverse, axes, centered)]
        for v, each in zip(rest, (e("mul", g, normal), g), strict=False):
            grads.append(unbroadcast(r, each, v.shape, n.origin))
        return [e.cast(found, ins[0].dtype) for found in grads]

    return vjp


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
        last_axes_vjp(centered=True),
        "io",
        decompositions={"moments": _layer_norm_decompose},
        samples=_layer_norm_samples,
    )
)
