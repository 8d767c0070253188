"""Normalization that TensorFlow has as one operation."""

from __future__ import annotations

from nnaccel_core.ir import Value, product
from nnaccel_frontend_tf.errors import Unmapped
from nnaccel_frontend_tf.mapping import Call, Result, maps, needs_float
from nnaccel_frontend_tf.mapping.layers import back, channels_last, second


@maps("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def fused_batch_norm(n: Call) -> Result:
    """In training, the variance that is given out is without bias; what is divided by is not."""
    x = needs_float(n.x())
    last = channels_last(n, x.type.rank)
    eps = float(n.attr("epsilon", 1e-4))
    scale, offset, mean, var = (n.x(k) for k in range(1, 5)) if not n.attr("is_training") else (n.x(1), n.x(2), None, None)
    image = second(n, x, last)
    if mean is not None and var is not None:
        parts = [n.c.cast(v, x.dtype) for v in (scale, offset, mean, var)]
        return [back(n, n.emit("batch_norm", image, *parts, eps=eps), last), mean, var]
    if x.dtype != scale.dtype:
        raise Unmapped(f"statistics of {x.dtype} in {scale.dtype}")
    first, second_moment = n.c.emit_many("batch_norm_stats", [image])
    out = back(n, n.emit("batch_norm", image, scale, offset, first, second_moment, eps=eps), last)
    count = product((image.shape[0], *image.shape[2:]))
    number = n.emit("extent", dim=count, dtype=x.dtype)
    rest = n.emit("extent", dim=count - 1, dtype=x.dtype)
    unbiased = n.emit("mul", second_moment, n.emit("div", number, rest))
    share = float(n.attr("exponential_avg_factor", 1.0))
    # TensorFlow takes gradients of the first result only.
    first, unbiased = n.emit("stop_gradient", first), n.emit("stop_gradient", unbiased)
    if share == 1:
        return [out, first, unbiased]
    blended = []
    for old, new in ((n.x(3), first), (n.x(4), unbiased)):
        kept = n.emit("mul", old, n.number(1 - share, old))
        blended.append(n.emit("add", n.emit("mul", new, n.number(share, new)), kept))
    return [out, *blended]


@maps("LRN")
def local_response(n: Call) -> Value:
    """Over the last axis; TensorFlow's alpha is not divided by the size of the window."""
    x, radius = needs_float(n.x()), int(n.attr("depth_radius", 5))
    size = 2 * radius + 1
    attrs = {"alpha": float(n.attr("alpha", 1.0)) * size, "beta": float(n.attr("beta", 0.5)), "k": float(n.attr("bias", 1.0))}
    return back(n, n.emit("local_response_norm", second(n, x, True), size=size, **attrs), True)
