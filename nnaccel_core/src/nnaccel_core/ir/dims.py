"""Symbolic dimensions.

A dimension is an ``int`` or an `Expr` over named symbols. Expressions are hash-consed (equal expressions are
one object) and kept in a canonical form: a sum of ``coefficient * term`` plus a constant, where a term is a
symbol, a product of non-constant expressions, ``//``, ``%``, ``min`` or ``max``. Two expressions that are
equal as polynomials are therefore the same object, and ``==`` on dims is structural.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Union

from nnaccel_core.errors import NnaccelError

Dim = Union[int, "Expr"]
Env = Mapping[str, int]


class _Ref(weakref.ref["Expr"]):
    """A weak reference that knows its key. A WeakValueDictionary does the same at three times the cost."""

    __slots__ = ("key",)
    key: tuple[object, ...]


_cache: dict[tuple[object, ...], _Ref] = {}


def _drop(ref: _Ref) -> None:
    if _cache.get(ref.key) is ref:
        _cache.pop(ref.key, None)


class Expr:
    """A symbolic integer, equal to itself alone. Build with `sym` and the operators ``+ - * // %``, `dim_min`, `dim_max`.

    ``op`` is one of ``sym``, ``sum``, ``mul``, ``floordiv``, ``mod``, ``min``, ``max``; ``args`` are:
    the name; ``(constant, ((term, coefficient), ...))``; the operands.
    """

    __slots__ = ("__weakref__", "_name", "args", "op")
    op: str
    args: tuple[object, ...]
    _name: str | None

    def __new__(cls, op: str, args: tuple[object, ...]) -> Expr:
        key = (op, *args)
        ref = _cache.get(key)
        found = ref() if ref is not None else None
        if found is None:
            found = super().__new__(cls)
            found.op = op
            found.args = args
            found._name = None
            ref = _Ref(found, _drop)
            ref.key = key
            _cache[key] = ref
        return found

    def __reduce__(self) -> tuple[object, ...]:
        return (Expr, (self.op, self.args))

    def __repr__(self) -> str:
        # Also the order of terms, so that printing and generated code do not depend on object addresses. Made when first
        # asked for: most sums are never printed nor sorted.
        if self._name is None:
            self._name = _text(self.op, self.args)
        return self._name

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __add__(self, other: Dim) -> Dim:
        return _shifted(self, other) if isinstance(other, int) else _make_sum([(1, self), (1, other)])

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _shifted(self, -other) if isinstance(other, int) else _make_sum([(1, self), (-1, other)])

    def __rsub__(self, other: Dim) -> Dim:
        return _make_sum([(1, other), (-1, self)])

    def __neg__(self) -> Dim:
        return _make_sum([(-1, self)])

    def __mul__(self, other: Dim) -> Dim:
        return _make_mul(self, other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return _make_floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return _make_floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return _make_mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return _make_mod(other, self)


def _text(op: str, args: tuple[object, ...]) -> str:
    if op == "sym":
        return str(args[0])
    if op == "sum":
        const, terms = args[0], args[1]
        parts: list[str] = []
        for term, coef in terms:  # type: ignore[attr-defined]
            parts.append(str(term) if coef == 1 else f"{coef}*{term}")
        if const:
            parts.append(str(const))
        return "(" + " + ".join(parts) + ")"
    if op in ("min", "max"):
        return f"{op}({', '.join(map(str, args))})"
    return "(" + {"mul": " * ", "floordiv": " // ", "mod": " % "}[op].join(map(str, args)) + ")"


def sym(name: str) -> Expr:
    """The symbol ``name``: an unknown non-negative integer."""
    return Expr("sym", (name,))


def _terms(dim: Dim) -> tuple[int, tuple[tuple[Expr, int], ...]]:
    if isinstance(dim, int):
        return dim, ()
    if dim.op == "sum":
        return dim.args[0], dim.args[1]  # type: ignore[return-value]
    return 0, ((dim, 1),)


def _name_of_term(term: tuple[Expr, int]) -> str:
    return repr(term[0])


def _shifted(dim: Expr, by: int) -> Dim:
    """``dim + by``: the terms stay as they are."""
    if by == 0:
        return dim
    const, terms = _terms(dim)
    const += by
    if const == 0 and len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0]
    return Expr("sum", (const, terms))


def _make_sum(parts: Iterable[tuple[int, Dim]]) -> Dim:
    const = 0
    coefs: dict[Expr, int] = {}
    for factor, dim in parts:
        c, terms = _terms(dim)
        const += factor * c
        for term, coef in terms:
            coefs[term] = coefs.get(term, 0) + factor * coef
    kept = [(t, c) for t, c in coefs.items() if c]
    if len(kept) > 1:
        kept.sort(key=_name_of_term)
    if not kept:
        return const
    if const == 0 and len(kept) == 1 and kept[0][1] == 1:
        return kept[0][0]
    return Expr("sum", (const, tuple(kept)))


def _make_mul(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if isinstance(a, int):
        a, b = b, a
    if isinstance(b, int):
        if b in (0, 1):
            return a if b else 0
        const, terms = _terms(a)
        # Scaling keeps the order of the terms.
        if len(terms) == 1 and const == 0 and terms[0][1] * b == 1:
            return terms[0][0]
        return Expr("sum", (const * b, tuple((t, c * b) for t, c in terms)))
    # Distribute over sums, so that equal polynomials have one form.
    ca, ta = _terms(a)
    cb, tb = _terms(b)
    parts: list[tuple[int, Dim]] = [(1, ca * cb)]
    parts += [(ca * c, t) for t, c in tb]
    parts += [(cb * c, t) for t, c in ta]
    for t1, c1 in ta:
        for t2, c2 in tb:
            factors = (t1.args if t1.op == "mul" else (t1,)) + (t2.args if t2.op == "mul" else (t2,))
            product = Expr("mul", tuple(sorted(factors, key=repr)))
            parts.append((c1 * c2, product))
    return _make_sum(parts)


def _make_floordiv(a: Dim, b: Dim) -> Dim:
    if isinstance(b, int):
        if b == 0:
            raise ZeroDivisionError(f"dimension {a} // 0")
        if b == 1:
            return a
        if isinstance(a, int):
            return a // b
        # (b*q + r) // b == q + r // b for every integer q.
        const, terms = _terms(a)
        if b > 0:
            whole = [(c // b, t) for t, c in terms if c % b == 0]
            rest = [(c, t) for t, c in terms if c % b]
            if whole:
                inner = _make_sum([*rest, (1, const % b)])
                tail: Dim = inner // b if isinstance(inner, int) else Expr("floordiv", (inner, b))
                if not rest:
                    tail = 0
                return _make_sum([*whole, (1, const // b), (1, tail)])
            if const // b:
                inner = _make_sum([*rest, (1, const % b)])
                return _make_sum([(1, Expr("floordiv", (inner, b))), (1, const // b)])
    if a == b:
        return 1
    if isinstance(a, int) and a == 0:
        return 0
    return Expr("floordiv", (a, b))


def _make_mod(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if isinstance(b, int) and b > 0:
        const, terms = _terms(a)
        rest = _make_sum([*((c % b, t) for t, c in terms), (1, const % b)])
        return rest % b if isinstance(rest, int) else Expr("mod", (rest, b))
    if a == b:
        return 0
    return Expr("mod", (a, b))


def _make_extreme(op: str, pick: Callable[[int, int], int], dims: Iterable[Dim]) -> Dim:
    const: int | None = None
    rest: dict[Expr, None] = {}
    for dim in dims:
        for d in dim.args if isinstance(dim, Expr) and dim.op == op else (dim,):
            if isinstance(d, int):
                const = d if const is None else pick(const, d)
            else:
                rest[d] = None  # type: ignore[index]
    operands: list[Dim] = sorted(rest, key=repr)
    # x and x + c differ by a constant: only one of them can win.
    kept: list[Dim] = []
    for d in operands:
        for i, k in enumerate(kept):
            diff = d - k
            if isinstance(diff, int):
                kept[i] = k if pick(diff, 0) == 0 else d
                break
        else:
            kept.append(d)
    if const is not None:
        kept.append(const)
    return kept[0] if len(kept) == 1 else Expr(op, tuple(kept))


def dim_min(*dims: Dim) -> Dim:
    """The smallest of ``dims``."""
    return _make_extreme("min", min, dims)


def dim_max(*dims: Dim) -> Dim:
    """The largest of ``dims``."""
    return _make_extreme("max", max, dims)


def ceil_div(a: Dim, b: Dim) -> Dim:
    """``ceil(a / b)``."""
    return (a + b - 1) // b


def product(dims: Iterable[Dim]) -> Dim:
    """The product of ``dims`` (1 when empty)."""
    out: Dim = 1
    for d in dims:
        out = out * d
    return out


def free_symbols(dim: Dim) -> set[str]:
    """Names of the symbols in ``dim``."""
    if isinstance(dim, int):
        return set()
    if dim.op == "sym":
        return {str(dim.args[0])}
    out: set[str] = set()
    for arg in operands(dim):
        out |= free_symbols(arg)
    return out


def operands(dim: Expr) -> tuple[Dim, ...]:
    """Direct sub-expressions (for a sum: its terms, without coefficients and constant)."""
    if dim.op == "sym":
        return ()
    if dim.op == "sum":
        return tuple(t for t, _ in dim.args[1])  # type: ignore[attr-defined]
    return dim.args  # type: ignore[return-value]


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced by ``env``; symbols that ``env`` lacks stay."""
    if isinstance(dim, int):
        return dim
    op, args = dim.op, dim.args
    if op == "sym":
        return env.get(str(args[0]), dim)
    if op == "sum":
        return _make_sum([(1, args[0]), *((c, substitute(t, env)) for t, c in args[1])])  # type: ignore[list-item,attr-defined]
    new = [substitute(a, env) for a in args]  # type: ignore[arg-type]
    if op == "mul":
        return product(new)
    if op == "floordiv":
        return _make_floordiv(new[0], new[1])
    if op == "mod":
        return _make_mod(new[0], new[1])
    return dim_min(*new) if op == "min" else dim_max(*new)


