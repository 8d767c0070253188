"""Sums of the columns of a matrix, row by row: what the statistics of channels-last images are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnaccel_core.dfp.nests import loads_of
from nnaccel_core.dfp.scalars import share
from nnaccel_core.ir import Dim, sym
from nnaccel_core.loopir.grammar import Accumulate, Binary, Cast, Const, If, Index, Let, Load, Loop, Scalar, Stmt, scalar_dtype
from nnaccel_core.loopir.nests import acc_dtype

if TYPE_CHECKING:
    from nnaccel_core.dfp.emit import NestEmitter

#: Sums of at most this many terms are swept: longer ones want partial sums, so that rounding errors stay small.
LONGEST_SWEEP = 256


def sweeps(e: NestEmitter, outer: Sequence[str]) -> bool:
    """Whether the nest of ``e`` sums columns along its SIMD axis, and no term's load serves several of them: ``outer`` are its
    other axes."""
    nest = e.nest
    if e.simd is None or e.lanes or nest.combine != "sum" or nest.where or len(nest.reduce) != 1 or e.block == 1:
        return False
    ((r, extent),) = nest.reduce
    if isinstance(extent, int) or acc_dtype(nest) != nest.out.dtype or not nest.out.dtype.startswith("float"):
        return False
    rows = False
    for load in loads_of(nest.body):
        along, down = e.step(load, e.simd), e.step(load, r)
        if down == 0:
            continue
        if along != 1 or down is None or (outer and e.step(load, outer[-1]) == 0):
            return False
        rows = True
    return rows


def swept(e: NestEmitter, outer: Sequence[str], usual: Sequence[Stmt]) -> list[Stmt]:
    """Some rows of terms at a time, added in pairs, go to the output along the whole SIMD axis; ``usual`` where sums are long.

    Column by column, a vector of each row would be read: part of a cache line, far from the next one.
    """
    nest, width, out = e.nest, e.block, e.out.buffer
    ((r, extent),) = nest.reduce
    at = e.out.at([e.units.get(a, sym(a)) for a in nest.axes])

    def over(body: Sequence[Stmt]) -> Stmt:
        assert e.simd is not None
        return e.loop(e.simd, body, "simd")

    def add(rows: Sequence[Dim]) -> Stmt:
        terms: list[Scalar] = [e.concrete(nest.body, {r: row}) for row in rows]
        while len(terms) > 1:
            pairs: list[Scalar] = [Binary("add", a, b) for a, b in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs + terms[2 * len(pairs) :]
        pre, value = share(terms[0], e.names)
        if scalar_dtype(value) != out.dtype:
            value = Cast(value, out.dtype)
        return over([*pre, Accumulate(out, at, "sum", value)])

    k = e.names.fresh("k")
    first, blocks = sym(f"{k}_r"), extent // width
    body = [
        over(e.store(Const(0, out.dtype), {})),
        Loop(k, 0, blocks, "serial", (Let(f"{k}_r", width * sym(k)), add([first + j for j in range(width)]))),
        Loop(r, width * blocks, extent, "serial", (add([sym(r)]),)),
    ]
    if nest.final is not None:
        body.append(over(e.store(nest.final, {}, Load(out, at))))
    short = Binary("le", Index(extent), Index(LONGEST_SWEEP))
    return [If(short, tuple(e.nested(outer, body)), tuple(usual))]


__all__ = ["LONGEST_SWEEP", "sweeps", "swept"]
