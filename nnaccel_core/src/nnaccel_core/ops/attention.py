"""Scaled dot-product attention (Vaswani et al. 2017), and its gradients from the log-sum-exp of each row of scores.

Backends whose libraries run it whole keep the scores in registers, a block of keys at a time (Dao et al. 2022, "FlashAttention");
elsewhere it is decomposed into two products around a softmax before anything else happens (`OpDef.fused`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value
from nnaccel_core.ops.elementwise import unbroadcast
from nnaccel_core.ops.registry import Array, Attrs, Emitter, OpDef, Sample, broadcast_shapes, register, require_equal, sum_dtype


def _heads(q: TensorType | Value, k: TensorType | Value) -> int:
    """How many heads of queries each head of keys and values serves."""
    a, b = (t.shape[-3] if len(t.shape) > 2 else 1 for t in (q, k))
    if a == b:
        return 1
    if not isinstance(a, int) or not isinstance(b, int) or not b or a % b:
        raise ShapeError(f"{a} heads of queries for {b} of keys")
    return a // b


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    q, k, v = types[:3]
    if not q.rank == k.rank == v.rank >= 2:
        raise ShapeError("queries, keys and values need the same number of axes, at least two")
    if not q.is_float or q.dtype != k.dtype or q.dtype != v.dtype:
        raise ShapeError("queries, keys and values need one floating-point dtype")
    _heads(q, k)
    for a, b, what in (
        *((a, b, "the batches of queries and keys") for a, b in zip(q.shape[:-3], k.shape[:-3], strict=True)),
        *((a, b, "the batches of keys and values") for a, b in zip(k.shape[:-2], v.shape[:-2], strict=True)),
        (q.shape[-1], k.shape[-1], "the last axes of queries and keys"),
        (k.shape[-2], v.shape[-2], "how many keys and values there are"),
    ):
        require_equal(a, b, what)
    if len(types) == 4:
        scores = (*q.shape[:-1], k.shape[-2])
        if types[3].dtype != q.dtype or broadcast_shapes(scores, types[3].shape) != scores:
            raise ShapeError(f"the mask {types[3]} is not of the queries' dtype or does not broadcast to the scores {scores}")
    return TensorType((*q.shape[:-1], v.shape[-1]), q.dtype), TensorType((*q.shape[:-1], 1), sum_dtype(q.dtype))


def _lower(rows: Dim, columns: Dim) -> Array:
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise ShapeError("causal attention needs known numbers of queries and keys")
    return np.tri(rows, columns, dtype=np.bool_)


# --- references -----------------------------------------------------------------------------------------------------


def _prepared(xs: Sequence[Array], attrs: Attrs) -> tuple[Array, Array, Array]:
    """Scores, and keys and values for each head of queries; all in float64."""
    q, k, v = (x.astype(np.float64) for x in xs[:3])
    if k.ndim > 2:
        k, v = (np.repeat(x, q.shape[-3] // k.shape[-3], axis=-3) for x in (k, v))
    scores = q @ np.swapaxes(k, -1, -2) * attrs["scale"]
    if attrs["causal"]:
        scores = np.where(_lower(*scores.shape[-2:]), scores, -np.inf)
    return (scores + xs[3] if len(xs) == 4 else scores), k, v


def _weights(scores: Array, lse: Array) -> Array:
    """The softmax; a row that is hidden entirely has weights of zero."""
    hidden = np.isneginf(lse)
    return np.asarray(np.where(hidden, 0.0, np.exp(scores - np.where(hidden, 0.0, lse))))


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    scores, _, v = _prepared(xs, attrs)
    best = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    best = np.where(np.isneginf(best), 0.0, best)
    with np.errstate(divide="ignore"):
        lse = best + np.log(np.exp(scores - best).sum(axis=-1, keepdims=True))
    return np.asarray(_weights(scores, lse) @ v, xs[0].dtype), np.asarray(lse, sum_dtype(str(xs[0].dtype)))


def _backward_ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (q, k, v), (out, lse, g) = xs[:3], (x.astype(np.float64) for x in xs[3:6])
    scores, keys, values = _prepared((q, k, v, *xs[6:]), attrs)
    weights = _weights(scores, lse)
    slopes = weights * (g @ np.swapaxes(values, -1, -2) - (g * out).sum(axis=-1, keepdims=True)) * attrs["scale"]
    grads = slopes @ keys, np.swapaxes(slopes, -1, -2) @ q, np.swapaxes(weights, -1, -2) @ g

    def summed(grad: Array, like: Array) -> Any:
        """Over the heads that share ``like``."""
        if grad.shape == like.shape:
            return grad
        return grad.reshape(*like.shape[:-2], -1, *grad.shape[-2:]).sum(axis=-3)

    return [np.asarray(summed(a, b), b.dtype) for a, b in zip(grads, (q, k, v), strict=True)]


# --- decompositions -------------------------------------------------------------------------------------------------


def _spread(e: Emitter, x: Value, times: int) -> Value:
    """Heads of ``x``, each ``times`` times."""
    if times == 1:
        return x
    apart = e("reshape", x, shape=(*x.shape[:-2], 1, *x.shape[-2:]))
    heads = x.shape[-3]
    assert isinstance(heads, int)
    spread = e("expand", apart, shape=(*x.shape[:-2], times, *x.shape[-2:]))
    return e("reshape", spread, shape=(*x.shape[:-3], heads * times, *x.shape[-2:]))


def _gathered(e: Emitter, grad: Value, times: int) -> Value:
    """The gradient of what `_spread` was given."""
    if times == 1:
        return grad
    heads = grad.shape[-3]
    assert isinstance(heads, int)
    apart = e("reshape", grad, shape=(*grad.shape[:-3], heads // times, times, *grad.shape[-2:]))
    return e("reduce_sum", apart, axes=(apart.type.rank - 3,), keepdims=False)


def _scores(e: Emitter, q: Value, k: Value, mask: Value | None, attrs: Attrs) -> tuple[Value, Value]:
    """Scores as the softmax takes them, and the scaled queries; ``k`` has as many heads as ``q``."""
    scaled = e("mul", q, attrs["scale"])
    scores = e("matmul", scaled, k, transpose_a=False, transpose_b=True)
    if attrs["causal"]:
        lower = e.r.add("constant", [], {"value": _lower(*scores.shape[-2:])}, origin=e.origin)
        scores = e("where", lower, scores, -math.inf)
    return (scores if mask is None else e("add", scores, mask)), scaled


def _hidden(e: Emitter, scores: Value) -> Value:
    """Which rows of ``scores`` a mask hides entirely."""
    return e("eq", e("reduce_max", scores, axes=(scores.type.rank - 1,), keepdims=True), -math.inf)


def _decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    e, (q, k, v), mask = Emitter(r, node.origin), inputs[:3], inputs[3] if len(inputs) == 4 else None
    times = _heads(q, k)
    scores, _ = _scores(e, q, _spread(e, k, times), mask, node.attrs)
    last = scores.type.rank - 1
    weights = e("softmax", scores, axis=last)
    if mask is not None:
        weights = e("where", _hidden(e, scores), 0.0, weights)
    out = e("matmul", weights, _spread(e, v, times), transpose_a=False, transpose_b=False)
    wide = e.cast(scores, sum_dtype(q.dtype))
    best = e("reduce_max", wide, axes=(last,), keepdims=True)
    if mask is not None:
        best = e("where", e("eq", best, -math.inf), 0.0, best)
    total = e("reduce_sum", e("exp", e("sub", wide, best)), axes=(last,), keepdims=True)
    return out, e("add", best, e("log", total))


def _gradients(
    e: Emitter, attrs: Attrs, inputs: Sequence[Value], out: Value, lse: Value, g: Value, g_lse: Value | None
) -> tuple[Value, Value, Value, Value]:
    """Gradients of queries, keys, values and scores: weights come again from the log-sum-exp."""
    (q, k, v), mask = inputs[:3], inputs[3] if len(inputs) == 4 else None
    dtype, times = sum_dtype(q.dtype), _heads(q, k)
    keys, values = _spread(e, k, times), _spread(e, v, times)
    scores, scaled = _scores(e, q, keys, mask, attrs)
    last = scores.type.rank - 1
    weights = e("exp", e("sub", e.cast(scores, dtype), lse))
    if mask is not None:
        weights = e("where", _hidden(e, scores), 0.0, weights)
    moved = e.cast(e("matmul", g, values, transpose_a=False, transpose_b=True), dtype)
    mean = e("reduce_sum", e("mul", e.cast(g, dtype), e.cast(out, dtype)), axes=(last,), keepdims=True)
    if g_lse is not None:
        mean = e("sub", mean, g_lse)
    slopes = e.cast(e("mul", weights, e("sub", moved, mean)), q.dtype)
    of_q = e("mul", e("matmul", slopes, keys, transpose_a=False, transpose_b=False), attrs["scale"])
    of_k = e("matmul", slopes, scaled, transpose_a=True, transpose_b=False)
    of_v = e("matmul", e.cast(weights, q.dtype), g, transpose_a=True, transpose_b=False)
    return of_q, _gathered(e, of_k, times), _gathered(e, of_v, times), slopes


def _vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value | None]) -> Sequence[Value | None]:
    e, (out, lse), (g, g_lse) = Emitter(r, n.origin), outs, gs
    if g is None:
        g = e.zeros(out.shape, out.dtype)
    whole: tuple[Value, ...] = ()
    if g_lse is None:  # always so, but in second derivatives
        whole = r.add_multi("sdpa_backward", [*ins[:3], out, lse, g, *ins[3:]], n.attrs, origin=n.origin)
        if len(ins) == 3:
            return whole
    *parts, slopes = _gradients(e, n.attrs, ins, out, lse, g, g_lse)
    grads = whole or parts
    return grads if len(ins) == 3 else (*grads, unbroadcast(r, slopes, ins[3].shape, n.origin))


def _backward_infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    out, lse = _infer((*types[:3], *types[6:]), attrs)
    for t, like, what in ((types[3], out, "result"), (types[4], lse, "log-sum-exp"), (types[5], out, "result's gradient")):
        if t.shape != like.shape or t.dtype != like.dtype:
            raise ShapeError(f"the {what} is {t}, not {like}")
    return tuple(TensorType(t.shape, t.dtype) for t in types[:3])


def _backward_decompose(r: Rewriter, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    e = Emitter(r, node.origin)
    out, lse, g = inputs[3:6]
    return _gradients(e, node.attrs, (*inputs[:3], *inputs[6:]), out, lse, g, None)[:3]


# --- the operators --------------------------------------------------------------------------------------------------


def _flops(node: Node, products: int) -> Dim:
    q, k, v = (x.shape for x in node.inputs[:3])
    total: Dim = products * (q[-1] + v[-1]) * q[-2] * k[-2]
    for d in q[:-2]:
        total = total * d
    return total


def _draws() -> Iterable[tuple[tuple[Array, ...], Attrs]]:
    """Queries, keys, values, and a mask in some."""
    rng = np.random.default_rng(31)

    def draw(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    yield (draw(2, 3, 5, 8), draw(2, 3, 7, 8), draw(2, 3, 7, 4)), {"scale": 8**-0.5, "causal": False}
    yield (draw(2, 4, 6, 8), draw(2, 2, 6, 8), draw(2, 2, 6, 8)), {"scale": 0.5, "causal": True}
    yield (draw(2, 3, 5, 4), draw(2, 3, 6, 4), draw(2, 3, 6, 4), draw(2, 1, 5, 6)), {"scale": 0.5, "causal": False}
    yield (draw(4, 3), draw(5, 3), draw(5, 2)), {"scale": 1.0, "causal": False}


def _samples() -> Iterable[Sample]:
    return [Sample(arrays, attrs, 1e-4) for arrays, attrs in _draws()]


def _backward_samples() -> Iterable[Sample]:
    rng = np.random.default_rng(32)
    found = []
    for arrays, attrs in _draws():
        out, lse = _ref(arrays, attrs)
        g = np.asarray(rng.normal(size=out.shape), np.float32)
        found.append(Sample((*arrays[:3], out, lse, g, *arrays[3:]), attrs, 1e-4))
    return found


#: Inputs: queries (..., H, L, D), keys (..., G, S, D), values (..., G, S, E), each head of which serves H / G heads of queries;
#: then, or not, what is added to the scores, of a shape that broadcasts to (..., H, L, S). Attributes: ``scale`` of the scores,
#: ``causal``: query i sees keys up to i. Results: (..., H, L, E), zeros where a mask hides all keys; and the log-sum-exp of each
#: row of scores, (..., H, L, 1), in float32 at least.
register(
    OpDef(
        "sdpa", _infer, _ref, _vjp, "compute", decompositions={"products": _decompose}, samples=_samples,
        flops=lambda n: _flops(n, 2), fused=True,
    )
)  # fmt: skip
#: Inputs: queries, keys, values, both results of ``sdpa``, the gradient of its first, the mask if there is one. Results: the
#: gradients of queries, keys and values.
register(
    OpDef(
        "sdpa_backward", _backward_infer, _backward_ref, None, "compute", decompositions={"products": _backward_decompose},
        samples=_backward_samples, flops=lambda n: _flops(n, 5), fused=True,
    )
)  # fmt: skip
