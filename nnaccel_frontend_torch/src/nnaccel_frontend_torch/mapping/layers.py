"""Products, convolutions, attention, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nnaccel_core.ir import Dim, Value, product
from nnaccel_core.ops.registry import broadcast_shapes
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import (
    Handler,
    as_value,
    expanded,
    ints,
    promoted,
    same_dtype,
    static,
    tensor,
    value_of,
)
from nnaccel_frontend_torch.refusal import Refusal, Unmapped


def batched(b: Importer, x: Value, rank: int) -> tuple[Value, bool]:
    """``x`` with a leading axis of one image when it has none."""
    if x.type.rank == rank - 1:
        return b.emit("reshape", [x], shape=(1, *x.shape)), True
    if x.type.rank != rank:
        raise Unmapped(f"an input of rank {x.type.rank} where {rank} or {rank - 1} is expected")
    return x, False


def unbatched(b: Importer, x: Value, added: bool) -> Ref:
    return b.temp(b.emit("reshape", [x], shape=x.shape[1:]) if added else x)


# --- products ---------------------------------------------------------------------------------------------------


def linear(b: Importer, input: Any, weight: Any, bias: Any = None) -> Ref:
    """``F.linear``."""
    x, w = value_of(b, input), value_of(b, weight)
    operands = [w] if bias is None else [w, value_of(b, bias)]
    same_dtype("linear", x, *operands)
    if w.type.rank != 2:
        raise Unmapped("linear with a weight of one axis")
    flat = x.type.rank == 1
    if flat:
        x = b.emit("reshape", [x], shape=(1, x.shape[0]))
    out = b.emit("matmul", [x, *operands], transpose_a=False, transpose_b=True)
    return b.temp(b.emit("reshape", [out], shape=out.shape[1:]) if flat else out)


def matmul(b: Importer, input: Any, other: Any) -> Ref:
    """``torch.matmul`` with numpy's rules for vectors."""
    x, y = value_of(b, input), value_of(b, other)
    same_dtype("matmul", x, y)
    if x.type.rank == 0 or y.type.rank == 0:
        raise Refusal("matmul of a scalar")
    left, right = x.type.rank == 1, y.type.rank == 1
    if left:
        x = b.emit("reshape", [x], shape=(1, x.shape[0]))
    if right:
        y = b.emit("reshape", [y], shape=(y.shape[0], 1))
    out = b.emit("matmul", [x, y], transpose_a=False, transpose_b=False)
    shape = list(out.shape)
    if right:
        shape.pop(-1)
    if left:
        shape.pop(-1 if right else -2)
    return b.temp(b.emit("reshape", [out], shape=tuple(shape)) if left or right else out)


