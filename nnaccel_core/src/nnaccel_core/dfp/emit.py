"""Loops of one nest over its region: the order of loops, register blocks, and padding without branches.

A bound ``0 <= c * r + b < n`` on a reduced axis ``r`` becomes the limits of ``r``'s loop. In a block of outputs whose
window is unrolled, each column of the input is tested once, and not at all where the whole block lies inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnaccel_core.dfp.nests import loads_of, replace_acc, transform
from nnaccel_core.dfp.pieces import Piece, pieces
from nnaccel_core.dfp.scalars import Names, share, step_along
from nnaccel_core.dfp.sweep import sweeps, swept
from nnaccel_core.dfp.window import WINDOW, ceil_quotient, columns, held_loads, interior, tested_columns, unrolled_axis
from nnaccel_core.ir import Dim, Value, ceil_div, dim_max, dim_min, free_symbols, substitute, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.ir.types import Layout
from nnaccel_core.loopir.grammar import (
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
    Stmt,
    Store,
    Unary,
    scalar_dtype,
)
from nnaccel_core.loopir.nests import acc_dtype
from nnaccel_core.loopir.numeric import identity

#: Sums over an axis of unknown length are taken in blocks of this many terms (over all lanes: the second number), so
#: that rounding errors stay small.
SUM_BLOCK, LANE_BLOCK = 64, 1024


@dataclass(frozen=True)
class Place:
    """Where a value lives: its buffer, the value's index of the buffer's first element, and for tile buffers the
    order of the value's axes in the buffer (tile buffers are dense in the value's own layout)."""

    buffer: Buffer
    origin: tuple[Dim, ...]
    order: Layout | None = None

    def at(self, index: Sequence[Dim]) -> tuple[Dim, ...]:
        """The buffer's index of the value's element ``index``."""
        moved = tuple(d - o for d, o in zip(index, self.origin, strict=True))
        return moved if self.order is None else tuple(moved[a] for a in self.order)

    def strides(self) -> tuple[Dim, ...]:
        """Element strides along the value's axes."""
        found = self.buffer.element_strides()
        return found if self.order is None else tuple(found[self.order.index(a)] for a in range(len(found)))


