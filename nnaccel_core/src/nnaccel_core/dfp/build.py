"""From a pattern of nodes to a kernel, once per structure; and from there to a candidate at this plan's sizes."""

from __future__ import annotations

import hashlib
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnaccel_core.dfp.cost import EFFICIENCY, PRODUCT_EFFICIENCY, Model, Plan, model, plan
from nnaccel_core.dfp.group import General, Generated, KernelCall, Pattern, Reason, generalize
from nnaccel_core.dfp.nests import lower
from nnaccel_core.dfp.regions import Tiling, propagate, publish, tiling
from nnaccel_core.dfp.spmd import kernel_dims, map_spmd
from nnaccel_core.dfp.storage import Staged, storage
from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir import Env, Value, evaluate, sym
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.ops import registry
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_core.api import Machine


@dataclass(frozen=True, eq=False)
class Built:
    """Everything about one structure that does not depend on sizes.

    Attributes:
        used: positions of the group's inputs that the kernel takes (scalar constants are inside it).
        symbols: the kernel's extents with the place each is read from.
    """

    name: str
    general: General
    staged: Staged
    tiling: Tiling
    model: Model
    used: tuple[int, ...]
    symbols: tuple[tuple[int, int], ...]

    @property
    def kernel(self) -> Kernel:
        """The kernel; mapped when first asked for."""
        with _lock:
            found = _kernels.get(self)
            if found is None:
                found = _kernels[self] = map_spmd(self.name, self.staged, self.tiling)
            return found


_kernels: weakref.WeakKeyDictionary[Built, Kernel] = weakref.WeakKeyDictionary()
_built: dict[tuple[Any, ...], Built | Reason] = {}
_lock = threading.Lock()


def stage(general: General) -> tuple[Staged, Tiling] | Reason:
    """Stages 1 to 3 of a generalized group: its nests after `storage`, and the tile grid."""
    group = general.group
    staged = storage(lower(group), group.inputs, group.outputs)
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


def build(p: Pattern, constants: Mapping[Value, Any], machine: Machine) -> Built | Reason:
    """The kernel of ``p``; remembered by structure, so that new sizes cost no lowering."""
    key = (p.key, machine.simd_bytes)
    with _lock:
        found = _built.get(key)
    if found is None:
        found = _build(p, constants, machine)
        with _lock:
            _built[key] = found
    return found


def _build(p: Pattern, constants: Mapping[Value, Any], machine: Machine) -> Built | Reason:
    try:
        general = generalize(p, constants)
    except NnaccelError as e:
        return Reason(f"cannot be generalized: {e}", p.nodes)
    staged = stage(general)
    if isinstance(staged, Reason):
        return Reason(staged.text, p.nodes)
    work, grid = staged
    where = dict(general.sources)
    symbols = tuple(where[d] for d in kernel_dims(work, grid) if d[0] != "t")
    position = {v: i for i, v in enumerate(p.inputs)}
    used = tuple(position[v] for v in p.inputs if v not in p.constants)
    product = any(registry.lookup(n.op).limit_of(n) in ("compute", "params") for n in p.nodes)
    cost = model(work, grid, machine.simd_bytes, PRODUCT_EFFICIENCY if product else EFFICIENCY)
    return Built(kernel_name(p), general, work, grid, cost, used, symbols)


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


def plan_group(p: Pattern, constants: Mapping[Value, Any], env: Env, machine: Machine) -> Sized | Reason:
    """How ``p`` runs as one kernel at the sizes in ``env``, or why it cannot."""
    built = build(p, constants, machine)
    if isinstance(built, Reason):
        return built
    sizes = binding(p, built, env)
    return Sized(p, built, sizes, plan(built.model, sizes, machine))


def candidate(s: Sized, group: str) -> Candidate:
    """The candidate that runs a planned group as one generated kernel."""
    p, built, chosen = s.pattern, s.built, s.plan
    inputs = tuple(p.inputs[i] for i in built.used)
    call = KernelCall(lambda: built.kernel, (*inputs, *p.outputs), (*s.sizes, *chosen.tiles), chosen.tasks, chosen.scratch)
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
    )


__all__ = ["Built", "Sized", "binding", "build", "candidate", "plan_group", "stage"]
