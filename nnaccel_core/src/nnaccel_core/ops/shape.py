"""Operators that move or rearrange: constants, views, slices, concat, physical reorder, packing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, ceil_div, product, sym
from nnaccel_core.loopir.grammar import Binary, Index, Load, Nest, Scalar, Select
from nnaccel_core.ops.elementwise import axis_names, load_broadcast, unbroadcast
from nnaccel_core.ops.registry import (
    Array,
    Attrs,
    Emitter,
    OpDef,
    Sample,
    broadcast_shapes,
    constant,
    register,
    require_equal,
    unary_vjp,
)


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


#: The same values, through which no gradient flows. A pass drops it once gradients are taken.
register(
    OpDef(
        "stop_gradient",
        lambda ts, a: (TensorType(ts[0].shape, ts[0].dtype),),
        lambda xs, a: (xs[0],),
        lambda r, n, i, o, g: (None,),
        "any",
        loop=lambda n: _copy_nest(n, [sym(s) for s in axis_names(n.output.type.rank)]),
        samples=lambda: [Sample((_draw(2, 3),))],
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
        lambda r, n, i, o, g: (unbroadcast(r, g[0], i[0].shape, n.origin),),
        "any",
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


def _slice_vjp(e: Emitter, n: Node, x: Value, y: Value, g: Value) -> Value:
    """Zeros around ``g``; between its elements, too, where the slice took steps."""
    starts, steps = n.attrs["starts"], n.attrs["steps"]
    after = [d - end for d, end in zip(x.shape, n.attrs["ends"], strict=True)]
    if all(p == 1 for p in steps) and all(isinstance(k, int) for k in (*starts, *after)):
        return e("pad", g, pads=tuple(zip(starts, after, strict=True)), mode="constant", value=0.0)
    return e("slice_update", e.zeros(x.shape, x.dtype), g, **n.attrs)


_slice_sample_attrs = {"starts": (0, 1, 0), "ends": (2, 4, 7), "steps": (1, 1, 2)}
register(
    OpDef(
        "slice",
        _slice_infer,
        lambda xs, a: (xs[0][_slices(a, xs[0].shape)],),
        unary_vjp(_slice_vjp),
        "any",
        loop=_slice_loop,
        samples=lambda: [
            Sample((_draw(2, 5, 7),), _slice_sample_attrs),
            Sample((_draw(2, 5, 7),), {"starts": (0, 2, 3), "ends": (2, 5, 5), "steps": (1, 1, 1)}),
        ],
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


def _slice_update_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    e, g = Emitter(r, n.origin), gs[0]
    if not outs[0].type.is_float:
        return (None, None)
    new = e("slice", g, **n.attrs)
    return (e("slice_update", g, constant(r, 0.0, g.dtype, n.origin), **n.attrs), unbroadcast(r, new, ins[1].shape, n.origin))


def all_of(tests: Sequence[Scalar]) -> Scalar:
    """The conjunction of ``tests``."""
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
    return (Nest(node.output, names, Select(all_of(tests), new, Load(x, tuple(axes)))),)


register(
    OpDef(
        "slice_update",
        _slice_update_infer,
        _slice_update_ref,
        _slice_update_vjp,
        "any",
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
