"""What is known of the integers in scope, and proofs of ``dim >= 0`` from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from nnaccel_core.ir import dims
from nnaccel_core.ir.dims import Dim, Expr, linear
from nnaccel_core.loopir import grammar as g

#: Steps one proof may take; index expressions of real kernels need fewer than ten.
BUDGET = 200


@lru_cache(maxsize=1 << 14)
def free_symbols(dim: Dim) -> frozenset[str]:
    """`ir.dims.free_symbols`, remembered: passes ask for the same few hundred dims over and over."""
    return frozenset(dims.free_symbols(dim))


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """`ir.dims.substitute`, without rebuilding a dim that has none of the symbols."""
    if isinstance(dim, int) or not env or free_symbols(dim).isdisjoint(env):
        return dim
    return dims.substitute(dim, env)


class Ranges:
    """Immutable facts: each symbol's smallest and largest value (inclusive, may name earlier symbols), and lets.

    A symbol without facts is a kernel argument, taken to be non-negative.
    """

    def __init__(self, bounds: tuple[tuple[str, Dim | None, Dim | None], ...] = (), lets: dict[str, Dim] | None = None) -> None:
        self.bounds = bounds
        self.lets = lets or {}
        self._proofs: dict[Dim, bool] = {}

    @staticmethod
    def of(kernel: g.Kernel) -> Ranges:
        """The facts at the top of the kernel's body."""
        return Ranges(tuple((axis, 0, extent - 1) for axis, extent in kernel.tasks))

    def axis(self, name: str, begin: Dim, end: Dim) -> Ranges:
        """These facts inside a loop."""
        return Ranges((*self.bounds, (name, self.inline(begin), self.inline(end) - 1)), self.lets)

    def let(self, name: str, dim: Dim) -> Ranges:
        """These facts after a let."""
        return Ranges(self.bounds, {**self.lets, name: self.inline(dim)})

    def inline(self, dim: Dim) -> Dim:
        """``dim`` with lets replaced by what they stand for."""
        return substitute(dim, self.lets)

    def nonneg(self, dim: Dim) -> bool:
        """Whether ``dim >= 0`` is proven (False means unknown)."""
        if isinstance(dim, int):
            return dim >= 0
        if dim not in self._proofs:
            self._proofs[dim] = self._prove(self.inline(dim), [BUDGET])
        return self._proofs[dim]

    def _prove(self, dim: Dim, budget: list[int]) -> bool:
        budget[0] -= 1
        if budget[0] < 0:
            return False
        if isinstance(dim, int):
            return dim >= 0
        const, terms = split(dim)
        if const >= 0 and all(c > 0 and self._atom(t, budget) for t, c in terms):
            return True
        for term, coef in terms:
            rest = dim - coef * term
            if term.op in ("min", "max"):
                # -min(a, b) >= -a and max(a, b) >= a: one operand is enough; otherwise all are needed.
                quantifier = any if (coef > 0) == (term.op == "max") else all
                return quantifier(self._prove(rest + coef * a, budget) for a in args(term))
            divisor = args(term)[1] if term.op in ("floordiv", "mod") else 0
            if isinstance(divisor, int) and divisor > 0:
                if term.op == "mod":
                    return self._prove(rest + (0 if coef > 0 else coef * (divisor - 1)), budget)
                if coef % divisor == 0:
                    inner = args(term)[0] - (divisor - 1) if coef > 0 else args(term)[0]
                    return self._prove(rest + (coef // divisor) * inner, budget)
        for name, low, high in reversed(self.bounds):
            found = linear(dim, name)
            if found is None or found[0] == 0:
                continue
            bound = low if found[0] > 0 else high
            if bound is not None:
                return self._prove(found[1] + found[0] * bound, budget)
        return False

    def _atom(self, term: Expr, budget: list[int]) -> bool:
        if term.op == "sym":
            for name, low, _ in reversed(self.bounds):
                if name == term.args[0]:
                    return low is not None and self._prove(low, budget)
            return True
        if term.op == "max":
            return any(self._prove(a, budget) for a in args(term))
        if term.op == "mod":
            return self._prove(args(term)[1], budget)
        return all(self._prove(a, budget) for a in args(term))


def split(dim: Dim) -> tuple[int, tuple[tuple[Expr, int], ...]]:
    """``(constant, ((term, coefficient), ...))`` of a dim."""
    if isinstance(dim, int):
        return dim, ()
    if dim.op == "sum":
        return dim.args[0], dim.args[1]  # type: ignore[return-value]
    return 0, ((dim, 1),)


def args(term: Expr) -> tuple[Dim, ...]:
    """Operands of a product, quotient, remainder, minimum or maximum."""
    return term.args  # type: ignore[return-value]


def uses(dim: Dim, names: Iterable[str]) -> bool:
    """Whether any of ``names`` occurs in ``dim``."""
    return not free_symbols(dim).isdisjoint(names)


def margin(cond: g.Scalar) -> Dim | None:
    """``d`` such that the comparison of two integer indices ``cond`` means ``d >= 0``; None for anything else."""
    if not isinstance(cond, g.Binary) or not isinstance(cond.a, g.Index) or not isinstance(cond.b, g.Index):
        return None
    difference = cond.b.dim - cond.a.dim
    return {"le": difference, "lt": difference - 1, "ge": -difference, "gt": -difference - 1}.get(cond.op)


def conjuncts(cond: g.Scalar) -> tuple[g.Scalar, ...]:
    """The operands of nested ``and``s."""
    if isinstance(cond, g.Binary) and cond.op == "and":
        return conjuncts(cond.a) + conjuncts(cond.b)
    return (cond,)


def conjunction(conds: Iterable[g.Scalar]) -> g.Scalar | None:
    """The ``and`` of ``conds``; None when there are none."""
    out: g.Scalar | None = None
    for c in conds:
        out = c if out is None else g.Binary("and", out, c)
    return out
