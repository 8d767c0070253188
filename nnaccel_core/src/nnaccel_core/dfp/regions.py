"""Which part of every value a tile of the group's output needs: interval arithmetic from the output backwards.

Along an axis a region is a `Span` over one tile axis, ``[scale * o + lo, scale * (e - 1) + hi + 1)`` where
``[o, e)`` is the tile, clipped to the value's extent; or None: the whole axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from nnaccel_core.dfp.group import Reason
from nnaccel_core.dfp.nests import nest_loads
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.ir import Dim, TensorType, Value, dim_max, dim_min, free_symbols, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Load, Nest


@dataclass(frozen=True)
class Span:
    """An interval that moves with tile axis ``tile``."""

    tile: int
    scale: int = 1
    lo: Dim = 0
    hi: Dim = 0

    @property
    def is_tile(self) -> bool:
        """Whether it is the tile itself, without halo."""
        return self.scale == 1 and self.lo == 0 and self.hi == 0

    def begin(self, o: Dim) -> Dim:
        low = self.scale * o + self.lo
        return low if isinstance(self.lo, int) and self.lo >= 0 else dim_max(low, 0)

    def end(self, e: Dim, extent: Dim) -> Dim:
        high = self.scale * (e - 1) + self.hi + 1
        return high if self.is_tile else dim_min(high, extent)

    def size(self, t: Dim) -> Dim:
        """An upper bound of its length for tiles of at most ``t``."""
        return self.scale * (t - 1) + self.hi - self.lo + 1


Axis = Union[Span, None]
Region = tuple[Axis, ...]


@dataclass(frozen=True)
class Tiling:
    """The tile grid of a staged group.

    Attributes:
        axes: logical axes of the outputs that are tiled, outermost in memory first.
        extents: their extents; regions: the region of every value, inputs included.
    """

    axes: tuple[int, ...]
    extents: tuple[Dim, ...]
    regions: Mapping[Value, Region]


def _union(a: Axis, b: Axis) -> Axis:
    if a is None or b is None or a.tile != b.tile or a.scale != b.scale:
        return None
    return Span(a.tile, a.scale, dim_min(a.lo, b.lo), dim_max(a.hi, b.hi))


def index_region(index: Dim, axes: Mapping[str, Axis], extents: Mapping[str, Dim]) -> Axis:
    """The interval of ``index`` while its axes run over their regions and its reduced axes over their extents."""
    names = free_symbols(index) & (axes.keys() | extents.keys())
    moving: tuple[int, Span] | None = None
    lo: Dim = 0
    hi: Dim = 0
    rest = index
    for name in sorted(names):
        split = linear(rest, name)
        if split is None:
            return None
        coefficient, rest = split
        if name in extents:
            reach = coefficient * (extents[name] - 1)
            lo, hi = (lo, hi + reach) if coefficient > 0 else (lo + reach, hi)
            continue
        span = axes[name]
        if span is None or moving is not None or coefficient < 1:
            return None
        moving = (coefficient, span)
    if moving is None:
        return None
    c, span = moving
    return Span(span.tile, c * span.scale, c * span.lo + lo + rest, c * span.hi + hi + rest)


def propagate(staged: Staged, axes: Sequence[int]) -> dict[Value, Region]:
    """Regions of all values when the logical ``axes`` of every output are tiled."""
    regions: dict[Value, Region] = {}

    def need(value: Value, region: Region) -> None:
        known = regions.get(value)
        regions[value] = region if known is None else tuple(_union(a, b) for a, b in zip(known, region, strict=True))

    for out in staged.outputs:
        need(out, tuple(Span(axes.index(k)) if k in axes else None for k in range(out.type.rank)))
    for nest in reversed(staged.nests):
        spans = dict(zip(nest.axes, regions[nest.out], strict=True))
        reduce = dict(nest.reduce)
        for load in nest_loads(nest):
            assert isinstance(load.buffer, Value)
            # An axis of one element has no loop that a tile could bound: each tile has it whole, those beside it too (padding).
            at = zip(load.buffer.shape, load.index, strict=True)
            need(load.buffer, tuple(None if n == 1 else index_region(d, spans, reduce) for n, d in at))
    return regions


def physical_axes(t: TensorType) -> list[int]:
    """Logical axes from outermost to innermost in memory, without those of extent 1."""
    return [a for a in t.layout if t.shape[a] != 1]


def _tileable(staged: Staged, axis: int) -> bool:
    """Whether tiling ``axis`` divides the work of every nest, instead of repeating one's in each tile."""
    regions = propagate(staged, [axis])
    return all(any(s is not None for s in regions[n.out]) for n in staged.nests)


def tiling(staged: Staged) -> Tiling | Reason:
    """Choose the tiled axes: the two outermost in memory that divide all work, and the contiguous one.

    The axis next to the contiguous one stays whole in images: a tile is images x a band of rows x channels.
    """
    root = staged.outputs[-1]
    order = physical_axes(root.type)
    if len(order) >= 4:
        del order[-2]
    for out in staged.outputs[:-1]:
        if out.type.rank != root.type.rank or any(out.shape[k] != root.shape[k] for k in order):
            return Reason(f"outputs {out.type} and {root.type} have no common tile grid")
    good = [k for k in order if _tileable(staged, k)]
    if len(good) > 3:
        good = [*good[:2], good[-1]]
    regions = propagate(staged, good)
    for out in staged.outputs:
        if any(s is not None and s.scale != 1 for s in regions[out]):
            return Reason(f"output {out.type} is read with a stride inside the group")
        if any(s is None for k, s in enumerate(regions[out]) if k in good):
            return Reason(f"output {out.type} is needed whole inside the group")
    return Tiling(tuple(good), tuple(root.shape[k] for k in good), regions)


def publish(staged: Staged, regions: Mapping[Value, Region]) -> Staged:
    """Outputs that are also read with a halo inside get a tile buffer, and a nest that copies the tile out.

    Without it two tasks would write the same elements of the output.
    """
    nests: list[Nest] = list(staged.nests)
    outputs = list(staged.outputs)
    kinds = dict(staged.kinds)
    for k, out in enumerate(outputs):
        if all(s is None or s.is_tile for s in regions[out]):
            continue
        copy = Value(out.type, out.name + "_out")
        names = tuple(f"i{a}" for a in range(out.type.rank))
        at = next(i for i, n in enumerate(nests) if n.out is out)
        nests.insert(at + 1, Nest(copy, names, Load(out, tuple(sym(n) for n in names))))
        outputs[k] = copy
        kinds[out.name] = "tile, copied out"
    return Staged(tuple(nests), staged.inputs, tuple(outputs), tuple(kinds.items()))
