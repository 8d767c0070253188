"""Operators that move or rearrange: constants, views, slices, concat, pad, physical reorder, packing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, ceil_div, dim_max, dim_min, product, sym
from nnaccel_core.loopir.grammar import Binary, Const, Index, Load, Nest, Scalar, Select
from nnaccel_core.ops.elementwise import axis_names, like, load_broadcast
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, broadcast_shapes, register, require_equal


def _draw(*shape: int) -> Array:
    return np.random.default_rng(13).normal(size=shape).astype(np.float32)


def ir_dtype(array: Array) -> str:
    """The IR dtype of a numpy array."""
    return str(array.dtype)


register(
    OpDef(
        "constant",
        lambda ts, a: (TensorType(a["value"].shape, ir_dtype(a["value"])),),
        lambda xs, a: (a["value"],),
        limit="view",
    )
)


# --- views: the same elements under another shape ----------------------------------------------------------------


def _reshape_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    shape = attrs["shape"]
    require_equal(types[0].size, product(shape), f"elements of {types[0]} against shape {shape}")
    return (TensorType(shape, types[0].dtype),)


def _reshape_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    shape = attrs["shape"]
    free = [k for k, d in enumerate(shape) if not isinstance(d, int)]
    if len(free) > 1:
        raise ShapeError(f"reshape reference needs at most one symbolic dim, got {shape}")
    return (np.ascontiguousarray(xs[0]).reshape([-1 if k in free else int(d) for k, d in enumerate(shape)]),)


register(
    OpDef(
        "reshape",
        _reshape_infer,
        _reshape_ref,
        lambda r, n, i, o, g: (r.add("reshape", [g[0]], {"shape": i[0].shape}, origin=n.origin),),
        "view",
        samples=lambda: [Sample((_draw(2, 3, 4),), {"shape": (6, 4)}), Sample((_draw(2, 3, 4),), {"shape": (24,)})],
    )
)


def _transpose_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    perm = attrs["perm"]
    if sorted(perm) != list(range(types[0].rank)):
        raise ShapeError(f"perm {perm} is no permutation of the axes of {types[0]}")
    return (TensorType(tuple(types[0].shape[a] for a in perm), types[0].dtype),)


register(
    OpDef(
        "transpose",
        _transpose_infer,
        lambda xs, a: (np.transpose(xs[0], a["perm"]),),
        lambda r, n, i, o, g: (
            r.add("transpose", [g[0]], {"perm": tuple(int(k) for k in np.argsort(n.attrs["perm"]))}, origin=n.origin),
        ),
        "view",
        samples=lambda: [Sample((_draw(2, 3, 4),), {"perm": (2, 0, 1)}), Sample((_draw(2, 3),), {"perm": (1, 0)})],
    )
)


# --- copies ---------------------------------------------------------------------------------------------------


def _copy_nest(node: Node, index: Sequence[Dim]) -> tuple[Nest]:
    return (Nest(node.output, axis_names(node.output.type.rank), Load(node.inputs[0], tuple(index))),)


def _expand_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    out = broadcast_shapes(types[0].shape, attrs["shape"])
    if len(out) != len(attrs["shape"]):
        raise ShapeError(f"{types[0]} does not expand to {attrs['shape']}")
    return (TensorType(out, types[0].dtype),)


def _expand_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    if any(not isinstance(d, int) for d in attrs["shape"]):
        raise ShapeError(f"expand reference needs a known shape, got {attrs['shape']}")
    return (np.broadcast_to(xs[0], np.broadcast_shapes(xs[0].shape, tuple(attrs["shape"]))),)


register(
    OpDef(
        "expand",
        _expand_infer,
        _expand_ref,
        limit="any",
        loop=lambda n: (
            Nest(
                n.output,
                axis_names(n.output.type.rank),
                load_broadcast(n.inputs[0], [sym(s) for s in axis_names(n.output.type.rank)]),
            ),
        ),
        samples=lambda: [Sample((_draw(3, 1),), {"shape": (2, 3, 5)})],
    )
)


def slice_extent(start: int, end: Dim, step: int) -> Dim:
    return ceil_div(end - start, step)


def _slice_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    if not len(attrs["starts"]) == len(attrs["ends"]) == len(attrs["steps"]) == x.rank:
        raise ShapeError("starts, ends and steps need one entry per axis")
    if any(s < 1 for s in attrs["steps"]):
        raise ShapeError("steps must be positive (flip reverses)")
    shape = []
    for start, end, step, extent in zip(attrs["starts"], attrs["ends"], attrs["steps"], x.shape, strict=True):
        if isinstance(extent, int) and isinstance(end, int) and isinstance(start, int) and not 0 <= start <= end <= extent:
            raise ShapeError(f"slice {start}:{end} leaves 0..{extent}")
        shape.append(slice_extent(start, end, step))
    return (TensorType(tuple(shape), x.dtype),)


def _slices(attrs: Attrs, shape: Sequence[int]) -> tuple[slice, ...]:
    """numpy slices; an end that is symbolic can only be the extent itself."""
    return tuple(
        slice(s, e if isinstance(e, int) else None, p)
        for s, e, p in zip(attrs["starts"], attrs["ends"], attrs["steps"], strict=True)
    )


def _slice_loop(node: Node) -> tuple[Nest]:
    a = node.attrs
    axes = [sym(s) for s in axis_names(node.output.type.rank)]
    return _copy_nest(node, [axes[k] * a["steps"][k] + a["starts"][k] for k in range(len(axes))])


_slice_sample_attrs = {"starts": (0, 1, 0), "ends": (2, 4, 7), "steps": (1, 1, 2)}
register(
    OpDef(
        "slice",
        _slice_infer,
        lambda xs, a: (xs[0][_slices(a, xs[0].shape)],),
        limit="any",
        loop=_slice_loop,
        samples=lambda: [Sample((_draw(2, 5, 7),), _slice_sample_attrs)],
    )
)


def _slice_update_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, y = types
    if x.dtype != y.dtype:
        raise ShapeError(f"dtypes {x.dtype} and {y.dtype} differ")
    (part,) = _slice_infer([x], attrs)
    if broadcast_shapes(part.shape, y.shape) != part.shape:
        raise ShapeError(f"{y} does not broadcast to the slice {part}")
    return (TensorType(x.shape, x.dtype),)


def _slice_update_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    out = np.array(xs[0])
    out[_slices(attrs, out.shape)] = xs[1]
    return (out,)


def _inside(tests: Sequence[Scalar]) -> Scalar:
    out = tests[0]
    for t in tests[1:]:
        out = Binary("and", out, t)
    return out


def _slice_update_loop(node: Node) -> tuple[Nest]:
    x, y = node.inputs
    a = node.attrs
    names = axis_names(x.type.rank)
    axes = [sym(s) for s in names]
    tests: list[Scalar] = []
    at: list[Dim] = []
    for k, i in enumerate(axes):
        start, end, step = a["starts"][k], a["ends"][k], a["steps"][k]
        at.append((i - start) // step)
        if start != 0:
            tests.append(Binary("ge", Index(i), Index(start)))
        if end != x.shape[k]:
            tests.append(Binary("lt", Index(i), Index(end)))
        if step != 1:
            tests.append(Binary("eq", Index((i - start) % step), Index(0)))
    new = load_broadcast(y, at)
    if not tests:
        return (Nest(node.output, names, new),)
    return (Nest(node.output, names, Select(_inside(tests), new, Load(x, tuple(axes)))),)


register(
    OpDef(
        "slice_update",
        _slice_update_infer,
        _slice_update_ref,
        limit="any",
        loop=_slice_update_loop,
        samples=lambda: [
            Sample((_draw(2, 5, 7), _draw(2, 3, 4)), _slice_sample_attrs),
            Sample((_draw(2, 5, 7), _draw(3, 1)), _slice_sample_attrs),
        ],
    )
)


def _concat_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    axis, first = attrs["axis"], types[0]
    if not 0 <= axis < first.rank:
        raise ShapeError(f"axis {axis} is not in 0..{first.rank - 1}")
    total: Dim = 0
    for t in types:
        if t.rank != first.rank or t.dtype != first.dtype:
            raise ShapeError("operands differ in rank or dtype")
        for k in range(first.rank):
            if k != axis:
                require_equal(t.shape[k], first.shape[k], f"axis {k}")
        total = total + t.shape[axis]
    return (TensorType((*first.shape[:axis], total, *first.shape[axis + 1 :]), first.dtype),)


def _concat_loop(node: Node) -> tuple[Nest]:
    axis = node.attrs["axis"]
    names = axis_names(node.output.type.rank)
    axes: list[Dim] = [sym(s) for s in names]
    i = axes[axis]
    offset: Dim = 0
    pieces: list[tuple[Dim, Load]] = []
    for v in node.inputs:
        pieces.append((offset + v.shape[axis], Load(v, (*axes[:axis], i - offset, *axes[axis + 1 :]))))
        offset = offset + v.shape[axis]
    return (Nest(node.output, names, _piece_of(i, pieces)),)


def _piece_of(i: Dim, pieces: Sequence[tuple[Dim, Load]]) -> Scalar:
    """The piece that ``i`` falls into, by halves: compilers' parsers refuse a chain of dozens of nested choices."""
    if len(pieces) == 1:
        return pieces[0][1]
    half = len(pieces) // 2
    first, rest = _piece_of(i, pieces[:half]), _piece_of(i, pieces[half:])
    return Select(Binary("lt", Index(i), Index(pieces[half - 1][0])), first, rest)


