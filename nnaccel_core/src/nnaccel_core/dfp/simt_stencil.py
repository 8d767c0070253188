"""Nests whose outputs lie side by side in a thread's registers: element-wise chains, windows, small products.

A thread computes ``vector`` elements along the contiguous axis of ``block`` neighboring outputs. What it loads along that axis
is a vector access into registers; a column of the input that several outputs need is loaded once. Padding is a test of
each column: a load and the terms that use it are predicated, nothing else branches.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

from nnaccel_core.dfp.emit import NestEmitter, Place
from nnaccel_core.dfp.nests import loads_of, replace_acc, subexpressions
from nnaccel_core.dfp.scalars import Names, share
from nnaccel_core.dfp.window import WINDOW
from nnaccel_core.ir import Dim, Value, ceil_div, dim_min, free_symbols, substitute, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.divisors import divisor
from nnaccel_core.loopir.grammar import (
    COMPARE,
    Acc,
    Accumulate,
    Alloc,
    Binary,
    Bound,
    Buffer,
    Cast,
    Const,
    If,
    Index,
    Let,
    Load,
    Loop,
    Nest,
    Scalar,
    Select,
    Stmt,
    Store,
    children,
    rebuild,
    scalar_dtype,
)
from nnaccel_core.loopir.nests import acc_dtype
from nnaccel_core.loopir.numeric import compute_dtype, identity

#: Windows of at most this many elements are unrolled whole, larger ones along their last axis.
MOST_TAPS = 25

#: Neighboring vectors of the contiguous axis that go to neighboring threads where elements choose by position what they load;
#: the next threads take the same ones of the next outputs, so that few threads of a warp choose differently.
RUN = 4
#: Elements that a thread holds of one row of a window: results, factors, and the columns that its outputs read. With more, values
#: leave the registers (seen on an H200, 3x3 on eight bfloat16 each: four outputs 104, 95 of which went to memory and back; two
#: outputs 840 us over MobileNet v2 at batch 128, four of half the vector 984).
ROW_ELEMENTS = 72

#: A value's registers, by the load (or choice) that fills them.
Loaded = dict[tuple[object, tuple[Dim, ...]], Buffer]


def conditional_loads(s: Scalar | None) -> list[Select | Binary]:
    """The choices by position (and such ``and``s, ``or``s) in ``s`` that guard a load which is not evaluated anyway.

    A choice by values guards nothing: whatever these are, what it may load is there.
    """
    if s is None:
        return []
    always: set[tuple[object, tuple[Dim, ...]]] = set()
    todo: list[Scalar] = [s]
    seen: set[int] = set()
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if isinstance(x, Load):
            always.add((x.buffer, x.index))
        elif isinstance(x, Select) and _by_position(x.cond):
            todo.append(x.cond)
        elif isinstance(x, Binary) and x.op in ("and", "or") and _by_position(x.a):
            todo.append(x.a)
        else:
            todo += children(x)
    memo: dict[int, bool] = {}

    def guarded(x: Scalar) -> bool:
        """Whether ``x`` loads what is not loaded anyway; what ``seen`` holds is evaluated anyway, its own choices included."""
        if id(x) not in memo:
            if isinstance(x, Load):
                in_register = isinstance(x.buffer, Buffer) and x.buffer.space == "register"  # a sum that is there already
                memo[id(x)] = not in_register and (x.buffer, x.index) not in always
            else:
                memo[id(x)] = id(x) not in seen and any(guarded(k) for k in children(x))
        return memo[id(x)]

    found: list[Select | Binary] = []
    for x in subexpressions(s):
        arms: tuple[Scalar, ...] = ()
        if isinstance(x, Select) and _by_position(x.cond):
            arms = (x.a, x.b)
        elif isinstance(x, Binary) and x.op in ("and", "or") and _by_position(x.a):
            arms = (x.b,)
        if any(guarded(arm) for arm in arms):
            assert isinstance(x, (Select, Binary))
            found.append(x)
    return found


def _by_position(s: Scalar) -> bool:
    """Whether ``s`` compares positions with each other; a value from memory may equal any position."""
    for x in subexpressions(s):
        if isinstance(x, Binary) and x.op in COMPARE:
            inside = list(subexpressions(x))
            if any(isinstance(y, Index) for y in inside) and not any(isinstance(y, Load) for y in inside):
                return True
    return False


def _chosen(s: Select, element: str) -> Binary:
    """The condition of a choice by position, at the first ``element`` of a vector."""
    assert isinstance(s.cond, Binary) and isinstance(s.cond.a, Index) and isinstance(s.cond.b, Index)
    first = {element: 0}
    return Binary(s.cond.op, Index(substitute(s.cond.a.dim, first)), Index(substitute(s.cond.b.dim, first)))


def _alike(terms: Sequence[Scalar], choices: Collection[int]) -> bool:
    """Whether ``terms`` are of one form on top, and choose (where their ids are among ``choices``) at the same positions."""
    x = terms[0]
    if any(type(y) is not type(x) or len(children(y)) != len(children(x)) for y in terms):
        return False
    if isinstance(x, Load):
        return all(isinstance(y, Load) and y.buffer == x.buffer for y in terms)
    if len({id(y) in choices for y in terms}) > 1:
        return False
    return id(x) not in choices or all(isinstance(y, Select) and isinstance(x, Select) and y.cond == x.cond for y in terms)


def flat(names: Names, axes: Sequence[tuple[str, Dim, Dim, int]], body: Sequence[Stmt]) -> list[Stmt]:
    """One block loop over ``axes`` (name, begin, end, step; outermost first), inside which the axes are lets."""
    if not axes:
        return list(body)  # one element: the first thread stores it
    f = names.fresh("f")
    outside: list[Stmt] = []
    lets: list[Stmt] = []
    rest: Dim = sym(f)
    total: Dim = 1
    for k, (axis, begin, end, step) in reversed(list(enumerate(axes))):
        count = names.fresh("n")
        outside.append(Let(count, ceil_div(end - begin, step) if step > 1 else end - begin))
        at = rest if k == 0 else rest % sym(count)
        lets.append(Let(axis, begin + step * at))
        if k:
            upper = names.fresh("g")
            lets.append(Let(upper, rest // sym(count)))
            rest = sym(upper)
        total = total * sym(count)
    return [*outside, Loop(f, 0, total, "block", (*lets, *body))]


class StencilEmitter(NestEmitter):
    """Emits one nest for the threads of a block."""

    def __init__(
        self,
        nest: Nest,
        places: Mapping[Value, Place],
        lo: Sequence[Dim],
        hi: Sequence[Dim],
        names: Names,
        axis: str,
        vector: int,
        block: int,
        multiples: Mapping[str, int],
    ) -> None:
        """``axis``: the output axis along which accesses are contiguous; ``multiples``: what kernel dims, and bounds of tiles
        and regions, are multiples of."""
        super().__init__(nest, places, lo, hi, names, 1)
        self.axis = axis
        self.multiples = multiples
        self.vector = vector if self._divides(vector) else 1
        self.most = block
        self.j = names.fresh("j")
        small = [(n, e) for n, e in nest.reduce if isinstance(e, int) and e <= WINDOW]
        bounded = {r for b in nest.where for r in free_symbols(b.index)}
        taps = small if _count(small) <= MOST_TAPS else small[-1:]
        #: reduced axes that are unrolled
        self.taps: list[tuple[str, int]] = [(n, int(e)) for n, e in taps if n in bounded or e <= 3]
        unrolled = {n for n, _ in self.taps}
        self.serial = [n for n, _ in nest.reduce if n not in unrolled]
        self.chooses = nest.combine is None and bool(conditional_loads(nest.body))

    def _divides(self, vector: int) -> bool:
        """Whether regions and choices by position along the axis begin and end at multiples of ``vector``."""
        edges: list[Dim] = [self.lo[self.axis], self.hi[self.axis]]
        for s in (*subexpressions(self.nest.body), *subexpressions(self.nest.final)):
            cond = s.cond if isinstance(s, Select) else None
            if isinstance(cond, Binary) and isinstance(cond.a, Index) and isinstance(cond.b, Index):
                if self.axis in free_symbols(cond.a.dim):
                    edges += [substitute(cond.a.dim, {self.axis: 0}), cond.b.dim]
        return all(divisor(d, self.multiples) % vector == 0 for d in edges)

    def emit(self) -> list[Stmt]:
        """The statements that compute the nest over its region."""
        self.simd: str | None = self.axis
        self.lanes = False
        order = [a for a in self.order if a != self.axis]
        if self.axis in self.units:  # an axis of extent 1
            order, self.vector = list(self.order), 1
        u = order[-1] if order else None
        single = self.threads(order, self._points_at(None, 1))
        pointwise = self.nest.combine is None
        if self.most == 1 or u is None or (self.nest.where if pointwise else not self._shares(u) or self._strides(u)):
            return single
        if any(u in free_symbols(b.index) and free_symbols(b.index) & set(self.serial) for b in self.nest.where):
            return single  # outputs of a block share their loops, so no loop's limit may depend on the blocked axis
        width = self.hi[u] - self.lo[u]
        if self.taps:
            self._narrow(self.taps[-1][1])
        blocks = self.threads(order, self._points_at(u, self.most), u)
        return [If(Binary("ge", Index(width), Index(self.most)), tuple(blocks), tuple(single))]

    def _narrow(self, window: int) -> None:
        """Fewer outputs, else shorter vectors, where a row of a window of so many columns would fill a thread's registers."""
        while self.vector * (2 * (self.most + window) - 1) > ROW_ELEMENTS and (self.most > 2 or self.vector > 1):
            if self.most > 2:
                self.most //= 2
            else:
                self.vector //= 2

    def _strides(self, u: str) -> bool:
        """Whether windows move by more than one along ``u``: neighbors share little then, and columns fill the registers."""
        steps = [split for ld in loads_of(self.nest.body) for d in ld.index if (split := linear(d, u)) is not None]
        return bool(self.taps) and any(coefficient > 1 for coefficient, _ in steps)

    def threads(self, order: Sequence[str], body: list[Stmt], blocked: str | None = None) -> list[Stmt]:
        """``body`` for each vector of each output, or block of outputs along ``blocked``."""
        axes: list[tuple[str, Dim, Dim, int]] = []
        for a in order:
            if a == blocked:
                # The last block is moved back to end at the end: some outputs are computed twice, to the same values.
                k = self.names.fresh("k")
                axes.append((k, 0, ceil_div(self.hi[a] - self.lo[a], self.most), 1))
                body = [Let(a, dim_min(self.lo[a] + self.most * sym(k), self.hi[a] - self.most)), *body]
            else:
                axes.append((a, self.lo[a], self.hi[a], 1))
        if self.axis not in self.units:
            lo, hi = self.lo[self.axis], self.hi[self.axis]
            if self.chooses:
                run, k = self.names.fresh("q"), self.names.fresh("q")
                axes = [(run, 0, ceil_div(hi - lo, RUN * self.vector), 1), *axes, (k, 0, RUN, 1)]
                inside = If(Binary("lt", Index(sym(self.axis)), Index(hi)), tuple(body))
                body = [Let(self.axis, lo + self.vector * (RUN * sym(run) + sym(k))), inside]
            else:
                axes.append((self.axis, lo, hi, self.vector))
        return flat(self.names, axes, body)

    # --- registers ----------------------------------------------------------------------------------------------

    def moved(self, env: Mapping[str, Dim]) -> dict[str, Dim]:
        """``env`` with the contiguous axis at this thread's element ``j``."""
        return dict(env) if self.axis in self.units else {**env, self.axis: sym(self.axis) + sym(self.j)}

    def each(self, body: Sequence[Stmt]) -> Stmt:
        return Loop(self.j, 0, self.vector, "unroll", tuple(body))

    def register(self, prefix: str, dtype: str) -> Buffer:
        return Buffer(self.names.fresh(prefix), (self.vector,), dtype, "register")

    def _load(self, load: Load, known: Loaded, out: list[Stmt]) -> Load:
        """The register that holds ``load``; filled in ``out`` where it is not ``known``."""
        key = (load.buffer, load.index)
        varies = any(self.j in free_symbols(d) for d in load.index)
        found = known.get(key)
        if found is None:
            dtype = compute_dtype(load.buffer.dtype)
            if varies:
                found = self.register("x", dtype)
                out += [Alloc(found), Loop(self.j, 0, self.vector, "simd", (Store(found, (sym(self.j),), load),))]
            else:
                found = Buffer(self.names.fresh("x"), (), dtype, "register")
                out += [Alloc(found), Store(found, (), load)]
            known[key] = found
        return Load(found, (sym(self.j),) if varies else ())

    def fetch_ahead(self, s: Scalar, axis: str, known: Loaded, out: list[Stmt]) -> None:
        """Fill registers with what ``s``, without choices by position, loads alike for all of a loop over ``axis``."""
        for load in loads_of(s):
            outside = isinstance(load.buffer, Buffer) and load.buffer.space in ("global", "tile")
            if outside and not any(axis in free_symbols(d) for d in load.index):
                self._load(load, known, out)

    def fetch(self, s: Scalar, known: Loaded, out: list[Stmt]) -> Scalar:
        """``s`` (on buffers) with its loads and choices by position in registers, filled in ``out``."""
        return self.fetch_all((s,), known, out)[0]

    def fetch_all(self, terms: tuple[Scalar, ...], known: Loaded, out: list[Stmt]) -> tuple[Scalar, ...]:
        """`fetch` for the same term at several points: what is chosen at the same positions for all of them is chosen once."""
        memo: dict[tuple[int, ...], tuple[Scalar, ...]] = {}
        choices = {id(c) for s in terms for c in conditional_loads(s)}

        def visit(xs: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
            key = tuple(map(id, xs))
            if key not in memo:
                memo[key] = moved(xs)
            return memo[key]

        def moved(xs: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
            x = xs[0]
            if len(xs) > 1 and not _alike(xs, choices):
                return tuple(y for one in xs for y in visit((one,)))
            if isinstance(x, Load) and isinstance(x.buffer, Buffer) and x.buffer.space in ("global", "tile"):
                return tuple(self._load(y, known, out) for y in xs if isinstance(y, Load))
            if isinstance(x, Select) and id(x) in choices:
                return self._choice([y for y in xs if isinstance(y, Select)], known, out)
            kids = [visit(group) for group in zip(*map(children, xs), strict=True)]
            return tuple(rebuild(y, [group[k] for group in kids]) for k, y in enumerate(xs)) if kids else xs

        return visit(terms)

    def _choice(
        self, terms: Sequence[Select], known: Loaded, out: list[Stmt], targets: Sequence[Buffer] = ()
    ) -> tuple[Scalar, ...]:
        """The registers (``targets``, or new ones) of one choice by position, which is the same for all elements of a vector."""
        if not targets:
            targets = [self.register("x", compute_dtype(scalar_dtype(s))) for s in terms]
            out += map(Alloc, targets)
        arms = []
        for arm in (tuple(s.a for s in terms), tuple(s.b for s in terms)):
            inside: list[Stmt] = []
            choices = {id(c) for s in arm for c in conditional_loads(s)}
            if all(isinstance(s, Select) and id(s) in choices for s in arm) and _alike(arm, choices):
                self._choice([s for s in arm if isinstance(s, Select)], dict(known), inside, targets)
            else:
                values = self.fetch_all(arm, dict(known), inside)
                inside += [self.each([Store(t, (sym(self.j),), v)]) for t, v in zip(targets, values, strict=True)]
            arms.append(tuple(inside))
        out.append(If(_chosen(terms[0], self.j), *arms))
        return tuple(Load(t, (sym(self.j),)) for t in targets)

    def put(self, value: Scalar, env: Mapping[str, Dim]) -> tuple[list[Stmt], Buffer, tuple[Dim, ...]]:
        """Store ``value`` (on registers, element ``j``) at the nest's point; also the registers that hold it, and its index."""
        moved = {**self.units, **self.moved(env)}
        dtype = self.nest.out.dtype
        if scalar_dtype(value) != dtype:
            value = Cast(value, dtype)
        pre, value = share(value, self.names)
        result = self.register("y", compute_dtype(dtype))
        at = self.out.at([moved.get(a, sym(a)) for a in self.nest.axes])
        target, j = Load(result, (sym(self.j),)), self.j
        statements = [
            Alloc(result),
            self.each([*pre, Store(result, (sym(j),), value)]),
            Loop(j, 0, self.vector, "simd", (Store(self.out.buffer, at, target),)),
        ]
        return statements, result, at

    # --- element-wise -------------------------------------------------------------------------------------------

    def _points_at(self, blocked: str | None, width: int) -> list[Stmt]:
        """What is computed at ``width`` points along ``blocked``."""
        points: list[dict[str, Dim]] = [{blocked: sym(blocked) + k} if blocked else {} for k in range(width)]
        return self._values(points) if self.nest.combine is None else self._sums(points)

    def _values(self, points: Sequence[Mapping[str, Dim]]) -> list[Stmt]:
        body: list[Stmt] = []
        known: Loaded = {}
        # All loads come first, so that they are under way together.
        values = self.fetch_all(tuple(self.concrete(self.nest.body, self.moved(env)) for env in points), known, body)
        for value, env in zip(values, points, strict=True):
            body += self.put(value, env)[0]
        if not self.nest.where:
            return body
        bounds = [Bound(substitute(b.index, self.units), b.extent) for b in self.nest.where]
        return self._guarded(bounds, body, self.put(Const(0, self.nest.out.dtype), {})[0])

    # --- reductions ---------------------------------------------------------------------------------------------

    def _sums(self, points: Sequence[Mapping[str, Dim]]) -> list[Stmt]:
        """Reduce and store at ``points``."""
        nest, combine = self.nest, str(self.nest.combine)
        dtype = acc_dtype(nest)
        accs = [self.register("a", dtype) for _ in points]
        start = Const(identity(combine, dtype), dtype)
        out: list[Stmt] = [s for a in accs for s in (Alloc(a), self.each([Store(a, (sym(self.j),), start)]))]
        limits = {r: [b for b in nest.where if r in free_symbols(b.index)] for r in self.serial}
        left = [b for b in nest.where if not any(b in found for found in limits.values())]
        body = self._terms_of(points, accs, combine, left)
        for r in reversed(self.serial):
            lo, hi = self.limits(r, limits[r], {})
            body = [Loop(r, lo, hi, "serial", tuple(body))]
        out += body
        for env, a in zip(points, accs, strict=True):
            value = replace_acc(self.concrete(nest.final or Acc(), self.moved(env)), Load(a, (sym(self.j),)))
            fetched = self.fetch(value, {}, out)
            out += self.put(fetched, env)[0]
        return out

    def _terms_of(
        self, points: Sequence[Mapping[str, Dim]], accs: Sequence[Buffer], combine: str, bounds: Sequence[Bound]
    ) -> list[Stmt]:
        """All terms of the unrolled window: loads first, then sums, for each position along its outer axes."""
        out: list[Stmt] = []
        names = [n for n, _ in self.taps]
        free: Loaded = {}
        for outer in itertools.product(*(range(e) for _, e in self.taps[:-1])):
            columns: dict[tuple[Dim, ...], tuple[tuple[Bound, ...], Loaded, list[tuple[Scalar, Buffer]]]] = {}
            fetch: list[Stmt] = []
            for last in range(self.taps[-1][1]) if self.taps else (0,):
                taps: dict[str, Dim] = dict(zip(names, (*outer, last), strict=False))
                for env, acc in zip(points, accs, strict=True):
                    at = {**self.units, **env, **taps}
                    tests = tuple(Bound(substitute(b.index, at), substitute(b.extent, at)) for b in bounds)
                    column = columns.setdefault(tuple(t.index for t in tests), (tests, {}, []))
                    column[2].append((self.concrete(self.nest.body, self.moved({**env, **taps})), acc))
            sums: list[Stmt] = []
            for tests, known, terms in columns.values():
                guarded = frozenset().union(*(free_symbols(t.index) for t in tests)) if tests else frozenset()
                held: dict[Scalar, Load] = {}
                inside: list[Stmt] = []
                for term, acc in terms:
                    value = self._padded(term, combine, tests, guarded, free if tests else known, known, held, fetch, inside)
                    if scalar_dtype(value) != acc.dtype:
                        value = Cast(value, acc.dtype)
                    pre, value = share(value, self.names)
                    sums.append(self.each([*pre, Accumulate(acc, (sym(self.j),), combine, value)]))
                # Registers live outside the test, so that loads of all columns can be under way before the first sum.
                fetch += [s for s in inside if isinstance(s, Alloc)]
                moves: list[Stmt] = [s for s in inside if not isinstance(s, Alloc)]
                fetch += self._guarded(tests, moves) if tests and moves else moves
            out += [*fetch, *sums]
        return out

    def _padded(
        self,
        term: Scalar,
        combine: str,
        tests: Sequence[Bound],
        guarded: frozenset[str],
        free: Loaded,
        known: Loaded,
        held: dict[Scalar, Load],
        fetch: list[Stmt],
        inside: list[Stmt],
    ) -> Scalar:
        """``term`` on registers, such that it can be added where ``tests`` fail, too.

        The factor of a product that they guard (else the whole term) is computed once for all outputs that need it,
        ``inside`` the tests, into a register of ``held`` that holds what changes nothing otherwise: a factor of 0, as if the
        padding were there (an infinite weight then makes NaN, as in frameworks that pad).
        """
        if not tests:
            return self._fetch_term(term, guarded, free, known, fetch, inside)

        def concerns(s: Scalar) -> bool:
            return any(guarded & free_symbols(d) for ld in loads_of(s) for d in ld.index)

        part, other, fill = term, None, Const(identity(combine, scalar_dtype(term)), scalar_dtype(term))
        if combine == "sum" and isinstance(term, Binary) and term.op == "mul" and concerns(term.a) != concerns(term.b):
            part, other = (term.a, term.b) if concerns(term.a) else (term.b, term.a)
            fill = Const(0, scalar_dtype(part))
        found = held.get(part)
        if found is None:
            value = self._fetch_term(part, guarded, free, known, fetch, inside)
            pre, value = share(value, self.names)
            dtype = compute_dtype(scalar_dtype(part))
            varies = any(self.j in free_symbols(d) for ld in loads_of(part) for d in ld.index)
            to = self.register("t", dtype) if varies else Buffer(self.names.fresh("t"), (), dtype, "register")
            at = (sym(self.j),) if varies else ()
            fetch += [Alloc(to), self.each([Store(to, at, fill)]) if varies else Store(to, at, fill)]
            inside.append(self.each([*pre, Store(to, at, value)]) if varies else Store(to, at, value))
            found = held[part] = Load(to, at)
        if other is None:
            return found
        return Binary("mul", found, self._fetch_term(other, guarded, free, known, fetch, inside))

    def _fetch_term(
        self, term: Scalar, guarded: frozenset[str], free: Loaded, known: Loaded, fetch: list[Stmt], inside: list[Stmt]
    ) -> Scalar:
        """``term`` on registers: what the tests say nothing about is loaded in ``fetch``, the rest ``inside`` them."""
        moved: dict[int, Scalar] = {}
        for load in loads_of(term):
            symbols = frozenset().union(*(free_symbols(d) for d in load.index)) if load.index else frozenset()
            if guarded and not symbols & guarded:
                moved[id(load)] = self._load(load, free, fetch)
            else:
                moved[id(load)] = self._load(load, known, inside)
        lookup = {(ld.buffer, ld.index): moved[id(ld)] for ld in loads_of(term) if id(ld) in moved}

        def visit(x: Scalar) -> Scalar:
            if isinstance(x, Load):
                return lookup.get((x.buffer, x.index), x)
            kids = children(x)
            return rebuild(x, [visit(k) for k in kids]) if kids else x

        return visit(term)


def _count(axes: Sequence[tuple[str, Dim]]) -> int:
    total = 1
    for _, e in axes:
        total *= int(e)  # type: ignore[arg-type]
    return total


__all__ = ["MOST_TAPS", "StencilEmitter", "conditional_loads", "flat"]
