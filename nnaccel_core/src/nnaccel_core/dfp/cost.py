"""The pure function `plan`: tile sizes of a group at the sizes of this call, and what it will cost.

Analytic: the time of a kernel is the larger of its arithmetic and its traffic, plus a constant for launch and
barrier. Bytes of a value that fits the last-level cache beside its neighbors come from there, not from memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nnaccel_core.dfp.nests import is_piece, loads_of, scalar_cost, subexpressions
from nnaccel_core.dfp.regions import Region, Tiling, physical_axes
from nnaccel_core.dfp.scalars import step_along
from nnaccel_core.dfp.spmd import kernel_dims, scratch_sizes
from nnaccel_core.dfp.storage import Staged
from nnaccel_core.dfp.window import WINDOW
from nnaccel_core.ir import Dim, Value, ceil_div, dim_max, dim_min, product, sym
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.loopir.grammar import Binary, Nest, Select

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Seconds to start a kernel's tasks and wait for the last one.
LAUNCH = 3e-6
#: Seconds of loop set-up per task.
TASK = 2e-7
#: Part of the peak that generated loops reach: of stencils and the like, and of products, which are not blocked for
#: the caches.
EFFICIENCY, PRODUCT_EFFICIENCY = 0.45, 0.25
#: How much longer a term takes for each of its loads that no choice of SIMD axis makes contiguous.
STRIDED = 8
#: Times faster than memory: the last-level cache, and the level-2 caches.
L3_SPEED, L2_SPEED = 2.0, 4.0
#: Where only pieces of the contiguous axis let the rows that a window slides over stay in the level-1 cache: how many of the
#: smallest pieces are tried, part of the arithmetic's time that is left, and how much longer it takes to read them from afar.
PIECES, NEAR, IN_PIECES = (2, 1), 0.8, 1.15
#: Part of a kernel's time lost when each core gets a single task: cores are never equally fast.
IMBALANCE = 0.25
#: Tile candidates looked at per plan, and tasks wanted per core.
CANDIDATES, TASKS_PER_CORE = 16, 3
#: Plans remembered per structure; a network with ever new sizes starts over.
REMEMBERED = 256


@dataclass(frozen=True)
class Plan:
    """How a group runs at given sizes.

    Attributes:
        tiles: tile size per tiled axis; tasks: tiles in all; scratch: bytes of tile memory per thread.
        bytes: moved from or to memory or the last-level cache; flops: arithmetic, repeated work included.
        threads, block: on GPUs, the threads of a task, and neighboring outputs that each computes at a time.
    """

    tiles: tuple[int, ...]
    tasks: int
    scratch: int
    bytes: int
    flops: int
    seconds: float
    threads: int = 0
    block: int = 1


@dataclass(frozen=True, eq=False)
class Model:
    """A group's cost as compiled functions of its dims: built once per structure.

    Attributes:
        extents_text: ``f(*dims)`` -> tiled extents and bytes of each argument.
        tile_text: ``f(*dims, *tiles)`` -> of one task: scratch bytes, operations, streamed bytes, bytes loaded by reductions, and
            how many threads find work in it.
        steps: smallest tile per tiled axis (a vector for the contiguous axis).
        efficiency: part of the peak that the loops reach; plans: those made so far.
    """

    extents_text: str
    tile_text: str
    axes: int
    steps: tuple[int, ...]
    efficiency: float
    plans: dict[tuple[tuple[int, ...], Machine], Plan] = field(default_factory=dict)

    @functools.cached_property
    def extents(self) -> Callable[..., tuple[int, ...]]:
        return eval(self.extents_text)  # type: ignore[no-any-return]

    @functools.cached_property
    def tile(self) -> Callable[..., tuple[int, int, int, int, int]]:
        return eval(self.tile_text)  # type: ignore[no-any-return]


#: Bytes of neighboring elements that tiles of a GPU keep together: less wastes parts of what memory delivers at a time.
CHUNK = 128


def function_text(names: Sequence[str], dims: Sequence[Dim]) -> str:
    """A function of the symbols ``names`` that evaluates ``dims``; a dim prints as the Python expression it means."""
    return f"lambda {', '.join(names)}: ({''.join(f'{d},' for d in dims)})"


def _sizes(shape: Sequence[Dim], region: Region) -> list[Dim]:
    return [d if s is None else dim_min(s.size(sym(f"t{s.tile}")), d) for d, s in zip(shape, region, strict=True)]


def strided_loads(nest: Nest) -> int:
    """How many loads of a nest's terms are strided along the best SIMD axis."""
    axes = [a for a, d in zip(nest.axes, nest.out.shape, strict=True) if d != 1]
    axes += [r for r, e in nest.reduce if not (isinstance(e, int) and e <= WINDOW)]
    loads = list(loads_of(nest.body))
    counts = []
    for axis in axes:
        steps = [step_along(ld.index, ld.buffer.type.strides(), axis) for ld in loads if isinstance(ld.buffer, Value)]
        counts.append(sum(step not in (0, 1) for step in steps))
    return min(counts, default=0)