def _concat_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    axis, offset = n.attrs["axis"], 0
    grads: list[Value | None] = []
    for v in ins:
        starts = tuple(offset if k == axis else 0 for k in range(v.type.rank))
        ends = tuple(offset + v.shape[axis] if k == axis else d for k, d in enumerate(outs[0].shape))
        attrs = {"starts": starts, "ends": ends, "steps": (1,) * v.type.rank}
        grads.append(r.add("slice", [gs[0]], attrs, origin=n.origin))
        offset = offset + v.shape[axis]
    return grads


register(
    OpDef(
        "concat",
        _concat_infer,
        lambda xs, a: (np.concatenate(xs, axis=a["axis"]),),
        _concat_vjp,
        "io",
        loop=_concat_loop,
        samples=lambda: [
            Sample((_draw(2, 3, 4), _draw(2, 5, 4), _draw(2, 1, 4)), {"axis": 1}),
            Sample((_draw(2, 3), _draw(2, 4)), {"axis": 1}),
            Sample(tuple(_draw(2, 1 + k % 3) for k in range(40)), {"axis": 1}),
        ],
    )
)


PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x = types[0]
    mode = attrs.get("mode", "constant")
    if len(attrs["pads"]) != x.rank:
        raise ShapeError("pads needs one (before, after) pair per axis")
    if mode not in PAD_MODES:
        raise ShapeError(f"mode {mode!r} is not known; known: {', '.join(PAD_MODES)}")
    for d, pair in zip(x.shape, attrs["pads"], strict=True):
        limit = d - 1 if mode == "reflect" else d
        if mode in ("reflect", "circular") and isinstance(limit, int) and max(pair) > limit:
            raise ShapeError(f"{mode} padding of {max(pair)} needs more than the {d} elements there are")
        if mode != "constant" and min(pair) < 0:
            raise ShapeError(f"{mode} padding cannot crop")
    return (TensorType(tuple(d + lo + hi for d, (lo, hi) in zip(x.shape, attrs["pads"], strict=True)), x.dtype),)


