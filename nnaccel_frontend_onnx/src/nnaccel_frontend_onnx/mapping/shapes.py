"""Shapes: views, slices, joins, padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnaccel_core.ir import Dim, Value, product
from nnaccel_core.ops.registry import broadcast_shapes
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Item, Known
from nnaccel_frontend_onnx.mapping import Call, Result, maps, positive
from nnaccel_frontend_onnx.mapping.sizes import dims_of, host

#: Ends beyond this mean "to the end".
_FAR = 1 << 30


@maps("Shape")
def shape(n: Call) -> Item:
    x = n.item(0)
    dims: Sequence[Dim] = x.array.shape if isinstance(x, Known) else n.x().shape
    if not all(n.c.told(d) for d in dims):
        raise Unmapped("a shape that is known only while it runs")
    start, end = int(n.attr("start", 0)), n.attr("end")
    return host(list(dims)[start : None if end is None else int(end)])


@maps("Size")
def size(n: Call) -> Item:
    x = n.item(0)
    total = x.array.size if isinstance(x, Known) else n.x().type.size
    if not n.c.told(total):
        raise Unmapped("a size that is known only while it runs")
    return host(total)


def target(n: Call, k: int, name: str) -> list[Dim]:
    """Operand ``k`` (an attribute in old operator sets) as dims."""
    if not n.has(k):
        found = n.attr(name)
        if found is None:
            raise Unmapped(f"{name} is absent")
        return [int(d) for d in found]
    dims = dims_of(n.item(k))
    if dims is None:
        n.c.known(n.item(k), f"the {name}")
        raise Unmapped(f"the {name} is no list of sizes")
    return list(dims.reshape(-1))


@maps("Reshape")
def reshape(n: Call) -> Value:
    x, dims = n.x(), target(n, 1, "shape")
    zero = n.attr("allowzero", 0)
    out: list[Dim] = [x.shape[k] if d == 0 and not zero and k < x.type.rank else d for k, d in enumerate(dims)]
    rest = product(d for d in out if d != -1)
    batch = n.c.batch
    if -1 in dims:
        if rest == 0:
            raise Unmapped("a size of -1 beside one of 0")
        out[dims.index(-1)] = x.type.size // rest
    elif batch and out and out[0] == 1 and rest != x.type.size and x.shape[0] * rest == x.type.size:
        out[0] = x.shape[0]  # the file has fixed the batch at 1; this call brings more samples
    return n.reshape(x, out)


@maps("Flatten")
def flatten(n: Call) -> Value:
    x = n.x()
    axis = int(n.attr("axis", 1))
    axis = axis + x.type.rank if axis < 0 else axis
    return n.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


@maps("Transpose")
def transpose(n: Call) -> Value:
    x = n.x()
    return n.transpose(x, n.attr("perm") or tuple(reversed(range(x.type.rank))))


@maps("Squeeze")
def squeeze(n: Call) -> Value:
    x = n.x()
    axes = n.ints(1, "axes")
    if axes is None:
        if any(not isinstance(d, int) for d in x.shape):
            n.c.static(next(d for d in x.shape if not isinstance(d, int)))
        axes = tuple(k for k, d in enumerate(x.shape) if d == 1)
    dropped = {positive(a, x.type.rank) for a in axes}
    return n.reshape(x, [d for k, d in enumerate(x.shape) if k not in dropped])


@maps("Unsqueeze")
def unsqueeze(n: Call) -> Value:
    x = n.x()
    axes = n.ints(1, "axes") or ()
    rank = x.type.rank + len(axes)
    new = {positive(a, rank) for a in axes}
    old = iter(x.shape)
    return n.reshape(x, [1 if k in new else next(old) for k in range(rank)])


@maps("Concat")
def concat(n: Call) -> Value:
    xs = n.xs()
    axis = n.axis(xs[0].type.rank, 1)
    return xs[0] if len(xs) == 1 else n.emit("concat", *xs, axis=axis)


def cut(n: Call, x: Value, axis: int, start: Dim, end: Dim, step: int = 1) -> Value:
    """``x[start:end:step]`` along one axis; ``start`` and ``end`` count from the front and lie inside."""
    if (start, end, step) == (0, x.shape[axis], 1):
        return x
    rank = x.type.rank
    starts = tuple(start if k == axis else 0 for k in range(rank))
    ends = tuple(end if k == axis else d for k, d in enumerate(x.shape))
    return n.emit("slice", x, starts=starts, ends=ends, steps=tuple(step if k == axis else 1 for k in range(rank)))


@maps("Split")
def split(n: Call) -> Result:
    x = n.x()
    axis = n.axis(x.type.rank, 0)
    sizes = n.ints(1, "split")
    if sizes is None:
        extent, parts = n.c.static(x.shape[axis]), len(n.node.output)
        each = -(-extent // parts)
        sizes = tuple(max(0, min(each, extent - k * each)) for k in range(parts))
    out: list[Item | None] = []
    at = 0
    for s in sizes:
        out.append(cut(n, x, axis, at, at + s))
        at += s
    return out


@maps("Slice")
def slice_(n: Call) -> Value:
    x = n.x()
    starts, ends = n.ints(1, "starts"), n.ints(2, "ends")
    if starts is None or ends is None:
        raise Unmapped("starts or ends are absent")
    axes = n.ints(3, "axes") or tuple(range(len(starts)))
    steps = n.ints(4, "steps") or (1,) * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = positive(axis, x.type.rank)
        extent = x.shape[axis]
        if step == 1 and start >= 0 and not isinstance(extent, int) and end >= _FAR:
            x = cut(n, x, axis, start, extent) if start else x
            continue
        if step == 0:
            raise Unmapped("a step of 0")
        first, last, stride = slice(start, end, step).indices(n.c.static(extent))
        count = max(0, -(-(last - first) // stride))
        if stride < 0:  # read backwards: turn the axis around, then count from the other end
            x = n.emit("flip", x, axes=(axis,))
            first, stride = n.c.static(extent) - 1 - first, -stride
        if count == 0:
            x = cut(n, x, axis, 0, 0)
        else:
            x = cut(n, x, axis, first, first + (count - 1) * stride + 1, stride)
    return x


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@maps("Pad")
def pad(n: Call) -> Value:
    x = n.x()
    rank, mode = x.type.rank, n.attr("mode", "constant")
    pads = n.ints(1, "pads") or n.attr("paddings")
    if pads is None or mode not in _MODES:
        raise Unmapped(f"mode {mode!r} with pads {pads}")
    axes = n.ints(3, "axes") if n.version >= 18 else None
    chosen = [positive(a, rank) for a in axes] if axes is not None else list(range(rank))
    pairs = [(0, 0)] * rank
    for k, axis in enumerate(chosen):
        pairs[axis] = (int(pads[k]), int(pads[len(chosen) + k]))
    value = n.known(2, "the value of padding")
    fill = float(n.attr("value", 0.0)) if value is None else value.reshape(-1)[0].item() if value.size else 0.0
    if not any(map(any, pairs)):
        return x
    if mode != "constant":
        low = [(min(a, 0), min(b, 0)) for a, b in pairs]
        if any(map(any, low)):
            raise Unmapped(f"mode {mode!r} that crops")
        return n.emit("pad", x, pads=tuple(pairs), mode=_MODES[mode])
    return n.emit("pad", x, pads=tuple(pairs), mode="constant", value=fill)


@maps("Expand")
def expand(n: Call) -> Value:
    x, dims = n.x(), target(n, 1, "shape")
    for d, e in zip(dims[::-1], x.shape[::-1], strict=False):
        if d != e and d != 1 and e != 1:  # a size that is a symbol may turn out to be 1, which broadcasts otherwise
            n.c.static(d if not isinstance(d, int) else e)
    shape = broadcast_shapes(x.shape, dims)
    return x if shape == x.shape else n.emit("expand", x, shape=shape)


@maps("Tile")
def tile(n: Call) -> Value:
    x = n.x()
    repeats = n.ints(1, "repeats")
    if n.version < 6:
        tiles, axis = n.known(1, "tiles"), n.known(2, "axis")
        if tiles is None or axis is None:
            raise Unmapped("tiles or axis is absent")
        at = int(axis.reshape(-1)[0])
        repeats = tuple(int(tiles.reshape(-1)[0]) if k == at else 1 for k in range(x.type.rank))
    if repeats is None or len(repeats) != x.type.rank:
        raise Unmapped(f"repeats {repeats} for {x.type}")
    if all(r == 1 for r in repeats):
        return x
    spread = n.reshape(x, [d for e in x.shape for d in (1, e)])
    full = n.emit("expand", spread, shape=tuple(d for r, e in zip(repeats, x.shape, strict=True) for d in (r, e)))
    return n.reshape(full, [r * e for r, e in zip(repeats, x.shape, strict=True)])


@maps("DepthToSpace")
def depth_to_space(n: Call) -> Value:
    x, f = n.x(), int(n.attr("blocksize"))
    b, c, h, w = _image(x)
    split_: tuple[Dim, ...]
    if n.attr("mode", "DCR") == "DCR":
        split_, perm = (b, f, f, c // (f * f), h, w), (0, 3, 4, 1, 5, 2)
    else:
        split_, perm = (b, c // (f * f), f, f, h, w), (0, 1, 4, 2, 5, 3)
    return n.reshape(n.transpose(n.reshape(x, split_), perm), (b, c // (f * f), h * f, w * f))


@maps("SpaceToDepth")
def space_to_depth(n: Call) -> Value:
    x, f = n.x(), int(n.attr("blocksize"))
    b, c, h, w = _image(x)
    perm = (0, 3, 5, 1, 2, 4) if n.attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return n.reshape(n.transpose(n.reshape(x, (b, c, h // f, f, w // f, f)), perm), (b, c * f * f, h // f, w // f))


def _image(x: Value) -> tuple[Dim, ...]:
    if x.type.rank != 4:
        raise Unmapped(f"{x.type} is no (N, C, H, W)")
    return x.shape


@maps("Trilu")
def trilu(n: Call) -> Value:
    x = n.x()
    given = n.known(1, "the diagonal")
    k = 0 if given is None else int(given.reshape(-1)[0])
    rows, columns = n.c.static(x.shape[-2]), n.c.static(x.shape[-1])
    ones = np.ones((rows, columns), bool)
    mask = np.triu(ones, k) if n.attr("upper", 1) else np.tril(ones, k)
    return n.emit("where", n.c.constant(mask, "bool"), x, n.number(0, x))


__all__ = ["cut", "target"]
