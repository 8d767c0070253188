"""The gradients of a convolution: with respect to its input and to its weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, product, sym
from nnaccel_core.loopir.grammar import Binary, Bound, Const, Index, Load, Nest, Scalar, Select
from nnaccel_core.ops.conv import conv_attrs, is_depthwise, pad_spatial, window_extent, windows, windows_over
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, lookup, register, require_equal

#: The attributes that a convolution and its gradients share.
_OF_CONV = ("stride", "padding", "dilation", "groups")


def of_conv(attrs: Attrs) -> dict[str, object]:
    """The attributes of the convolution whose gradient a node with ``attrs`` computes."""
    return {k: attrs[k] for k in _OF_CONV}


def _check(g: TensorType, other: TensorType, attrs: Attrs, what: str) -> None:
    """One dtype, one rank, one entry of every attribute per spatial axis."""
    spatial = g.rank - 2
    if spatial < 1 or other.rank != g.rank:
        raise ShapeError(f"needs g (N, O, spatial...) and {what} of one rank >= 3")
    if g.dtype != other.dtype or not g.is_float:
        raise ShapeError("needs operands of one floating-point dtype")
    for key in ("stride", "padding", "dilation"):
        if len(attrs[key]) != spatial:
            raise ShapeError(f"{key} {attrs[key]} does not have one entry per spatial axis ({spatial})")


def _check_extents(sizes: Sequence[Dim], g: TensorType, window: Sequence[Dim], attrs: Attrs) -> None:
    """Inputs of extents ``sizes`` convolved with ``window`` have the extents of ``g``."""
    for k, (size, w) in enumerate(zip(sizes, window, strict=True)):
        if not isinstance(w, int):
            raise ShapeError("window sizes must be known")
        out = window_extent(size, w, attrs["stride"][k], attrs["padding"][k], attrs["dilation"][k])
        require_equal(out, g.shape[2 + k], f"windows along spatial axis {k} against the extent of g")


def _places(at: Sequence[int], sizes: Sequence[int], attrs: Attrs) -> tuple[slice, ...]:
    """Where the padded input is read by element ``at`` of the window, for ``sizes`` outputs."""
    starts = [i * d for i, d in zip(at, attrs["dilation"], strict=True)]
    spatial = zip(starts, sizes, attrs["stride"], strict=True)
    return (slice(None), slice(None), slice(None), *(slice(i, i + (n - 1) * s + 1, s) for i, n, s in spatial))


# --- with respect to the input --------------------------------------------------------------------------------------


def _data_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    g, w = types
    _check(g, w, attrs, "w (O, C/groups, spatial...)")
    if len(attrs["spatial"]) != g.rank - 2:
        raise ShapeError(f"spatial {attrs['spatial']} does not have one entry per spatial axis ({g.rank - 2})")
    require_equal(g.shape[1], w.shape[0], "channels of g against output channels of the weight")
    _check_extents(attrs["spatial"], g, w.shape[2:], attrs)
    return (TensorType((g.shape[0], w.shape[1] * attrs["groups"], *attrs["spatial"]), g.dtype),)


def _data_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    g, w = xs
    n, groups, per_in = g.shape[0], int(attrs["groups"]), w.shape[1]
    sizes = [int(d) for d in attrs["spatial"]]
    padded = [d + lo + hi for d, (lo, hi) in zip(sizes, attrs["padding"], strict=True)]
    out = np.zeros((n, groups, per_in, *padded), g.dtype)
    grouped = g.reshape(n, groups, -1, *g.shape[2:])
    weights = w.reshape(groups, -1, *w.shape[1:])
    for at in np.ndindex(*w.shape[2:]):
        element = (slice(None), slice(None), slice(None), *at)
        out[_places(at, g.shape[2:], attrs)] += np.einsum("ngo...,goc->ngc...", grouped, weights[element], optimize=True)
    cut = tuple(slice(lo, lo + d) for d, (lo, _) in zip(sizes, attrs["padding"], strict=True))
    inner = (slice(None), slice(None), *cut)
    return (out.reshape(n, groups * per_in, *padded)[inner],)


def _data_loop(node: Node) -> tuple[Nest]:
    """A gather over the windows that contain an input element: ``stride * y - padding + dilation * k == x``.

    With dilation 1 the elements of such windows that match are every stride-th one, so only these are visited.
    """
    g, w = node.inputs
    a = node.attrs
    spatial = g.type.rank - 2
    names = ("n", "c", *(f"x{k}" for k in range(spatial)))
    n, c, *xs = (sym(s) for s in names)
    reads: list[Dim] = []
    taps: list[Dim] = []
    bounds: list[Bound] = []
    reduce: list[tuple[str, Dim]] = []
    matches: list[Scalar] = []
    for k in range(spatial):
        size, stride, dilation = w.shape[2 + k], a["stride"][k], a["dilation"][k]
        assert isinstance(size, int), "shape inference demands it"
        j, at = sym(f"k{k}"), xs[k] + a["padding"][k][0]
        # The window is walked backwards, so that what is read moves forwards, as in a convolution.
        if dilation == 1:
            count, read, tap = windows_over(at, size, stride, j)
            if size % stride:
                bounds.append(Bound(size - 1 - tap, size))
        else:
            count, tap = size, size - 1 - j  # not every one's stride fits
            reached = at - dilation * tap
            read = reached // stride
            if stride > 1:
                matches.append(Binary("eq", Index(reached % stride), Index(0)))
        bounds.append(Bound(read, g.shape[2 + k]))
        reduce.append((f"k{k}", count))
        reads.append(read)
        taps.append(tap)
    per_in, per_out = w.shape[1], w.shape[0] // a["groups"]
    if per_out == 1:
        channel: Dim = c if per_in == 1 else c // per_in
    else:
        reduce.insert(0, ("o", per_out))
        channel = sym("o") if a["groups"] == 1 else (c // per_in) * per_out + sym("o")
    inner: Dim = 0 if per_in == 1 else c if a["groups"] == 1 else c % per_in
    body: Scalar = Binary("mul", Load(g, (n, channel, *reads)), Load(w, (channel, inner, *taps)))
    for match in matches:
        body = Select(match, body, Const(0.0, g.dtype))
    return (Nest(node.output, names, body, tuple(reduce), "sum", None, tuple(bounds)),)


def _data_vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    """Linear in both operands: the gradients of a convolution of ``gs[0]`` whose result's gradient is ``g``."""
    g, w = ins
    conv = of_conv(n.attrs)
    dw = r.add("conv_backward_weights", [g, gs[0]], {**conv, "window": w.shape[2:]}, origin=n.origin)
    return (r.add("conv", [gs[0], w], conv, origin=n.origin), dw)