def _pad_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    mode = PAD_MODES[attrs.get("mode", "constant")]
    if mode != "constant":
        return (np.pad(xs[0], attrs["pads"], mode=mode),)  # type: ignore[call-overload]
    cut = tuple(slice(max(-lo, 0), d - max(-hi, 0)) for d, (lo, hi) in zip(xs[0].shape, attrs["pads"], strict=True))
    grown = [(max(lo, 0), max(hi, 0)) for lo, hi in attrs["pads"]]
    return (np.pad(xs[0][cut], grown, constant_values=attrs.get("value", 0.0)),)


def _padded_index(at: Dim, extent: Dim, mode: str) -> Dim:
    """Where a padded position reads from."""
    if mode == "replicate":
        return dim_min(dim_max(at, 0), extent - 1)
    if mode == "circular":
        return (at + extent) % extent
    inside = dim_max(at, -at)
    return dim_min(inside, 2 * (extent - 1) - inside)


def _pad_loop(node: Node) -> tuple[Nest]:
    x, pads, mode = node.inputs[0], node.attrs["pads"], node.attrs.get("mode", "constant")
    names = axis_names(x.type.rank)
    at: list[Dim] = [sym(s) - pads[k][0] for k, s in enumerate(names)]
    if mode != "constant":
        index = [_padded_index(at[k], x.shape[k], mode) if any(pads[k]) else at[k] for k in range(len(names))]
        return (Nest(node.output, names, Load(x, tuple(index))),)
    tests: list[Scalar] = []
    for k, (lo, hi) in enumerate(pads):
        if lo > 0:
            tests.append(Binary("ge", Index(at[k]), Index(0)))
        if hi > 0:
            tests.append(Binary("lt", Index(at[k]), Index(x.shape[k])))
    load = Load(x, tuple(at))
    if not tests:
        return (Nest(node.output, names, load),)
    value = node.attrs.get("value", 0.0)
    fill: Scalar = like(load, value) if x.dtype != "bool" else Const(bool(value), "bool")
    return (Nest(node.output, names, Select(_inside(tests), load, fill)),)


register(
    OpDef(
        "pad",
        _pad_infer,
        _pad_ref,
        limit="any",
        loop=_pad_loop,
        samples=lambda: [
            Sample((_draw(2, 3, 4),), {"pads": ((0, 0), (1, 2), (0, 3)), "mode": "constant", "value": 0.0}),
            Sample((_draw(2, 3, 4),), {"pads": ((0, 0), (-1, 0), (2, 1)), "mode": "constant", "value": -1.5}),
            *(
                Sample((_draw(2, 4, 5),), {"pads": ((0, 0), (2, 1), (0, 3)), "mode": m})
                for m in ("reflect", "replicate", "circular")
            ),
        ],
    )
)


# --- memory ---------------------------------------------------------------------------------------------------

#: A physical copy into ``attrs["layout"]``; logically the identity. Inserted by the layout pass only.
register(
    OpDef(
        "reorder",
        lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype, a["layout"]),),
        lambda xs, a: (xs[0],),
        lambda r, n, i, o, g: (g[0],),
        "io",
        loop=lambda n: _copy_nest(n, [sym(s) for s in axis_names(n.output.type.rank)]),
        samples=lambda: [Sample((_draw(2, 3, 4, 5),), {"layout": (0, 2, 3, 1)})],
    )
)


def _pack_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    raise ShapeError("pack has no reference: its result is a backend's private format")


#: A parameter in a backend's private format; see `Pack`.
register(OpDef("pack", lambda ts, a: (TensorType((a["nbytes"],), "uint8"),), _pack_ref, limit="params", host=True))
