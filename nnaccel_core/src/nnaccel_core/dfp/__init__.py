"""Depth-first parallelism: chains of memory-bound layers as one kernel that keeps its intermediates in cache.

Stages, each a pure function to call in a REPL: `pattern` and `generalize` (a group on symbolic extents), `lower` (naive
loop nests), `storage` (where intermediates live), `tiling` (the tile grid), `map_spmd` (the kernel), `plan` (tile sizes
and cost), around which `merge` finds the groups.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from nnaccel_core import debug
from nnaccel_core.dfp.build import candidate
from nnaccel_core.dfp.group import Generated, Group, KernelCall, Reason, generalize, pattern
from nnaccel_core.dfp.merge import Context, merge, variants
from nnaccel_core.dfp.store import Structures
from nnaccel_core.ir import Env, Graph, Node
from nnaccel_core.ops import registry
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_core.api import Machine
    from nnaccel_core.cache import DiskCache
    from nnaccel_core.options import Options

__all__ = ["Generated", "Group", "KernelCall", "Reason", "generalize", "pattern", "propose"]


def propose(
    graph: Graph,
    env: Env,
    machine: Machine,
    options: Options,
    printer_name: str,
    cache: DiskCache | None = None,
    only: Collection[frozenset[Node]] | None = None,
) -> list[Candidate]:
    """The core's own candidates for ``graph`` at the sizes in ``env``.

    One for every node whose op has a loop nest (``group="layer"``) and, with ``options.dfp``, one for every depth-first
    group that `merge` finds (``group="dfp"``). A node that no kernel can be generated for has no candidate; the
    reasons are logged at debug level 5.

    Args:
        printer_name: the printer that will print the kernels, for the log.
        cache: where what is known of each kernel's structure is kept between processes; None keeps nothing.
        only: the sets of nodes to propose for, instead of looking for groups.
    """
    structures = Structures(cache, graph, machine) if cache is not None else None
    ctx = Context(graph, env, machine, structures, options.live)
    found: list[Candidate] = []

    def offer(nodes: tuple[Node, ...], group: str) -> None:
        planned = ctx.planned(nodes)
        if isinstance(planned, Reason):
            ctx.refusals.append(planned)
        else:
            found.append(candidate(planned, group))

    for wanted in only or ():
        offer(ctx.ordered(wanted), "dfp" if len(wanted) > 1 else "layer")
    if only is not None:
        return found
    for node in graph.nodes:
        if registry.lookup(node.op, node.where()).loop is not None:
            offer((node,), "layer")
    if options.dfp:
        for group in merge(ctx):
            offer(group, "dfp")
            for part in variants(ctx, group):
                offer(part, "dfp")
    if structures is not None:
        structures.save()
    for reason in ctx.refusals:
        debug.log(debug.NESTS, f"dfp ({printer_name}): refused: {reason}")
    return found
