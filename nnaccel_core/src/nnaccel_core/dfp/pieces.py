"""A choice by position, as a concat makes it, as pieces of an axis without the choice."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from nnaccel_core.dfp.nests import is_piece, subexpressions
from nnaccel_core.ir import Dim, dim_max, dim_min, free_symbols
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Binary, Index, Scalar, Select, children, rebuild

#: Pieces that an axis is cut into at most.
MOST_PIECES = 64


@dataclass(frozen=True)
class Piece:
    """What is computed on ``[lo, hi)`` of an axis; nothing where ``hi <= lo``."""

    value: Scalar
    lo: Dim
    hi: Dim


def pieces(whole: Piece, axis: str, axes: Collection[str]) -> list[Piece]:
    """``whole`` cut where choices of its value by the position along ``axis`` change; just it where these are too many.

    ``axes``: all axes of the nest, of which the places of the cuts may depend on none.
    """
    done: list[Piece] = []
    todo = [whole]
    while todo:
        if len(todo) + len(done) > MOST_PIECES:
            return [whole]
        p = todo.pop()
        cut = _cut(p.value, axis, axes)
        if cut is None:
            done.append(p)
            continue
        cond, at = cut
        todo.append(Piece(_chosen(p.value, cond, False), dim_max(p.lo, at), p.hi))
        todo.append(Piece(_chosen(p.value, cond, True), p.lo, dim_min(p.hi, at)))
    return done


def _cut(value: Scalar, axis: str, axes: Collection[str]) -> tuple[Scalar, Dim] | None:
    """The outermost choice by the position along ``axis``, and from where on it is the second operand."""
    for s in reversed(list(subexpressions(value))):
        if isinstance(s, Select) and is_piece(s) and isinstance(s.cond, Binary):
            assert isinstance(s.cond.a, Index) and isinstance(s.cond.b, Index)
            split = linear(s.cond.a.dim - s.cond.b.dim, axis)
            if split is not None and split[0] == 1 and not free_symbols(split[1]) & set(axes):
                return s.cond, -split[1]
    return None


def _chosen(value: Scalar, cond: Scalar, first: bool) -> Scalar:
    """``value`` where ``cond`` is known. Shared operands stay shared."""
    memo: dict[int, Scalar] = {}

    def build(s: Scalar) -> Scalar:
        if id(s) not in memo:
            if isinstance(s, Select) and s.cond == cond:
                memo[id(s)] = build(s.a if first else s.b)
            else:
                kids = children(s)
                memo[id(s)] = rebuild(s, [build(k) for k in kids]) if kids else s
        return memo[id(s)]

    return build(value)


__all__ = ["MOST_PIECES", "Piece", "pieces"]
