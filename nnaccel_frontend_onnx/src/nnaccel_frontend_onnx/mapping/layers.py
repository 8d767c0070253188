"""Convolution and matrix products."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnaccel_core.ir import Dim, Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, maps, needs_float

Pads = tuple[tuple[int, int], ...]


def paired(pads: Sequence[int], spatial: int) -> Pads:
    """ONNX's (begins..., ends...) as a pair for each axis."""
    if len(pads) != 2 * spatial:
        raise Unmapped(f"pads {tuple(pads)} for {spatial} axes")
    return tuple((int(pads[k]), int(pads[spatial + k])) for k in range(spatial))


def padding(n: Call, sizes: Sequence[Dim], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Pads:
    """The padding of a window operator, whichever way it is given."""
    spatial, mode = len(kernel), n.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return paired(n.attr("pads") or (0,) * (2 * spatial), spatial)
    if mode == "VALID":
        return ((0, 0),) * spatial
    out = []
    for k in range(spatial):
        span = dilation[k] * (kernel[k] - 1) + 1
        total = span - 1
        if stride[k] != 1:
            size = n.c.static(sizes[k])
            total = max(0, (-(-size // stride[k]) - 1) * stride[k] + span - size)
        small = total // 2
        out.append((small, total - small) if mode == "SAME_UPPER" else (total - small, small))
    return tuple(out)


def window(n: Call, x: Value, default: Sequence[Dim] | None = None) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Kernel, strides and dilations."""
    spatial = x.type.rank - 2
    if spatial < 1:
        raise Unmapped(f"windows over {x.type}, which has no spatial axis")
    kernel = n.attr("kernel_shape")
    if kernel is None:
        if default is None:
            raise Unmapped("kernel_shape is absent")
        kernel = tuple(n.c.static(d) for d in default)
    stride = n.attr("strides") or (1,) * spatial
    dilation = n.attr("dilations") or (1,) * spatial
    if not len(kernel) == len(stride) == len(dilation) == spatial:
        raise Unmapped(f"kernel {kernel}, strides {stride}, dilations {dilation} for {spatial} spatial axes")
    return tuple(kernel), tuple(stride), tuple(dilation)


@maps("Conv")
def conv(n: Call) -> Value:
    x, w = needs_float(n.x(0)), n.x(1)
    kernel, stride, dilation = window(n, x, w.shape[2:])
    attrs: dict[str, Any] = {
        "stride": stride,
        "padding": padding(n, x.shape[2:], kernel, stride, dilation),
        "dilation": dilation,
        "groups": int(n.attr("group", 1)),
    }
    bias = [n.x(2)] if n.has(2) else []
    if len(kernel) == 1:  # an image of one row: libraries and layouts are made for images
        attrs.update(stride=(1, *stride), padding=((0, 0), *attrs["padding"]), dilation=(1, *dilation))
        row = n.reshape(x, (*x.shape[:2], 1, x.shape[2])), n.reshape(w, (*w.shape[:2], 1, w.shape[2]))
        out = n.emit("conv", *row, *bias, **attrs)
        return n.reshape(out, (*out.shape[:2], out.shape[3]))
    return n.emit("conv", x, w, *bias, **attrs)


@maps("ConvTranspose")
def conv_transpose(n: Call) -> Value:
    x, w = needs_float(n.x(0)), n.x(1)
    kernel, stride, dilation = window(n, x, w.shape[2:])
    spatial, mode = len(kernel), n.attr("auto_pad", "NOTSET")
    extra = n.attr("output_padding") or (0,) * spatial
    wanted = n.attr("output_shape")
    if wanted is None and mode in ("NOTSET", "", "VALID"):
        pads = paired(n.attr("pads") or (0,) * (2 * spatial), spatial) if mode != "VALID" else ((0, 0),) * spatial
    else:
        pads = ()
        for k in range(spatial):
            span = dilation[k] * (kernel[k] - 1) + 1
            if wanted is not None:
                size = n.c.static(x.shape[2 + k])
                total = stride[k] * (size - 1) + extra[k] + span - int(wanted[len(wanted) - spatial + k])
            else:  # the output is the input times the stride
                total = extra[k] + span - stride[k]
            small = total // 2
            pads = (*pads, (total - small, small) if mode != "SAME_UPPER" else (small, total - small))
    attrs = {"stride": stride, "padding": pads, "output_padding": tuple(extra), "dilation": dilation}
    return n.emit("conv_transpose", x, w, *([n.x(2)] if n.has(2) else []), **attrs, groups=int(n.attr("group", 1)))


@maps("Gemm")
def gemm(n: Call) -> Value:
    a, b = n.x(0), n.x(1)
    alpha, beta = float(n.attr("alpha", 1.0)), float(n.attr("beta", 1.0))
    bias = n.x(2) if n.has(2) and beta != 0 else None
    if not a.type.is_float and (alpha, beta) != (1.0, 1.0):
        raise Unmapped("a scaled product of integers")
    if bias is not None and beta != 1:
        bias = n.emit("mul", bias, n.number(beta, bias))
    attrs = {"transpose_a": bool(n.attr("transA", 0)), "transpose_b": bool(n.attr("transB", 0))}
    if alpha == 1 and bias is not None:
        return n.emit("matmul", a, b, bias, **attrs)
    out = n.emit("matmul", a, b, **attrs)
    if alpha != 1:
        out = n.emit("mul", out, n.number(alpha, out))
    return out if bias is None else n.emit("add", out, bias)


def product(n: Call, a: Value, b: Value) -> Value:
    """numpy's matmul: operands of one axis are a row and a column."""
    row, column = a.type.rank == 1, b.type.rank == 1
    a = n.reshape(a, (1, *a.shape)) if row else a
    b = n.reshape(b, (*b.shape, 1)) if column else b
    out = n.emit("matmul", a, b)
    shape = out.shape
    if column:
        shape = shape[:-1]
    if row:
        shape = (*shape[: len(shape) - 2 + column], *shape[len(shape) - 1 + column :])
    return n.reshape(out, shape)


@maps("MatMul")
def matmul(n: Call) -> Value:
    return product(n, n.x(0), n.x(1))
