"""Where maxima stand: positions in max pooling's windows, gradients by them, and adaptive max pooling with uneven windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, ceil_div, dim_min, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Const, Index, Load, Nest, Scalar, Select, Unary
from nnaccel_core.ops.pool import before_pooling, narrowest, pool_attrs, pooled_extent
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, lookup, register, require_equal, unary_vjp

#: Beyond every position.
_NOWHERE = {"int64": 1 << 62, "int32": (1 << 31) - 1}

Windows = list[list[tuple[int, int, int]]]  # for each axis, for each output: start, stop, step; inside the input


def _flat(at: Sequence[Dim], shape: Sequence[Dim]) -> Dim:
    out: Dim = 0
    for i, n in zip(at, shape, strict=True):
        out = out * n + i
    return out


def _dtype(attrs: Attrs) -> str:
    """Of positions: int64, or int32 by the attribute ``positions`` where the plane has fewer elements than that holds."""
    return str(attrs.get("positions", "int64"))


def _beside(pooled: TensorType, given: TensorType, attrs: Attrs) -> Sequence[TensorType]:
    if given.rank != pooled.rank or given.dtype != pooled.dtype:
        raise ShapeError(f"the second operand must be the pooled first, {pooled}")
    for k, (a, b) in enumerate(zip(pooled.shape, given.shape, strict=True)):
        require_equal(a, b, f"axis {k} of the pooled operand")
    return (TensorType(pooled.shape, _dtype(attrs)),)


def _positions_nest(node: Node, at: Sequence[Dim], reduce: Sequence[tuple[str, Dim]], bounds: Sequence[Bound]) -> Nest:
    """The first position in a window whose element is the window's maximum, or, as in torch, the last one that is NaN."""
    x, top = node.inputs
    dtype = _dtype(node.attrs)
    spatial = x.type.rank - 2
    names = ("n", "c", *(f"y{k}" for k in range(spatial)))
    point = tuple(sym(s) for s in names)
    here: Scalar = Index(_flat(at, x.shape[2:]), dtype)
    element = Load(x, (*point[:2], *at))
    found: Scalar = Select(Binary("eq", element, Load(top, point)), here, Const(_NOWHERE[dtype], dtype))
    last: Scalar = Acc()
    if x.type.is_float:
        # Positions of NaN are counted down from -1, so that the smallest is the last.
        found = Select(Unary("isnan", element), Binary("sub", Const(-1, dtype), here), found)
        last = Select(Binary("lt", last, Const(0, dtype)), Binary("sub", Const(-1, dtype), last), last)
    return Nest(node.output, names, found, tuple(reduce), "min", last, tuple(bounds), dtype)


def _ref_positions(x: Array, windows: Windows) -> Array:
    spatial = x.shape[2:]
    out = np.zeros((*x.shape[:2], *(len(w) for w in windows)), np.int64)
    places = np.arange(int(np.prod(spatial))).reshape(spatial)
    for point in np.ndindex(*(len(w) for w in windows)):
        cut = tuple(slice(*windows[k][i]) for k, i in enumerate(point))
        inside = (slice(None), slice(None), *cut)
        part = x[inside].reshape(*x.shape[:2], -1)
        spots = places[cut].reshape(-1)
        first = np.argmax(part, axis=-1)
        if np.issubdtype(x.dtype, np.floating):
            nan = np.isnan(part)
            first = np.where(nan.any(-1), part.shape[-1] - 1 - np.argmax(nan[..., ::-1], axis=-1), first)
        place = (slice(None), slice(None), *point)
        out[place] = spots[first]
    return out


# --- positions of max_pool ----------------------------------------------------------------------------------------


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (pooled,) = lookup("max_pool").infer(types[:1], attrs)
    return _beside(pooled, types[1], attrs)


