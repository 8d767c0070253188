"""Convolution and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_core.ir import Dim, Value
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.mapping import Call, maps, needs_float

Pads = tuple[tuple[int, int], ...]


def channels_last(n: Call, rank: int) -> bool:
    """Whether images are (N, spatial..., C)."""
    format = n.attr("data_format", "NHWC")
    if format not in ("NHWC", "NCHW", "NDHWC", "NCDHW"):
        raise Unmapped(f"data_format {format!r}")
    return bool(format.endswith("C"))


def spatial(values: Sequence[int], last: bool) -> tuple[int, ...]:
    """The spatial entries of an attribute that has one entry for each axis."""
    return tuple(int(v) for v in (values[1:-1] if last else values[2:]))


def second(n: Call, x: Value, last: bool) -> Value:
    """Images ``x`` as (N, C, spatial...)."""
    return n.transpose(x, (0, x.type.rank - 1, *range(1, x.type.rank - 1))) if last else x


def back(n: Call, x: Value, last: bool) -> Value:
    """(N, C, spatial...) as the operation has its images."""
    return n.transpose(x, (0, *range(2, x.type.rank), 1)) if last else x


def pads_of(
    n: Call, sizes: Sequence[Dim], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int], last: bool
) -> Pads:
    """The padding of a window operation: with SAME, what makes ``ceil(size / stride)`` outputs, the odd one behind."""
    mode = n.attr("padding")
    if mode == "VALID":
        return ((0, 0),) * len(kernel)
    if mode == "EXPLICIT":
        given = n.attr("explicit_paddings")
        pairs = [(int(given[k]), int(given[k + 1])) for k in range(0, len(given), 2)]
        return tuple(pairs[1:-1] if last else pairs[2:])
    if mode != "SAME":
        raise Unmapped(f"padding {mode!r}")
    out = []
    for d, k, s, step in zip(sizes, kernel, stride, dilation, strict=True):
        span = step * (k - 1) + 1
        total = span - 1 if s == 1 else same_total(n.c.static(d), span, s)
        out.append((total // 2, total - total // 2))
    return tuple(out)


def same_total(size: int, span: int, stride: int) -> int:
    """Padding in front and behind together, for SAME."""
    return max(0, (-(-size // stride) - 1) * stride + span - size)


def _window(w: Value) -> tuple[int, ...]:
    if not all(isinstance(d, int) for d in w.shape):
        raise Unmapped("a window whose size is known only while it runs")
    return tuple(w.shape[: w.type.rank - 2])  # type: ignore[arg-type]


@maps("Conv2D", "Conv3D")
def conv(n: Call) -> Value:
    x, w = needs_float(n.x(0)), n.x(1)
    rank = x.type.rank
    last = channels_last(n, rank)
    kernel = _window(w)
    stride, dilation = spatial(n.attr("strides"), last), spatial(n.attr("dilations") or (1,) * rank, last)
    x = second(n, x, last)
    channels, per_group = n.c.static(x.shape[1]), n.c.static(w.shape[rank - 2])
    if channels % per_group:
        raise Unmapped(f"{channels} channels under weights for {per_group}")
    attrs = {"stride": stride, "padding": pads_of(n, x.shape[2:], kernel, stride, dilation, last), "dilation": dilation}
    weights = n.transpose(w, (rank - 1, rank - 2, *range(rank - 2)))
    return back(n, n.emit("conv", x, weights, **attrs, groups=channels // per_group), last)


@maps("DepthwiseConv2dNative")
def depthwise(n: Call) -> Value:
    """Weights (H, W, C, M): the M results of a channel stand next to each other."""
    x, w = needs_float(n.x(0)), n.x(1)
    last = channels_last(n, 4)
    kernel = _window(w)
    stride, dilation = spatial(n.attr("strides"), last), spatial(n.attr("dilations") or (1,) * 4, last)
    x = second(n, x, last)
    channels, multiple = n.c.static(w.shape[2]), n.c.static(w.shape[3])
    weights = n.transpose(n.reshape(w, (*kernel, 1, channels * multiple)), (3, 2, 0, 1))
    attrs = {"stride": stride, "padding": pads_of(n, x.shape[2:], kernel, stride, dilation, last), "dilation": dilation}
    return back(n, n.emit("conv", x, weights, **attrs, groups=channels), last)


@maps("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def conv_transpose(n: Call) -> Value:
    """Weights (H, W, O, C): the gradient by the input of a convolution from O to C channels, with that one's padding."""
    from nnaccel_frontend_tf.mapping.sizes import dims_of

    w, g = n.x(1), needs_float(n.x(2))
    rank = g.type.rank
    last = channels_last(n, rank)
    kernel = _window(w)
    stride, dilation = spatial(n.attr("strides"), last), spatial(n.attr("dilations") or (1,) * rank, last)
    wanted = dims_of(n.item(0))
    if wanted is None:
        wanted = n.known(0, "the size of the result").astype(object)
    sizes = [n.c.static(d) for d in (wanted[1:-1] if last else wanted[2:])]
    g = second(n, g, last)
    pads = pads_of(n, sizes, kernel, stride, dilation, last)
    extra = []
    for k, (lo, hi) in enumerate(pads):
        made = (n.c.static(g.shape[2 + k]) - 1) * stride[k] + dilation[k] * (kernel[k] - 1) + 1 - lo - hi
        extra.append(sizes[k] - made)
    if any(e < 0 for e in extra):
        raise Unmapped("a result smaller than its windows")
    if any(d > s and s > 1 for d, s in zip(dilation, stride, strict=True)):
        raise Unmapped("strides and dilation together")
    weights = n.transpose(w, (rank - 1, rank - 2, *range(rank - 2)))
    attrs = {"stride": stride, "padding": pads, "output_padding": tuple(extra), "dilation": dilation, "groups": 1}
    return back(n, n.emit("conv_transpose", g, weights, **attrs), last)