def addmm(b: Importer, input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> Ref:
    """``beta * input + alpha * (mat1 @ mat2)``, also batched and with a vector for ``mat2``."""
    values = [value_of(b, mat1), value_of(b, mat2), value_of(b, input)]
    same_dtype("addmm", *values)
    if beta == 1 and alpha == 1 and values[1].type.rank > 1:
        return b.temp(b.emit("matmul", values, transpose_a=False, transpose_b=False))
    out = matmul(b, mat1, mat2).read(b)
    if alpha != 1:
        out = b.emit("mul", [out, b.constant(alpha, out.dtype)])
    if beta == 0:  # what input holds, even NaN, doesn't count
        return b.temp(out)
    term = values[2] if beta == 1 else b.emit("mul", [values[2], b.constant(beta, out.dtype)])
    return b.temp(b.emit("add", [out, term]))


def outer(b: Importer, input: Any, vec2: Any) -> Ref:
    """``outer``, ``ger``: all products of two vectors."""
    x, y = value_of(b, input), value_of(b, vec2)
    if x.type.rank != 1 or y.type.rank != 1:
        raise Unmapped("outer of what are no vectors")
    dtype = promoted(b, input, vec2)
    column = b.emit("reshape", [as_value(b, input, dtype)], shape=(x.shape[0], 1))
    return b.temp(b.emit("mul", [column, as_value(b, vec2, dtype)]))


def dot(b: Importer, input: Any, tensor: Any) -> Ref:
    """``dot``, ``vdot``: of two vectors."""
    if value_of(b, input).type.rank != 1 or value_of(b, tensor).type.rank != 1:
        raise Unmapped("dot of what are no vectors")
    return matmul(b, input, tensor)


def inner(b: Importer, input: Any, other: Any) -> Ref:
    """``inner``: products over the last axis of both."""
    if value_of(b, input).type.rank < 1 or value_of(b, other).type.rank > 2:
        raise Unmapped("inner of more than matrices")
    return matmul(b, input, other) if value_of(b, other).type.rank == 1 else linear(b, input, other)


def bilinear(b: Importer, input1: Any, input2: Any, weight: Any, bias: Any = None) -> Ref:
    """``F.bilinear``: ``sum over i, j of input1[i] * weight[o, i, j] * input2[j]``, over the last axes."""
    x, y, w = value_of(b, input1), value_of(b, input2), value_of(b, weight)
    operands = [x, y, w] if bias is None else [x, y, w, value_of(b, bias)]
    same_dtype("bilinear", *operands)
    if w.type.rank != 3 or x.type.rank < 1 or x.shape[:-1] != y.shape[:-1]:
        raise Unmapped(f"bilinear of {x.type} and {y.type}")
    outputs, left, right = w.shape
    rows = b.emit("reshape", [b.emit("transpose", [w], perm=(1, 0, 2))], shape=(left, outputs * right))
    flat = b.emit("reshape", [x], shape=(product(x.shape[:-1]), left))
    half = b.emit("matmul", [flat, rows], transpose_a=False, transpose_b=False)
    half = b.emit("reshape", [half], shape=(*x.shape[:-1], outputs, right))
    both = b.emit("mul", [half, b.emit("reshape", [y], shape=(*y.shape[:-1], 1, right))])
    out = b.emit("reduce_sum", [both], axes=(both.type.rank - 1,), keepdims=False)
    return b.temp(out if bias is None else b.emit("add", [out, operands[3]]))


def attention(
    b: Importer,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Ref:
    """``F.scaled_dot_product_attention``. With ``enable_gqa`` each head of keys and values serves several heads of queries."""
    if dropout_p or (is_causal and attn_mask is not None):
        raise Unmapped("attention with dropout, or with two masks")
    q, k, v = value_of(b, query), value_of(b, key), value_of(b, value)
    same_dtype("attention", q, k, v)
    if min(q.type.rank, k.type.rank, v.type.rank) < 2:
        raise Unmapped("attention of vectors")
    if enable_gqa and (q.type.rank < 3 or q.type.rank != k.type.rank):
        raise Unmapped("grouped attention without heads")
    shared = 3 if enable_gqa else 2  # how many of the last axes need not be those of the queries
    batch = broadcast_shapes(*(x.shape[:-shared] for x in (q, k, v)))
    q, k, v = (expanded(b, x, (*batch, *x.shape[-shared:])) for x in (q, k, v))
    if is_causal:
        for x in (q, k):
            static(x.shape[-2], "causal attention")
    factor = 1.0 / math.sqrt(static(q.shape[-1], "attention")) if scale is None else scale
    operands = [q, k, v]
    if attn_mask is not None:
        mask = value_of(b, attn_mask)
        if mask.dtype == "bool":
            mask = b.emit("where", [mask, b.constant(0.0, q.dtype), b.constant(-math.inf, q.dtype)])
        operands.append(b.cast(mask, q.dtype))
    return b.temp(b.emit("sdpa", operands, scale=float(factor), causal=bool(is_causal)))


# --- convolution ------------------------------------------------------------------------------------------------


def conv(spatial: int) -> Handler:
    """conv1d / conv2d / conv3d."""

    def run(
        b: Importer,
        input: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Ref:
        w = value_of(b, weight)
        x, added = batched(b, value_of(b, input), spatial + 2)
        operands = [x, w] if bias is None else [x, w, value_of(b, bias)]
        same_dtype("convolution", *operands)
        steps = ints(dilation, spatial, "dilation")
        kernel = [static(d, "a window") for d in w.shape[2:]]
        if padding == "valid":
            pads = [(0, 0)] * spatial
        elif padding == "same":
            reach = [d * (k - 1) for d, k in zip(steps, kernel, strict=True)]
            pads = [(r // 2, r - r // 2) for r in reach]
        else:
            pads = [(p, p) for p in ints(padding, spatial, "padding")]
        out = b.emit("conv", operands, stride=ints(stride, spatial, "stride"), padding=tuple(pads), dilation=steps, groups=groups)
        return unbatched(b, out, added)

    return run


def dropout(b: Importer, input: Any, p: float = 0.5, training: bool = True, train: Any = None, inplace: bool = False) -> Ref:
    """``F.dropout`` (Srivastava et al., 2014); in evaluation it returns its argument."""
    return _dropped(b, input, p, training if train is None else train, lambda x: x.shape)


def feature_dropout(
    b: Importer, input: Any, p: float = 0.5, training: bool = True, train: Any = None, inplace: bool = False
) -> Ref:
    """Dropout of whole channels."""

    def per_channel(x: Value) -> Sequence[Dim]:
        if x.type.rank < 2:
            raise Unmapped("dropout of channels without channels")
        return (*x.shape[:2], *([1] * (x.type.rank - 2)))

    return _dropped(b, input, p, training if train is None else train, per_channel)


def alpha_dropout(b: Importer, input: Any, p: float = 0.5, training: bool = True, train: Any = None) -> Ref:
    """Alpha dropout in evaluation returns its argument."""
    if training if train is None else train:
        raise Unmapped("alpha dropout in training mode")
    return tensor(b, input)


def _dropped(b: Importer, input: Any, p: float, training: bool, noise_shape: Callable[[Value], Sequence[Dim]]) -> Ref:
    if not 0 <= p <= 1:
        raise Refusal(f"dropout with probability {p}")
    if not training or p == 0:
        return tensor(b, input)
    x = value_of(b, input)
    if p == 1:
        return b.temp(b.emit("mul", [x, b.constant(0.0, x.dtype)]))
    return b.temp(b.emit("mul", [x, b.add_noise(noise_shape(x), x.dtype, 1 - p)]))


TABLE: dict[str, Handler] = {
    "linear": linear,
    "matmul": matmul,
    "mm": matmul,
    "bmm": matmul,
    "mv": matmul,
    "addmm": addmm,
    "addmv": addmm,
    "baddbmm": addmm,
    "outer": outer,
    "ger": outer,
    "dot": dot,
    "bilinear": bilinear,
    "vdot": dot,
    "inner": inner,
    "scaled_dot_product_attention": attention,
    "conv1d": conv(1),
    "conv2d": conv(2),
    "conv3d": conv(3),
    "dropout": dropout,
    "dropout1d": feature_dropout,
    "dropout2d": feature_dropout,
    "dropout3d": feature_dropout,
    "feature_dropout": feature_dropout,
    "alpha_dropout": alpha_dropout,
    "feature_alpha_dropout": alpha_dropout,
}
