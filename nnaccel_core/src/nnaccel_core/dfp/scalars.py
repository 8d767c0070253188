"""Scalar code of a generated kernel: shared sub-expressions into registers, strides of accesses."""

from __future__ import annotations

from collections.abc import Iterable

from nnaccel_core.dfp.nests import subexpressions
from nnaccel_core.ir import Dim, free_symbols
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Alloc, Buffer, Load, Scalar, Select, Stmt, Store, children, rebuild, scalar_dtype


class Names:
    """Fresh names ``prefix0``, ``prefix1``, ... per prefix."""

    def __init__(self) -> None:
        self._next: dict[str, int] = {}

    def fresh(self, prefix: str) -> str:
        k = self._next.get(prefix, 0)
        self._next[prefix] = k + 1
        return f"{prefix}{k}"


def _reuse(s: Scalar) -> tuple[dict[int, int], set[int]]:
    """How many operands refer to each sub-expression, and which are evaluated whatever the selections choose."""
    count: dict[int, int] = {}
    for x in subexpressions(s):
        for k in children(x):
            count[id(k)] = count.get(id(k), 0) + 1
    always: set[int] = set()
    todo = [s]
    while todo:
        x = todo.pop()
        if id(x) not in always:
            always.add(id(x))
            todo += (x.cond,) if isinstance(x, Select) else children(x)
    return count, always


def share(s: Scalar, names: Names) -> tuple[list[Stmt], Scalar]:
    """Statements that evaluate the operations ``s`` uses several times into registers, and ``s`` on those.

    An operation that only the arms of a selection use stays there: its loads may be out of range otherwise.
    """
    count, always = _reuse(s)
    pre: list[Stmt] = []
    memo: dict[int, Scalar] = {}

    def build(x: Scalar) -> Scalar:
        if id(x) in memo:
            return memo[id(x)]
        kids = children(x)
        new = rebuild(x, [build(k) for k in kids]) if kids else x
        if (kids or isinstance(x, Load)) and count.get(id(x), 0) > 1 and id(x) in always:
            register = Buffer(names.fresh("x"), (), scalar_dtype(x), "register")
            pre.extend((Alloc(register), Store(register, (), new)))
            new = Load(register, ())
        memo[id(x)] = new
        return new

    value = build(s)
    return pre, value


def step_along(index: Iterable[Dim], strides: Iterable[Dim], axis: str) -> Dim | None:
    """Elements an access moves when ``axis`` advances by one; None when that is not constant."""
    total: Dim = 0
    for d, stride in zip(index, strides, strict=True):
        if axis not in free_symbols(d):
            continue
        split = linear(d, axis)
        if split is None:
            return None
        total = total + split[0] * stride
    return total