def _work(nest: Nest, points: Dim, gpu: bool = False) -> Dim:
    """Operations of a nest, counting a multiply-add as two and strided loads as the operations they delay."""
    slow = 1 + STRIDED * strided_loads(nest)
    if nest.combine is None:
        # On a GPU the operand of a concat is chosen once for all that a thread computes.
        chosen = sum(isinstance(s, Select) and is_piece(s) for s in subexpressions(nest.body)) if gpu else 0
        return points * 2 * max(1, scalar_cost(nest.body) - chosen) * slow
    per_term = (2 + 2 * scalar_cost(nest.body)) * slow
    if nest.combine == "sum" and isinstance(nest.body, Binary) and nest.body.op == "mul":
        per_term -= 2 * slow
    return points * (product(e for _, e in nest.reduce) * per_term + 2 * scalar_cost(nest.final))


def _threads(staged: Staged, tiling: Tiling, lanes: int) -> Dim:
    """How many threads of a block a tile gives work to, ``lanes`` elements each: of the nest that has most."""
    from nnaccel_core.dfp.simt_bundle import bundles

    most: Dim = 1
    for together in bundles(staged, tiling.regions):
        nests = [staged.nests[k] for k in together]
        for nest in [n for n in nests if n.combine is not None] or nests:  # element-wise results ride along with sums
            points = product(_sizes(nest.out.shape, tiling.regions[nest.out]))
            loads = [(ld.index, ld.buffer.type.strides()) for ld in loads_of(nest.body) if isinstance(ld.buffer, Value)]
            along = {a for a in nest.axes if any(step_along(*ld, a) == 1 for ld in loads)}
            for r, extent in nest.reduce:
                if not along and any(step_along(*ld, r) == 1 for ld in loads):
                    points = points * extent  # threads share the terms of each sum
            most = dim_max(most, ceil_div(points, lanes))
    return most