def _windows(shape: Sequence[int], attrs: Attrs) -> Windows:
    out = []
    for k, n in enumerate(shape):
        kernel, step, pad, d = attrs["kernel"][k], attrs["stride"][k], attrs["padding"][k], attrs["dilation"][k]
        count = int(pooled_extent(n, kernel, step, pad, d, attrs["ceil_mode"]))  # type: ignore[arg-type]
        starts = [i * step - pad[0] for i in range(count)]
        out.append([(s + max(0, -(s // d)) * d if s < 0 else s, min(s + d * (kernel - 1) + 1, n), d) for s in starts])
    return out


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    return (_ref_positions(xs[0], _windows(xs[0].shape[2:], attrs)).astype(_dtype(attrs)),)


def _loop(node: Node) -> tuple[Nest]:
    a, shape = node.attrs, node.inputs[0].shape[2:]
    at = [sym(f"y{k}") * a["stride"][k] - a["padding"][k][0] + sym(f"k{k}") * a["dilation"][k] for k in range(len(shape))]
    reduce = [(f"k{k}", a["kernel"][k]) for k in range(len(shape))]
    return (_positions_nest(node, at, reduce, [Bound(i, n) for i, n in zip(at, shape, strict=True)]),)


def _samples() -> Iterable[Sample]:
    x = np.random.default_rng(25).normal(size=(2, 3, 7, 8)).astype(np.float32)
    x[0, 1, 2, 3] = x[1, 0, 5, 5] = x[1, 0, 5, 6] = np.nan
    x[0, 0, :4, :4] = 1.0
    for attrs in (
        pool_attrs((2, 2), dilation=(1, 1), ceil_mode=True),
        pool_attrs((3, 2), (2, 1), ((1, 1), (0, 0)), dilation=(1, 1), ceil_mode=False),
        pool_attrs((2, 3), (1, 2), ((1, 1), (1, 1)), dilation=(2, 1), ceil_mode=False),
    ):
        (top,) = lookup("max_pool").ref([x], attrs)
        yield Sample((x, top), attrs)
        yield Sample((x, top), {**attrs, "positions": "int32"})


#: Inputs x (N, C, spatial...) and ``max_pool(x)``; the result is positions in the flattened spatial axes of x, int64 or as the
#: attribute ``positions`` says.
register(OpDef("max_pool_positions", _infer, _ref, limit="io", loop=_loop, samples=_samples))


# --- gradients ----------------------------------------------------------------------------------------------------


def _backward_infer(op: str, types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    g, places = types
    if places.dtype not in ("int32", "int64") or places.rank != g.rank:
        raise ShapeError(f"positions {places} must be integers of the shape of g {g}")
    for k, (a, b) in enumerate(zip(g.shape, places.shape, strict=True)):
        require_equal(a, b, f"axis {k} of g and the positions")
    return (before_pooling(op, g, attrs),)


def _backward_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    g, places = xs
    images, sizes = g.shape[0] * g.shape[1], [int(d) for d in attrs["spatial"]]
    out = np.zeros((images, int(np.prod(sizes))), g.dtype)
    np.add.at(out, (np.arange(images)[:, None], places.reshape(images, -1)), g.reshape(images, -1))
    return (out.reshape(*g.shape[:2], *sizes),)


def _backward_nest(node: Node, reads: Sequence[Dim], counts: Sequence[int]) -> Nest:
    """A gather over the windows ``reads`` that may contain an element, of which axis ``k`` of the reduction counts some:
    those count whose maximum stands at the element."""
    g, places = node.inputs
    names = ("n", "c", *(f"x{k}" for k in range(len(reads))))
    here = Index(_flat([sym(s) for s in names[2:]], node.output.shape[2:]), places.dtype)
    point = (sym("n"), sym("c"), *reads)
    term = Select(Binary("eq", Load(places, point), here), Load(g, point), Const(0.0, g.dtype))
    bounds = tuple(Bound(i, n) for i, n in zip(reads, g.shape[2:], strict=True))
    reduce = tuple((f"k{k}", n) for k, n in enumerate(counts) if n > 1)
    return Nest(node.output, names, term, reduce, "sum" if reduce else None, None, bounds)


def _backward_loop(node: Node) -> tuple[Nest]:
    a = node.attrs
    reads: list[Dim] = []
    counts: list[int] = []
    for k in range(node.output.type.rank - 2):
        stride = a["stride"][k]
        count = (a["dilation"][k] * (a["kernel"][k] - 1)) // stride + 1
        first = (sym(f"x{k}") + a["padding"][k][0]) // stride - (count - 1)
        reads.append(first + sym(f"k{k}") if count > 1 else first)
        counts.append(count)
    return (_backward_nest(node, reads, counts),)


def _backward_samples(op: str, samples: Iterable[Sample]) -> Iterable[Sample]:
    """The gradients of pooling: the positions come from the pooling itself."""
    rng = np.random.default_rng(31)
    for i, s in enumerate(samples):
        x = s.inputs[0]
        (places,) = lookup(op).ref(s.inputs, s.attrs)
        g = np.asarray(rng.normal(size=places.shape)).astype(np.float32)
        attrs = {k: v for k, v in s.attrs.items() if k != "positions"}
        yield Sample((g, places if i % 2 else places.astype(np.int32)), {**attrs, "spatial": x.shape[2:]})


def _backward_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    """What stands at the positions."""
    (g, places), e = ins, Emitter(r, n.origin)
    plane = e("reshape", gs[0], shape=(*g.shape[:2], product(outs[0].shape[2:])))
    flat = e("reshape", places, shape=(*g.shape[:2], product(g.shape[2:])))
    picked = e("gather_elements", plane, flat, axis=2, negative=False)
    return (e("reshape", picked, shape=g.shape), None)


#: Inputs g, the gradient of ``max_pool``'s result, and the positions of the maxima (int32 or int64); attributes of ``max_pool``
#: and ``spatial``, its input's extents.
register(
    OpDef(
        "max_pool_backward",
        lambda ts, a: _backward_infer("max_pool", ts, a),
        _backward_ref,
        _backward_vjp,
        "io",
        loop=_backward_loop,
        samples=lambda: _backward_samples("max_pool_positions", _samples()),
    )
)


# --- adaptive max pooling -----------------------------------------------------------------------------------------


def _adaptive_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if len(attrs["output_size"]) != x.rank - 2:
        raise ShapeError(f"output_size {attrs['output_size']} needs one entry per spatial axis of {x}")
    if any(n == 0 for n in x.shape[2:]):
        raise ShapeError(f"{x} has no element to take a maximum of")
    return (TensorType((*x.shape[:2], *attrs["output_size"]), x.dtype),)


def _adaptive_windows(shape: Sequence[int], attrs: Attrs) -> Windows:
    sizes = attrs["output_size"]
    return [[(i * n // s, -(-(i + 1) * n // s), 1) for i in range(s)] for n, s in zip(shape, sizes, strict=True)]


def _adaptive_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x = xs[0]
    for k, windows in enumerate(_adaptive_windows(x.shape[2:], attrs)):
        parts = [x.take(range(*w), axis=2 + k).max(axis=2 + k, keepdims=True) for w in windows]
        x = np.concatenate(parts, axis=2 + k) if parts else x.take([], axis=2 + k)
    return (x,)


def _adaptive(node: Node) -> tuple[list[Dim], list[tuple[str, Dim]]]:
    """Positions read, and reduced axes: window ``i`` of ``s`` is ``[i * n // s, ceil((i + 1) * n / s))``.

    Windows differ in length; the shorter ones read their last element again, which changes no maximum.
    """
    at: list[Dim] = []
    reduce: list[tuple[str, Dim]] = []
    for k, (n, s) in enumerate(zip(node.inputs[0].shape[2:], node.attrs["output_size"], strict=True)):
        start, here = sym(f"y{k}") * n // s, sym(f"k{k}")
        even = isinstance(n, int) and n % s == 0
        at.append(start + here if even else dim_min(start + here, ceil_div((sym(f"y{k}") + 1) * n, s) - 1))
        reduce.append((f"k{k}", n // s if even else ceil_div(n + s - 1, s)))
    return at, reduce


def _adaptive_loop(node: Node) -> tuple[Nest]:
    at, reduce = _adaptive(node)
    x = node.inputs[0]
    names = ("n", "c", *(f"y{k}" for k in range(len(at))))
    return (Nest(node.output, names, Load(x, (sym("n"), sym("c"), *at)), tuple(reduce), "max"),)


def _adaptive_samples() -> Iterable[Sample]:
    x = np.random.default_rng(26).normal(size=(2, 3, 7, 8)).astype(np.float32)
    for size in ((1, 1), (3, 3), (7, 4), (2, 5)):
        yield Sample((x,), {"output_size": size})
    yield Sample((x[:, :, 0],), {"output_size": (3,)})


def _adaptive_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    places = e("adaptive_max_pool_positions", x, y, **n.attrs, positions=narrowest(x.shape[2:]))
    return e("adaptive_max_pool_backward", g, places, **n.attrs, spatial=x.shape[2:])


register(
    OpDef(
        "adaptive_max_pool",
        _adaptive_infer,
        _adaptive_ref,
        unary_vjp(_adaptive_vjp),
        "io",
        loop=_adaptive_loop,
        samples=_adaptive_samples,
    )
)


def _adaptive_positions_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (pooled,) = _adaptive_infer(types[:1], attrs)
    return _beside(pooled, types[1], attrs)


def _adaptive_positions_samples() -> Iterable[Sample]:
    for s in _adaptive_samples():
        x = np.array(s.inputs[0])
        x[0, 0, ..., 2] = np.nan
        yield Sample((x, *_adaptive_ref([x], s.attrs)), s.attrs)


#: As ``max_pool_positions``, for ``adaptive_max_pool``.
register(
    OpDef(
        "adaptive_max_pool_positions",
        _adaptive_positions_infer,
        lambda xs, a: (_ref_positions(xs[0], _adaptive_windows(xs[0].shape[2:], a)).astype(_dtype(a)),),
        limit="io",
        loop=lambda n: (_positions_nest(n, *_adaptive(n), ()),),
        samples=_adaptive_positions_samples,
    )
)


def _adaptive_backward_loop(node: Node) -> tuple[Nest]:
    """Windows ``i`` with ``i * n // s <= x < ceil((i + 1) * n / s)``: from ``x * s // n`` on, few."""
    reads: list[Dim] = []
    counts: list[int] = []
    for k, (n, s) in enumerate(zip(node.output.shape[2:], node.attrs["output_size"], strict=True)):
        first = sym(f"x{k}") * s // n
        # of x the windows (x * s) // n .. ((x + 1) * s - 1) // n: where s divides n these are one
        count = 1 if isinstance(n, int) and n % s == 0 else -(-(s - 1) // n) + 1 if isinstance(n, int) else s
        reads.append(first + sym(f"k{k}") if count > 1 else first)
        counts.append(count)
    return (_backward_nest(node, reads, counts),)


#: As ``max_pool_backward``, for ``adaptive_max_pool``.
register(
    OpDef(
        "adaptive_max_pool_backward",
        lambda ts, a: _backward_infer("adaptive_max_pool", ts, a),
        _backward_ref,
        _backward_vjp,
        "io",
        loop=_adaptive_backward_loop,
        samples=lambda: _backward_samples("adaptive_max_pool_positions", _adaptive_positions_samples()),
    )
)
