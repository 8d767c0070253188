"""Nests of a kernel for thread blocks that share one pass over what they read: sums over rows, and element-wise results.

The gradient of a ReLU, the sum of that gradient, and the sum of its product with another image are three nests over one image.
Run in turn, each reads the image from memory again, since the tiles of all blocks together outgrow the caches. A *bundle* walks
a row once: a thread has an accumulator for each sum, and stores the element-wise results as it passes them, from registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnaccel_core.dfp.emit import Place
from nnaccel_core.dfp.nests import loads_of, nest_loads, replace_acc
from nnaccel_core.dfp.regions import Region
from nnaccel_core.dfp.scalars import Names, share
from nnaccel_core.dfp.simt_stencil import Loaded, StencilEmitter, conditional_loads
from nnaccel_core.dfp.spmd import Work
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.dfp.window import WINDOW
from nnaccel_core.ir import Dim, Value, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Acc, Accumulate, Alloc, Cast, Const, Load, Loop, Nest, Stmt, Store, scalar_dtype
from nnaccel_core.loopir.nests import acc_dtype
from nnaccel_core.loopir.numeric import identity


def _is_sum(nest: Nest) -> bool:
    """Whether ``nest`` is one loop for each of its results."""
    if nest.combine is None or len(nest.reduce) != 1:
        return False
    ((name, extent),) = nest.reduce
    if (isinstance(extent, int) and extent <= WINDOW) or conditional_loads(nest.body) or conditional_loads(nest.final):
        return False
    return all((split := linear(b.index, name)) is not None and split[0] > 0 for b in nest.where)


def _row(nest: Nest) -> tuple[int, Dim] | None:
    """The axis (of extent 1 in the result) and the extent that a sum over rows reduces; None for other nests."""
    if not _is_sum(nest) or nest.where:
        return None
    ((name, extent),) = nest.reduce
    axes = {k for ld in loads_of(nest.body) for k, d in enumerate(ld.index) if d == sym(name)}
    if len(axes) != 1:
        return None
    (axis,) = axes
    return (axis, extent) if axis < len(nest.axes) and nest.out.shape[axis] == 1 else None


def _is_plain(nest: Nest) -> bool:
    return nest.combine is None and not nest.where and not conditional_loads(nest.body)


def _point(nest: Nest) -> tuple[Dim, ...]:
    return tuple(sym(a) for a in nest.axes)


def _same_rows(plain: Nest, row: Nest, regions: Mapping[Value, Region]) -> bool:
    """Whether ``plain`` computes the rows that ``row`` sums."""
    found = _row(row)
    if found is None or plain.axes != row.axes:
        return False
    axis, extent = found
    if plain.out.shape[axis] != extent or regions[plain.out][axis] is not None or plain.out.type.layout != row.out.type.layout:
        return False
    others = [k for k in range(len(plain.axes)) if k != axis]
    return all(plain.out.shape[k] == row.out.shape[k] and regions[plain.out][k] == regions[row.out][k] for k in others)


def _fits(a: Nest, b: Nest, regions: Mapping[Value, Region]) -> bool:
    """Whether ``b``, which comes later, can share a pass with ``a``: what it reads of ``a``, its thread has just computed."""
    in_body = [ld.index for ld in loads_of(b.body) if ld.buffer is a.out]
    in_final = [ld.index for ld in loads_of(b.final) if ld.buffer is a.out]
    if (a.combine is None) == (b.combine is None):
        same = a.axes == b.axes and a.out.shape == b.out.shape and a.out.type.layout == b.out.type.layout
        same = same and regions[a.out] == regions[b.out] and (a.reduce, a.where) == (b.reduce, b.where)
        plain = a.combine is None
        return same and (plain or not in_body) and all(d == _point(b) for d in (*in_body, *in_final))
    if a.combine is not None:
        return not in_body and _same_rows(b, a, regions)
    row_b = _row(b)
    if in_final or row_b is None or not _same_rows(a, b, regions):
        return False
    here = [sym(b.reduce[0][0]) if k == row_b[0] else sym(name) for k, name in enumerate(b.axes)]
    return all(list(d) == here for d in in_body)


def bundles(staged: Staged, regions: Mapping[Value, Region]) -> list[tuple[int, ...]]:
    """The nests of ``staged`` by number, those that run in one pass together. A nest may move to an earlier one's side, never in
    front of what it reads. Element-wise nests alone stay apart."""
    found: list[list[int]] = []
    home: dict[Value, int] = {}
    for k, nest in enumerate(staged.nests):
        place = None
        if _is_sum(nest) or _is_plain(nest):
            after = max((home[ld.buffer] for ld in nest_loads(nest) if ld.buffer in home), default=0)
            for b in range(after, len(found)):
                members = [staged.nests[m] for m in found[b]]
                if all((_is_sum(m) or _is_plain(m)) and _fits(m, nest, regions) for m in members):
                    place = b
                    break
        if place is None:
            place = len(found)
            found.append([])
        found[place].append(k)
        home[nest.out] = place
    out: list[tuple[int, ...]] = []
    for group in found:
        if any(_is_sum(staged.nests[k]) for k in group):
            out.append(tuple(group))
        else:
            out += [(k,) for k in group]
    return out


def emit_bundle(
    works: Sequence[Work], places: Mapping[Value, Place], names: Names, axis: str, vector: int, multiples: Mapping[str, int]
) -> list[Stmt]:
    """The statements of a bundle; ``axis`` is the output axis along which all its accesses are contiguous."""
    emitters = [StencilEmitter(w.nest, places, w.lo, w.hi, names, axis, vector, 1, multiples) for w in works]
    leader = next(e for e in emitters if e.nest.combine is not None)
    ((r, _),) = leader.nest.reduce
    lo, hi = leader.limits(r, leader.nest.where, {})
    row = _row(leader.nest)
    shared = 1 if axis in leader.units else min(e.vector for e in emitters)
    for e in emitters:
        e.vector, e.j = shared, leader.j
    opened: list[Stmt] = []
    walked: list[Stmt] = []
    closed: list[Stmt] = []
    known: Loaded = {}
    for e in emitters:
        nest = e.nest
        if nest.combine is None:
            assert row is not None
            env = {nest.axes[row[0]]: sym(r)}  # where the row is walked
            body = e.concrete(nest.body, e.moved(env))
            e.fetch_ahead(body, r, known, opened)
            value = e.fetch(body, known, walked)
            statements, result, at = e.put(value, env)
            walked += statements
            known[e.out.buffer, at] = result
            continue
        dtype = acc_dtype(nest)
        acc = e.register("a", dtype)
        start = Const(identity(str(nest.combine), dtype), dtype)
        opened += [Alloc(acc), e.each([Store(acc, (sym(e.j),), start)])]
        body = e.concrete(nest.body, e.moved({}))
        e.fetch_ahead(body, r, known, opened)
        term = e.fetch(body, known, walked)
        if scalar_dtype(term) != dtype:
            term = Cast(term, dtype)
        pre, term = share(term, names)
        walked.append(e.each([*pre, Accumulate(acc, (sym(e.j),), str(nest.combine), term)]))
        final = replace_acc(e.concrete(nest.final or Acc(), e.moved({})), Load(acc, (sym(e.j),)))
        closed += e.put(e.fetch(final, {}, closed), {})[0]
    order = [a for a in leader.order if a != axis]
    return leader.threads(order, [*opened, Loop(r, lo, hi, "serial", tuple(walked)), *closed])


__all__ = ["bundles", "emit_bundle"]