def model(staged: Staged, tiling: Tiling, simd_bytes: int, efficiency: float = EFFICIENCY, gpu: bool = False) -> Model:
    """The cost model of a kernel that reaches ``efficiency`` of the machine's peak."""
    arguments = (*staged.inputs, *staged.outputs)
    sizes: list[Dim] = [*tiling.extents, *(v.type.nbytes for v in arguments)]
    scratch: Dim = 0
    for v, shape in scratch_sizes(staged, tiling.regions):
        scratch = scratch + ceil_div(product(shape) * ITEMSIZE[v.dtype], 64) * 64
    work: Dim = 0
    for n in staged.nests:
        work = work + _work(n, product(_sizes(n.out.shape, tiling.regions[n.out])), gpu)
    loaded: Dim = 0
    for n in staged.nests:
        if n.combine is not None:
            bytes_each = sum(ITEMSIZE[ld.buffer.dtype] for ld in loads_of(n.body) if isinstance(ld.buffer, Value))
            points = product(_sizes(n.out.shape, tiling.regions[n.out])) * product(e for _, e in n.reduce)
            loaded = loaded + points * bytes_each
    streamed: Dim = 0
    for v in arguments:
        region = tiling.regions.get(v)
        if region is not None:
            streamed = streamed + product(_sizes(v.shape, region)) * v.type.itemsize
    dims = kernel_dims(staged, tiling)
    free = tuple(d for d in dims if d[0] != "t")
    root = staged.outputs[-1]
    lanes = max(1, simd_bytes // ITEMSIZE[root.dtype])
    whole = CHUNK if gpu else 4 * simd_bytes
    steps = tuple(max(lanes, whole // ITEMSIZE[root.dtype]) if a in physical_axes(root.type)[-1:] else 1 for a in tiling.axes)
    shared = _threads(staged, tiling, lanes) if gpu else 1
    of_tile = function_text(dims, [scratch, work, streamed, loaded, shared])
    return Model(function_text(free, sizes), of_tile, len(tiling.axes), steps, efficiency)


def tile_candidates(extents: Sequence[int], steps: Sequence[int], enough: int) -> list[tuple[int, ...]]:
    """Tile sizes from the whole output down: the outermost axis is halved first, then the next.

    An axis is cut to its smallest tile before the next one is touched, so that tiles stay as contiguous as they can.
    At most `CANDIDATES` are kept, the finest always.
    """
    now = [max(1, e) for e in extents]
    found = [tuple(now)]
    for k, step in enumerate(steps):
        # Vectors of the contiguous axis are cut only when nothing else gives enough tasks.
        if step > 1 and _tasks(extents, now) >= enough:
            continue
        while now[k] > step:
            half = -(-now[k] // 2)
            now[k] = -(-half // step) * step
            found.append(tuple(now))
            if now[k] == step or half == now[k] == 1:
                break
    if len(found) > CANDIDATES:
        stride = len(found) / CANDIDATES
        found = [found[len(found) - 1 - int(i * stride)] for i in range(CANDIDATES)]
    return found


def _tasks(extents: Sequence[int], tiles: Sequence[int]) -> int:
    n = 1
    for e, t in zip(extents, tiles, strict=True):
        n *= -(-e // t)
    return n


def plan_simt(m: Model, dims: Sequence[int], machine: Machine) -> Plan:
    """`plan` for GPUs (`nnaccel_core.dfp.simt_plan`)."""
    from nnaccel_core.dfp import simt_plan

    return simt_plan.plan(m, dims, machine)


def plan(m: Model, dims: Sequence[int], machine: Machine) -> Plan:
    """The best tile sizes of a group whose free symbols have the values ``dims``, and their cost."""
    key = (tuple(dims), machine)
    found = m.plans.get(key)
    if found is None:
        if len(m.plans) >= REMEMBERED:
            m.plans.clear()
        found = m.plans[key] = (plan_simt if machine.kind == "cuda" else _plan)(m, dims, machine)
    return found


def _plan(m: Model, dims: Sequence[int], machine: Machine) -> Plan:
    known = m.extents(*dims)
    extents, sizes = known[: m.axes], known[m.axes :]
    moved = sum(sizes)
    slow = memory_seconds(sizes, machine)
    if 0 in extents:
        return Plan(tuple(1 for _ in extents), 0, 0, 0, 0, 0.0)
    per_core = machine.flops / machine.cores * m.efficiency * filled(m, extents, machine)
    best: Plan | None = None
    found = tile_candidates(extents, m.steps, TASKS_PER_CORE * machine.cores)
    near = dict.fromkeys(in_pieces(m, dims, extents, found, machine))
    for tiles in dict.fromkeys([*found, *near]):
        scratch, work, streamed, loaded, _ = m.tile(*dims, *tiles)
        tasks = _tasks(extents, tiles)
        waves = -(-tasks // machine.cores)
        compute = waves * (work / per_core * (NEAR if tiles in near else 1.0) + TASK)
        again = max(0, streamed * tasks - moved)
        # Tasks that each stream more than the last-level cache holds find nothing of what the others read.
        traffic = slow + again / (machine.bandwidth * (L3_SPEED if streamed <= machine.l3 // 2 else 1))
        if scratch and scratch + streamed > machine.l2 // 2:
            # Intermediates leave the level-2 cache before they are read back.
            traffic += 2 * scratch * tasks / (machine.bandwidth * L3_SPEED)
        if streamed > machine.l2 and loaded > streamed:
            # Sums that read a tile several times over (a window's weights: once for each of its elements) find it gone each time.
            traffic += (loaded - streamed) * tasks / machine.bandwidth
        if m.steps and m.steps[-1] > 1 and tiles[-1] < extents[-1]:
            # Pieces of rows, half of them written by another core: no prefetcher follows.
            traffic = IN_PIECES * max(traffic, moved / (machine.bandwidth * L3_SPEED))
        # One core alone gets about half of the memory's bandwidth.
        traffic *= max(1.0, min(machine.cores, 2) / min(tasks, 2))
        # More than about twice the wanted tasks even nothing out any further.
        uneven = IMBALANCE * max(machine.cores / tasks, 0.5 / TASKS_PER_CORE)
        seconds = max(compute, traffic) * (1 + uneven) + LAUNCH
        if best is None or seconds < best.seconds:
            best = Plan(tiles, tasks, scratch, moved + again, work * tasks, seconds)
    assert best is not None
    return best


def _slides_far(m: Model, dims: Sequence[int], tiles: Sequence[int], machine: Machine) -> bool:
    """Whether a window slides over more, within one row of a tile's results, than the level-1 cache holds."""
    row = (t if step > 1 else 1 for t, step in zip(tiles, m.steps, strict=True))
    *_, streamed, loaded, _ = m.tile(*dims, *row)
    return loaded > streamed > machine.l1


def in_pieces(
    m: Model, dims: Sequence[int], extents: Sequence[int], tiles: Sequence[tuple[int, ...]], machine: Machine
) -> list[tuple[int, ...]]:
    """``tiles`` with their contiguous axis cut, where only then the rows that a window slides over stay in the level-1 cache."""
    if not _slides_far(m, dims, extents, machine):
        return []
    found: list[tuple[int, ...]] = []
    for pieces in PIECES:
        most = tuple(pieces * step if step > 1 else e for e, step in zip(extents, m.steps, strict=True))
        if not _slides_far(m, dims, tuple(map(min, most, extents)), machine):
            found += [tuple(map(min, most, t)) for t in tiles]
    return found


def filled(m: Model, extents: Sequence[int], machine: Machine) -> float:
    """Part of the vectors' lanes that has work, along the contiguous axis."""
    lanes = machine.simd_bytes // 4
    return min((e / (-(-e // lanes) * lanes) for e, step in zip(extents, m.steps, strict=True) if step > 1), default=1.0)


def memory_seconds(sizes: Sequence[int], machine: Machine) -> float:
    """Time to read every input and write every output once, from the level of cache they are likely in."""
    total = sum(sizes)
    if total <= machine.l2 * machine.cores // 2:
        return total / (machine.bandwidth * L2_SPEED)
    if total <= machine.l3 // 2:
        return total / (machine.bandwidth * L3_SPEED)
    return total / machine.bandwidth