class NestEmitter:
    """Emits one nest. ``lo`` and ``hi`` bound its output axes."""

    lane_block = LANE_BLOCK

    def __init__(
        self, nest: Nest, places: Mapping[Value, Place], lo: Sequence[Dim], hi: Sequence[Dim], names: Names, block: int
    ) -> None:
        self.nest = nest
        self.places = places
        self.names = names
        self.block = block
        self.out = places[nest.out]
        self.lo = dict(zip(nest.axes, lo, strict=True))
        self.hi = dict(zip(nest.axes, hi, strict=True))
        shape = dict(zip(nest.axes, nest.out.shape, strict=True))
        #: output axes outermost in memory first, without those of extent 1
        self.order = [nest.axes[a] for a in nest.out.type.layout if shape[nest.axes[a]] != 1]
        self.units: dict[str, Dim] = {a: 0 for a in nest.axes if shape[a] == 1}
        self.extents = dict(nest.reduce)

    # --- choices ----------------------------------------------------------------------------------------------

    def step(self, load: Load, axis: str) -> Dim | None:
        """Stride of a load along ``axis``."""
        assert isinstance(load.buffer, Value)
        return step_along(load.index, self.places[load.buffer].strides(), axis)

    def simd_axis(self) -> str | None:
        """The axis along which most accesses are contiguous: an output axis, or a reduced one (lanes)."""
        point = tuple(sym(a) for a in self.nest.axes)
        bounded = set().union(*(free_symbols(b.index) for b in self.nest.where)) if self.nest.where else set()
        best: tuple[float, str] | None = None
        reduced = [r for r, e in self.nest.reduce if r not in bounded and not (isinstance(e, int) and e <= WINDOW)]
        for axis in (*reversed(self.order), *reduced):
            cost = sum(self._access_cost(self.step(ld, axis)) for ld in loads_of(self.nest.body))
            # What happens once per output weighs little next to what happens once per term.
            weight = 1.0 if self.nest.combine is None else 0.1
            for ld in loads_of(self.nest.final):
                cost += weight * self._access_cost(self.step(ld, axis))
            if axis in self.extents:
                cost += 0.5
            else:
                cost += weight * self._access_cost(step_along(point, self.out.strides(), axis))
            if best is None or cost < best[0]:
                best = (cost, axis)
        return best[1] if best else None

    @staticmethod
    def _access_cost(step: Dim | None) -> float:
        if step == 0:
            return 0.25
        return 1.0 if step == 1 else 8.0

    # --- entry ------------------------------------------------------------------------------------------------

    def emit(self) -> list[Stmt]:
        """The statements that compute the nest over its region."""
        self.simd = self.simd_axis()
        if self.nest.combine is None:
            return self._pointwise()
        return self._reduction()

    def loop(self, axis: str, body: Sequence[Stmt], bind: str = "serial", lo: Dim | None = None, hi: Dim | None = None) -> Loop:
        return Loop(axis, self.lo[axis] if lo is None else lo, self.hi[axis] if hi is None else hi, bind, tuple(body))

    def nested(self, axes: Sequence[str], body: list[Stmt]) -> list[Stmt]:
        for axis in reversed(axes):
            body = [self.loop(axis, body)]
        return body

    def _pointwise(self) -> list[Stmt]:
        outer = [a for a in self.order if a != self.simd]
        body = self._guarded(self.nest.where, self.store(self.nest.body, {}), self.store(Const(0, self.nest.out.dtype), {}))
        inner = self._transposed(outer)
        if inner is not None:
            # A relayout: along the SIMD axis one side jumps, so the other side's contiguous axis goes innermost,
            # and every cache line is used up before it leaves.
            outer.remove(inner)
            body = [self.loop(inner, body)]
        if self.simd is not None:
            whole = Piece(self.nest.body, self.lo[self.simd], self.hi[self.simd])
            parts = [whole] if inner is not None or self.nest.where else pieces(whole, self.simd, self.nest.axes)
            if len(parts) > 1:  # a concat: each operand has a loop of its own, instead of being chosen for each vector
                body = [self.loop(self.simd, self.store(p.value, {}), "simd", p.lo, p.hi) for p in parts]
            else:
                body = [self.loop(self.simd, body, "simd")]
        return self.nested(outer, body)

    def _transposed(self, outer: Sequence[str]) -> str | None:
        if self.simd is None:
            return None
        for load in loads_of(self.nest.body):
            if self.step(load, self.simd) not in (0, 1):
                for axis in reversed(outer):
                    if self.step(load, axis) == 1:
                        return axis
        return None

    def _guarded(self, bounds: Sequence[Bound], then: list[Stmt], other: Sequence[Stmt] = ()) -> list[Stmt]:
        tests: list[Scalar] = []
        for b in bounds:
            tests += [Binary("ge", Index(b.index), Index(0)), Binary("lt", Index(b.index), Index(b.extent))]
        if not tests:
            return then
        cond = tests[0]
        for t in tests[1:]:
            cond = Binary("and", cond, t)
        return [If(cond, tuple(then), tuple(other))]

    # --- scalars ----------------------------------------------------------------------------------------------

    def concrete(self, s: Scalar, env: Mapping[str, Dim]) -> Scalar:
        """``s`` on buffers instead of graph values, with axes replaced by ``env``."""
        full = {**self.units, **env}
        memo: dict[Load, Load] = {}

        def load(ld: Load) -> Scalar:
            assert isinstance(ld.buffer, Value)
            place = self.places[ld.buffer]
            new = Load(place.buffer, place.at(ld.index))
            return memo.setdefault(new, new)

        return transform(s, lambda d: substitute(d, full), load)

    def store(self, value: Scalar, env: Mapping[str, Dim], acc: Scalar | None = None) -> list[Stmt]:
        """Store ``value`` (a nest's expression, in which ``acc`` replaces the accumulator) at the nest's point."""
        value = self.concrete(value, env)
        if acc is not None:
            value = replace_acc(value, acc)
        pre, value = share(value, self.names)
        full = {**self.units, **env}
        at = self.out.at([full.get(a, sym(a)) for a in self.nest.axes])
        if scalar_dtype(value) != self.nest.out.dtype:
            value = Cast(value, self.nest.out.dtype)
        return [*pre, Store(self.out.buffer, at, value)]

    # --- reductions -------------------------------------------------------------------------------------------

    def _reduction(self) -> list[Stmt]:
        nest, simd = self.nest, self.simd
        self.lanes = simd is not None and simd in self.extents
        outer = [a for a in self.order if a != simd]
        self.unrolled, partner = unrolled_axis(self, outer)
        self.edges = partner is not None and partner == simd
        self.inside = tuple(b for b in nest.where if self.unrolled in free_symbols(b.index)) if self.unrolled else ()
        usual = self._reduced(outer, partner)
        return swept(self, outer, usual) if sweeps(self, outer) else usual

    def _reduced(self, outer: Sequence[str], partner: str | None) -> list[Stmt]:
        """Each output's sum in a register."""
        nest, outer = self.nest, list(outer)
        if not outer:
            return self._rows(partner, [{}])
        u = outer.pop()
        # Outputs of one block share their loops, so no limit may depend on the blocked axis.
        clipped = set().union(*(free_symbols(b.index) for b in nest.where if b not in self.inside)) if nest.where else set()
        if u in clipped or self.block == 1 or not self._shares(u):
            return self.nested(outer, [self.loop(u, self._rows(partner, [{}], whole=partner != u))])
        return self.nested(outer, self._blocks(u, partner))

    def _shares(self, u: str) -> bool:
        """Whether neighboring outputs along ``u`` load something in common: weights, or overlapping windows."""
        for load in loads_of(self.nest.body):
            if self.step(load, u) == 0:
                return True
            for d in load.index:
                if u in free_symbols(d) and free_symbols(d) & self.extents.keys():
                    return True
        return False

    def _blocks(self, u: str, partner: str | None) -> list[Stmt]:
        """Axis ``u`` in blocks of equal width; the last one is moved back to end at the end, and some outputs are computed
        twice. An axis shorter than one block goes output by output."""
        lo, hi, width = self.lo[u], self.hi[u], self.block
        k = self.names.fresh("k")
        start = sym(f"{k}_u")
        points: list[dict[str, Dim]] = [{u: start + j} for j in range(width)]
        body = self._rows(partner, points)
        enough: Scalar = Binary("ge", Index(hi - lo), Index(width))
        if partner == u:
            begin, end = interior(self, u)
            tested, reach = tested_columns(self, u)
            fits = Binary("and", Binary("ge", Index(start), Index(begin)), Binary("le", Index(start + width), Index(end)))
            body = [If(fits, tuple(body), tuple(self._rows(partner, points, ends=tested)))]
            if reach is not None:
                enough = Binary("and", enough, Binary("lt", Index(reach[0]), Index(reach[1])))
        blocks = Loop(k, 0, ceil_div(hi - lo, width), "serial", (Let(f"{k}_u", dim_min(lo + width * sym(k), hi - width)), *body))
        single = self.loop(u, self._rows(partner, [{}], whole=partner != u))
        return [If(enough, (blocks,), (single,))]

    def _rows(self, partner: str | None, points: list[dict[str, Dim]], whole: bool = True, ends: int = 0) -> list[Stmt]:
        """The points, along the SIMD axis where that is an output axis; there, too, only the interior is unrolled.

        Args:
            whole: the unrolled window lies inside, or is tested by ``ends``; else it is a loop with limits.
            ends: how many columns of a block's input at either end are tested.
        """
        simd = self.simd
        if simd is None or self.lanes:
            return self._points(points, whole, ends)
        if partner != simd:
            return [self.loop(simd, self._points(points, whole, ends), "simd")]
        begin, end = interior(self, simd)
        k = self.names.fresh("w")
        left, right, side = sym(f"{k}_l"), sym(f"{k}_r"), f"{k}_s"
        s = sym(side)
        lets: list[Stmt] = [
            Let(f"{k}_l", dim_min(dim_max(begin, self.lo[simd]), self.hi[simd])),
            Let(f"{k}_r", dim_max(dim_min(end, self.hi[simd]), left)),
        ]
        # Left and right edge in one piece of code: side 0 runs [lo, left), side 1 [right, hi).
        begin, end = self.lo[simd] + s * (right - self.lo[simd]), left + s * (self.hi[simd] - left)
        edge = self.loop(simd, self._points(points, False), lo=begin, hi=end)
        middle = self.loop(simd, self._points(points, True), "simd", left, right)
        return [*lets, Loop(side, 0, 2, "serial", (edge,)), middle]

    def _points(self, points: list[dict[str, Dim]], whole: bool, ends: int = 0) -> list[Stmt]:
        """Reduce and store at ``points``."""
        nest, combine = self.nest, str(self.nest.combine)
        dtype = acc_dtype(nest)
        long = [r for r, e in nest.reduce if not isinstance(e, int)]
        # Long sums go by blocks: partial sums in the accumulator's own dtype, and their few sums in float64.
        blocked = combine == "sum" and bool(long) and dtype.startswith("float") and (not self.lanes or long == [self.simd])
        wide = "float64" if blocked else dtype
        space = "register" if blocked or not self.lanes else "lanes"
        accs = [Buffer(self.names.fresh("a"), (), wide, space) for _ in points]
        out = self._open(accs)
        out += self._terms(points, accs, whole, ends, long if blocked else [])
        for env, a in zip(points, accs, strict=True):
            value: Scalar = Load(a, ())
            if space == "lanes":
                total = Buffer(self.names.fresh("a"), (), dtype, "register")
                out += [Alloc(total), Store(total, (), Unary(f"reduce_{combine}", value))]
                value = Load(total, ())
            if wide != dtype:
                value = Cast(value, dtype)
            out += self.store(nest.final if nest.final is not None else Acc(), env, value)
        return out

    def _open(self, accs: Sequence[Buffer]) -> list[Stmt]:
        """Accumulators at their neutral element."""
        combine = str(self.nest.combine)
        return [s for a in accs for s in (Alloc(a), Store(a, (), Const(identity(combine, a.dtype), a.dtype)))]

    def limits(self, axis: str, bounds: Sequence[Bound], env: Mapping[str, Dim]) -> tuple[Dim, Dim]:
        lo: Dim = 0
        hi: Dim = self.extents[axis]
        for b in bounds:
            split = linear(substitute(b.index, {**self.units, **env}), axis)
            assert split is not None
            c, base = split
            lo = dim_max(lo, ceil_quotient(-base, c))
            hi = dim_min(hi, ceil_quotient(b.extent - base, c))
        return lo, hi

    def _terms(
        self, points: list[dict[str, Dim]], accs: list[Buffer], whole: bool, ends: int, blocked: Sequence[str]
    ) -> list[Stmt]:
        """The loops over reduced axes around the accumulation of terms; with ``blocked`` axes, by partial sums."""
        nest, combine = self.nest, str(self.nest.combine)
        unroll = self.unrolled if whole else None
        serial = [r for r, _ in nest.reduce if r not in (unroll, self.simd)]
        long = [r for r in serial if not isinstance(self.extents[r], int)]
        serial = [r for r in serial if r not in long] + long
        left = [b for b in nest.where if not (whole and b in self.inside)]
        limits: dict[str, list[Bound]] = {}
        # Lanes share their loops; at the edges of the SIMD axis points go one by one.
        shared = {self.simd} if self.simd is not None and not self.lanes and (whole or not self.edges) else set()
        for b in list(left):
            if shared & free_symbols(b.index):
                continue
            for r in serial:
                split = linear(b.index, r)
                if split is not None and split[0] > 0 and not (free_symbols(split[1]) & self.extents.keys()):
                    limits.setdefault(r, []).append(b)
                    left.remove(b)
                    break
        space = "lanes" if self.lanes else "register"
        sums = [Buffer(self.names.fresh("a"), (), acc_dtype(nest), space) for _ in accs] if blocked else accs
        body, held = held_loads(self, points, unroll) if ends else ([], {})
        found = columns(self, points, sums, unroll)
        for i, (column, terms) in enumerate(found):
            tests = column if i < ends or i >= len(found) - ends else ()
            body += self._guarded(tests, [s for at, a in terms for s in self._term(at, a, combine, left, held)])

        def close(inner: list[Stmt]) -> list[Stmt]:
            out = [*self._open(sums), *inner]
            for a, s in zip(accs, sums, strict=True):
                part: Scalar = Load(s, ())
                if self.lanes:
                    total = Buffer(self.names.fresh("a"), (), s.dtype, "register")
                    out += [Alloc(total), Store(total, (), Unary(f"reduce_{combine}", part))]
                    part = Load(total, ())
                out.append(Accumulate(a, (), combine, part if s.dtype == a.dtype else Cast(part, a.dtype)))
            return out

        order = [*serial, *([str(self.simd)] if self.lanes else [])]
        for r in reversed(order):
            bind = "simd" if r == self.simd else "serial"
            lo, hi = self.limits(r, limits.get(r, []), points[0])
            if blocked and r == order[-1] and len(blocked) == 1:
                k = self.names.fresh("k")
                count = self.lane_block if bind == "simd" else SUM_BLOCK
                first = lo + count * sym(k)
                chunk: Stmt = Loop(r, first, dim_min(first + count, hi), bind, tuple(body))
                body = [Loop(k, 0, ceil_div(hi - lo, count), "serial", tuple(close([chunk])))]
            elif blocked and r == order[-1]:
                body = close([Loop(r, lo, hi, bind, tuple(body))])
            else:
                body = [Loop(r, lo, hi, bind, tuple(body))]
        return body

    def _term(
        self, env: Mapping[str, Dim], acc: Buffer, combine: str, bounds: Sequence[Bound], held: Mapping[Scalar, Scalar]
    ) -> list[Stmt]:
        full = {**self.units, **env}
        term = self.concrete(self.nest.body, env)
        if held:
            term = transform(term, lambda d: d, lambda ld: held.get(ld, ld))
        if scalar_dtype(term) != acc.dtype:
            term = Cast(term, acc.dtype)
        pre, term = share(term, self.names)
        moved = [Bound(substitute(b.index, full), substitute(b.extent, full)) for b in bounds]
        return self._guarded(moved, [*pre, Accumulate(acc, (), combine, term)])
