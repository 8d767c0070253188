"""Stage 4, `map_spmd`: a staged and tiled group as one kernel of parallel tasks with SIMD inner loops.

A task runs the nests in order, each over the region its tile needs. The contiguous axis is the SIMD axis; of the
axis next to it, a block of outputs is computed at once, so that weights and overlapping inputs are loaded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nnaccel_core.dfp.emit import NestEmitter, Place
from nnaccel_core.dfp.nests import subexpressions
from nnaccel_core.dfp.regions import Region, Tiling
from nnaccel_core.dfp.scalars import Names
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.ir import Dim, Value, ceil_div, dim_min, free_symbols, sym
from nnaccel_core.loopir.grammar import Alloc, Buffer, Index, Kernel, Let, Load, Nest, Stmt


def _tile_sizes(value: Value, region: Region) -> tuple[Dim, ...]:
    return tuple(d if s is None else s.size(sym(f"t{s.tile}")) for d, s in zip(value.shape, region, strict=True))


def _tile_buffer(name: str, value: Value, region: Region) -> Buffer:
    """Scratch for ``value``'s region, in the value's own physical order."""
    sizes = _tile_sizes(value, region)
    return Buffer(name, tuple(sizes[a] for a in value.type.layout), value.dtype, "tile")


def _bounds(k: int, value: Value, region: Region, lets: list[Stmt]) -> tuple[tuple[Dim, ...], tuple[Dim, ...]]:
    """Begin and end of a region per axis; those that need computing become lets."""
    lo: list[Dim] = []
    hi: list[Dim] = []
    for a, (extent, span) in enumerate(zip(value.shape, region, strict=True)):
        if span is None:
            lo.append(0)
            hi.append(extent)
            continue
        begin, end = span.begin(sym(f"o{span.tile}")), span.end(sym(f"e{span.tile}"), extent)
        for text, dim, side in ((f"l{k}_{a}", begin, lo), (f"h{k}_{a}", end, hi)):
            if span.is_tile:
                side.append(dim)
            else:
                lets.append(Let(text, dim))
                side.append(sym(text))
    return tuple(lo), tuple(hi)


#: The dim of a kernel that says where its first row is.
FIRST = "f0"


@dataclass(frozen=True)
class Work:
    """A nest and the region ``[lo, hi)`` of its output that a tile needs."""

    nest: Nest
    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]


#: Statements of some nests that run together, given where the values lie.
Emit = Callable[[Sequence[Work], Mapping[Value, Place], Names], list[Stmt]]


def map_nests(
    name: str, staged: Staged, tiling: Tiling, emit: Emit, bundles: Sequence[Sequence[int]] = (), rows: int | None = None
) -> Kernel:
    """The kernel of a staged group: a task runs ``emit``'s statements of each nest over the region that its tile needs.

    ``bundles``: the numbers of nests to emit together, in order of execution; one by one where not given. ``rows``: a tile axis
    whose tiles begin at `FIRST`, the last of the kernel's dims then, instead of at 0.
    """
    buffers: dict[Value, Place] = {}
    arguments: list[Buffer] = []
    for v in (*staged.inputs, *staged.outputs):
        buffer = Buffer(f"b{len(arguments)}", v.shape, v.dtype, "global", v.type.strides())
        arguments.append(buffer)
        buffers[v] = Place(buffer, (0,) * v.type.rank)

    body: list[Stmt] = []
    for k, extent in enumerate(tiling.extents):
        body.append(Let(f"o{k}", sym(f"p{k}") * sym(f"t{k}") + (sym(FIRST) if k == rows else 0)))
        body.append(Let(f"e{k}", dim_min(sym(f"o{k}") + sym(f"t{k}"), extent)))
    names = Names()
    for bundle in bundles or [(k,) for k in range(len(staged.nests))]:
        works = []
        for k in bundle:
            nest = staged.nests[k]
            region = tiling.regions[nest.out]
            lo, hi = _bounds(k, nest.out, region, body)
            if nest.out not in buffers:
                buffer = _tile_buffer(f"s{k}", nest.out, region)
                body.append(Alloc(buffer))
                origin = tuple(0 if s is None else begin for s, begin in zip(region, lo, strict=True))
                buffers[nest.out] = Place(buffer, origin, nest.out.type.layout)
            works.append(Work(nest, lo, hi))
        body += emit(works, buffers, names)

    tasks = tuple((f"p{k}", ceil_div(extent, sym(f"t{k}"))) for k, extent in enumerate(tiling.extents))
    dims = kernel_dims(staged, tiling) if rows is None else (*kernel_dims(staged, tiling), FIRST)
    return Kernel(name, tuple(arguments), dims, tasks, tuple(body), len(staged.outputs))


def map_spmd(name: str, staged: Staged, tiling: Tiling, block: int = 7, rows: int | None = None) -> Kernel:
    """The kernel of a staged group.

    Args:
        block: outputs computed at once along the axis next to the contiguous one.
        rows: the tile axis of an image's rows, of which a caller may want those from `FIRST` on only.
    """

    def emit(works: Sequence[Work], buffers: Mapping[Value, Place], names: Names) -> list[Stmt]:
        return [s for w in works for s in NestEmitter(w.nest, buffers, w.lo, w.hi, names, block).emit()]

    return map_nests(name, staged, tiling, emit, rows=rows)


def kernel_dims(staged: Staged, tiling: Tiling) -> tuple[str, ...]:
    """The kernel's integer arguments: symbols of all extents, in order of number, then the tile sizes."""
    used: set[str] = set()
    for v in (*staged.inputs, *staged.outputs):
        for d in v.shape:
            used |= free_symbols(d)
    for nest in staged.nests:
        for d in (*nest.out.shape, *(e for _, e in nest.reduce), *(b.extent for b in nest.where)):
            used |= free_symbols(d)
        used |= _index_symbols(nest)
    extents = sorted(used, key=lambda s: (s[0], int(s[1:])))
    return (*extents, *(f"t{k}" for k in range(len(tiling.axes))))


def _index_symbols(nest: Nest) -> set[str]:
    found: set[str] = set()
    for s in (*subexpressions(nest.body), *subexpressions(nest.final)):
        if isinstance(s, Load):
            for d in s.index:
                found |= free_symbols(d)
        elif isinstance(s, Index):
            found |= free_symbols(s.dim)
    for b in nest.where:
        found |= free_symbols(b.index)
    return found - set(nest.axes) - {n for n, _ in nest.reduce}


def scratch_sizes(staged: Staged, regions: Mapping[Value, Region]) -> list[tuple[Value, tuple[Dim, ...]]]:
    """Tile values and their sizes per axis."""
    tiles = [n.out for n in staged.nests if n.out not in staged.outputs]
    return [(v, _tile_sizes(v, regions[v])) for v in tiles]


__all__ = ["FIRST", "Work", "kernel_dims", "map_spmd", "scratch_sizes"]
