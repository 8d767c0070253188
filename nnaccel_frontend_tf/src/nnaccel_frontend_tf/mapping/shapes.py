"""Shapes: views, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.ir import Dim, Value, product
from nnaccel_core.ops.registry import broadcast_shapes
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.items import Item, Known, Opaque, Outside
from nnaccel_frontend_tf.mapping import Call, Result, maps, positive
from nnaccel_frontend_tf.mapping.sizes import dims_of, host


def _shape_of(n: Call, k: int) -> tuple[Dim, ...]:
    x = n.item(k)
    if isinstance(x, Known):
        return x.array.shape
    if isinstance(x, (Opaque, Outside)):
        static = n.op.inputs[k].shape
        if static.is_fully_defined():
            return tuple(static.as_list())
    dims = n.x(k).shape
    if not all(n.c.told(d) for d in dims):
        raise Unmapped("a shape that is known only while it runs")
    return dims


@maps("Shape", "VariableShape")
def shape(n: Call) -> Item:
    if n.op.type == "VariableShape":
        return host(list(n.c.variable(n.item(0)).shape), n.dtype())
    return host(list(_shape_of(n, 0)), n.dtype())


@maps("ShapeN")
def shape_n(n: Call) -> Result:
    return [host(list(_shape_of(n, k)), n.dtype(k)) for k in range(len(n.operands))]


@maps("Size")
def size(n: Call) -> Item:
    return host(product(_shape_of(n, 0)), n.dtype())


@maps("Rank")
def rank(n: Call) -> Item:
    return Known(np.asarray(len(_shape_of(n, 0)), n.dtype()))


def target(n: Call, k: int, what: str) -> list[Dim]:
    """Operand ``k`` as dims."""
    dims = dims_of(n.item(k))
    return [int(d) for d in n.known(k, what).reshape(-1)] if dims is None else list(dims.reshape(-1))


@maps("Reshape")
def reshape(n: Call) -> Item:
    item = n.item(0)
    out = target(n, 1, "the shape")
    if isinstance(item, Known) and all(isinstance(d, int) for d in out) and not item.parameter:
        return Known(item.array.reshape(out))
    x = n.x()
    if -1 in out:
        rest = product(d for d in out if d != -1)
        if rest == 0:
            raise Unmapped("a size of -1 beside one of 0")
        out[out.index(-1)] = x.type.size // rest
    return n.reshape(x, out)


@maps("Transpose")
def transpose(n: Call) -> Value:
    x = n.x()
    return n.transpose(x, [positive(p, x.type.rank) for p in n.ints(1, "the order of axes")])


@maps("Squeeze")
def squeeze(n: Call) -> Value:
    x = n.x()
    axes = n.attr("squeeze_dims") or ()
    dropped = {positive(int(a), x.type.rank) for a in axes}
    if not axes:
        dropped = {k for k, d in enumerate(x.shape) if n.c.static(d) == 1}
    return n.reshape(x, [d for k, d in enumerate(x.shape) if k not in dropped])


@maps("ExpandDims")
def expand_dims(n: Call) -> Item:
    item = n.item(0)
    (axis,) = n.ints(1, "the axis")
    if isinstance(item, Known) and not item.parameter:
        return Known(np.expand_dims(item.array, axis))
    x = n.x()
    axis = positive(axis, x.type.rank + 1)
    return n.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))


@maps("ConcatV2")
def concat(n: Call) -> Value:
    xs = [n.c.read(i) for i in n.operands[:-1]]
    (axis,) = n.ints(len(xs), "the axis")
    xs = [x for x in xs if x.shape[positive(axis, x.type.rank)] != 0] or xs[:1]
    return xs[0] if len(xs) == 1 else n.emit("concat", *xs, axis=positive(axis, xs[0].type.rank))


@maps("Pack")
def pack(n: Call) -> Value:
    xs = n.xs()
    axis = positive(int(n.attr("axis", 0)), xs[0].type.rank + 1)
    rows = [n.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in xs]
    return rows[0] if len(rows) == 1 else n.emit("concat", *rows, axis=axis)


@maps("Unpack")
def unpack(n: Call) -> Result:
    x = n.x()
    axis = positive(int(n.attr("axis", 0)), x.type.rank)
    rest = (*x.shape[:axis], *x.shape[axis + 1 :])
    return [n.reshape(cut(n, x, axis, k, k + 1), rest) for k in range(int(n.attr("num")))]


def cut(n: Call, x: Value, axis: int, start: int, end: Dim, step: int = 1) -> Value:
    """``x[start:end:step]`` along one axis; ``start`` and ``end`` count from the front and lie inside."""
    if (start, end, step) == (0, x.shape[axis], 1):
        return x
    rank = x.type.rank
    starts = tuple(start if k == axis else 0 for k in range(rank))
    ends = tuple(end if k == axis else d for k, d in enumerate(x.shape))
    return n.emit("slice", x, starts=starts, ends=ends, steps=tuple(step if k == axis else 1 for k in range(rank)))


def _pieces(n: Call, x: Value, axis: int, sizes: Sequence[int]) -> Result:
    out: list[Item | None] = []
    at = 0
    for s in sizes:
        out.append(cut(n, x, axis, at, at + s))
        at += s
    return out


@maps("Split")
def split(n: Call) -> Result:
    x, parts = n.x(1), len(n.op.outputs)
    axis = positive(n.ints(0, "the axis")[0], x.type.rank)
    return _pieces(n, x, axis, [n.c.static(x.shape[axis]) // parts] * parts)


@maps("SplitV")
def split_v(n: Call) -> Result:
    x = n.x(0)
    axis = positive(n.ints(2, "the axis")[0], x.type.rank)
    sizes = list(n.ints(1, "the sizes"))
    if -1 in sizes:
        sizes[sizes.index(-1)] = n.c.static(x.shape[axis]) - sum(s for s in sizes if s != -1)
    return _pieces(n, x, axis, sizes)


@maps("Slice")
def slice_(n: Call) -> Value:
    x = n.x()
    starts, counts = n.ints(1, "where a slice begins"), target(n, 2, "the size of a slice")
    for axis, (start, count) in enumerate(zip(starts, counts, strict=True)):
        x = cut(n, x, axis, start, x.shape[axis] if count == -1 or (start == 0 and count == x.shape[axis]) else start + count)
    return x


def _bits(mask: int, count: int) -> list[bool]:
    return [bool(mask >> k & 1) for k in range(count)]


@maps("StridedSlice")
def strided_slice(n: Call) -> Value:
    """numpy's basic indexing; the masks say which entries are ``:``, ``...``, new axes and single positions."""
    x = n.x()
    starts, ends, steps = n.known(1, "where a slice begins"), dims_of(n.item(2)), n.known(3, "the step of a slice")
    if ends is None:
        ends = n.known(2, "where a slice ends").astype(object)
    count = len(steps)
    begin, end, ellipsis, new, shrink = (
        _bits(int(n.attr(f"{m}_mask")), count) for m in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    )
    entries: list[int | None] = []  # the entry for each axis of x, None for a whole one; new axes are -1
    shape_kinds: list[str] = []
    named = sum(1 for k in range(count) if not (ellipsis[k] or (new[k] and not ellipsis[k])))
    for k in range(count):
        if ellipsis[k]:
            entries += [None] * (x.type.rank - named)
            shape_kinds += ["axis"] * (x.type.rank - named)
        elif new[k]:
            shape_kinds.append("new")
        else:
            entries.append(k)
            shape_kinds.append("gone" if shrink[k] else "axis")
    entries += [None] * (x.type.rank - len(entries))
    shape_kinds += ["axis"] * (x.type.rank - sum(kind != "new" for kind in shape_kinds))
    for axis, entry in enumerate(entries):
        if entry is None:
            continue
        extent, step = x.shape[axis], int(steps[entry])
        if shrink[entry]:
            at = int(starts[entry])
            at = at + n.c.static(extent) if at < 0 else at
            x = cut(n, x, axis, at, at + 1)
            continue
        first = None if begin[entry] else int(starts[entry])
        last = None if end[entry] else ends[entry]
        x = _along(n, x, axis, first, last, step)
    dims = iter(x.shape)
    shape: list[Dim] = []
    for kind in shape_kinds:
        if kind == "new":
            shape.append(1)
        else:
            d = next(dims)
            if kind == "axis":
                shape.append(d)
    return n.reshape(x, shape)


