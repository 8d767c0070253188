"""The `simplify` pass: constants, decidable guards, dominated minima and maxima, loops and lets that do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from nnaccel_core.ir.dims import Dim, Expr, dim_max, dim_min, operands, product
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.numeric import BINARY, UNARY, compute_dtype, convert
from nnaccel_core.loopir.ranges import Ranges, args, margin, split, substitute
from nnaccel_core.loopir.rewrite import Body, copy_body, symbols_used


def simplify(kernel: g.Kernel) -> g.Kernel:
    """Folds constants, decides guards from the axes' ranges, and drops what does nothing.

    Loops of one iteration are inlined (serial and unroll), and lets that name a constant or another symbol.
    """
    return replace(kernel, body=_Simplifier().body(kernel.body, Ranges.of(kernel)))


class _Simplifier:
    def body(self, body: Sequence[g.Stmt], ranges: Ranges) -> Body:
        out: list[g.Stmt] = []
        todo = list(body)
        while todo:
            s = todo.pop(0)
            if isinstance(s, g.Let):
                dim = tidy(s.dim, ranges)
                if isinstance(dim, int) or dim.op == "sym":
                    todo = list(copy_symbols(todo, s.name, dim))
                    continue
                ranges = ranges.let(s.name, dim)
                out.append(g.Let(s.name, dim))
            elif isinstance(s, g.If):
                cond = fold(s.cond, ranges)
                if isinstance(cond, g.Const):
                    # A decided branch takes the if's place; its lets are inlined, so that scopes cannot clash.
                    todo = [*copy_body(s.then if cond.value else s.other, {}), *todo]
                    continue
                then, other = self.body(s.then, ranges), self.body(s.other, ranges)
                if then or other:
                    out.append(g.If(cond, then, other))
            elif isinstance(s, g.Loop):
                begin, end = tidy(s.begin, ranges), tidy(s.end, ranges)
                if end - begin == 1 and s.bind in ("serial", "unroll"):
                    todo = [*copy_body(s.body, {s.axis: begin}), *todo]
                    continue
                if ranges.nonneg(begin - end):
                    continue
                inner = self.body(s.body, ranges.axis(s.axis, begin, end))
                if inner:
                    out.append(g.Loop(s.axis, begin, end, s.bind, inner))
            elif isinstance(s, (g.Store, g.Accumulate)):
                index = tuple(tidy(i, ranges) for i in s.index)
                out.append(replace(s, index=index, value=fold(s.value, ranges)))
            else:
                out.append(s)
        return _without_dead_lets(out)


def copy_symbols(body: Sequence[g.Stmt], name: str, dim: Dim) -> Body:
    """``body`` with one symbol replaced; buffers and lets keep their identity."""
    env = {name: dim}

    def visit(s: g.Stmt) -> g.Stmt:
        if isinstance(s, g.Let):
            return g.Let(s.name, substitute(s.dim, env))
        if isinstance(s, (g.Store, g.Accumulate)):
            return replace(s, index=tuple(substitute(i, env) for i in s.index), value=_substituted(s.value, env))
        if isinstance(s, g.Loop):
            return g.Loop(s.axis, substitute(s.begin, env), substitute(s.end, env), s.bind, tuple(map(visit, s.body)))
        if isinstance(s, g.If):
            return g.If(_substituted(s.cond, env), tuple(map(visit, s.then)), tuple(map(visit, s.other)))
        return s

    return tuple(map(visit, body))


def _substituted(s: g.Scalar, env: dict[str, Dim]) -> g.Scalar:
    if isinstance(s, g.Index):
        return g.Index(substitute(s.dim, env), s.dtype)
    if isinstance(s, g.Load):
        return g.Load(s.buffer, tuple(substitute(i, env) for i in s.index))
    return g.rebuild(s, [_substituted(k, env) for k in g.children(s)])


def _without_dead_lets(body: list[g.Stmt]) -> Body:
    kept: list[g.Stmt] = []
    used: set[str] = set()
    for s in reversed(body):
        if not isinstance(s, g.Let) or s.name in used:
            kept.append(s)
            used |= symbols_used((s,))
    # Lets and allocations alone do nothing.
    return tuple(reversed(kept)) if any(not isinstance(s, (g.Let, g.Alloc)) for s in kept) else ()


@lru_cache(maxsize=1 << 14)
def _is_polynomial(dim: Dim) -> bool:
    """Whether ``dim`` has nothing that `tidy` could improve."""
    if isinstance(dim, int):
        return True
    return dim.op in ("sym", "sum", "mul") and all(_is_polynomial(d) for d in operands(dim))


def tidy(dim: Dim, ranges: Ranges) -> Dim:
    """``dim`` without operands of min and max that can never win, and without divisions that do nothing."""
    if isinstance(dim, int) or _is_polynomial(dim):
        return dim
    if dim.op == "sum":
        const, terms = split(dim)
        out: Dim = const
        for term, coef in terms:
            out = out + coef * tidy(term, ranges)
        return out
    parts = [tidy(a, ranges) for a in args(dim)]
    if dim.op == "mul":
        return product(parts)
    if dim.op in ("floordiv", "mod"):
        a, b = parts
        if ranges.nonneg(a) and ranges.nonneg(b - a - 1):
            return 0 if dim.op == "floordiv" else a
        return a // b if dim.op == "floordiv" else a % b
    return _extreme(dim, parts, ranges)


def _extreme(dim: Expr, parts: list[Dim], ranges: Ranges) -> Dim:
    sign = 1 if dim.op == "max" else -1
    kept = list(parts)
    for p in parts:
        others = [k for k in kept if k is not p]
        if any(ranges.nonneg(sign * (k - p)) for k in others):
            kept = others
    return (dim_max if dim.op == "max" else dim_min)(*kept)


def fold(s: g.Scalar, ranges: Ranges) -> g.Scalar:
    """``s`` with its indices tidied and its constant parts computed."""
    if isinstance(s, g.Index):
        dim = tidy(s.dim, ranges)
        return g.Const(dim, s.dtype) if isinstance(dim, int) else g.Index(dim, s.dtype)
    if isinstance(s, g.Load):
        return g.Load(s.buffer, tuple(tidy(i, ranges) for i in s.index))
    if isinstance(s, g.Binary) and isinstance(s.a, g.Index) and isinstance(s.b, g.Index):
        return _compare(s, ranges)
    kids = [fold(k, ranges) for k in g.children(s)]
    new = g.rebuild(s, kids)
    if isinstance(new, g.Select) and isinstance(new.cond, g.Const):
        return new.a if new.cond.value else new.b
    if isinstance(new, g.Binary):
        return _binary(new)
    if isinstance(new, g.Cast) and g.scalar_dtype(new.a) == new.dtype:
        return new.a
    if isinstance(new, (g.Unary, g.Cast)) and isinstance(new.a, g.Const):
        with np.errstate(all="ignore"):
            a = convert(new.a.value, new.a.dtype)
            value = convert(a, new.dtype) if isinstance(new, g.Cast) else UNARY[new.op](a)
        return g.Const(value.item(), g.scalar_dtype(new))
    return new


def _compare(s: g.Binary, ranges: Ranges) -> g.Scalar:
    """A comparison of indices, decided if the ranges allow; its operands stay indices, which other passes read."""
    assert isinstance(s.a, g.Index) and isinstance(s.b, g.Index)
    a, b = tidy(s.a.dim, ranges), tidy(s.b.dim, ranges)
    new = g.Binary(s.op, g.Index(a, s.a.dtype), g.Index(b, s.b.dtype))
    if isinstance(a, int) and isinstance(b, int):
        return _folded(new, g.Const(a, s.a.dtype), g.Const(b, s.b.dtype))
    gap = margin(new)
    if gap is not None:
        if ranges.nonneg(gap):
            return g.Const(True, "bool")
        if ranges.nonneg(-gap - 1):
            return g.Const(False, "bool")
    return new


def _folded(s: g.Binary, a: g.Const, b: g.Const) -> g.Scalar:
    with np.errstate(all="ignore"):
        value = BINARY[s.op](convert(a.value, a.dtype), convert(b.value, b.dtype))
    return g.Const(value.item(), "bool" if s.op in g.COMPARE else compute_dtype(a.dtype))


def _binary(s: g.Binary) -> g.Scalar:
    a, b = s.a, s.b
    if isinstance(a, g.Const) and isinstance(b, g.Const):
        integer_division = s.op in ("div", "mod", "pow") and "float" not in a.dtype
        return s if integer_division else _folded(s, a, b)
    if s.op in ("and", "or"):
        neutral = s.op == "and"
        for known, rest in ((a, b), (b, a)):
            if isinstance(known, g.Const) and known.dtype == "bool":
                # `rest` may guard nothing here: dropping it when it cannot matter is safe, evaluating it is not.
                return rest if bool(known.value) == neutral else g.Const(not neutral, "bool")
    if s.op == "mul":
        for known, rest in ((a, b), (b, a)):
            if isinstance(known, g.Const) and known.value == 1:
                return rest
    return s
