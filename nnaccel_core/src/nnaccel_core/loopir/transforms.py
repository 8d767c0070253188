"""Passes over kernels: pure functions ``Kernel -> Kernel`` that keep what the interpreter computes.

`PIPELINE` is the order in which generated kernels go through them. Guards are ``If(cond, body)`` with ``cond`` a
conjunction of comparisons of two `Index` values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nnaccel_core.ir.dims import Dim, dim_max, dim_min, linear, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.ranges import Ranges, conjunction, conjuncts, free_symbols, margin, substitute
from nnaccel_core.loopir.rewrite import Body, copy_body, fresh, names, scalars, unique_lets, walk
from nnaccel_core.loopir.simplify import simplify
from nnaccel_core.loopir.verify import verify

__all__ = ["PIPELINE", "clip", "hoist", "peel", "run_pipeline", "simplify", "unroll", "unswitch"]

_TRUE = g.Const(True, "bool")
#: A loop that provably has no more iterations than this is not worth three copies of its body.
SHORT = 3


def unroll(kernel: g.Kernel) -> g.Kernel:
    """Loops bound ``unroll`` with constant extents become straight code; those with other extents become serial."""

    def visit(s: g.Stmt) -> Body:
        if isinstance(s, g.Loop):
            body = flat(s.body)
            if s.bind != "unroll":
                return (replace(s, body=body),)
            if not isinstance(s.begin, int) or not isinstance(s.end, int):
                return (replace(s, bind="serial", body=body),)
            copies = [copy_body(s.body, {s.axis: i}) for i in range(s.begin, s.end)]
            return tuple(t for c in copies for t in flat(c))
        if isinstance(s, g.If):
            return (g.If(s.cond, flat(s.then), flat(s.other)),)
        return (s,)

    def flat(body: Sequence[g.Stmt]) -> Body:
        return tuple(t for s in body for t in visit(s))

    return replace(kernel, body=flat(kernel.body))


def clip(kernel: g.Kernel) -> g.Kernel:
    """Guards of a whole loop body that are linear in the loop's axis become tighter loop bounds.

    Serial, simd and unroll loops; an unroll loop becomes serial, unless its axis indexes a register array.
    """

    def visit(s: g.Stmt) -> g.Stmt:
        if isinstance(s, g.If):
            return g.If(s.cond, flat(s.then), flat(s.other))
        if not isinstance(s, g.Loop):
            return s
        if s.bind not in ("serial", "simd", "unroll") or (s.bind == "unroll" and _indexes_registers(s)):
            return replace(s, body=flat(s.body))
        bounds: list[tuple[int, Dim]] = []

        def take(cond: g.Scalar, bound_inside: set[str]) -> bool:
            found = _solvable(cond, s.axis, bound_inside)
            if found is not None:
                bounds.append(found)
            return found is not None

        body = _extract(s.body, {}, {s.axis}, take)
        if not bounds:
            return replace(s, body=flat(s.body))
        low, high = _interval(bounds)
        begin, end = dim_max(s.begin, *low), dim_min(s.end, *high)
        return g.Loop(s.axis, begin, end, "serial" if s.bind == "unroll" else s.bind, flat(body))

    def flat(body: Sequence[g.Stmt]) -> Body:
        return tuple(visit(s) for s in body)

    return replace(kernel, body=flat(kernel.body))


def _indexes_registers(loop: g.Loop) -> bool:
    for s in walk(loop.body):
        places = [(s.buffer, s.index)] if isinstance(s, (g.Store, g.Accumulate)) else []
        places += [(e.buffer, e.index) for e in scalars(s) if isinstance(e, g.Load) and isinstance(e.buffer, g.Buffer)]
        for b, index in places:
            if b.space in ("register", "lanes") and any(loop.axis in free_symbols(i) for i in index):
                return True
    return False


def _solvable(cond: g.Scalar, axis: str, inside: set[str]) -> tuple[int, Dim] | None:
    """``(a, b)`` when ``cond`` means ``a * axis + b >= 0`` with ``a != 0`` and ``b`` known outside the loop."""
    dim = margin(cond)
    found = None if dim is None else linear(dim, axis)
    if found is None or found[0] == 0 or not free_symbols(found[1]).isdisjoint(inside):
        return None
    return found


def _interval(bounds: Sequence[tuple[int, Dim]]) -> tuple[list[Dim], list[Dim]]:
    """Lower (inclusive) and upper (exclusive) limits of the integers where all ``a * x + b >= 0``."""
    low = [-(b // a) for a, b in bounds if a > 0]
    high = [b // -a + 1 for a, b in bounds if a < 0]
    return low, high


def _extract(
    body: Sequence[g.Stmt], lets: Mapping[str, Dim], inside: set[str], take: Callable[[g.Scalar, set[str]], bool]
) -> Body:
    """``body`` without the conjuncts that guard all of it and that ``take`` accepts (with lets inlined)."""
    known = dict(lets)
    if not body:
        return ()
    *head, last = body
    if not all(isinstance(s, g.Let) for s in head):
        return tuple(body)
    for s in head:
        assert isinstance(s, g.Let)
        known[s.name] = substitute(s.dim, known)
    if isinstance(last, g.Loop):
        return (*head, replace(last, body=_extract(last.body, known, inside | {last.axis}, take)))
    if not isinstance(last, g.If) or last.other:
        return tuple(body)
    kept = [c for c in conjuncts(last.cond) if not take(_inlined(c, known), inside)]
    then = _extract(last.then, known, inside, take)
    cond = conjunction(kept)
    return (*head, g.If(cond if cond is not None else _TRUE, then))


def _inlined(cond: g.Scalar, lets: Mapping[str, Dim]) -> g.Scalar:
    if isinstance(cond, g.Index):
        return g.Index(substitute(cond.dim, lets), cond.dtype)
    return g.rebuild(cond, [_inlined(k, lets) for k in g.children(cond)])


def peel(kernel: g.Kernel) -> g.Kernel:
    """Serial loops with guards linear in their axis are split into head, guard-free interior and tail.

    The guards may sit anywhere inside, several at once, with different offsets, and may name inner loops' axes: the
    interior is where they hold for every value of those. Heads and tails keep the guards and are not split again;
    nor are loops of at most `SHORT` iterations.
    """
    kernel = unique_lets(kernel)
    taken = names(kernel)

    def visit(s: g.Stmt, ranges: Ranges) -> Body:
        if isinstance(s, g.If):
            return (g.If(s.cond, flat(s.then, ranges), flat(s.other, ranges)),)
        if not isinstance(s, g.Loop):
            return (s,)
        inside = ranges.axis(s.axis, s.begin, s.end)
        solved: list[tuple[g.Scalar, tuple[int, Dim]]] = []
        others: set[g.Scalar] = set()
        if s.bind == "serial" and not ranges.nonneg(s.begin + SHORT - s.end):
            _guards(s.body, s.axis, {}, {}, solved, others)
        # One text may guard in several places; it is assumed only if it was solved in all.
        found = [(c, b) for c, b in solved if c not in others]
        if not found:
            return (replace(s, body=flat(s.body, inside)),)
        low, high = _interval(list(dict.fromkeys(b for _, b in found)))
        out: list[g.Stmt] = []
        start, stop = s.begin, s.end
        if low:
            start = _named(out, fresh(f"{s.axis}_lo", taken), dim_min(dim_max(s.begin, *low), s.end))
            out.append(replace(s, end=start))
        if high:
            stop = _named(out, fresh(f"{s.axis}_hi", taken), dim_max(start, dim_min(s.end, *high)))
        out.append(g.Loop(s.axis, start, stop, s.bind, flat(_assume(s.body, {c for c, _ in found}), inside)))
        if high:
            out.append(g.Loop(s.axis, stop, s.end, s.bind, copy_body(s.body, {})))
        return tuple(out)

    def flat(body: Sequence[g.Stmt], ranges: Ranges) -> Body:
        out: list[g.Stmt] = []
        for s in body:
            out += visit(s, ranges)
            if isinstance(s, g.Let):
                ranges = ranges.let(s.name, s.dim)
        return tuple(out)

    return simplify(replace(kernel, body=flat(kernel.body, Ranges.of(kernel))))


def _named(out: list[g.Stmt], name: str, dim: Dim) -> Dim:
    """A let for ``dim`` unless it is a constant or a name already."""
    if isinstance(dim, int) or dim.op == "sym":
        return dim
    out.append(g.Let(name, dim))
    return sym(name)


def _guards(
    body: Sequence[g.Stmt],
    axis: str,
    lets: Mapping[str, Dim],
    inner: Mapping[str, tuple[Dim, Dim]],
    solved: list[tuple[g.Scalar, tuple[int, Dim]]],
    others: set[g.Scalar],
) -> None:
    """Collects guards: ``solved`` ones hold for all values of ``inner`` axes when ``a * axis + b >= 0``; and ``others``."""
    known = dict(lets)
    for s in body:
        if isinstance(s, g.Let):
            known[s.name] = substitute(s.dim, known)
        elif isinstance(s, g.Loop):
            begin, end = substitute(s.begin, known), substitute(s.end, known)
            _guards(s.body, axis, known, {**inner, s.axis: (begin, end - 1)}, solved, others)
        elif isinstance(s, g.If):
            for c in conjuncts(s.cond):
                dim = margin(_inlined(c, known))
                for name, (low, high) in reversed(list(inner.items())):
                    at = None if dim is None else linear(dim, name)
                    dim = None if at is None else at[1] + at[0] * (low if at[0] > 0 else high)
                at = None if dim is None else linear(dim, axis)
                if at is not None and at[0] != 0 and free_symbols(at[1]).isdisjoint(inner):
                    solved.append((c, at))
                else:
                    others.add(c)
            _guards(s.then, axis, known, inner, solved, others)
            _guards(s.other, axis, known, inner, solved, others)


def _assume(body: Sequence[g.Stmt], true: set[g.Scalar]) -> Body:
    """``body`` with the guards ``true`` taken to hold, and its own copy of every buffer."""

    def visit(s: g.Stmt) -> g.Stmt:
        if isinstance(s, g.Loop):
            return replace(s, body=tuple(map(visit, s.body)))
        if isinstance(s, g.If):
            cond = conjunction(c for c in conjuncts(s.cond) if c not in true)
            return g.If(cond if cond is not None else _TRUE, tuple(map(visit, s.then)), tuple(map(visit, s.other)))
        return s

    return copy_body(tuple(map(visit, body)), {})


def unswitch(kernel: g.Kernel) -> g.Kernel:
    """Guards inside a simd loop that do not depend on it move in front: all hold (a loop without them), or as before."""

    def visit(s: g.Stmt) -> g.Stmt:
        if isinstance(s, g.If):
            return g.If(s.cond, flat(s.then), flat(s.other))
        if not isinstance(s, g.Loop):
            return s
        if s.bind != "simd":
            return replace(s, body=flat(s.body))
        local = {s.axis}
        for t in walk(s.body):
            if isinstance(t, (g.Loop, g.Let)):
                local.add(t.axis if isinstance(t, g.Loop) else t.name)
        guards: dict[g.Scalar, None] = {}
        for t in walk(s.body):
            for c in conjuncts(t.cond) if isinstance(t, g.If) else ():
                dim = margin(c)
                if dim is not None and free_symbols(dim).isdisjoint(local):
                    guards[c] = None
        cond = conjunction(guards)
        return s if cond is None else g.If(cond, _assume((s,), set(guards)), (s,))

    def flat(body: Sequence[g.Stmt]) -> Body:
        return tuple(map(visit, body))

    return replace(kernel, body=flat(kernel.body))


def hoist(kernel: g.Kernel) -> g.Kernel:
    """Lets move out of the loops they do not depend on."""

    def split(body: Sequence[g.Stmt], bound: set[str]) -> tuple[list[g.Let], list[g.Stmt]]:
        """The lets in ``body`` that use no symbol of ``bound``, and the rest."""
        free: list[g.Let] = []
        rest: list[g.Stmt] = []
        stuck = set(bound)
        for s in body:
            lets = [s] if isinstance(s, g.Let) else []
            if isinstance(s, g.Loop):
                lets, inner = split(s.body, {s.axis})
                s = replace(s, body=tuple(inner))
            elif isinstance(s, g.If):
                s = g.If(s.cond, flat(s.then), flat(s.other))
            for let in lets:
                if free_symbols(let.dim).isdisjoint(stuck):
                    free.append(let)
                else:
                    stuck.add(let.name)
                    rest.append(let)
            if not isinstance(s, g.Let):
                rest.append(s)
        return free, rest

    def flat(body: Sequence[g.Stmt]) -> Body:
        lets, rest = split(body, set())
        return (*lets, *rest)

    kernel = unique_lets(kernel)
    return replace(kernel, body=flat(kernel.body))


#: The order of passes over generated kernels.
PIPELINE: tuple[tuple[str, Callable[[g.Kernel], g.Kernel]], ...] = (
    ("simplify", simplify),
    ("peel", peel),
    ("clip", clip),
    ("unroll", unroll),
    ("simplify", simplify),
    ("unswitch", unswitch),
    ("hoist", hoist),
    ("simplify", simplify),
)


def run_pipeline(kernel: g.Kernel, log: Callable[[str, g.Kernel], None] | None = None) -> g.Kernel:
    """``kernel`` after every pass of `PIPELINE`; ``log`` sees each pass's name and result.

    Raises:
        VerifyError: ``kernel`` breaks the rules of the loop IR, or a pass broke them.
    """
    for name, run in PIPELINE:
        kernel = run(kernel)
        if log is not None:
            log(name, kernel)
    return verify(kernel)
