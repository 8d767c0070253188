"""Max, average and adaptive average pooling over any number of spatial axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, ceil_div, dim_max, dim_min, evaluate, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Cast, Const, Index, Load, Nest, Scalar
from nnaccel_core.ops.conv import pad_spatial, window_extent, windows
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, register


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
    axes = _window_axes(x)
    total = _pooled_windows(x, attrs, 0.0).sum(axis=axes)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    if attrs.get("count_include_pad", True):
        # Declared padding counts, ceil mode's overhang does not.
        ones = pad_spatial(ones, attrs["padding"], 1.0)
        free = {**attrs, "padding": tuple((0, 0) for _ in attrs["padding"])}
        counts = _counts(ones, free, [int(_out(x, attrs, i)) for i in range(x.ndim - 2)])
    else:
        counts = _pooled_windows(ones, attrs, 0.0).sum(axis=axes)
    return ((total / counts).astype(x.dtype),)


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


def _avg_loop(node: Node) -> tuple[Nest]:
    x, a = node.inputs[0], node.attrs
    spatial = x.type.rank - 2
    count: Dim = 1
    for k in range(spatial):
        kernel, (lo, hi) = a["kernel"][k], a["padding"][k]
        start = sym(f"y{k}") * a["stride"][k] - lo
        if not (lo or hi or a.get("ceil_mode", False)):
            count = count * kernel
        elif a.get("count_include_pad", True):
            count = count * (kernel if not a.get("ceil_mode", False) else dim_min(start + kernel, x.shape[2 + k] + hi) - start)
        else:
            count = count * (dim_min(start + kernel, x.shape[2 + k]) - dim_max(start, 0))
    dtype = "float32" if x.dtype in ("float16", "bfloat16") else x.dtype
    divisor: Scalar = Const(float(count), dtype) if isinstance(count, int) else Cast(Index(count), dtype)
    return (_window_nest(node, "sum", Binary("div", Acc(), divisor)),)


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


register(OpDef("max_pool", _infer, _max_ref, limit="io", loop=lambda n: (_window_nest(n, "max", None),), samples=_max_samples))
register(OpDef("avg_pool", _infer, _avg_ref, limit="io", loop=_avg_loop, samples=_avg_samples))


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
        weights = np.zeros((size, n), np.float32 if x.dtype != "float64" else np.float64)
        for j in range(size):
            lo, hi = j * n // size, -(-(j + 1) * n // size)
            weights[j, lo:hi] = 1.0 / (hi - lo)
        matrix = r.add("constant", [], {"value": weights}, origin=origin)
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