# --- with respect to the weights ------------------------------------------------------------------------------------


def _weights_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    g, x = types
    _check(g, x, attrs, "x (N, C, spatial...)")
    groups, (out_channels, channels) = attrs["groups"], (g.shape[1], x.shape[1])
    if len(attrs["window"]) != g.rank - 2:
        raise ShapeError(f"window {attrs['window']} does not have one entry per spatial axis ({g.rank - 2})")
    for size, what in ((out_channels, "output"), (channels, "input")):
        if isinstance(size, int) and isinstance(groups, int) and size % groups:
            raise ShapeError(f"{size} {what} channels do not divide into {groups} groups")
    require_equal(g.shape[0], x.shape[0], "batch of g and x")
    _check_extents(x.shape[2:], g, attrs["window"], attrs)
    return (TensorType((out_channels, channels // groups, *attrs["window"]), g.dtype),)


def _weights_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    g, x = xs
    n, groups = g.shape[0], int(attrs["groups"])
    view = windows(pad_spatial(x, attrs["padding"]), attrs["window"], attrs["stride"], attrs["dilation"])
    sizes = g.shape[2:]
    # (N, groups, O/groups, out) . (N, groups, C/groups, out, window) per group
    grouped = g.reshape(n, groups, -1, int(np.prod(sizes)))
    cols = view.reshape(n, groups, x.shape[1] // groups, int(np.prod(sizes)), -1)
    out = np.einsum("ngop,ngcpk->gock", grouped, cols, optimize=True)
    return (out.reshape(g.shape[1], x.shape[1] // groups, *attrs["window"]).astype(g.dtype),)


def _weights_loop(node: Node) -> tuple[Nest]:
    g, x = node.inputs
    a, out = node.attrs, node.output
    spatial = g.type.rank - 2
    names = ("o", "c", *(f"k{k}" for k in range(spatial)))
    o, c, *ks = (sym(s) for s in names)
    ys = [sym(f"y{k}") for k in range(spatial)]
    positions = [ys[k] * a["stride"][k] - a["padding"][k][0] + ks[k] * a["dilation"][k] for k in range(spatial)]
    bounds = tuple(Bound(positions[k], x.shape[2 + k]) for k in range(spatial) if any(a["padding"][k]))
    reduce = (("n", g.shape[0]), *((f"y{k}", g.shape[2 + k]) for k in range(spatial)))
    per_in, per_out = out.shape[1], out.shape[0] // a["groups"]
    group = o if per_out == 1 else o // per_out
    channel: Dim = c if a["groups"] == 1 else group if per_in == 1 else group * per_in + c
    body = Binary("mul", Load(g, (sym("n"), o, *ys)), Load(x, (sym("n"), channel, *positions)))
    return (Nest(out, names, body, reduce, "sum", None, bounds),)


def _weights_vjp(
    r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]
) -> Sequence[Value | None]:
    """Linear in both operands: ``gs[0]`` takes the place of the weights."""
    g, x = ins
    conv = of_conv(n.attrs)
    dx = r.add("conv_backward_data", [g, gs[0]], {**conv, "spatial": x.shape[2:]}, origin=n.origin)
    return (r.add("conv", [x, gs[0]], conv, origin=n.origin), dx)


# --- the table ------------------------------------------------------------------------------------------------------


def _forward() -> Iterable[tuple[Array, Array, Attrs, Array]]:
    """Operands and attributes of convolutions, and some gradient of each one's result."""
    rng = np.random.default_rng(27)
    more = [
        ((1, 4, 9, 8), (6, 2, 3, 2), conv_attrs((3, 2), ((2, 1), (1, 0)), (1, 1), 2)),
        ((2, 2, 11, 9), (4, 2, 3, 3), conv_attrs((2, 3), ((2, 2), (2, 1)), (2, 2))),
        ((1, 3, 9, 10), (3, 1, 5, 5), conv_attrs((2, 2), ((2, 2), (2, 2)), (1, 1), 3)),
    ]
    cases = [(*(a.shape for a in s.inputs[:2]), s.attrs) for s in lookup("conv").samples()]
    for shape, window, attrs in [*cases, *more]:
        x, w = rng.normal(size=shape).astype(np.float32), rng.normal(size=window).astype(np.float32)
        (y,) = lookup("conv").ref([x, w], attrs)
        yield x, w, attrs, np.asarray(rng.normal(size=y.shape)).astype(np.float32)


def _data_samples() -> Iterable[Sample]:
    for x, w, attrs, g in _forward():
        yield Sample((g, w), {**attrs, "spatial": x.shape[2:]}, 1e-4)


def _weights_samples() -> Iterable[Sample]:
    for x, w, attrs, g in _forward():
        yield Sample((g, x), {**attrs, "window": w.shape[2:]}, 1e-4)


def _weights_limit(node: Node) -> str:
    return "io" if node.output.shape[1] == 1 and node.attrs["groups"] != 1 else "compute"


def _data_flops(node: Node) -> Dim:
    return 2 * node.inputs[0].type.size * product(node.inputs[1].shape[1:])


def _weights_flops(node: Node) -> Dim:
    return 2 * node.inputs[0].type.size * product(node.output.shape[1:])


#: Inputs g (N, O, out...), the gradient of a convolution's result, and its weights w (O, C/groups, window...); attributes
#: of ``conv`` and ``spatial``, the extents of the convolution's input. The result is that input's gradient (N, C, spatial...).
register(
    OpDef(
        "conv_backward_data",
        _data_infer,
        _data_ref,
        _data_vjp,
        lambda n: "io" if is_depthwise(n) else "compute",
        loop=_data_loop,
        samples=_data_samples,
        flops=_data_flops,
    )
)
#: Inputs g (N, O, out...) and the convolution's input x (N, C, spatial...); attributes of ``conv`` and ``window``, the extents
#: of its window. The result is the gradient of its weights (O, C/groups, window...).
register(
    OpDef(
        "conv_backward_weights",
        _weights_infer,
        _weights_ref,
        _weights_vjp,
        _weights_limit,
        loop=_weights_loop,
        samples=_weights_samples,
        flops=_weights_flops,
    )
)
