"""Max, average and adaptive average pooling over any number of spatial axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, ceil_div, dim_max, dim_min, evaluate, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Cast, Const, Index, Load, Nest, Scalar
from nnaccel_core.ops.conv import pad_spatial, window_extent, windows, windows_over
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, constant, lookup, register, require_equal, unary_vjp


def _dilation(attrs: Attrs) -> tuple[int, ...]:
    return tuple(attrs.get("dilation") or (1,) * len(attrs["kernel"]))


def pooled_extent(size: Dim, k: int, s: int, pad: tuple[int, int], d: int, ceil_mode: bool) -> Dim:
    """Number of windows; in ceil mode the last one may start inside the input or its left padding, not beyond (torch's rule)."""
    if not ceil_mode:
        return window_extent(size, k, s, pad, d)
    out = ceil_div(size + pad[0] + pad[1] - d * (k - 1) - 1, s) + 1
    # drop a last window that starts in the right padding: (out - 1) * s >= size + left pad
    return dim_min(out, (size + pad[0] - 1) // s + 1)


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    spatial = x.rank - 2
    if spatial < 1 or len(attrs["kernel"]) != spatial or len(attrs["stride"]) != spatial or len(attrs["padding"]) != spatial:
        raise ShapeError("kernel, stride and padding need one entry per spatial axis of x (N, C, spatial...)")
    sizes = tuple(
        pooled_extent(
            x.shape[2 + i], k, attrs["stride"][i], attrs["padding"][i], _dilation(attrs)[i], attrs.get("ceil_mode", False)
        )
        for i, k in enumerate(attrs["kernel"])
    )
    return (TensorType((*x.shape[:2], *sizes), x.dtype),)


def _pooled_windows(x: Array, attrs: Attrs, value: float) -> Array:
    """All windows, with the padding (and ceil mode's overhang) filled with ``value``."""
    kernel, stride, dilation = attrs["kernel"], attrs["stride"], _dilation(attrs)
    pads = []
    for i, k in enumerate(kernel):
        lo, hi = attrs["padding"][i]
        out = pooled_extent(x.shape[2 + i], k, stride[i], (lo, hi), dilation[i], attrs.get("ceil_mode", False))
        reach = (int(out) - 1) * stride[i] + dilation[i] * (k - 1) + 1  # type: ignore[arg-type]
        pads.append((lo, max(hi, reach - x.shape[2 + i] - lo)))
    view = windows(pad_spatial(x, pads, value), kernel, stride, dilation)
    return np.asarray(view[tuple([slice(None)] * 2 + [slice(0, _out(x, attrs, i)) for i in range(len(kernel))])])


def _out(x: Array, attrs: Attrs, i: int) -> int:
    out = pooled_extent(
        x.shape[2 + i],
        attrs["kernel"][i],
        attrs["stride"][i],
        attrs["padding"][i],
        _dilation(attrs)[i],
        attrs.get("ceil_mode", False),
    )
    return int(out)  # type: ignore[arg-type]


def _window_axes(x: Array) -> tuple[int, ...]:
    spatial = x.ndim - 2
    return tuple(range(2 + spatial, 2 + 2 * spatial))


def _max_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return (_pooled_windows(xs[0], attrs, -np.inf).max(axis=_window_axes(xs[0])).astype(xs[0].dtype),)


def _avg_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    total = _pooled_windows(x, attrs, 0.0).sum(axis=_window_axes(x))
    return ((total / _sizes_of_windows(x, attrs)).astype(x.dtype),)


def _sizes_of_windows(x: Array, attrs: Attrs) -> Array:
    """How many elements each average of ``x`` is of: (1, 1, out...)."""
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if not attrs.get("count_include_pad", True):
        return np.asarray(_pooled_windows(ones, attrs, 0.0).sum(axis=_window_axes(x)))
    # Declared padding counts, ceil mode's overhang does not.
    ones = pad_spatial(ones, attrs["padding"], 1.0)
    free = {**attrs, "padding": tuple((0, 0) for _ in attrs["padding"])}
    return _counts(ones, free, [int(_out(x, attrs, i)) for i in range(x.ndim - 2)])


def _counts(ones: Array, attrs: Attrs, sizes: Sequence[int]) -> Array:
    kernel, stride = attrs["kernel"], attrs["stride"]
    pads = [(0, max(0, (sizes[i] - 1) * stride[i] + k - ones.shape[2 + i])) for i, k in enumerate(kernel)]
    view = windows(pad_spatial(ones, pads, 0.0), kernel, stride, (1,) * len(kernel))
    view = view[tuple([slice(None)] * 2 + [slice(0, s) for s in sizes])]
    return np.asarray(view.sum(axis=_window_axes(ones)))


def _window_nest(node: Node, combine: str, final: Scalar | None) -> Nest:
    x, a = node.inputs[0], node.attrs
    spatial = x.type.rank - 2
    names = ("n", "c", *(f"y{k}" for k in range(spatial)))
    n, c, *ys = (sym(s) for s in names)
    ks = [sym(f"k{k}") for k in range(spatial)]
    at = [ys[k] * a["stride"][k] - a["padding"][k][0] + ks[k] * _dilation(a)[k] for k in range(spatial)]
    bounds = tuple(Bound(at[k], x.shape[2 + k]) for k in range(spatial) if any(a["padding"][k]) or a.get("ceil_mode", False))
    reduce = tuple((f"k{k}", a["kernel"][k]) for k in range(spatial))
    return Nest(node.output, names, Load(x, (n, c, *at)), reduce, combine, final, bounds)


def _divisor(sizes: Sequence[Dim], a: Attrs, ys: Sequence[Dim], dtype: str) -> Scalar:
    """How many elements the window ``ys`` of an input of extents ``sizes`` averages."""
    count: Dim = 1
    for k, y in enumerate(ys):
        kernel, (lo, hi) = a["kernel"][k], a["padding"][k]
        start = y * a["stride"][k] - lo
        if not (lo or hi or a.get("ceil_mode", False)):
            count = count * kernel
        elif a.get("count_include_pad", True):
            count = count * (kernel if not a.get("ceil_mode", False) else dim_min(start + kernel, sizes[k] + hi) - start)
        else:
            count = count * (dim_min(start + kernel, sizes[k]) - dim_max(start, 0))
    return Const(float(count), dtype) if isinstance(count, int) else Cast(Index(count), dtype)


def _avg_loop(node: Node) -> tuple[Nest]:
    x = node.inputs[0]
    dtype = "float32" if x.dtype in ("float16", "bfloat16") else x.dtype
    ys = [sym(f"y{k}") for k in range(x.type.rank - 2)]
    return (_window_nest(node, "sum", Binary("div", Acc(), _divisor(x.shape[2:], node.attrs, ys, dtype))),)


def pool_attrs(
    kernel: Sequence[int],
    stride: Sequence[int] | None = None,
    padding: Sequence[tuple[int, int]] | None = None,
    **more: object,
) -> Attrs:
    """Attributes of the pooling ops; stride defaults to the kernel, padding to none."""
    return {
        "kernel": tuple(kernel),
        "stride": tuple(stride or kernel),
        "padding": tuple(padding or ((0, 0),) * len(kernel)),
        **more,
    }


def _max_samples() -> Iterable[Sample]:
    x = np.random.default_rng(6).normal(size=(2, 5, 9, 8)).astype(np.float32)
    yield Sample((x,), pool_attrs((3, 3), (2, 2), ((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False))
    yield Sample((x,), pool_attrs((2, 2), dilation=(1, 1), ceil_mode=True))
    yield Sample((x,), pool_attrs((3, 2), (1, 2), ((1, 0), (0, 1)), dilation=(2, 1), ceil_mode=False))
    yield Sample((x[:, :, 0],), pool_attrs((3,), (2,), ((1, 1),), dilation=(1,), ceil_mode=True))


def _avg_samples() -> Iterable[Sample]:
    x = np.random.default_rng(7).normal(size=(2, 5, 9, 8)).astype(np.float32)
    for include in (True, False):
        for ceil in (True, False):
            pads = ((1, 1), (1, 1))
            yield Sample((x,), pool_attrs((3, 3), (2, 2), pads, ceil_mode=ceil, count_include_pad=include))
    yield Sample((x,), pool_attrs((2, 2), ceil_mode=False, count_include_pad=True))


def _max_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    attrs = {**n.attrs, "dilation": _dilation(n.attrs), "ceil_mode": n.attrs.get("ceil_mode", False)}
    places = e("max_pool_positions", x, y, **attrs, positions=narrowest(x.shape[2:]))
    return e("max_pool_backward", g, places, **attrs, spatial=x.shape[2:])


def narrowest(spatial: Sequence[Dim]) -> str:
    """The dtype of positions in a plane of extents ``spatial``: int32 where they are known to fit, as wide as float32."""
    count = product(spatial)
    return "int32" if isinstance(count, int) and count < (1 << 31) - 1 else "int64"


def _avg_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    return e("avg_pool_backward", g, **n.attrs, spatial=x.shape[2:])


register(
    OpDef(
        "max_pool",
        _infer,
        _max_ref,
        unary_vjp(_max_vjp),
        "io",
        loop=lambda n: (_window_nest(n, "max", None),),
        samples=_max_samples,
    )
)
register(OpDef("avg_pool", _infer, _avg_ref, unary_vjp(_avg_vjp), "io", loop=_avg_loop, samples=_avg_samples))


# --- gradient of avg_pool -----------------------------------------------------------------------------------------


def before_pooling(op: str, g: TensorType, attrs: Attrs) -> TensorType:
    """The type of what ``op`` pooled to the type of ``g``: the extents are ``attrs["spatial"]``."""
    if len(attrs["spatial"]) != g.rank - 2:
        raise ShapeError(f"spatial {attrs['spatial']} needs one entry per spatial axis of {g}")
    x = TensorType((*g.shape[:2], *attrs["spatial"]), g.dtype)
    (pooled,) = lookup(op).infer([x], attrs)
    for k, (a, b) in enumerate(zip(pooled.shape, g.shape, strict=True)):
        require_equal(a, b, f"axis {k} of g against what is pooled from {x}")
    return x


def _avg_backward_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    g = xs[0]
    x = np.zeros((*g.shape[:2], *(int(d) for d in attrs["spatial"])), g.dtype)
    share = g / _sizes_of_windows(x, attrs)
    low = [lo for lo, _ in attrs["padding"]]
    for place in np.ndindex(*g.shape[2:]):
        starts = [i * s - lo for i, s, lo in zip(place, attrs["stride"], low, strict=True)]
        cut = [slice(max(i, 0), i + k) for i, k in zip(starts, attrs["kernel"], strict=True)]
        window, at = (slice(None), slice(None), *cut), (slice(None), slice(None), *place)
        x[window] += share[at].reshape(*g.shape[:2], *([1] * len(place)))
    return (x,)


def _avg_backward_loop(node: Node) -> tuple[Nest]:
    """A gather over the windows that contain an element."""
    g, a, sizes = node.inputs[0], node.attrs, node.output.shape[2:]
    names = ("n", "c", *(f"x{k}" for k in range(len(sizes))))
    reads: list[Dim] = []
    bounds: list[Bound] = []
    reduce: list[tuple[str, Dim]] = []
    for k, size in enumerate(sizes):
        kernel, stride, (lo, hi) = a["kernel"][k], a["stride"][k], a["padding"][k]
        apart = kernel <= stride  # an element lies in one window at most
        count, read, tap = windows_over(sym(f"x{k}") + lo, kernel, stride, 0 if apart else sym(f"k{k}"))
        if kernel % stride:
            bounds.append(Bound(kernel - 1 - tap, kernel))
        if lo or hi or not apart or not (isinstance(size, int) and size == g.shape[2 + k] * stride):
            bounds.append(Bound(read, g.shape[2 + k]))
        if not apart:
            reduce.append((f"k{k}", count))
        reads.append(read)
    dtype = "float32" if g.dtype in ("float16", "bfloat16") else g.dtype
    divisor = _divisor(sizes, a, reads, dtype)
    term: Scalar = Load(g, (sym("n"), sym("c"), *reads))
    term = term if dtype == g.dtype else Cast(term, dtype)
    combine = "sum" if reduce else None
    if reduce and isinstance(divisor, Const):
        return (Nest(node.output, names, term, tuple(reduce), combine, Binary("div", Acc(), divisor), tuple(bounds)),)
    return (Nest(node.output, names, Binary("div", term, divisor), tuple(reduce), combine, None, tuple(bounds)),)


def _avg_backward_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(30)
    more = [
        Sample((np.zeros((1, 2, 11, 9), np.float32),), pool_attrs((2, 3), (3, 2), ceil_mode=False, count_include_pad=True)),
        Sample((np.zeros((1, 2, 8, 6), np.float32),), pool_attrs((4, 2), (2, 2), ceil_mode=False, count_include_pad=True)),
        Sample((np.zeros((1, 2, 9), np.float32),), pool_attrs((2,), (3,), ((1, 1),), ceil_mode=False, count_include_pad=True)),
    ]
    for s in [*_avg_samples(), *more]:
        (y,) = _avg_ref(s.inputs, s.attrs)
        g = np.asarray(rng.normal(size=y.shape)).astype(np.float32)
        yield Sample((g,), {**s.attrs, "spatial": s.inputs[0].shape[2:]})


#: Input g, the gradient of an average pooling's result; attributes of ``avg_pool`` and ``spatial``, its input's extents.
register(
    OpDef(
        "avg_pool_backward",
        lambda ts, a: (before_pooling("avg_pool", ts[0], a),),
        _avg_backward_ref,
        unary_vjp(lambda e, n, x, y, g: e("avg_pool", g, **{k: v for k, v in n.attrs.items() if k != "spatial"})),
        "io",
        loop=_avg_backward_loop,
        samples=_avg_backward_samples,
    )
)


# --- adaptive -------------------------------------------------------------------------------------------------


def _adaptive_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if len(attrs["output_size"]) != x.rank - 2:
        raise ShapeError(f"output_size {attrs['output_size']} needs one entry per spatial axis of {x}")
    return (TensorType((*x.shape[:2], *attrs["output_size"]), x.dtype),)


def _adaptive_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    out = xs[0]
    for i, size in enumerate(attrs["output_size"]):
        axis, n = 2 + i, xs[0].shape[2 + i]
        parts = [
            out.take(range(j * n // size, -(-(j + 1) * n // size)), axis=axis).mean(axis=axis, keepdims=True) for j in range(size)
        ]
        out = np.concatenate(parts, axis=axis) if parts else out.take([], axis=axis)
    return (out.astype(xs[0].dtype),)


def _adaptive_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    """Averages of equal windows become avg_pool or a mean; uneven ones a product with an averaging matrix per axis."""
    (x,) = inputs
    sizes, origin = node.attrs["output_size"], node.origin
    spatial = len(sizes)
    if all(s == 1 for s in sizes):
        return (r.add("reduce_mean", [x], {"axes": tuple(range(2, 2 + spatial)), "keepdims": True}, origin=origin),)
    extents = x.shape[2:]
    if all(isinstance(n, int) and n % s == 0 for n, s in zip(extents, sizes, strict=True)):
        kernel = tuple(evaluate(n, {}) // s for n, s in zip(extents, sizes, strict=True))
        return (r.add("avg_pool", [x], pool_attrs(kernel, ceil_mode=False, count_include_pad=True), origin=origin),)
    for i, size in enumerate(sizes):
        n = x.shape[2 + i]
        if not isinstance(n, int):
            raise ShapeError(f"{node.where()}: uneven adaptive pooling needs a known extent, not {n}")
        weights = np.zeros((size, n))
        for j in range(size):
            lo, hi = j * n // size, -(-(j + 1) * n // size)
            weights[j, lo:hi] = 1.0 / (hi - lo)
        matrix = constant(r, weights, x.dtype, origin)
        last = x.type.rank - 1
        perm = [a for a in range(last + 1) if a != 2 + i] + [2 + i]
        back = [perm.index(a) for a in range(last + 1)]
        moved = r.add("transpose", [x], {"perm": tuple(perm)}, origin=origin) if 2 + i != last else x
        moved = r.add("matmul", [moved, matrix], {"transpose_b": True}, origin=origin)
        x = r.add("transpose", [moved], {"perm": tuple(back)}, origin=origin) if 2 + i != last else moved
    return (x,)


def _adaptive_samples() -> Iterable[Sample]:
    x = np.random.default_rng(8).normal(size=(2, 5, 9, 8)).astype(np.float32)
    for size in ((1, 1), (3, 4), (4, 3), (9, 8)):
        yield Sample((x,), {"output_size": size})


register(
    OpDef(
        "adaptive_avg_pool",
        _adaptive_infer,
        _adaptive_ref,
        limit="io",
        decompositions={"windows": _adaptive_decompose},
        samples=_adaptive_samples,
    )
)
