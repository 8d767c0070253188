"""Matrix product with numpy's batch broadcasting, optional transposition of the last two axes, and a bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Node, Rewriter, TensorType, Value, product, sym
from nnaccel_core.loopir.grammar import Acc, Binary, Load, Nest
from nnaccel_core.ops.elementwise import load_broadcast, unbroadcast
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, broadcast_shapes, register, require_equal


def _matrix(shape: Sequence[Dim], transpose: bool) -> tuple[Dim, Dim]:
    return (shape[-1], shape[-2]) if transpose else (shape[-2], shape[-1])


def _infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    a, b = types[0], types[1]
    if a.rank < 2 or b.rank < 2:
        raise ShapeError("both operands need at least two axes")
    if any(t.dtype != a.dtype for t in types):
        raise ShapeError("operands differ in dtype")
    m, ka = _matrix(a.shape, attrs.get("transpose_a", False))
    kb, n = _matrix(b.shape, attrs.get("transpose_b", False))
    require_equal(ka, kb, "inner dimensions")
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = (*batch, m, n)
    if len(types) == 3:
        if broadcast_shapes(out, types[2].shape) != out:
            raise ShapeError(f"the bias {types[2]} does not broadcast to the product {out}")
    return (TensorType(out, a.dtype),)


def _ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    a = np.swapaxes(xs[0], -1, -2) if attrs.get("transpose_a", False) else xs[0]
    b = np.swapaxes(xs[1], -1, -2) if attrs.get("transpose_b", False) else xs[1]
    out = np.matmul(a, b)
    return ((out + xs[2] if len(xs) == 3 else out).astype(xs[0].dtype),)


def _loop(node: Node) -> tuple[Nest]:
    a, b, out = node.inputs[0], node.inputs[1], node.output
    ta, tb = node.attrs.get("transpose_a", False), node.attrs.get("transpose_b", False)
    names = tuple(f"i{k}" for k in range(out.type.rank))
    axes = [sym(s) for s in names]
    batch, m, n, k = axes[:-2], axes[-2], axes[-1], sym("k")

    def at(v: Value, rows: Dim, cols: Dim, transpose: bool) -> Load:
        lead = load_broadcast(Value(TensorType(v.shape[:-2], v.dtype)), batch).index
        return Load(v, (*lead, cols, rows) if transpose else (*lead, rows, cols))

    body = Binary("mul", at(a, m, k, ta), at(b, k, n, tb))
    final = Binary("add", Acc(), load_broadcast(node.inputs[2], axes)) if len(node.inputs) == 3 else None
    return (Nest(out, names, body, (("k", _matrix(a.shape, ta)[1]),), "sum", final),)


def _limit(node: Node) -> str:
    rows = node.output.shape[-2]
    return "params" if isinstance(rows, int) and rows <= 4 and len(node.inputs[1].shape) == 2 else "compute"


def _vjp(r: Rewriter, n: Node, ins: Sequence[Value], outs: Sequence[Value], gs: Sequence[Value]) -> Sequence[Value | None]:
    g, (a, b) = gs[0], ins[:2]
    ta, tb = n.attrs.get("transpose_a", False), n.attrs.get("transpose_b", False)
    o = n.origin

    def mm(x: Value, y: Value, tx: bool, ty: bool) -> Value:
        return r.add("matmul", [x, y], {"transpose_a": tx, "transpose_b": ty}, origin=o)

    ga = mm(b, g, tb, True) if ta else mm(g, b, False, not tb)
    rows, given = a, g
    if b.type.rank == 2 and a.type.rank > 2 and not ta:
        # All rows of all batches are summed over by one product.
        rows, given = (r.add("reshape", [v], {"shape": (product(v.shape[:-1]), v.shape[-1])}, origin=o) for v in (a, g))
    gb = mm(given, rows, True, ta) if tb else mm(rows, given, not ta, False)
    grads: list[Value | None] = [unbroadcast(r, ga, a.shape, o), unbroadcast(r, gb, b.shape, o)]
    if len(ins) == 3:
        grads.append(unbroadcast(r, g, ins[2].shape, o))
    return grads


def _samples() -> Iterable[Sample]:
    rng = np.random.default_rng(5)

    def draw(*shape: int) -> Array:
        return rng.normal(size=shape).astype(np.float32)

    yield Sample((draw(4, 7), draw(7, 5)), {}, 1e-4)
    yield Sample((draw(3, 7), draw(9, 7), draw(9)), {"transpose_b": True}, 1e-4)
    yield Sample((draw(7, 3), draw(7, 5)), {"transpose_a": True}, 1e-4)
    yield Sample((draw(2, 1, 4, 6), draw(3, 6, 5)), {}, 1e-4)
    yield Sample((draw(2, 6, 4), draw(2, 5, 6)), {"transpose_a": True, "transpose_b": True}, 1e-4)
    yield Sample((draw(2, 3, 4, 6), draw(5, 6), draw(5)), {"transpose_b": True}, 1e-4)


def _flops(node: Node) -> Dim:
    k = _matrix(node.inputs[0].shape, node.attrs.get("transpose_a", False))[1]
    return 2 * node.output.type.size * k


register(OpDef("matmul", _infer, _ref, _vjp, _limit, loop=_loop, samples=_samples, flops=_flops))
