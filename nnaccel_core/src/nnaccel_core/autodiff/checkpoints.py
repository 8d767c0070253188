"""Which parts of a forward pass to compute again in the backward pass, so that what is kept between them fits a budget.

The nodes, in their order, are cut into pieces where few bytes cross. A piece that is computed again keeps nothing but what
crosses its start (Chen et al. 2016, "Training deep nets with sublinear memory cost"); pieces are given up one after the other,
those first that free the most bytes for the least time (the cost per byte by which Kirisame et al. 2021, "Dynamic tensor
rematerialization", choose what to evict).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from nnaccel_core.ir import Dim, Expr, Node, Value, evaluate, free_symbols
from nnaccel_core.ops.registry import lookup

#: What symbols are taken to be: only proportions count.
_EXTENT = 16
#: Into how many pieces the nodes are cut at most; the best way wins.
_PIECES = (4, 8, 16, 32)
#: Operations that take the time of moving one byte.
_OPERATIONS_PER_BYTE = 8.0


@dataclass(frozen=True)
class Checkpoints:
    """A choice.

    Attributes:
        dropped: values that were to be kept and are computed again instead; added: what is kept for that.
        bytes: what is then kept, and computed again at a time; ``seconds`` of the latter, in an arbitrary unit.
    """

    dropped: frozenset[Value]
    added: frozenset[Value]
    bytes: float
    seconds: float


@dataclass(frozen=True)
class _Piece:
    inside: frozenset[Value]
    start: frozenset[Value]
    bytes: float
    seconds: float


def choose(nodes: Sequence[Node], kept: Collection[Value], fixed: Collection[Value], budget: float) -> Checkpoints:
    """What to compute again so that at most ``budget`` times the bytes of ``kept`` are held, or as few as can be.

    Args:
        nodes: the forward pass, in order.
        kept: what it would keep; ``fixed``: what is in memory anyway (inputs, parameters, results).
        budget: 0..1. What a piece computes again counts too, since it is there while that piece's gradients are taken.
    """
    total = sum(map(nominal_bytes, kept))
    found = [_choose(nodes, kept, fixed, budget * total, total, pieces) for pieces in _PIECES]
    enough = [c for c in found if c.bytes <= budget * total]
    return min(enough, key=lambda c: c.seconds) if enough else min(found, key=lambda c: c.bytes)


def _choose(
    nodes: Sequence[Node], kept: Collection[Value], fixed: Collection[Value], limit: float, total: float, count: int
) -> Checkpoints:
    best = now = Checkpoints(frozenset(), frozenset(), total, 0.0)
    largest = 0.0
    pieces = [p for p in _pieces(nodes, set(kept), set(fixed), total / count) if p.bytes and p.seconds]
    for piece in sorted(pieces, key=lambda p: p.bytes / p.seconds, reverse=True):
        if now.bytes <= limit:
            break
        # What crosses the start of this piece stays, even if it lies inside one that was given up before.
        added = now.added | (piece.start - frozenset(kept))
        dropped = (now.dropped | piece.inside) - piece.start
        largest = max(largest, piece.bytes)
        held = total - sum(map(nominal_bytes, dropped)) + sum(map(nominal_bytes, added)) + largest
        now = Checkpoints(dropped, added, held, now.seconds + piece.seconds)
        if now.bytes < best.bytes:
            best = now
    return now if now.bytes <= limit else best


def _pieces(nodes: Sequence[Node], kept: set[Value], fixed: set[Value], target: float) -> list[_Piece]:
    """``nodes`` cut where little crosses, with about ``target`` bytes of ``kept`` in each piece."""
    last = {v: k for k, n in enumerate(nodes) for v in n.inputs}
    across: list[frozenset[Value]] = [frozenset()]
    alive: set[Value] = set()
    for k, n in enumerate(nodes):
        alive.update(v for v in n.outputs if v not in fixed and not small(v))
        alive = {v for v in alive if last.get(v, -1) > k}
        across.append(frozenset(alive))
    weights = [sum(nominal_bytes(v) for v in n.outputs if v in kept) for n in nodes]
    bounds = [*cut(weights, [_sizes(values) for values in across], target), len(nodes)]
    return [_piece(nodes[a:b], kept, across[a], across[b]) for a, b in pairwise(bounds)]


def cut(weights: Sequence[float], across: Sequence[float], target: float) -> list[int]:
    """Where to cut a row of nodes into pieces that weigh about ``target`` each, with little that crosses.

    Args:
        weights: of each node; across: what crosses in front of each node.

    Returns:
        the first node of each piece; the first of them is 0.
    """
    starts, best, weight = [0], 0, 0.0
    for k in range(1, len(weights)):
        weight += weights[k - 1]
        if weight < target / 2:
            continue
        if best <= starts[-1] or across[k] <= across[best]:
            best = k
        if weight >= 3 * target / 2:
            starts.append(best)
            weight = sum(weights[best:k])
    return starts


def _piece(nodes: Sequence[Node], kept: set[Value], start: frozenset[Value], end: frozenset[Value]) -> _Piece:
    inside = frozenset(v for n in nodes if repeatable(n) for v in n.outputs if v in kept and v not in end and not small(v))
    needed = set(inside)
    seconds = 0.0
    for n in reversed(nodes):
        if any(v in needed for v in n.outputs):
            needed.update(n.inputs)
            seconds += _seconds(n)
    return _Piece(inside, start, _sizes(inside), seconds)


def repeatable(node: Node) -> bool:
    """Whether ``node`` can be computed a second time: what runs on the host is not."""
    return not lookup(node.op, node.where()).host


def small(v: Value) -> bool:
    """Whether ``v`` is a number per channel or the like: it has no axis of the batch's extent and few elements."""
    size = v.type.size
    return isinstance(size, int) and size <= 1 << 16 and v.type.rank <= 1


def _number(d: Dim) -> float:
    return float(evaluate(d, dict.fromkeys(free_symbols(d), _EXTENT))) if isinstance(d, Expr) else float(d)


def nominal_bytes(v: Value) -> float:
    """The bytes of ``v`` for a batch of some size, to weigh values by."""
    return _number(v.type.nbytes)


def _sizes(values: Collection[Value]) -> float:
    return sum(map(nominal_bytes, values))


def _seconds(node: Node) -> float:
    """The time of ``node``, in the time of moving one byte."""
    op = lookup(node.op, node.where())
    if op.limit_of(node) == "view":
        return 0.0
    moved = sum(map(nominal_bytes, (*node.inputs, *node.outputs)))
    return moved + (_number(op.flops(node)) / _OPERATIONS_PER_BYTE if op.flops is not None else 0.0)


__all__ = ["Checkpoints", "choose", "cut", "nominal_bytes", "repeatable", "small"]
