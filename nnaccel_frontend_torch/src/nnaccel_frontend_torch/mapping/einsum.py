"""``torch.einsum`` through transposes, reshapes, products and sums: two operands at a time, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnaccel_core.ir import Dim, Value, product
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.importer import Importer
from nnaccel_frontend_torch.mapping.args import Handler, as_value, expanded, promoted
from nnaccel_frontend_torch.mapping.shapes import diagonal
from nnaccel_frontend_torch.refusal import Unmapped

Labels = tuple[str, ...]


def einsum(b: Importer, equation: Any, *operands: Any) -> Ref:
    """``torch.einsum(equation, *operands)``."""
    if not isinstance(equation, str):
        raise Unmapped("einsum with sublists")
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    dtype = promoted(b, *operands)
    values = [as_value(b, x, dtype) for x in operands]
    labels, out = parse(equation, [v.type.rank for v in values])
    for k, names in enumerate(labels):
        values[k], labels[k] = _diagonals(b, values[k], names)
    value, names = values[0], labels[0]
    if len(values) == 1:
        value, names = _summed(b, value, names, set(out))
    for k in range(1, len(values)):
        later = {s for rest in labels[k + 1 :] for s in rest} | set(out)
        value, names = _contract(b, value, names, values[k], labels[k], later)
    return b.temp(_arranged(b, value, names, out))


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """Labels of each operand and of the result; an ellipsis becomes labels of its own, aligned to the right.

    Raises:
        Unmapped: it is none of these operands'.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Unmapped(f"einsum {equation!r} of {len(ranks)} operands")
    hidden = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    most = max(hidden)
    every = tuple(f"...{k}" for k in range(most))

    def split(term: str, count: int) -> Labels:
        before, dots, after = term.partition("...")
        return (*before, *(every[most - count :] if dots else ()), *after)

    labels = [split(t, n) for t, n in zip(terms, hidden, strict=True)]
    for names, rank in zip(labels, ranks, strict=True):
        if len(names) != rank:
            raise Unmapped(f"einsum {equation!r}: labels that do not fit rank {rank}")
    if arrow:
        out = split(right, most)
    else:
        flat = [s for names in labels for s in names if len(s) == 1]
        out = (*every, *sorted(s for s in set(flat) if flat.count(s) == 1))
    if len(set(out)) != len(out) or not set(out) <= {s for names in labels for s in names}:
        raise Unmapped(f"einsum {equation!r}: result labels that are repeated or unknown")
    return labels, out


def _diagonals(b: Importer, x: Value, names: Labels) -> tuple[Value, Labels]:
    """Axes with one label become their common diagonal, which stands last."""
    while len(set(names)) < len(names):
        label = next(s for s in names if names.count(s) > 1)
        one, two = [a for a, s in enumerate(names) if s == label][:2]
        x = diagonal(b, b.temp(x), 0, one, two).read(b)
        names = (*(s for a, s in enumerate(names) if a not in (one, two)), label)
    return x, names


def _summed(b: Importer, x: Value, names: Labels, keep: set[str]) -> tuple[Value, Labels]:
    """Axes whose label nobody needs any more are summed away."""
    axes = tuple(k for k, s in enumerate(names) if s not in keep)
    if not axes:
        return x, names
    return b.emit("reduce_sum", [x], axes=axes, keepdims=False), tuple(s for s in names if s in keep)


def _arranged(b: Importer, x: Value, names: Labels, order: Sequence[str]) -> Value:
    perm = tuple(names.index(s) for s in order)
    return x if perm == tuple(range(len(perm))) else b.emit("transpose", [x], perm=perm)


def _contract(b: Importer, x: Value, xs: Labels, y: Value, ys: Labels, later: set[str]) -> tuple[Value, Labels]:
    """One product of matrices over the labels that both have and nobody needs later."""
    x, xs = _summed(b, x, xs, later | set(ys))
    y, ys = _summed(b, y, ys, later | set(xs))
    size: dict[str, Dim] = {}
    for s, d in [*zip(xs, x.shape, strict=True), *zip(ys, y.shape, strict=True)]:
        size[s] = d if size.get(s, 1) == 1 else size[s]
    shared = [s for s in xs if s in ys and s in later]
    over = [s for s in xs if s in ys and s not in later]
    rows, cols = [s for s in xs if s not in ys], [s for s in ys if s not in xs]
    left = _arranged(b, x, xs, [*shared, *rows, *over])
    right = _arranged(b, y, ys, [*shared, *over, *cols])
    # A label of extent 1 in one operand broadcasts.
    left = expanded(b, left, [*(left.shape[: len(shared) + len(rows)]), *(size[s] for s in over)])
    right = expanded(b, right, [*right.shape[: len(shared)], *(size[s] for s in over), *right.shape[len(shared) + len(over) :]])
    n = len(shared)
    m, k, c = (product(size[s] for s in group) for group in (rows, over, cols))
    left = _shaped(b, left, (*left.shape[:n], m, k))
    right = _shaped(b, right, (*right.shape[:n], k, c))
    if over:
        out = b.emit("matmul", [left, right], transpose_a=False, transpose_b=False)
    else:
        out = b.emit("mul", [left, right])
    return _shaped(b, out, (*out.shape[:n], *(size[s] for s in rows), *(size[s] for s in cols))), (*shared, *rows, *cols)


def _shaped(b: Importer, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.shape == shape else b.emit("reshape", [x], shape=shape)


TABLE: dict[str, Handler] = {"einsum": einsum}
