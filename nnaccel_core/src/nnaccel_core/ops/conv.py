"""Convolution over any number of spatial axes, with groups, dilation, stride and asymmetric zero padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Bound, Load, Nest
from nnaccel_core.ops.reduce import sum_per_channel
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, register, require_equal


def window_extent(size: Dim, kernel: int, stride: int, pad: tuple[int, int], dilation: int) -> Dim:
    """How many windows fit: ``(size + pads - dilation * (kernel - 1) - 1) // stride + 1``."""
    span, extent = dilation * (kernel - 1) + 1, size + pad[0] + pad[1]
    if isinstance(extent, int) and span > extent:
        raise ShapeError(f"a window of {span} is larger than the padded extent {extent}")
    return (extent - span) // stride + 1


def windows_over(at: Dim, size: int, stride: int, j: Dim) -> tuple[int, Dim, Dim]:
    """The windows of dilation 1 that contain position ``at`` of the padded input.

    Returns:
        how many there are at most; of the ``j``-th of them its number, which grows with ``j``, and which of its elements
        lies there. It contains the position if it exists and that element is less than ``size``.
    """
    count = -(-size // stride)
    return count, at // stride - (count - 1) + j, at % stride + stride * (count - 1 - j)


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w = types[0], types[1]
    spatial = x.rank - 2
    if spatial < 1 or w.rank != x.rank:
        raise ShapeError("needs x (N, C, spatial...) and w (O, C/groups, spatial...) of one rank >= 3")
    for key in ("stride", "padding", "dilation"):
        if len(attrs[key]) != spatial:
            raise ShapeError(f"{key} {attrs[key]} does not have one entry per spatial axis ({spatial})")
    if any(t.dtype != x.dtype for t in types):
        raise ShapeError("operands differ in dtype")
    groups = attrs["groups"]
    require_equal(w.shape[1] * groups, x.shape[1], "channels of the weight times groups against channels of the input")
    out_channels = w.shape[0]
    if isinstance(out_channels, int) and out_channels % groups:
        raise ShapeError(f"{out_channels} output channels do not divide into {groups} groups")
    if len(types) == 3:
        if types[2].rank != 1:
            raise ShapeError("the bias must have one axis")
        require_equal(types[2].shape[0], out_channels, "bias against output channels")
    sizes = []
    for k in range(spatial):
        window = w.shape[2 + k]
        if not isinstance(window, int):
            raise ShapeError("window sizes must be known")
        sizes.append(window_extent(x.shape[2 + k], window, attrs["stride"][k], attrs["padding"][k], attrs["dilation"][k]))
    return (TensorType((x.shape[0], out_channels, *sizes), x.dtype),)


def windows(x: Array, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Array:
    """Strided view of all windows of a padded (N, C, spatial...) array: (N, C, out..., kernel...)."""
    spatial = len(kernel)
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=tuple(range(2, 2 + spatial)))
    index = (slice(None), slice(None), *(slice(None, None, s) for s in stride), *(slice(None, None, d) for d in dilation))
    return view[index]


def pad_spatial(x: Array, padding: Sequence[tuple[int, int]], value: float = 0.0) -> Array:
    """``x`` (N, C, spatial...) padded with ``value``."""
    return np.pad(x, [(0, 0), (0, 0), *padding], constant_values=value) if any(map(any, padding)) else x


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w = xs[0], xs[1]
    groups = attrs["groups"]
    spatial = x.ndim - 2
    view = windows(pad_spatial(x, attrs["padding"]), w.shape[2:], attrs["stride"], attrs["dilation"])
    n, c = view.shape[:2]
    out_sizes = view.shape[2 : 2 + spatial]
    # (N, groups, C/groups, out..., window...) . (groups, O/groups, C/groups, window...) per group
    cols = view.reshape(n, groups, c // groups, *view.shape[2:])
    cols = np.moveaxis(cols, 2, 2 + spatial).reshape(n, groups, int(np.prod(out_sizes)), -1)
    flat = w.reshape(groups, w.shape[0] // groups, -1)
    out = np.einsum("ngpk,gok->ngop", cols, flat, optimize=True).reshape(n, w.shape[0], *out_sizes)
    if len(xs) == 3:
        out = out + xs[2].reshape(1, -1, *([1] * spatial))
    return (out.astype(x.dtype),)


def is_depthwise(node: Node) -> bool:
    """One input channel per group: every output channel reads one input channel."""
    return node.inputs[1].shape[1] == 1 and node.attrs["groups"] != 1


def _limit(node: Node) -> str:
    return "io" if is_depthwise(node) else "compute"


def _loop(node: Node) -> tuple[Nest]:
    x, w = node.inputs[0], node.inputs[1]
    spatial = x.type.rank - 2
    a = node.attrs
    names = ("n", "o", *(f"y{k}" for k in range(spatial)))
    n, o, *ys = (sym(s) for s in names)
    ks = [sym(f"k{k}") for k in range(spatial)]
    per_group_in, per_group_out = w.shape[1], w.shape[0] // a["groups"]
    positions = [ys[k] * a["stride"][k] - a["padding"][k][0] + ks[k] * a["dilation"][k] for k in range(spatial)]
    bounds = tuple(
        Bound(positions[k], x.shape[2 + k]) for k in range(spatial) if any(a["padding"][k])
    )  # without padding every window lies inside
    windows_reduce = tuple((f"k{k}", w.shape[2 + k]) for k in range(spatial))
    if is_depthwise(node):
        reduce: tuple[tuple[str, Dim], ...] = windows_reduce
        channel: Dim = o if w.shape[0] == x.shape[1] else o // per_group_out
        weight = Load(w, (o, 0, *ks))
    else:
        c = sym("c")
        reduce = (("c", per_group_in), *windows_reduce)
        channel = c if a["groups"] == 1 else (o // per_group_out) * per_group_in + c
        weight = Load(w, (o, c, *ks))
    body = Binary("mul", Load(x, (n, channel, *positions)), weight)
    final = Binary("add", Acc(), Load(node.inputs[2], (o,))) if len(node.inputs) == 3 else None
    return (Nest(node.output, names, body, reduce, "sum", final, bounds),)


def _flops(node: Node) -> Dim:
    return 2 * node.output.type.size * product(node.inputs[1].shape[1:])


def _input_gradient(r: Rewriter, node: Node, x: Value, w: Value, g: Value) -> Value:
    """``dx``; of a depthwise convolution of stride 1 as another one, of ``g`` with the window turned around."""
    a, o = node.attrs, node.origin
    padding = []
    for k, (lo, hi) in enumerate(a["padding"]):
        reach = a["dilation"][k] * (int(w.shape[2 + k]) - 1)  # type: ignore[arg-type]
        padding.append((reach - lo, reach - hi))
    fits = all(s == 1 for s in a["stride"]) and min(min(pair) for pair in padding) >= 0
    if fits and is_depthwise(node) and w.shape[0] == x.shape[1]:
        turned = r.add("flip", [w], {"axes": tuple(range(2, w.type.rank))}, origin=o)
        return r.add("conv", [g, turned], {**a, "padding": tuple(padding)}, origin=o)
    return r.add("conv_backward_data", [g, w], {**a, "spatial": x.shape[2:]}, origin=o)


def _vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    (x, w), g = ins[:2], gs[0]
    dw = r.add("conv_backward_weights", [g, x], {**n.attrs, "window": w.shape[2:]}, origin=n.origin)
    grads: list[Value | None] = [_input_gradient(r, n, x, w, g), dw]
    if len(ins) == 3:
        grads.append(sum_per_channel(r, g, n.origin))
    return grads


def conv_attrs(
    stride: Sequence[int] = (1, 1),
    padding: Sequence[tuple[int, int]] = ((0, 0), (0, 0)),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Attrs:
    """The attributes of ``conv``."""
    return {"stride": tuple(stride), "padding": tuple(map(tuple, padding)), "dilation": tuple(dilation), "groups": groups}


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(4)

    def draw(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    yield Sample((draw(2, 3, 8, 7), draw(5, 3, 3, 3)), conv_attrs(), 1e-4)
    yield Sample((draw(1, 4, 9, 9), draw(6, 4, 3, 3), draw(6)), conv_attrs((2, 2), ((1, 1), (1, 1))), 1e-4)
    yield Sample((draw(2, 4, 7, 8), draw(6, 2, 1, 3), draw(6)), conv_attrs((1, 2), ((0, 0), (1, 2)), groups=2), 1e-4)
    yield Sample((draw(2, 8, 9, 9), draw(8, 1, 3, 3), draw(8)), conv_attrs((1, 1), ((1, 1), (1, 1)), groups=8), 1e-4)
    yield Sample((draw(1, 6, 11, 12), draw(6, 1, 5, 5)), conv_attrs((2, 2), ((2, 2), (1, 2)), groups=6), 1e-4)
    yield Sample((draw(1, 3, 9, 9), draw(6, 1, 3, 3)), conv_attrs((1, 1), ((2, 2), (2, 2)), (2, 2), 3), 1e-4)
    yield Sample((draw(2, 3, 10), draw(4, 3, 3), draw(4)), conv_attrs((1,), ((1, 0),), (2,)), 1e-4)
    yield Sample((draw(1, 2, 5, 4, 6), draw(3, 2, 3, 1, 2)), conv_attrs((1, 1, 2), ((1, 1), (0, 0), (0, 1)), (1, 1, 1)), 1e-4)


register(OpDef("conv", _infer, _ref, _vjp, _limit, loop=_loop, samples=_samples, flops=_flops))