def _along(n: Call, x: Value, axis: int, first: int | None, last: Dim | None, step: int) -> Value:
    """numpy's ``first:last:step`` along one axis."""
    extent = x.shape[axis]
    if step == 1 and (first or 0) >= 0 and (last is None or last == extent):
        return cut(n, x, axis, first or 0, extent)
    if step == 1 and (first or 0) >= 0 and last is not None and not isinstance(last, int):
        raise Unmapped(f"a slice up to the size {last}")
    size = n.c.static(extent)
    begin, stop, stride = slice(first, None if last is None else n.c.static(last), step).indices(size)
    count = max(0, -(-(stop - begin) // stride))
    if stride < 0:  # read backwards: turn the axis around, then count from the other end
        x = n.emit("flip", x, axes=(axis,))
        begin, stride = size - 1 - begin, -stride
    if count == 0:
        return cut(n, x, axis, 0, 0)
    return cut(n, x, axis, begin, begin + (count - 1) * stride + 1, stride)


@maps("Pad", "PadV2")
def pad(n: Call) -> Value:
    x = n.x()
    pads = tuple((int(a), int(b)) for a, b in n.known(1, "the padding"))
    fill = n.known(2, "the value of padding").reshape(-1)[0].item() if n.op.type == "PadV2" else 0.0
    return n.emit("pad", x, pads=pads, mode="constant", value=float(fill)) if any(map(any, pads)) else x


@maps("MirrorPad")
def mirror_pad(n: Call) -> Value:
    x = n.x()
    pads = tuple((int(a), int(b)) for a, b in n.known(1, "the padding"))
    if n.attr("mode") == "REFLECT":
        return n.emit("pad", x, pads=pads, mode="reflect")
    for axis, (lo, hi) in enumerate(pads):  # SYMMETRIC repeats the outermost element too
        extent = n.c.static(x.shape[axis]) if lo or hi else 0
        parts = [x]
        if lo:
            parts.insert(0, n.emit("flip", cut(n, x, axis, 0, lo), axes=(axis,)))
        if hi:
            parts.append(n.emit("flip", cut(n, x, axis, extent - hi, extent), axes=(axis,)))
        x = n.emit("concat", *parts, axis=axis) if len(parts) > 1 else x
    return x


@maps("BroadcastTo")
def broadcast_to(n: Call) -> Value:
    x = n.x()
    full = broadcast_shapes(x.shape, target(n, 1, "the shape"))
    return x if full == x.shape else n.emit("expand", x, shape=full)


@maps("Tile")
def tile(n: Call) -> Value:
    x, repeats = n.x(), target(n, 1, "the repetitions")
    if all(r == 1 for r in repeats):
        return x
    spread = n.reshape(x, [d for e in x.shape for d in (1, e)])
    full = n.emit("expand", spread, shape=tuple(d for r, e in zip(repeats, x.shape, strict=True) for d in (r, e)))
    return n.reshape(full, [r * e for r, e in zip(repeats, x.shape, strict=True)])


def _image(n: Call) -> tuple[Value, int]:
    if n.attr("data_format", "NHWC") != "NHWC":
        raise Unmapped(f"data_format {n.attr('data_format')!r}")
    return n.x(), int(n.attr("block_size"))


@maps("DepthToSpace")
def depth_to_space(n: Call) -> Value:
    x, f = _image(n)
    b, h, w, c = x.shape
    spread = n.transpose(n.reshape(x, (b, h, w, f, f, c // (f * f))), (0, 1, 3, 2, 4, 5))
    return n.reshape(spread, (b, h * f, w * f, c // (f * f)))


@maps("SpaceToDepth")
def space_to_depth(n: Call) -> Value:
    x, f = _image(n)
    b, h, w, c = x.shape
    moved = n.transpose(n.reshape(x, (b, h // f, f, w // f, f, c)), (0, 1, 3, 2, 4, 5))
    return n.reshape(moved, (b, h // f, w // f, c * f * f))


@maps("SpaceToBatchND")
def space_to_batch(n: Call) -> Value:
    x, block = n.x(), n.ints(1, "the size of blocks")
    pads = tuple((int(a), int(b)) for a, b in n.known(2, "the padding"))
    m, rest = len(block), x.type.rank - 1 - len(block)
    if any(map(any, pads)):
        x = n.emit("pad", x, pads=((0, 0), *pads, *(((0, 0),) * rest)), mode="constant", value=0.0)
    split_shape: list[Dim] = [x.shape[0]]
    for k, f in enumerate(block):
        split_shape += [x.shape[1 + k] // f, f]
    split_shape += x.shape[1 + m :]
    inner = range(1 + 2 * m, 1 + 2 * m + rest)
    perm = (*(2 + 2 * k for k in range(m)), 0, *(1 + 2 * k for k in range(m)), *inner)
    moved = n.transpose(n.reshape(x, split_shape), perm)
    shape = (x.shape[0] * product(block), *(x.shape[1 + k] // f for k, f in enumerate(block)), *x.shape[1 + m :])
    return n.reshape(moved, shape)


@maps("BatchToSpaceND")
def batch_to_space(n: Call) -> Value:
    x, block = n.x(), n.ints(1, "the size of blocks")
    crops = [(int(a), int(b)) for a, b in n.known(2, "the crops")]
    m, rest = len(block), x.type.rank - 1 - len(block)
    batch = x.shape[0] // product(block)
    spread = n.reshape(x, (*block, batch, *x.shape[1:]))
    perm = [m]
    for k in range(m):
        perm += [m + 1 + k, k]
    perm += range(2 * m + 1, 2 * m + 1 + rest)
    x = n.reshape(n.transpose(spread, perm), (batch, *(x.shape[1 + k] * f for k, f in enumerate(block)), *x.shape[1 + m :]))
    for k, (lo, hi) in enumerate(crops):
        x = cut(n, x, 1 + k, lo, x.shape[1 + k] - hi)
    return x


__all__ = ["cut", "target"]
