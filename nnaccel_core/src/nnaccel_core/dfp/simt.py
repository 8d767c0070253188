"""Stage 4 for GPUs, `map_simt`: a staged and tiled group as a kernel in which a thread block computes one tile.

The points of a nest are shared among the threads of the block: each takes some elements along the contiguous axis (one
16-byte access) of some neighboring outputs (which share weights and overlapping inputs). What the group keeps between nests,
with its halo, lies in shared memory. The terms of a reduction along the contiguous axis are shared among the threads instead,
and combined over the block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nnaccel_core.dfp.emit import NestEmitter, Place
from nnaccel_core.dfp.group import MANY_OPERANDS
from nnaccel_core.dfp.nests import is_piece, nest_loads, subexpressions
from nnaccel_core.dfp.regions import Region, Tiling, physical_axes
from nnaccel_core.dfp.scalars import Names
from nnaccel_core.dfp.simt_bundle import bundles, emit_bundle
from nnaccel_core.dfp.simt_stencil import StencilEmitter, conditional_loads, flat
from nnaccel_core.dfp.spmd import Work, kernel_dims, map_nests
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.dfp.window import WINDOW
from nnaccel_core.ir import Dim, TensorType, Value, dim_max, dim_min, free_symbols, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.loopir.divisors import divisor
from nnaccel_core.loopir.grammar import (
    Barrier,
    Binary,
    Bound,
    Const,
    If,
    Index,
    Kernel,
    Loop,
    Nest,
    Scalar,
    Select,
    Stmt,
    children,
    rebuild,
)
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.loopir.transforms import unroll

#: Stands for `storage.RECOMPUTE`: threads compute again what costs a few operations rather than share it through shared
#: memory, since memory keeps them waiting anyway (a clip in front of a 3x3 window: 2 operations at 9 uses).
RECOMPUTE_GPU = 40
#: Bytes of one thread's access.
ACCESS = 16


@dataclass(frozen=True)
class Shape:
    """How much one thread computes at a time.

    Attributes:
        vector: neighboring elements along the contiguous axis; block: neighboring outputs along the axis next to it.
    """

    vector: int = 1
    block: int = 1


def vector_width(staged: Staged) -> int:
    """Elements of one access of the group's main output."""
    return max(1, min(8, ACCESS // ITEMSIZE[staged.outputs[-1].dtype]))


def _innermost(t: TensorType) -> Dim:
    axes = physical_axes(t)
    return t.shape[axes[-1]] if axes else 1


def wide_symbols(staged: Staged, tiling: Tiling) -> tuple[str, ...]:
    """The kernel dims that must be multiples of the vector width for accesses to be whole and aligned."""
    found: set[str] = set()
    for v in (*staged.inputs, *staged.outputs):
        found |= free_symbols(_innermost(v.type))
    root = physical_axes(staged.outputs[-1].type)
    if root and root[-1] in tiling.axes:
        found.add(f"t{tiling.axes.index(root[-1])}")
    return tuple(d for d in kernel_dims(staged, tiling) if d in found)


def may_be_wide(staged: Staged) -> bool:
    """Whether all innermost extents that are constants allow wide accesses (symbols are looked at when sizes are known)."""
    width = vector_width(staged)
    inner = [_innermost(v.type) for v in (*staged.inputs, *staged.outputs)]
    return width > 1 and all(d % width == 0 or d == 1 for d in inner if isinstance(d, int)) and any(d != 1 for d in inner)


def map_simt(name: str, staged: Staged, tiling: Tiling, shape: Shape = Shape()) -> Kernel:
    """The kernel of a staged group, for blocks of threads.

    Args:
        shape: what a thread computes at a time; with ``vector`` > 1 the dims of `wide_symbols` must be its multiples.
    """
    multiples = tuple((d, shape.vector) for d in wide_symbols(staged, tiling)) if shape.vector > 1 else ()
    written: set[Value] = set()
    facts = dict(multiples)
    for k, extent in enumerate(tiling.extents):
        facts[f"o{k}"] = divisor(sym(f"p{k}") * sym(f"t{k}"), facts)
        facts[f"e{k}"] = divisor(dim_min(sym(f"o{k}") + sym(f"t{k}"), extent), facts)

    def emit_works(works: Sequence[Work], buffers: Mapping[Value, Place], names: Names) -> list[Stmt]:
        axes = {SimtEmitter(w.nest, buffers, w.lo, w.hi, names, 1).simd_axis() for w in works}
        axis = axes.pop()
        together = len(works) > 1 and not axes and axis is not None and all(axis in w.nest.axes for w in works)
        together = together and not any(axis in free_symbols(b.index) for w in works for b in w.nest.where)
        for w in works:
            facts.update(_region_facts(w, tiling.regions[w.nest.out], facts))
        body: list[Stmt] = []
        for part in [works] if together else [[w] for w in works]:
            inside = {w.nest.out for w in part}
            if any(ld.buffer in written and ld.buffer not in inside for w in part for ld in nest_loads(w.nest)):
                body.append(Barrier())
                written.clear()
            written.update(inside)
            if together:
                assert axis is not None
                body += emit_bundle(part, buffers, names, axis, shape.vector, facts)
            else:
                (w,) = part
                body += emit(w.nest, buffers, w.lo, w.hi, names, shape, facts)
        return body

    kernel = map_nests(name, staged, tiling, emit_works, bundles(staged, tiling.regions))
    return unroll(replace(kernel, multiples=multiples))


def _region_facts(w: Work, region: Region, facts: Mapping[str, int]) -> dict[str, int]:
    """Divisors of the symbols that bound the region of ``w`` (see `map_nests`)."""
    found: dict[str, int] = {}
    for lo, hi, span, extent in zip(w.lo, w.hi, region, w.nest.out.shape, strict=True):
        if span is None or span.is_tile:
            continue
        for bound, dim in ((lo, span.begin(sym(f"o{span.tile}"))), (hi, span.end(sym(f"e{span.tile}"), extent))):
            found |= {name: divisor(dim, facts) for name in free_symbols(bound)}
    return found


class Simt:
    """The kernels of one structure for a GPU: wide or not, with blocks of outputs or not; each made when first asked for.

    Attributes:
        width: elements of a wide access; 1 where the structure allows none.
        multiples: numbers of the kernel dims that must be multiples of it.
    """

    def __init__(
        self, name: str, digest: str, width: int, multiples: tuple[int, ...], stages: Callable[[], tuple[Staged, Tiling]]
    ) -> None:
        self.name, self.width, self.multiples = name, width, multiples
        self._digest, self._stages = digest, stages
        self._sources: dict[Shape, KernelSource] = {}

    @staticmethod
    def of(name: str, digest: str, dims: Sequence[str], staged: Staged, tiling: Tiling) -> Simt:
        """Those of a staged group."""
        wide = wide_symbols(staged, tiling)
        width = vector_width(staged) if may_be_wide(staged) else 1
        return Simt(name, digest, width, tuple(dims.index(d) for d in wide), lambda: (staged, tiling))

    def shape(self, dims: Sequence[int], block: int) -> Shape:
        """The best shape that these dims allow."""
        return Shape(self.width if all(dims[k] % self.width == 0 for k in self.multiples) else 1, block)

    def source(self, shape: Shape) -> KernelSource:
        """The kernel for ``shape``. Asked by two threads at once, both get an equal one."""
        found = self._sources.get(shape)
        if found is None:
            name = self.name + (f"_v{shape.vector}" if shape.vector > 1 else "") + (f"_b{shape.block}" if shape.block > 1 else "")
            digest = f"{self._digest} simt {shape.vector} {shape.block}" if self._digest else ""
            found = self._sources[shape] = KernelSource(name, digest, lambda: map_simt(name, *self._stages(), shape))
        return found


def emit(
    nest: Nest,
    places: Mapping[Value, Place],
    lo: Sequence[Dim],
    hi: Sequence[Dim],
    names: Names,
    shape: Shape,
    multiples: Mapping[str, int],
) -> list[Stmt]:
    """The statements that compute ``nest`` over its region with all threads of the block."""
    simple = SimtEmitter(nest, places, lo, hi, names, 1)
    axis = simple.simd_axis()
    if axis in simple.extents:
        return simple.emit_shared(axis)
    if axis is None or not _separable(nest, axis):
        return simple.emit_points()
    edges = piece_edges(nest, axis)
    if len(edges) >= MANY_OPERANDS:
        # Each access chooses its operand: loops for each would have too few elements for the threads (seen on an H200: 16
        # operands of 32 channels at 7x7, 128 images, bfloat16: 154 us with loops, where traffic takes 5).
        edges = ()
    out: list[Stmt] = []
    at = nest.axes.index(axis)
    for k in range(len(edges) + 1):
        begin = dim_max(lo[at], edges[k - 1]) if k else lo[at]
        end = dim_min(hi[at], edges[k]) if k < len(edges) else hi[at]
        part = replace(nest, body=_piece(nest.body, edges, k)) if edges else nest
        low, high = (*lo[:at], begin, *lo[at + 1 :]), (*hi[:at], end, *hi[at + 1 :])
        out += StencilEmitter(part, places, low, high, names, axis, shape.vector, shape.block, multiples).emit()
    return out


def piece_edges(nest: Nest, axis: str) -> tuple[Dim, ...]:
    """Where along ``axis`` an element-wise nest goes over from one operand of a concat to the next, in ascending order.

    The pieces between them need no choice: each gets a loop of its own. Empty where there is no concat, or several that differ.
    """
    if nest.combine is not None or nest.where:
        return ()
    trees = [s for s in subexpressions(nest.body) if isinstance(s, Select) and is_piece(s)]
    if not trees:
        return ()

    def edges(s: Scalar) -> list[Dim]:
        if not isinstance(s, Select) or not is_piece(s):
            return []
        assert isinstance(s.cond, Binary) and isinstance(s.cond.b, Index)
        return [*edges(s.a), s.cond.b.dim, *edges(s.b)]

    longest = max((edges(s) for s in trees), key=len)
    for s in trees:
        assert isinstance(s.cond, Binary) and isinstance(s.cond.a, Index) and isinstance(s.cond.b, Index)
        if s.cond.a.dim != sym(axis) or s.cond.b.dim not in longest:
            return ()
    return tuple(longest)


def _piece(s: Scalar, edges: Sequence[Dim], k: int) -> Scalar:
    """``s`` where the axis lies between ``edges[k - 1]`` and ``edges[k]``."""
    if isinstance(s, Select) and is_piece(s):
        assert isinstance(s.cond, Binary) and isinstance(s.cond.b, Index)
        return _piece(s.a if k <= edges.index(s.cond.b.dim) else s.b, edges, k)
    kids = children(s)
    return rebuild(s, [_piece(x, edges, k) for x in kids]) if kids else s


class SimtEmitter(NestEmitter):
    """Nests whose points go to threads one by one, and reductions that all threads share."""

    lane_block = 1 << 30  # each thread sums few terms already

    def emit_shared(self, axis: str) -> list[Stmt]:
        """Outputs one after another; the terms of each along the reduced ``axis`` are shared among the threads."""
        self.simd: str | None = axis
        return _threaded(self._reduction())

    def emit_points(self) -> list[Stmt]:
        """Each thread computes whole outputs."""
        self.simd = None
        self.lanes = False
        self.unrolled: str | None = None
        self.inside = ()
        if self.nest.combine is None:
            zero = self.store(Const(0, self.nest.out.dtype), {})
            body = self._guarded(self.nest.where, self.store(self.nest.body, {}), zero)
        else:
            body = self._points([{}], False)
        return flat(self.names, [(a, self.lo[a], self.hi[a], 1) for a in self.order], body)


def _threaded(body: Sequence[Stmt]) -> list[Stmt]:
    """``body`` with its simd loops shared among the threads."""
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Loop):
            s = replace(s, bind="block" if s.bind == "simd" else s.bind, body=tuple(_threaded(s.body)))
        elif isinstance(s, If):
            s = If(s.cond, tuple(_threaded(s.then)), tuple(_threaded(s.other)))
        out.append(s)
    return out


def _separable(nest: Nest, axis: str) -> bool:
    """Whether neighboring elements along ``axis`` can be computed side by side: nothing guards loads by it in other ways."""
    if any(axis in free_symbols(b.index) for b in nest.where):
        return False
    for s in (*conditional_loads(nest.body), *conditional_loads(nest.final)):
        if nest.combine is not None or not isinstance(s, Select) or not is_piece(s):
            return False
    return nest.combine is None or all(_is_one_loop(nest, b) for b in nest.where)


def _is_one_loop(nest: Nest, bound: Bound) -> bool:
    """Whether ``bound`` is on one reduced axis: a window, tested element by element, or a loop that it limits."""
    extents = dict(nest.reduce)
    reduced = free_symbols(bound.index) & extents.keys()
    if len(reduced) != 1:
        return not reduced
    (name,) = reduced
    extent = extents[name]
    split = linear(bound.index, name)
    return (isinstance(extent, int) and extent <= WINDOW) or (split is not None and split[0] > 0)


__all__ = ["Shape", "SimtEmitter", "flat", "map_simt", "may_be_wide", "vector_width", "wide_symbols"]
