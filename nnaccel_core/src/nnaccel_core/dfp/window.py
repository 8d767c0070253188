"""Windows of constant size: which of their axes is unrolled, and which columns of the input a block of outputs may find outside.

A block of neighboring outputs reads few columns of its input, each for several outputs. The columns at its ends are tested for
padding once each; those between lie inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nnaccel_core.dfp.nests import loads_of, subexpressions
from nnaccel_core.ir import Dim, ceil_div, dim_max, dim_min, evaluate, free_symbols, substitute
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Alloc, Bound, Buffer, Load, Scalar, Select, Stmt, Store, scalar_dtype

if TYPE_CHECKING:
    from nnaccel_core.dfp.emit import NestEmitter

#: Reduced axes of at most this constant extent are windows: the innermost one is unrolled.
WINDOW = 7


def ceil_quotient(a: Dim, c: int) -> Dim:
    """``a / c``, rounded up."""
    return a if c == 1 else ceil_div(a, c)


def unrolled_axis(e: NestEmitter, outer: Sequence[str]) -> tuple[str | None, str | None]:
    """The window axis to unroll, and the output axis along which its bounds split interior from edges."""
    for name, extent in reversed(e.nest.reduce):
        if not isinstance(extent, int) or extent > WINDOW:
            continue
        bounds = [b for b in e.nest.where if name in free_symbols(b.index)]
        partners = {a for b in bounds for a in free_symbols(b.index) & set(e.order)}
        others = {r for b in bounds for r in free_symbols(b.index) & e.extents.keys()} - {name}
        straight = all(linear(b.index, x) is not None for b in bounds for x in (name, *partners))
        if not bounds:
            return name, None
        if len(partners) == 1 and not others and straight:
            (partner,) = partners
            if partner == e.simd or (outer and partner == outer[-1]):
                return name, partner
    return None, None


def interior(e: NestEmitter, axis: str) -> tuple[Dim, Dim]:
    """Where along ``axis`` all of the unrolled window lies within its bounds."""
    assert e.unrolled is not None
    reach = e.extents[e.unrolled] - 1
    begin: Dim = 0
    end: Dim | None = None
    for b in e.inside:
        split = linear(b.index, axis)
        assert split is not None
        c, rest = split
        window = linear(rest, e.unrolled)
        assert window is not None
        d, base = window
        begin = dim_max(begin, ceil_quotient(-base, c))
        last = b.extent - 1 - base - d * reach
        limit = (last if c == 1 else last // c) + 1
        end = limit if end is None else dim_min(end, limit)
    assert end is not None
    return begin, end


def tested_columns(e: NestEmitter, u: str) -> tuple[int, tuple[Dim, Dim] | None]:
    """How many columns of the input at either end of a block may lie outside, and ``(column, extent)`` that has to hold for
    those between to lie inside in every block: the last of them in the last block. None where it always holds; all columns
    where it is not known."""
    assert e.unrolled is not None
    window = evaluate(e.extents[e.unrolled], {})
    every = e.block * window
    if len(e.inside) != 1:
        return every, None
    (bound,) = e.inside
    split = linear(substitute(bound.index, e.units), u)
    assert split is not None
    step, rest = split
    inner = linear(rest, e.unrolled)
    assert inner is not None
    if step < 1 or not isinstance(inner[1], int):
        return every, None
    reads = sorted({step * j + inner[0] * q + inner[1] for j in range(e.block) for q in range(window)})
    outside = max(1, sum(c < 0 for c in reads))  # padding is mostly the same at both ends
    if 2 * outside >= len(reads):
        return every, None
    last = step * (e.hi[u] - e.block) + reads[-1 - outside]
    left = bound.extent - last
    return outside, None if isinstance(left, int) and left > 0 else (last, bound.extent)


def held_loads(
    e: NestEmitter, points: Sequence[Mapping[str, Dim]], unroll: str | None
) -> tuple[list[Stmt], dict[Scalar, Scalar]]:
    """Statements that load what all points of a block share (a window's weights) into registers, since compilers do not move
    loads out of tested columns; and the registers instead of these loads."""
    body: list[Stmt] = []
    held: dict[Scalar, Scalar] = {}
    blocked = points[0].keys()
    if unroll is None or any(isinstance(s, Select) for s in subexpressions(e.nest.body)):
        return body, held  # an arm's loads may be out of range where it is not chosen
    for q in range(evaluate(e.extents[unroll], {})):
        for load in loads_of(e.nest.body):
            if any(e.step(load, axis) != 0 for axis in blocked):
                continue
            found = e.concrete(load, {unroll: q})
            if found not in held:
                register = Buffer(e.names.fresh("x"), (), scalar_dtype(found), "register")
                body += [Alloc(register), Store(register, (), found)]
                held[found] = Load(register, ())
    return body, held


def columns(
    e: NestEmitter, points: list[dict[str, Dim]], accs: list[Buffer], unroll: str | None
) -> list[tuple[tuple[Bound, ...], list[tuple[dict[str, Dim], Buffer]]]]:
    """The terms of a block with the unrolled window, together where they read one column of the input; with its bounds."""
    if unroll is None:
        return [((), list(zip(points, accs, strict=True)))]
    found: dict[tuple[Dim, ...], tuple[tuple[Bound, ...], list[tuple[dict[str, Dim], Buffer]]]] = {}
    for q in range(evaluate(e.extents[unroll], {})):
        for env, a in zip(points, accs, strict=True):
            at: dict[str, Dim] = {**env, unroll: q}
            moved = tuple(Bound(substitute(b.index, at), b.extent) for b in e.inside)
            column = tuple(b.index for b in moved)
            found.setdefault(column, (moved, []))[1].append((at, a))
    # In ascending order: the distance of two columns is a constant.
    keys = list(found)

    def distance(key: tuple[Dim, ...]) -> tuple[int, ...]:
        return tuple(evaluate(c - f, {}) for c, f in zip(key, keys[0], strict=True))

    return [found[k] for k in sorted(keys, key=distance)]
