"""Stage 1, `lower`: a group as naive loop nests with canonical axis names; and rewriting of nests.

After lowering, output axes are ``i0, i1, ...`` and reduced axes ``r0, r1, ...`` in every nest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nnaccel_core.dfp.group import Group
from nnaccel_core.ir import Dim, Value, substitute, sym
from nnaccel_core.loopir.grammar import (
    COMPARE,
    Acc,
    Binary,
    Bound,
    Cast,
    Const,
    Index,
    Load,
    Nest,
    Scalar,
    Select,
    Unary,
    children,
    rebuild,
)
from nnaccel_core.ops import registry

#: Cost of one scalar operation relative to an addition, for deciding what may be computed twice.
COSTS: Mapping[str, int] = {
    "exp": 8, "log": 8, "sqrt": 4, "rsqrt": 5, "recip": 4, "sin": 10, "cos": 10, "tanh": 12, "erf": 12, "log1p": 10,
    "expm1": 10, "div": 4, "mod": 6, "pow": 20,
}  # fmt: skip


def transform(s: Scalar, dims: Callable[[Dim], Dim], loads: Callable[[Load], Scalar] | None = None) -> Scalar:
    """``s`` with every index mapped by ``dims`` and then every load by ``loads``. Shared operands stay shared."""
    return _map(s, lambda x: _leaf(x, dims, loads), {})


def _leaf(s: Scalar, dims: Callable[[Dim], Dim], loads: Callable[[Load], Scalar] | None) -> Scalar:
    if isinstance(s, Load):
        moved = Load(s.buffer, tuple(dims(d) for d in s.index))
        return loads(moved) if loads else moved
    return Index(dims(s.dim), s.dtype) if isinstance(s, Index) else s


def _map(s: Scalar, leaf: Callable[[Scalar], Scalar], memo: dict[int, Scalar]) -> Scalar:
    # Expressions are graphs: an operand used twice is one object. Visiting by identity keeps work linear.
    found = memo.get(id(s))
    if found is None:
        kids = children(s)
        found = rebuild(s, [_map(k, leaf, memo) for k in kids]) if kids else leaf(s)
        memo[id(s)] = found
    return found


def replace_acc(s: Scalar, value: Scalar) -> Scalar:
    """``s`` with the accumulator replaced by ``value``."""
    return _map(s, lambda x: value if isinstance(x, Acc) else x, {})


def subexpressions(s: Scalar | None) -> Iterator[Scalar]:
    """All sub-expressions, each object once, operands first."""
    seen: set[int] = set()

    def walk(x: Scalar) -> Iterator[Scalar]:
        if id(x) not in seen:
            seen.add(id(x))
            for k in children(x):
                yield from walk(k)
            yield x

    if s is not None:
        yield from walk(s)


def loads_of(s: Scalar | None) -> Iterator[Load]:
    """The different loads of an expression."""
    seen: set[tuple[object, tuple[Dim, ...]]] = set()
    for x in subexpressions(s):
        if isinstance(x, Load) and (x.buffer, x.index) not in seen:
            seen.add((x.buffer, x.index))
            yield x


def nest_loads(nest: Nest) -> Iterator[Load]:
    """All loads of a nest: of its body, then of its final step."""
    yield from loads_of(nest.body)
    yield from loads_of(nest.final)


def scalar_cost(s: Scalar | None) -> int:
    """Cost of evaluating ``s`` once, in additions; comparisons are counted with the selection they feed."""
    total = 0
    for x in subexpressions(s):
        if isinstance(x, (Unary, Binary)):
            total += 0 if x.op in COMPARE else COSTS.get(x.op, 1)
        elif isinstance(x, (Select, Cast)):
            total += 1
    return total


def is_piece(s: Select) -> bool:
    """A choice by position, as a concat makes it."""
    return isinstance(s.cond, Binary) and s.cond.op == "lt" and isinstance(s.cond.a, Index) and isinstance(s.cond.b, Index)


def rename(nest: Nest, out: Value, axes: Mapping[str, Dim], names: Sequence[str], reduce: Sequence[str]) -> Nest:
    """``nest`` writing ``out``, with its axes substituted by ``axes`` and new names for output and reduced axes."""
    env = dict(axes) | {old: sym(new) for (old, _), new in zip(nest.reduce, reduce, strict=True)}

    def dims(d: Dim) -> Dim:
        return substitute(d, env)

    return replace(
        nest,
        out=out,
        axes=tuple(names),
        body=transform(nest.body, dims),
        reduce=tuple((new, dims(e)) for (_, e), new in zip(nest.reduce, reduce, strict=True)),
        final=None if nest.final is None else transform(nest.final, dims),
        where=tuple(Bound(dims(b.index), dims(b.extent)) for b in nest.where),
    )


def canonical(nest: Nest) -> Nest:
    """``nest`` with axes ``i0...`` and reduced axes ``r0...``."""
    names = [f"i{k}" for k in range(len(nest.axes))]
    reduce = [f"r{k}" for k in range(len(nest.reduce))]
    return rename(nest, nest.out, {old: sym(new) for old, new in zip(nest.axes, names, strict=True)}, names, reduce)


def substitute_loads(nest: Nest, loads: Callable[[Load], Scalar]) -> Nest:
    """``nest`` with every load replaced by ``loads(load)``."""

    def same(d: Dim) -> Dim:
        return d

    final = None if nest.final is None else transform(nest.final, same, loads)
    return replace(nest, body=transform(nest.body, same, loads), final=final)


def lower(group: Group) -> tuple[Nest, ...]:
    """The naive nests of all nodes of ``group``, in order of execution; scalar constants are folded in."""
    found: list[Nest] = []
    for node in group.nodes:
        op = registry.lookup(node.op, node.where())
        assert op.loop is not None, f"{node.where()} has no loop nest"
        found += [canonical(n) for n in op.loop(node)]

    def fold(load: Load) -> Scalar:
        value = group.constants.get(load.buffer) if isinstance(load.buffer, Value) else None
        return load if value is None else Const(value, load.buffer.dtype)

    return tuple(substitute_loads(n, fold) if group.constants else n for n in found)


def format_scalar(s: Scalar) -> str:
    """A scalar expression as text, for golden files."""
    if isinstance(s, Const):
        return f"{s.value!r}"
    if isinstance(s, Index):
        return f"index({s.dim})"
    if isinstance(s, Load):
        return f"{s.buffer.name}[{', '.join(map(str, s.index))}]"
    if isinstance(s, Acc):
        return "acc"
    name = s.op if isinstance(s, (Unary, Binary)) else "select" if isinstance(s, Select) else s.dtype
    return f"{name}({', '.join(map(format_scalar, children(s)))})"


def format_nest(nest: Nest) -> str:
    """A nest as text, for golden files."""
    text = f"{nest.out.name}[{', '.join(nest.axes)}] = "
    inner = format_scalar(nest.body)
    if nest.combine:
        over = ", ".join(f"{n} < {e}" for n, e in nest.reduce)
        where = "".join(f" if 0 <= {b.index} < {b.extent}" for b in nest.where)
        inner = f"{nest.combine}({inner} for {over}{where})"
        if nest.final is not None:
            inner = f"{format_scalar(nest.final)} where acc = {inner}"
    elif nest.where:
        inner += "".join(f" if 0 <= {b.index} < {b.extent}" for b in nest.where)
    return f"{text}{inner}  : {nest.out.type}"


def format_nests(nests: Sequence[Nest]) -> str:
    """Nests as text, one a line."""
    return "\n".join(format_nest(n) for n in nests) + "\n"
