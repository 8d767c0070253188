"""From a pattern of nodes to a kernel, once per structure; and from there to a candidate at this plan's sizes."""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnaccel_core.dfp.cost import (
    EFFICIENCY,
    NEAR,
    PRODUCT_EFFICIENCY,
    Model,
    Plan,
    filled,
    in_pieces,
    memory_seconds,
    model,
    plan,
)
from nnaccel_core.dfp.group import General, Generated, KernelCall, Pattern, Reason, generalize
from nnaccel_core.dfp.nests import lower
from nnaccel_core.dfp.regions import Tiling, propagate, publish, tiling
from nnaccel_core.dfp.simt import RECOMPUTE_GPU, Shape, Simt
from nnaccel_core.dfp.split import split_sums
from nnaccel_core.dfp.spmd import kernel_dims, map_spmd
from nnaccel_core.dfp.storage import RECOMPUTE, Staged, storage
from nnaccel_core.dfp.store import Structures, identity, plain
from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir import Env, Value, channels_last, evaluate, sym
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.ops import registry
from nnaccel_core.select.candidate import ByRows, Candidate
from nnaccel_core.select.schedule import Window

if TYPE_CHECKING:
    from nnaccel_core.api import Machine


@dataclass(frozen=True, eq=False)
class Built:
    """Everything about one structure that does not depend on sizes.

    Attributes:
        used: positions of the group's inputs that the kernel takes (scalar constants are inside it).
        symbols: the kernel's extents with the place each is read from.
        source: the kernel, made when first asked for.
        stages: the generalized group, its nests and its tile grid, for who wants to look.
        gpu: the kernels for thread blocks, where the machine is a GPU; ``source`` is then the plainest of them.
        rows: how it computes rows of an image, where tasks can be these: the number of their tile axis, and a function of
            the kernel's extents as text, which gives stride, lo and hi of the rows it reads of each input; () for all of them.
    """

    name: str
    model: Model
    used: tuple[int, ...]
    symbols: tuple[tuple[int, int], ...]
    source: KernelSource
    stages: Callable[[], tuple[General, Staged, Tiling]]
    gpu: Simt | None = None
    rows: tuple[int, str] | None = None

    @functools.cached_property
    def windows(self) -> Callable[..., tuple[tuple[int, ...], ...]]:
        """The function of ``rows``."""
        assert self.rows is not None
        return eval(self.rows[1])  # type: ignore[no-any-return]

    @property
    def kernel(self) -> Kernel:
        return self.source.kernel

    @property
    def general(self) -> General:
        return self.stages()[0]

    @property
    def staged(self) -> Staged:
        return self.stages()[1]

    @property
    def tiling(self) -> Tiling:
        return self.stages()[2]


#: The axis of an image's rows.
ROWS = 2

_built: dict[tuple[Any, ...], Built | Reason] = {}
_lock = threading.Lock()


def stage(general: General, recompute: int = RECOMPUTE) -> tuple[Staged, Tiling] | Reason:
    """Stages 1 to 3 of a generalized group: its nests after `storage`, and the tile grid."""
    group = general.group
    on_gpu = recompute == RECOMPUTE_GPU
    # Threads of one loop would compute what only some of them have a use for.
    staged = storage(lower(group), group.inputs, group.outputs, recompute, parts=not on_gpu, rounded=not on_gpu)
    if on_gpu:
        staged = split_sums(staged)
    grid = tiling(staged)
    if isinstance(grid, Reason):
        return grid
    published = publish(staged, grid.regions)
    if published is not staged:
        grid = Tiling(grid.axes, grid.extents, propagate(published, grid.axes))
    return published, grid


def kernel_name(p: Pattern) -> str:
    """A name for people and linkers: the ops, and a digest of the structure."""
    ops = "_".join(dict.fromkeys(n.op for n in p.nodes))[:40]
    return f"{ops}_{hashlib.blake2s(repr(p.key).encode(), digest_size=5).hexdigest()}"


def build(p: Pattern, constants: Mapping[Value, Any], machine: Machine, structures: Structures | None = None) -> Built | Reason:
    """The kernel of ``p``; remembered by structure, so that new sizes cost no lowering."""
    key = (p.key, machine.kind, machine.simd_bytes)
    with _lock:
        found = _built.get(key)
    if found is None:
        digest = identity(p) if structures is not None else ""
        record = structures.get(digest) if structures is not None and digest else None
        found = _read(p, constants, machine, digest, record) if record is not None else _build(p, constants, machine, digest)
        if structures is not None and digest and record is None:
            structures.add(digest, _record(found))
        with _lock:
            _built[key] = found
    return found


