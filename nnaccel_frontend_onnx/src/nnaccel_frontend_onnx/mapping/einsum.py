"""Einsum as transposes, reshapes and one matrix product for each pair of operands."""

from __future__ import annotations

from nnaccel_core.ir import Dim, Value, product
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, maps

Term = tuple[str, Value]


@maps("Einsum")
def einsum(n: Call) -> Value:
    equation = str(n.attr("equation", "")).replace(" ", "")
    xs = n.xs()
    left, arrow, right = equation.partition("->")
    names = left.split(",")
    if "." in equation or len(names) != len(xs) or any(len(t) != x.type.rank for t, x in zip(names, xs, strict=True)):
        raise Unmapped(f"the equation {equation!r}")
    if any(len(set(t)) != len(t) for t in (*names, right)):
        raise Unmapped(f"a diagonal in the equation {equation!r}")
    if not arrow:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    terms: list[Term] = list(zip(names, xs, strict=True))
    while len(terms) > 1:
        a, b, *rest = terms
        later = set(right).union(*(t for t, _ in rest)) if rest else set(right)
        terms = [_pair(n, a, b, later), *rest]
    name, x = _summed(n, terms[0], set(right))
    if set(name) != set(right):
        raise Unmapped(f"the equation {equation!r}")
    return n.transpose(x, [name.index(c) for c in right])


def _summed(n: Call, term: Term, kept: set[str]) -> Term:
    name, x = term
    axes = tuple(k for k, c in enumerate(name) if c not in kept)
    if not axes:
        return term
    return "".join(c for c in name if c in kept), n.emit("reduce_sum", x, axes=axes, keepdims=False)


def _pair(n: Call, a: Term, b: Term, later: set[str]) -> Term:
    """Sum over the letters that only these two have."""
    a, b = _summed(n, a, later | set(b[0])), _summed(n, b, later | set(a[0]))
    both = [c for c in a[0] if c in b[0]]
    batch, inner = [c for c in both if c in later], [c for c in both if c not in later]
    rows, columns = [c for c in a[0] if c not in both], [c for c in b[0] if c not in both]
    size: dict[str, Dim] = {}
    for name, x in (a, b):
        for c, d in zip(name, x.shape, strict=True):
            if size.get(c, 1) == 1:
                size[c] = d

    def matrix(term: Term, first: list[str], second: list[str]) -> Value:
        moved = n.transpose(term[1], [term[0].index(c) for c in (*batch, *first, *second)])
        return n.reshape(moved, (*(size[c] for c in batch), product(size[c] for c in first), product(size[c] for c in second)))

    out = n.emit("matmul", matrix(a, rows, inner), matrix(b, inner, columns))
    order = (*batch, *rows, *columns)
    return "".join(order), n.reshape(out, [size[c] for c in order])