def evaluate(dim: Dim, env: Env) -> int:
    """The value of ``dim`` under ``env``.

    Raises:
        NnaccelError: a symbol has no value.
    """
    if isinstance(dim, int):
        return dim
    op, args = dim.op, dim.args
    if op == "sym":
        try:
            return env[str(args[0])]
        except KeyError:
            raise NnaccelError(f"dimension symbol {args[0]!r} has no value; known: {sorted(env)}") from None
    if op == "sum":
        return args[0] + sum(c * evaluate(t, env) for t, c in args[1])  # type: ignore[operator,attr-defined]
    vals = [evaluate(a, env) for a in args]  # type: ignore[arg-type]
    if op == "mul":
        out = 1
        for v in vals:
            out *= v
        return out
    if op == "floordiv":
        return vals[0] // vals[1]
    if op == "mod":
        return vals[0] % vals[1]
    return min(vals) if op == "min" else max(vals)


def linear(dim: Dim, name: str) -> tuple[int, Dim] | None:
    """``(a, b)`` with ``dim == a * name + b`` and ``b`` free of ``name``; None when not linear in ``name``."""
    const, terms = _terms(dim)
    coef = 0
    rest: list[tuple[int, Dim]] = [(1, const)]
    for term, c in terms:
        if term.op == "sym" and term.args[0] == name:
            coef = c
        elif name in free_symbols(term):
            return None
        else:
            rest.append((c, term))
    return coef, _make_sum(rest)
