"""Transposed convolution: zeros between the inputs, then an ordinary convolution with the turned weights; a product where windows
do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Node, Rewriter, TensorType, Value, product
from nnaccel_core.ops.reduce import sum_per_channel
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, constant, register, require_equal


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = types[0], types[1]
    spatial = x.rank - 2
    if spatial < 1 or w.rank != x.rank:
        raise ShapeError("needs x (N, C, spatial...) and w (C, O/groups, spatial...) of one rank >= 3")
    for key in ("stride", "padding", "output_padding", "dilation"):
        if len(attrs[key]) != spatial:
            raise ShapeError(f"{key} {attrs[key]} does not have one entry per spatial axis ({spatial})")
    require_equal(w.shape[0], x.shape[1], "channels of the weight against channels of the input")
    sizes = []
    for k in range(spatial):
        lo, hi = attrs["padding"][k]
        span = attrs["dilation"][k] * (w.shape[2 + k] - 1) + 1
        sizes.append((x.shape[2 + k] - 1) * attrs["stride"][k] + span - lo - hi + attrs["output_padding"][k])
    return (TensorType((x.shape[0], w.shape[1] * attrs["groups"], *sizes), x.dtype),)


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs[0].astype(np.float64), xs[1].astype(np.float64)
    groups, spatial = attrs["groups"], x.ndim - 2
    n, c = x.shape[:2]
    per_out = w.shape[1]
    full = [
        (x.shape[2 + k] - 1) * attrs["stride"][k] + attrs["dilation"][k] * (w.shape[2 + k] - 1) + 1 + attrs["output_padding"][k]
        for k in range(spatial)
    ]
    out = np.zeros((n, groups, per_out, *full))
    xg = x.reshape(n, groups, c // groups, *x.shape[2:])
    wg = w.reshape(groups, c // groups, per_out, *w.shape[2:])
    for at in np.ndindex(*w.shape[2:]):
        part = np.einsum("ngc...,gco->ngo...", xg, wg[tuple([slice(None)] * 3 + list(at))])
        where = tuple(
            slice(
                at[k] * attrs["dilation"][k],
                at[k] * attrs["dilation"][k] + (x.shape[2 + k] - 1) * attrs["stride"][k] + 1,
                attrs["stride"][k],
            )
            for k in range(spatial)
        )
        out[tuple([slice(None)] * 3 + list(where))] += part
    cut = tuple(slice(attrs["padding"][k][0], full[k] - attrs["padding"][k][1]) for k in range(spatial))
    out = out.reshape(n, groups * per_out, *full)[tuple([slice(None)] * 2 + list(cut))]
    if len(xs) == 3:
        out = out + xs[2].reshape(1, -1, *([1] * spatial))
    return (out.astype(xs[0].dtype),)


def _tiles(node: Node) -> bool:
    """Whether each output is made by one input: windows lie side by side."""
    a, window = node.attrs, node.inputs[1].shape[2:]
    plain = all(d == 1 for d in a["dilation"]) and not any(a["output_padding"]) and a["groups"] == 1
    return plain and tuple(a["stride"]) == window and any(s > 1 for s in a["stride"]) and node.inputs[1].type.is_static


def _side_by_side(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Value:
    """A 1x1 convolution makes the whole window of each input as channels, which then move to their places."""
    x, w, *bias = inputs
    o, spatial, window = node.origin, x.type.rank - 2, w.shape[2:]
    count, axes = w.shape[1] * product(window), tuple(range(2, 2 + spatial))
    last = r.add("transpose", [w], {"perm": (*axes, 1, 0)}, origin=o)
    weight = r.add("reshape", [last], {"shape": (count, w.shape[0], *([1] * spatial))}, origin=o)
    if bias:
        each = r.add("expand", [bias[0]], {"shape": (*window, w.shape[1])}, origin=o)
        bias = [r.add("reshape", [each], {"shape": (count,)}, origin=o)]
    ones = (1,) * spatial
    attrs = {"stride": ones, "padding": ((0, 0),) * spatial, "dilation": ones, "groups": 1}
    all_of = r.add("conv", [x, weight, *bias], attrs, origin=o)
    apart = r.add("reshape", [all_of], {"shape": (x.shape[0], *window, w.shape[1], *x.shape[2:])}, origin=o)
    pairs = [k for i in range(spatial) for k in (2 + spatial + i, 1 + i)]  # an axis of the input, then that of its window
    moved = r.add("transpose", [apart], {"perm": (0, 1 + spatial, *pairs)}, origin=o)
    whole = tuple(d * s for d, s in zip(x.shape[2:], window, strict=True))
    out = r.add("reshape", [moved], {"shape": (x.shape[0], w.shape[1], *whole)}, origin=o)
    padding = node.attrs["padding"]
    if any(map(any, padding)):
        starts = (0, 0, *(lo for lo, _ in padding))
        ends = (*out.shape[:2], *(d - hi for d, (_, hi) in zip(whole, padding, strict=True)))
        out = r.add("slice", [out], {"starts": starts, "ends": ends, "steps": (1,) * out.type.rank}, origin=o)
    return out


def _decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    if _tiles(node) and all(lo >= 0 and hi >= 0 for lo, hi in node.attrs["padding"]):
        return (_side_by_side(r, node, inputs),)
    x, w, *bias = inputs
    a, o = node.attrs, node.origin
    spatial, groups = x.type.rank - 2, a["groups"]
    if any(s > 1 for s in a["stride"]):
        shape = (*x.shape[:2], *((d - 1) * s + 1 for d, s in zip(x.shape[2:], a["stride"], strict=True)))
        zero = constant(r, 0.0, x.dtype, o)
        spread = r.add("expand", [zero], {"shape": shape}, origin=o)
        slices = {"starts": (0,) * len(shape), "ends": shape, "steps": (1, 1, *a["stride"])}
        x = r.add("slice_update", [spread, x], slices, origin=o)
    c, per_out = w.shape[0], w.shape[1]
    window = w.shape[2:]
    turned = r.add("flip", [w], {"axes": tuple(range(2, 2 + spatial))}, origin=o)
    grouped = r.add("reshape", [turned], {"shape": (groups, c // groups, per_out, *window)}, origin=o)
    swapped = r.add("transpose", [grouped], {"perm": (0, 2, 1, *range(3, 3 + spatial))}, origin=o)
    weight = r.add("reshape", [swapped], {"shape": (groups * per_out, c // groups, *window)}, origin=o)
    padding = []
    for k in range(spatial):
        size = window[k]
        if not isinstance(size, int):
            raise ShapeError(f"{node.where()}: window sizes must be known")
        reach = a["dilation"][k] * (size - 1)
        lo, hi = a["padding"][k]
        padding.append((reach - lo, reach - hi + a["output_padding"][k]))
    negative = any(p < 0 for pair in padding for p in pair)
    attrs = {
        "stride": (1,) * spatial,
        "padding": tuple((max(lo, 0), max(hi, 0)) for lo, hi in padding),
        "dilation": a["dilation"],
        "groups": groups,
    }
    out = r.add("conv", [x, weight, *bias], attrs, origin=o)
    if negative:
        starts = (0, 0, *(max(-lo, 0) for lo, _ in padding))
        ends = (*out.shape[:2], *(d - max(-hi, 0) for d, (_, hi) in zip(out.shape[2:], padding, strict=True)))
        out = r.add("slice", [out], {"starts": starts, "ends": ends, "steps": (1,) * out.type.rank}, origin=o)
    return (out,)


def _vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    """A convolution with the same weights, of which this op is the gradient by the input."""
    (x, w), g, o = ins[:2], gs[0], n.origin
    dbias = [sum_per_channel(r, g, o)] if len(ins) == 3 else []
    padding = []
    beyond = []
    for (lo, hi), extra, stride in zip(n.attrs["padding"], n.attrs["output_padding"], n.attrs["stride"], strict=True):
        # Output padding of a stride or more would make room for another window.
        hi -= extra if extra >= stride else 0
        padding.append((lo, max(hi, 0)))
        beyond.append(max(-hi, 0))
    if any(beyond):
        ends = (*g.shape[:2], *(d - cut for d, cut in zip(g.shape[2:], beyond, strict=True)))
        g = r.add("slice", [g], {"starts": (0,) * len(ends), "ends": ends, "steps": (1,) * len(ends)}, origin=o)
    conv = {"padding": tuple(padding), **{k: n.attrs[k] for k in ("stride", "dilation", "groups")}}
    dx = r.add("conv", [g, w], conv, origin=o)
    return (dx, r.add("conv_backward_weights", [x, g], {**conv, "window": w.shape[2:]}, origin=o), *dbias)


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(24)

    def draw(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    def attrs(stride: tuple[int, ...], pad: int, extra: int = 0, dilation: int = 1, groups: int = 1) -> Attrs:
        n = len(stride)
        return {
            "stride": stride,
            "padding": ((pad, pad),) * n,
            "output_padding": (extra,) * n,
            "dilation": (dilation,) * n,
            "groups": groups,
        }

    yield Sample((draw(2, 4, 5, 6), draw(4, 3, 3, 3), draw(3)), attrs((2, 2), 1, 1), 1e-4)
    yield Sample((draw(1, 4, 5, 6), draw(4, 3, 2, 2)), attrs((2, 2), 0, groups=2), 1e-4)
    yield Sample((draw(2, 4, 5, 6), draw(4, 3, 2, 2), draw(3)), attrs((2, 2), 0), 1e-4)
    yield Sample((draw(1, 4, 5, 6), draw(4, 3, 2, 3)), attrs((2, 3), 1), 1e-4)
    yield Sample((draw(1, 3, 7), draw(3, 2, 3), draw(2)), attrs((1,), 1, dilation=2), 1e-4)
    yield Sample((draw(1, 2, 5, 5), draw(2, 3, 1, 1)), attrs((2, 2), 1), 1e-4)
    yield Sample((draw(1, 2, 5), draw(2, 3, 3), draw(3)), attrs((2,), 1, 2, 3), 1e-4)
    yield Sample((draw(1, 2, 5), draw(2, 3, 3)), attrs((1,), 0, 1, 2), 1e-4)


register(OpDef("conv_transpose", _infer, _ref, _vjp, "compute", decompositions={"spread": _decompose}, samples=_samples))