def _stages(p: Pattern, constants: Mapping[Value, Any], machine: Machine) -> tuple[General, Staged, Tiling] | Reason:
    try:
        general = generalize(p, constants)
    except NnaccelError as e:
        return Reason(f"cannot be generalized: {e}", p.nodes)
    staged = stage(general, RECOMPUTE_GPU if machine.kind == "cuda" else RECOMPUTE)
    if isinstance(staged, Reason):
        return Reason(staged.text, p.nodes)
    return general, *staged


def _build(p: Pattern, constants: Mapping[Value, Any], machine: Machine, digest: str) -> Built | Reason:
    stages = _stages(p, constants, machine)
    if isinstance(stages, Reason):
        return stages
    general, work, grid = stages
    where = dict(general.sources)
    symbols = tuple(where[d] for d in kernel_dims(work, grid) if d[0] != "t")
    position = {v: i for i, v in enumerate(p.inputs)}
    used = tuple(position[v] for v in p.inputs if v not in p.constants)
    product = any(registry.lookup(n.op).limit_of(n) in ("compute", "params") for n in p.nodes)
    on_gpu = machine.kind == "cuda"
    cost = model(work, grid, machine.simd_bytes, PRODUCT_EFFICIENCY if product else EFFICIENCY, on_gpu)
    name = kernel_name(p)
    if on_gpu:
        gpu = Simt.of(name, digest, kernel_dims(work, grid), work, grid)
        return Built(name, cost, used, symbols, gpu.source(Shape()), lambda: stages, gpu)
    rows = image_rows(work, grid)
    source = KernelSource(name, digest, lambda: map_spmd(name, work, grid, rows=rows and rows[0]))
    return Built(name, cost, used, symbols, source, lambda: stages, rows=rows)


def image_rows(staged: Staged, grid: Tiling) -> tuple[int, str] | None:
    """`Built.rows` of a kernel with one result: an image (N, C, H, W), channels last in memory, whose tiles divide its rows."""
    if len(staged.outputs) != 1 or staged.outputs[0].type.layout != channels_last(4) or ROWS not in grid.axes:
        return None
    at = grid.axes.index(ROWS)
    if grid.axes[:at] not in ((), (0,)):
        return None
    windows = []
    for v in staged.inputs:
        region = grid.regions.get(v)
        span = region[ROWS] if region is not None and len(region) == 4 else None
        windows.append(f"({span.scale},{span.lo},{span.hi})" if span is not None and span.tile == at else "()")
    names = [d for d in kernel_dims(staged, grid) if d[0] != "t"]
    return at, f"lambda {', '.join(names)}: ({''.join(w + ',' for w in windows)})"


def _record(built: Built | Reason) -> dict[str, Any]:
    """``built`` for the disk: all but the kernel."""
    if isinstance(built, Reason):
        return {"refused": built.text}
    m = built.model
    record = {
        "used": built.used,
        "symbols": built.symbols,
        "model": [m.extents_text, m.tile_text, m.axes, m.steps, m.efficiency],
    }
    if built.rows is not None:
        record["rows"] = built.rows
    return record | ({"gpu": [built.gpu.width, built.gpu.multiples]} if built.gpu is not None else {})


def _read(
    p: Pattern, constants: Mapping[Value, Any], machine: Machine, digest: str, record: Mapping[str, Any]
) -> Built | Reason:
    """What `_record` kept."""
    if "refused" in record:
        return Reason(record["refused"], p.nodes)

    @functools.lru_cache(maxsize=1)
    def stages() -> tuple[General, Staged, Tiling]:
        found = _stages(p, constants, machine)
        assert not isinstance(found, Reason)  # the same code accepted it before
        return found

    extents, tile, axes, steps, efficiency = record["model"]
    cost = Model(extents, tile, axes, tuple(steps), efficiency)
    name = kernel_name(p)
    if machine.kind == "cuda":
        width, multiples = record["gpu"]
        gpu = Simt(name, digest, width, tuple(multiples), lambda: stages()[1:])
        return Built(name, cost, tuple(record["used"]), plain(record["symbols"]), gpu.source(Shape()), stages, gpu)
    rows = record.get("rows")
    source = KernelSource(name, digest, lambda: map_spmd(name, *stages()[1:], rows=rows and rows[0]))
    return Built(name, cost, tuple(record["used"]), plain(record["symbols"]), source, stages, rows=rows and (rows[0], rows[1]))