@maps("BiasAdd", "BiasAddV1")
def bias_add(n: Call) -> Value:
    x, b = n.x(0), n.x(1)
    if n.attr("data_format", "NHWC").startswith("NC"):
        b = n.reshape(b, (b.shape[0], *([1] * (x.type.rank - 2))))
    return n.emit("add", x, b)


@maps("MatMul")
def matmul(n: Call) -> Value:
    a, b = n.x(0), n.x(1)
    return n.emit("matmul", a, b, transpose_a=bool(n.attr("transpose_a")), transpose_b=bool(n.attr("transpose_b")))


@maps("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def batch_matmul(n: Call) -> Value:
    a, b = n.x(0), n.x(1)
    if n.dtype() != a.dtype:
        raise Unmapped(f"a product of {a.dtype} as {n.dtype()}")
    return n.emit("matmul", a, b, transpose_a=bool(n.attr("adj_x")), transpose_b=bool(n.attr("adj_y")))


@maps("Einsum")
def einsum(n: Call) -> Value:
    """One or two operands, without repeated letters: transposes, one matrix product, sums."""
    left, _, right = str(n.attr("equation")).replace(" ", "").partition("->")
    terms = list(zip(left.split(","), n.xs(), strict=True))
    if "." in left + right:
        terms, right = _spelled_out(terms, right)
    if len(terms) > 2 or any(len(set(t)) != len(t) or len(t) != x.type.rank for t, x in terms) or len(set(right)) != len(right):
        raise Unmapped(f"the equation {n.attr('equation')!r}")
    if len(terms) == 1:
        name, x = _summed(n, *terms[0], set(right))
        return n.transpose(x, [name.index(c) for c in right])
    (a, x), (b, y) = _summed(n, *terms[0], set(right) | set(terms[1][0])), _summed(n, *terms[1], set(right) | set(terms[0][0]))
    both = [c for c in a if c in b]
    batch, inner = [c for c in both if c in right], [c for c in both if c not in right]
    rows, columns = [c for c in a if c not in both], [c for c in b if c not in both]
    size: dict[str, Dim] = {}
    for name, v in ((a, x), (b, y)):
        for c, d in zip(name, v.shape, strict=True):
            if size.get(c, 1) == 1:
                size[c] = d

    def matrix(name: str, v: Value, first: list[str], last: list[str]) -> Value:
        moved = n.transpose(v, [name.index(c) for c in (*batch, *first, *last)])
        return n.reshape(moved, (*(size[c] for c in batch), _size(size, first), _size(size, last)))

    out = n.emit("matmul", matrix(a, x, rows, inner), matrix(b, y, inner, columns))
    order = [*batch, *rows, *columns]
    return n.transpose(n.reshape(out, [size[c] for c in order]), [order.index(c) for c in right])


def _size(size: dict[str, Dim], letters: Sequence[str]) -> Dim:
    total: Dim = 1
    for c in letters:
        total = total * size[c]
    return total


def _summed(n: Call, name: str, x: Value, kept: set[str]) -> tuple[str, Value]:
    axes = tuple(k for k, c in enumerate(name) if c not in kept)
    if not axes:
        return name, x
    return "".join(c for c in name if c in kept), n.emit("reduce_sum", x, axes=axes, keepdims=False)


def _spelled_out(terms: list[tuple[str, Value]], right: str) -> tuple[list[tuple[str, Value]], str]:
    """Capital letters in place of the ellipsis; broadcasting between ellipses is not mapped."""
    free = [c for c in "ABCDEFGHIJKLMNOP" if c not in right and all(c not in t for t, _ in terms)]
    longest = 0
    out = []
    for name, x in terms:
        count = x.type.rank - len(name.replace("...", ""))
        longest = max(longest, count if "..." in name else 0)
        out.append((name, x, count))
    letters = "".join(free[:longest])
    return [(t.replace("...", letters[longest - c :]), x) for t, x, c in out], right.replace("...", letters)


__all__ = ["back", "channels_last", "pads_of", "same_total", "second", "spatial"]
