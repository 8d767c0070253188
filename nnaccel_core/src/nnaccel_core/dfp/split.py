"""Sums over a batch, or over the rows of an image, in two steps, so that a thread block has work for all its threads.

Such a sum has few results and many terms far apart: a thread for each result would walk the batch alone and wait for memory at
every term. Instead `LANES` threads take every so manieth term each, and their parts are added up in shared memory.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from nnaccel_core.dfp.nests import loads_of, transform
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.dfp.window import WINDOW
from nnaccel_core.ir import Dim, TensorType, Value, ceil_div, free_symbols, product, substitute, sym
from nnaccel_core.loopir.grammar import Bound, Load, Nest
from nnaccel_core.loopir.nests import acc_dtype

#: Threads that share the terms of one result.
LANES = 16


def _is_batch_sum(nest: Nest) -> bool:
    """Whether ``nest`` reduces the outermost axis of all that it reads by the reduced axis, and nothing else."""
    if nest.combine is None or nest.where or len(nest.reduce) != 1:
        return False
    ((name, extent),) = nest.reduce
    if isinstance(extent, int) and extent <= WINDOW * LANES:
        return False
    by_axis = [ld for ld in loads_of(nest.body) if any(d == sym(name) for d in ld.index)]
    return bool(by_axis) and all(_outermost(ld) == sym(name) for ld in by_axis)


def _is_image_sum(nest: Nest, inputs: Collection[Value]) -> bool:
    """Whether ``nest`` reduces images, of which only batch and channels are left, and reads them from memory."""
    if nest.combine is None or nest.where or not nest.reduce or len(nest.out.shape) < 2:
        return False
    layout = nest.out.type.layout
    if any(nest.out.shape[a] != 1 for a in layout[1:-1]):
        return False
    terms = product(e for _, e in nest.reduce)
    if isinstance(terms, int) and terms <= LANES:
        return False
    for name, _ in nest.reduce:
        by_axis = [ld for ld in loads_of(nest.body) if any(name in free_symbols(d) for d in ld.index)]
        if not by_axis or any(ld.buffer not in inputs or sym(name) not in _between(ld) for ld in by_axis):
            return False
    return True


def _between(load: Load) -> list[Dim]:
    """The indices of ``load`` along the axes between the outermost and the contiguous one."""
    assert isinstance(load.buffer, Value)
    return [load.index[a] for a in load.buffer.type.layout[1:-1]]


def _outermost(load: Load) -> Dim:
    """The index of ``load`` along the axis that is outermost in memory."""
    assert isinstance(load.buffer, Value)
    return load.index[load.buffer.type.layout[0]]


def split_sums(staged: Staged) -> Staged:
    """``staged`` with each such sum as partial sums and the sum of these."""
    nests: list[Nest] = []
    kinds = list(staged.kinds)
    for nest in staged.nests:
        if not (_is_batch_sum(nest) or _is_image_sum(nest, staged.inputs)):
            nests.append(nest)
            continue
        (name, extent), *others = nest.reduce
        kind = acc_dtype(nest)
        part = Value(
            TensorType((LANES, *nest.out.shape), kind, (0, *(a + 1 for a in nest.out.type.layout))), f"{nest.out.name}_parts"
        )
        axes = tuple(f"i{k}" for k in range(len(nest.axes) + 1))
        term = LANES * sym(name) + sym(axes[0])
        moved = {old: sym(new) for old, new in zip(nest.axes, axes[1:], strict=True)}
        body = transform(nest.body, partial(substitute, env={**moved, name: term}))
        bound = Bound(term, extent)
        terms = ((name, ceil_div(extent, LANES)), *others)
        nests.append(Nest(part, axes, body, terms, nest.combine, where=(bound,), acc_dtype=kind))
        point = (sym(name), *(sym(a) for a in nest.axes))
        nests.append(replace(nest, body=Load(part, point), reduce=((name, LANES),), acc_dtype=kind))
        kinds.append((part.name, "tile"))
    return replace(staged, nests=tuple(nests), kinds=tuple(kinds))


__all__ = ["LANES", "split_sums"]
