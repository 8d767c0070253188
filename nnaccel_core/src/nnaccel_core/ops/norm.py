"""Normalizations beyond batch and layer norm: group, instance, root-mean-square, local response."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, Rewriter, TensorType, Value, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Const, Load, Nest
from nnaccel_core.ops.reduce import last_axes_vjp, normal_form, normal_form_vjp, per_channel, sum_per_channel
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, register, require_equal, sum_dtype, unary_vjp


def _draw(*shape: int) -> Array:
    return np.random.default_rng(20).normal(size=shape).astype(np.float32) * 2 + 0.5


# --- group norm; instance norm is group norm with one channel per group -------------------------------------------


def _group_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if x.rank < 2:
        raise ShapeError("needs x of rank >= 2 (N, C, ...)")
    channels, groups = x.shape[1], attrs["groups"]
    if isinstance(channels, int) and channels % groups:
        raise ShapeError(f"{channels} channels do not divide into {groups} groups")
    for t, what in zip(types[1:], ("scale", "bias"), strict=False):
        if t.rank != 1:
            raise ShapeError(f"{what} must have one axis")
        require_equal(t.shape[0], channels, f"{what} against the channels of x")
    return (TensorType(x.shape, x.dtype),)


def _group_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    grouped = x.reshape(x.shape[0], attrs["groups"], -1)
    centered = grouped - grouped.mean(axis=2, keepdims=True)
    out = (centered / np.sqrt((centered**2).mean(axis=2, keepdims=True) + attrs["eps"])).reshape(x.shape)
    shape = (1, -1) + (1,) * (x.ndim - 2)
    for i, v in enumerate(xs[1:]):
        out = out * v.reshape(shape) if i == 0 else out + v.reshape(shape)
    return (out.astype(xs[0].dtype),)


def _group_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    e, dtype, groups = Emitter(r, node.origin), sum_dtype(inputs[0].dtype), node.attrs["groups"]
    x, *rest = (e.cast(v, dtype) for v in inputs)
    n, c = x.shape[0], x.shape[1]
    if groups == c:  # each channel by itself: no regrouping, the image keeps its shape
        grouped, axes = x, tuple(range(2, x.type.rank))
    else:
        grouped = e("reshape", x, shape=(n, groups, product(x.shape[1:]) // groups))
        axes = (2,)
    out, _ = normal_form(e, grouped, axes, node.attrs["eps"])
    if groups != c:
        out = e("reshape", out, shape=x.shape)
    for op, v in zip(("mul", "add"), rest, strict=False):
        out = e(op, out, per_channel(r, v, x.type.rank, node.origin))
    return (e.cast(out, inputs[0].dtype),)


def _group_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    e, dtype, groups = Emitter(r, n.origin), sum_dtype(ins[0].dtype), n.attrs["groups"]
    g, x, *rest = (e.cast(v, dtype) for v in (gs[0], *ins))
    alone = groups == x.shape[1]
    shape = x.shape if alone else (x.shape[0], groups, product(x.shape[1:]) // groups)
    axes = tuple(range(2, x.type.rank)) if alone else (2,)

    def grouped(v: Value) -> Value:
        return v if alone else e("reshape", v, shape=shape)

    normal, inverse = normal_form(e, grouped(x), axes, n.attrs["eps"])
    inner = e("mul", g, per_channel(r, rest[0], x.type.rank, n.origin)) if rest else g
    dx = normal_form_vjp(e, grouped(inner), normal, inverse, axes)
    image = normal if alone else e("reshape", normal, shape=x.shape)
    sums = [sum_per_channel(r, v, n.origin) for v in (e("mul", g, image), g)]
    grads = (dx if alone else e("reshape", dx, shape=x.shape), *sums[: len(rest)])
    return [e.cast(v, ins[0].dtype) for v in grads]


def _group_samples() -> Iterable[Sample]:
    w, b = _draw(2, 6)
    yield Sample((_draw(2, 6, 4, 3), w, b), {"groups": 3, "eps": 1e-5}, 1e-4)
    yield Sample((_draw(2, 6, 4, 3), w, b), {"groups": 6, "eps": 1e-5}, 1e-4)
    yield Sample((_draw(2, 6, 5),), {"groups": 2, "eps": 1e-3}, 1e-4)


register(
    OpDef(
        "group_norm",
        _group_infer,
        _group_ref,
        _group_vjp,
        "io",
        decompositions={"moments": _group_decompose},
        samples=_group_samples,
    )
)


# --- root mean square (Zhang and Sennrich 2019) ------------------------------------------------------------------


def _rms_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, axis = types[0], attrs["axis"]
    if not 0 <= axis < x.rank:
        raise ShapeError(f"axis {axis} is not in 0..{x.rank - 1}")
    return (TensorType(x.shape, x.dtype),)


def _rms_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0].astype(np.float64)
    axes = tuple(range(attrs["axis"], x.ndim))
    out = x / np.sqrt((x**2).mean(axis=axes, keepdims=True) + attrs["eps"])
    return ((out * xs[1] if len(xs) > 1 else out).astype(xs[0].dtype),)


def _rms_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    e, dtype = Emitter(r, node.origin), sum_dtype(inputs[0].dtype)
    x, *rest = (e.cast(v, dtype) for v in inputs)
    out, _ = normal_form(e, x, range(node.attrs["axis"], x.type.rank), node.attrs["eps"], centered=False)
    return (e.cast(e("mul", out, rest[0]) if rest else out, inputs[0].dtype),)


register(
    OpDef(
        "rms_norm",
        _rms_infer,
        _rms_ref,
        last_axes_vjp(centered=False),
        "io",
        decompositions={"moments": _rms_decompose},
        samples=lambda: [
            Sample((_draw(3, 4, 17), _draw(17)), {"axis": 2, "eps": 1e-6}, 1e-4),
            Sample((_draw(3, 4, 17),), {"axis": 1, "eps": 1e-6}, 1e-4),
        ],
    )
)


# --- local response across channels (Krizhevsky et al. 2012, section 3.3; torch's windows) ---------------------------


def _square_sum(x: Array, size: int) -> Array:
    """Sum of squares over ``size`` channels around each, zeros outside."""
    pads = [(0, 0)] * x.ndim
    pads[1] = (size // 2, (size - 1) // 2)
    padded = np.pad(x.astype(np.float64) ** 2, pads)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, size, axis=1).sum(axis=-1))


def _lrn_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, size = xs[0], attrs["size"]
    scale = attrs["k"] + attrs["alpha"] / size * _square_sum(x, size)
    return ((x / scale ** attrs["beta"]).astype(x.dtype),)


def _lrn_loop(node: Node) -> tuple[Nest]:
    x, a = node.inputs[0], node.attrs
    rank = x.type.rank
    names = ("n", "c", *(f"y{k}" for k in range(rank - 2)))
    n, c, *ys = (sym(s) for s in names)
    channel = c - a["size"] // 2 + sym("k")
    term = Load(x, (n, channel, *ys))
    scale = Binary("add", Const(a["k"], x.dtype), Binary("mul", Const(a["alpha"] / a["size"], x.dtype), Acc()))
    final = Binary("div", Load(x, (n, c, *ys)), Binary("pow", scale, Const(a["beta"], x.dtype)))
    body = Binary("mul", term, term)
    return (Nest(node.output, names, body, (("k", a["size"]),), "sum", final, (Bound(channel, x.shape[1]),)),)


def _window_sum(e: Emitter, v: Value, before: int, after: int) -> Value:
    """The sum of each channel of ``v`` and those up to ``before`` before and ``after`` after it."""
    pads = tuple((before, after) if k == 1 else (0, 0) for k in range(v.type.rank))
    padded = e("pad", v, pads=pads, mode="constant", value=0.0)
    total: Value | None = None
    for first in range(before + after + 1):
        starts = tuple(first if k == 1 else 0 for k in range(v.type.rank))
        ends = tuple(first + d if k == 1 else d for k, d in enumerate(v.shape))
        part = e("slice", padded, starts=starts, ends=ends, steps=(1,) * v.type.rank)
        total = part if total is None else e("add", total, part)
    assert total is not None
    return total


def _lrn_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    size, alpha, beta = n.attrs["size"], n.attrs["alpha"] / n.attrs["size"], n.attrs["beta"]
    before, after = size // 2, (size - 1) // 2
    scale = e("add", e("mul", _window_sum(e, e("mul", x, x), before, after), alpha), n.attrs["k"])
    power = e("pow", scale, -beta)
    through = _window_sum(e, e("div", e("mul", e("mul", g, x), power), scale), after, before)
    return e("sub", e("mul", g, power), e("mul", e("mul", x, 2 * alpha * beta), through))


register(
    OpDef(
        "local_response_norm",
        lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype),),
        _lrn_ref,
        unary_vjp(_lrn_vjp),
        "io",
        loop=_lrn_loop,
        samples=lambda: [
            Sample((_draw(2, 7, 4, 5),), {"size": 5, "alpha": 1e-2, "beta": 0.75, "k": 1.0}, 1e-4),
            Sample((_draw(1, 6, 3, 3),), {"size": 4, "alpha": 1e-1, "beta": 0.5, "k": 2.0}, 1e-4),
        ],
    )
)