def binding(p: Pattern, built: Built, env: Env) -> tuple[int, ...]:
    """The values of the kernel's extents in this graph at ``env``."""
    out = []
    for i, axis in built.symbols:
        d = p.inputs[i].shape[axis] if i >= 0 else sym(p.symbols[axis])
        out.append(d if isinstance(d, int) else evaluate(d, env))
    return tuple(out)


@dataclass(frozen=True)
class Sized:
    """A group with its kernel and the plan at this call's sizes."""

    pattern: Pattern
    built: Built
    sizes: tuple[int, ...]
    plan: Plan
    machine: Machine


def plan_group(
    p: Pattern, constants: Mapping[Value, Any], env: Env, machine: Machine, structures: Structures | None = None
) -> Sized | Reason:
    """How ``p`` runs as one kernel at the sizes in ``env``, or why it cannot."""
    built = build(p, constants, machine, structures)
    if isinstance(built, Reason):
        return built
    sizes = binding(p, built, env)
    found = plan(built.model, sizes, machine)
    return Sized(p, built, sizes, found, machine) if math.isfinite(found.seconds) else Reason("needs more shared memory", p.nodes)


def candidate(s: Sized, group: str) -> Candidate:
    """The candidate that runs a planned group as one generated kernel."""
    p, built, chosen = s.pattern, s.built, s.plan
    inputs = tuple(p.inputs[i] for i in built.used)
    dims = (*s.sizes, *chosen.tiles, *([0] if built.rows is not None else []))
    source = built.source if built.gpu is None else built.gpu.source(built.gpu.shape(dims, chosen.block))
    call = KernelCall(source, (*inputs, *p.outputs), dims, chosen.tasks, chosen.scratch, chosen.threads)
    shape = "x".join(map(str, chosen.tiles))
    ops = " + ".join(n.op for n in p.nodes)
    return Candidate(
        nodes=p.nodes,
        inputs=inputs,
        outputs=p.outputs,
        seconds=chosen.seconds,
        reason=f"generated {ops}, {chosen.tasks} tasks of {shape or 'everything'}",
        impl=Generated((call,)),
        proposer="core",
        group=group,
        by_rows=_by_rows(s, call),
    )


def _by_rows(s: Sized, call: KernelCall) -> ByRows | None:
    """The kernel with some rows of an image for a tile."""
    if s.built.rows is None:
        return None
    at, model, machine = s.built.rows[0], s.built.model, s.machine
    known = model.extents(*s.sizes)
    extents, nbytes = known[: model.axes], known[model.axes :]
    if 0 in extents:
        return None
    whole = tuple(1 if k <= at else e for k, e in enumerate(extents))
    near = in_pieces(model, s.sizes, extents, [whole], machine)
    tiles = near[0] if near else whole
    _, work, *_ = model.tile(*s.sizes, *tiles)
    rows = math.prod(extents[: at + 1])
    pieces = math.prod(-(-e // t) for e, t in zip(extents[at + 1 :], tiles[at + 1 :], strict=True))
    windows = tuple(Window(*w) if w else None for w in s.built.windows(*s.sizes))
    compute = rows * pieces * work / (machine.flops * model.efficiency * filled(model, extents, machine))
    if near:
        compute *= NEAR

    def seconds(kept: Collection[Value]) -> float:
        moved = [n for v, n in zip(call.args, nbytes, strict=True) if v not in kept]
        return max(compute, memory_seconds(moved, machine))

    small = sum(n for n, w in zip(nbytes, windows, strict=False) if w is None)

    def impl(most: int) -> Generated:
        scratch = model.tile(*s.sizes, *tiles[:at], most, *tiles[at + 1 :])[0]
        dims = (*s.sizes, *tiles, 0)
        return Generated((KernelCall(call.source, call.args, dims, rows * pieces, scratch, rows=len(s.sizes) + at),))

    return ByRows(windows, pieces, small, seconds, impl)


__all__ = ["Built", "Sized", "binding", "build", "candidate", "plan_group", "stage"]
