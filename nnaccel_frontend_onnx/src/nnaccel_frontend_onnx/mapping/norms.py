"""Normalization."""

from __future__ import annotations

import numpy as np

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.items import Array, Known
from nnaccel_frontend_onnx.leftover import drawn
from nnaccel_frontend_onnx.mapping import Call, Result, maps, needs_float, positive


@maps("BatchNormalization")
def batch_norm(n: Call) -> Result:
    x, eps = needs_float(n.x()), float(n.attr("epsilon", 1e-5))
    training = bool(n.attr("training_mode", 0))
    if n.outputs > 1 and not training:
        raise Unmapped("statistics of the batch as operator sets before 14 define them; export with 14 or newer")
    if not n.attr("spatial", 1):
        raise Unmapped("statistics of each position (spatial=0)")
    scale, shift = (n.c.cast(n.x(k), x.dtype) for k in (1, 2))
    if not training:
        return n.emit("batch_norm", x, scale, shift, *(n.c.cast(n.statistic(k), x.dtype) for k in (3, 4)), eps=eps)
    running = [n.c.running(n.item(k)) for k in (3, 4)]
    batch = n.c.emit_many("batch_norm_stats", [x])
    keep = float(n.attr("momentum", 0.9))
    after = []
    for old, now in zip(running, batch, strict=True):
        fresh = n.emit("mul", n.c.cast(now, old.dtype), n.number(1 - keep, old))
        after.append(n.emit("add", n.emit("mul", old, n.number(keep, old)), fresh))
        n.c.update(old, after[-1])
    return [n.emit("batch_norm", x, scale, shift, *batch, eps=eps), *after]


@maps("InstanceNormalization")
def instance_norm(n: Call) -> Value:
    x = needs_float(n.x())
    if x.type.rank < 3:
        raise Unmapped(f"instance normalization of {x.type}")
    return n.emit("group_norm", x, n.x(1), n.x(2), groups=n.c.static(x.shape[1]), eps=float(n.attr("epsilon", 1e-5)))


@maps("GroupNormalization")
def group_norm(n: Call) -> Value:
    x, groups, eps = needs_float(n.x()), int(n.attr("num_groups")), float(n.attr("epsilon", 1e-5))
    if n.version >= 21:
        return n.emit("group_norm", x, n.x(1), n.x(2), groups=groups, eps=eps)
    channels = n.c.static(x.shape[1])
    scale, bias = (  # a value for each group
        n.reshape(
            n.emit("expand", n.reshape(v, (groups, 1)), shape=(groups, channels // groups)),
            (channels,),
        )
        for v in (n.x(1), n.x(2))
    )
    return n.emit("group_norm", x, scale, bias, groups=groups, eps=eps)


@maps("LayerNormalization")
def layer_norm(n: Call) -> Result:
    x = needs_float(n.x())
    axis, eps = n.axis(x.type.rank, -1), float(n.attr("epsilon", 1e-5))
    affine = [n.x(k) for k in (1, 2) if n.has(k)]
    if n.outputs == 1 and all(v.shape == x.shape[axis:] and v.dtype == x.dtype for v in affine):
        return n.emit("layer_norm", x, *affine, axis=axis, eps=eps)
    over = {"axes": tuple(range(axis, x.type.rank)), "keepdims": True}
    wide = n.c.cast(x, "float32") if x.dtype == "float16" else x
    mean = n.emit("reduce_mean", wide, **over)
    centered = n.emit("sub", wide, mean)
    variance = n.emit("reduce_mean", n.emit("mul", centered, centered), **over)
    inverse = n.emit("rsqrt", n.emit("add", variance, n.number(eps, wide)))
    out = n.c.cast(n.emit("mul", centered, inverse), x.dtype)
    for op, v in zip(("mul", "add"), affine, strict=False):
        out = n.emit(op, out, v)
    return [out, mean, inverse]


@maps("RMSNormalization")
def rms_norm(n: Call) -> Value:
    x = needs_float(n.x())
    scale = n.x(1)
    axis = n.axis(x.type.rank, -1)
    normal = n.emit("rms_norm", x, axis=axis, eps=float(n.attr("epsilon", 1e-5)))
    return n.emit("mul", normal, n.c.cast(scale, normal.dtype))


@maps("LRN")
def local_response(n: Call) -> Value:
    size = int(n.attr("size"))
    if size % 2 == 0:
        raise Unmapped("local response over an even number of channels")
    attrs = {"alpha": float(n.attr("alpha", 1e-4)), "beta": float(n.attr("beta", 0.75)), "k": float(n.attr("bias", 1.0))}
    return n.emit("local_response_norm", needs_float(n.x()), size=size, **attrs)


@maps("LpNormalization")
def lp_normalization(n: Call) -> Value:
    x, p = needs_float(n.x()), int(n.attr("p", 2))
    over = {"axes": (n.axis(x.type.rank, -1),), "keepdims": True}
    if p == 1:
        norm = n.emit("reduce_sum", n.emit("abs", x), **over)
    else:
        norm = n.emit("sqrt", n.emit("reduce_sum", n.emit("mul", x, x), **over))
    none = n.emit("eq", norm, n.number(0, x))
    return n.emit("div", x, n.emit("where", none, n.number(1, x), norm))


@maps("MeanVarianceNormalization")
def mean_variance(n: Call) -> Value:
    x = needs_float(n.x())
    if n.version < 9:
        raise Unmapped("MeanVarianceNormalization before operator set 9")
    axes = tuple(positive(int(a), x.type.rank) for a in n.attr("axes", (0, 2, 3)))
    over = {"axes": axes, "keepdims": True}
    centered = n.emit("sub", x, n.emit("reduce_mean", x, **over))
    variance = n.emit("reduce_mean", n.emit("mul", centered, centered), **over)
    return n.emit("div", centered, n.emit("add", n.emit("sqrt", variance), n.number(1e-9, x)))


def _dropped(n: Call, x: Value) -> Result:
    """Dropout in a training step: factors are drawn anew at each call, by numpy."""
    given, seed = n.known(1, "the ratio of dropout"), n.attr("seed")
    ratio = 0.5 if given is None else float(given.reshape(-1)[0])
    own = None if seed is None else np.random.default_rng(int(seed) & (2**63 - 1))
    shared = n.c.mode.random
    assert shared is not None, "only a training step draws"

    def draw(like: Array) -> Array:
        kept = (own or shared()).random(like.shape, np.float32) >= ratio
        return (kept / max(1 - ratio, 1e-30)).astype(like.dtype)

    factors = drawn(n.c, x, draw, "dropout's factors are drawn")
    return [n.emit("mul", x, factors), n.emit("gt", factors, n.number(0, factors))]


@maps("Dropout")
def dropout(n: Call) -> Result:
    item = n.item(2)
    may_train = n.version >= 12 and item is not None and not (isinstance(item, Known) and not item.array.any())
    if may_train and not n.c.mode.train:
        raise Unmapped("dropout in training")
    x = n.x()
    training = n.known(2, "whether dropout is in training") if may_train else None
    if training is not None and training.any():
        return _dropped(n, needs_float(x))
    if n.outputs == 1:
        return x
    dtype = "bool" if n.version >= 10 else x.dtype
    return [x, n.emit("expand", n.c.constant(True, dtype), shape=x.shape)]
