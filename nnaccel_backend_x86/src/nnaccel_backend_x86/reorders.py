"""Copies of images between (N, C, H, W) and channels-last memory: ``native/reorder.cpp``."""

from __future__ import annotations

import math
from collections.abc import Collection

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, Value, channels_last, identity
from nnaccel_core.select.candidate import ByRows, Candidate
from nnaccel_core.select.schedule import Window


def reorders(scope: Scope, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
    """Candidates for all such copies; with ``only``, for those in one of these sets of nodes."""
    found = (_reorder(scope, node) for node in scope.nodes(("reorder",), only))
    return [c for c in found if c is not None]


def _reorder(scope: Scope, node: Node) -> Candidate | None:
    source, target = scope.static(node.inputs[0]), scope.static(node.output)
    if source.rank != 4 or {source.layout, target.layout} != {identity(4), channels_last(4)}:
        return None
    images, channels, height, width = sizes(target)
    last = target.layout != identity(4)
    nbytes = 4.0 * math.prod(sizes(target))
    call = BuiltinCall("reorder_images", (channels, height, width, int(last)), images * height)

    def seconds(kept: Collection[Value]) -> float:
        return costs.traffic_seconds(scope.machine, nbytes if node.output in kept else 2 * nbytes)

    return Candidate(
        nodes=(node,),
        inputs=node.inputs,
        outputs=node.outputs,
        seconds=costs.OWN_LAUNCH + seconds(()),
        reason=f"own copy {'to' if last else 'from'} channels last, {images * height} tasks",
        impl=call,
        proposer="x86",
        by_rows=ByRows((Window(),), 1, 0, seconds, lambda most: call) if last else None,
    )


__all__ = ["reorders"]
