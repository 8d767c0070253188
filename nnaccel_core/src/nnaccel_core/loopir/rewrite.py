"""Building blocks of loop IR passes: substitution, traversal, copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from nnaccel_core.ir.dims import Dim, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.ranges import free_symbols, substitute

Body = tuple[g.Stmt, ...]


def map_scalar(s: g.Scalar, dim: Callable[[Dim], Dim], buffer: Callable[[g.Buffer], g.Buffer] = lambda b: b) -> g.Scalar:
    """``s`` with every index and buffer mapped."""
    if isinstance(s, g.Index):
        return g.Index(dim(s.dim), s.dtype)
    if isinstance(s, g.Load):
        assert isinstance(s.buffer, g.Buffer), "a kernel loads buffers"
        return g.Load(buffer(s.buffer), tuple(dim(i) for i in s.index))
    return g.rebuild(s, [map_scalar(k, dim, buffer) for k in g.children(s)])


def copy_body(body: Sequence[g.Stmt], env: Mapping[str, Dim]) -> Body:
    """``body`` with symbols substituted, its own lets inlined and its buffers replaced by fresh ones of the same name.

    Copies of one body can therefore stand side by side in one scope.
    """
    lets = dict(env)
    buffers: dict[g.Buffer, g.Buffer] = {}
    out: list[g.Stmt] = []

    def dim(d: Dim) -> Dim:
        return substitute(d, lets)

    def get(b: g.Buffer) -> g.Buffer:
        return buffers.get(b, b)

    def visit(s: g.Stmt, top: bool) -> g.Stmt | None:
        if isinstance(s, g.Let):
            if top:
                lets[s.name] = dim(s.dim)
                return None
            return g.Let(s.name, dim(s.dim))
        if isinstance(s, g.Alloc):
            buffers[s.buffer] = replace(s.buffer, shape=tuple(dim(d) for d in s.buffer.shape))
            return g.Alloc(buffers[s.buffer])
        if isinstance(s, (g.Store, g.Accumulate)):
            index = tuple(dim(i) for i in s.index)
            return replace(s, buffer=get(s.buffer), index=index, value=map_scalar(s.value, dim, get))
        if isinstance(s, g.Loop):
            return g.Loop(s.axis, dim(s.begin), dim(s.end), s.bind, inner(s.body))
        if isinstance(s, g.If):
            return g.If(map_scalar(s.cond, dim, get), inner(s.then), inner(s.other))
        return s

    def inner(stmts: Sequence[g.Stmt]) -> Body:
        return tuple(t for s in stmts if (t := visit(s, False)) is not None)

    for s in body:
        new = visit(s, True)
        if new is not None:
            out.append(new)
    return tuple(out)


def walk(body: Sequence[g.Stmt]) -> Iterator[g.Stmt]:
    """All statements, each before its own body."""
    for s in body:
        yield s
        if isinstance(s, g.Loop):
            yield from walk(s.body)
        elif isinstance(s, g.If):
            yield from walk(s.then)
            yield from walk(s.other)


def scalars(s: g.Stmt) -> Iterator[g.Scalar]:
    """The expressions of one statement, sub-expressions included."""

    def nested(e: g.Scalar) -> Iterator[g.Scalar]:
        yield e
        for k in g.children(e):
            yield from nested(k)

    if isinstance(s, (g.Store, g.Accumulate)):
        yield from nested(s.value)
    elif isinstance(s, g.If):
        yield from nested(s.cond)


def symbols_used(body: Sequence[g.Stmt]) -> set[str]:
    """Every symbol that occurs in ``body``."""
    out: set[str] = set()
    for s in walk(body):
        dims: list[Dim] = []
        if isinstance(s, g.Loop):
            dims = [s.begin, s.end]
        elif isinstance(s, g.Let):
            dims = [s.dim]
        elif isinstance(s, g.Alloc):
            dims = list(s.buffer.shape)
        elif isinstance(s, (g.Store, g.Accumulate)):
            dims = list(s.index)
        for e in scalars(s):
            if isinstance(e, g.Index):
                dims.append(e.dim)
            elif isinstance(e, g.Load):
                dims += e.index
        for d in dims:
            out |= free_symbols(d)
    return out


def names(kernel: g.Kernel) -> set[str]:
    """Every symbol a kernel defines."""
    out = {*kernel.dims, *(axis for axis, _ in kernel.tasks)}
    for s in walk(kernel.body):
        if isinstance(s, g.Loop):
            out.add(s.axis)
        elif isinstance(s, g.Let):
            out.add(s.name)
    return out


def fresh(name: str, taken: set[str]) -> str:
    """``name``, numbered if ``taken``; it is taken afterwards."""
    out, i = name, 1
    while out in taken:
        out, i = f"{name}_{i}", i + 1
    taken.add(out)
    return out


def unique_lets(kernel: g.Kernel) -> g.Kernel:
    """``kernel`` with lets renamed so that no two share a name: passes may then move them between scopes."""
    taken = {*kernel.dims, *(axis for axis, _ in kernel.tasks)} | {s.axis for s in walk(kernel.body) if isinstance(s, g.Loop)}

    def flat(body: Sequence[g.Stmt], env: Mapping[str, Dim]) -> Body:
        here = dict(env)
        out: list[g.Stmt] = []
        for s in body:
            if isinstance(s, g.Let):
                name = fresh(s.name, taken)
                out.append(g.Let(name, substitute(s.dim, here)))
                here[s.name] = sym(name)
            elif isinstance(s, g.Loop):
                begin, end = substitute(s.begin, here), substitute(s.end, here)
                out.append(g.Loop(s.axis, begin, end, s.bind, flat(s.body, {k: v for k, v in here.items() if k != s.axis})))
            elif isinstance(s, g.If):
                out.append(g.If(map_scalar(s.cond, lambda d: substitute(d, here)), flat(s.then, here), flat(s.other, here)))
            elif isinstance(s, (g.Store, g.Accumulate)):
                index = tuple(substitute(i, here) for i in s.index)
                out.append(replace(s, index=index, value=map_scalar(s.value, lambda d: substitute(d, here))))
            else:
                out.append(s)
        return tuple(out)

    return replace(kernel, body=flat(kernel.body, {}))
