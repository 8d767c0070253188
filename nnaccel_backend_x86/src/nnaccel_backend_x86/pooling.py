"""The gradient of max pooling by a kernel of our own: ``native/pooling.cpp``.

It finds the maxima and hands on their gradients in one pass, where the operators keep the positions of the maxima in between.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import astuple, dataclass

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.convolution import two
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, channels_last
from nnaccel_core.select.candidate import Candidate

#: Tasks that each core gets where there are few images, and rows that each has at least.
TASKS_PER_CORE, LEAST_ROWS = 4, 8


@dataclass(frozen=True)
class PoolDims:
    """The integers of kernel ``max_pool_gradient``, in the order of its C++ structure ``Dims``."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    dilation_y: int
    dilation_x: int
    pad_y: int
    pad_x: int
    bands: int


def pool_gradients(scope: Scope, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
    """A candidate for each pair of ``max_pool_positions`` and ``max_pool_backward``; ``only``: sets of nodes that are wanted."""
    found = []
    for node in scope.graph.nodes:
        places = scope.producers.get(node.inputs[1]) if node.op == "max_pool_backward" else None
        if places is None or places.op != "max_pool_positions" or not _alone(scope, node, places):
            continue
        if only is None or frozenset((places, node)) in only:
            dims = _dims(scope, node, places)
            found += [] if dims is None else [_candidate(scope, node, places, dims)]
    return found


def _alone(scope: Scope, node: Node, places: Node) -> bool:
    """Whether nothing else asks for the positions, and both mean the same windows."""
    same = all(node.attrs[k] == places.attrs[k] for k in ("kernel", "stride", "padding", "dilation"))
    return same and len(scope.uses[places.output]) == 1 and places.output not in scope.results


def _dims(scope: Scope, node: Node, places: Node) -> PoolDims | None:
    """The integers, when the kernel takes this gradient."""
    x, top, g, dx = (scope.static(v) for v in (*places.inputs, node.inputs[0], node.output))
    types = (x, top, g, dx)
    if x.rank not in (3, 4) or any(t.dtype != "float32" or t.layout != channels_last(x.rank) or 0 in t.shape for t in types):
        return None
    a = node.attrs
    size, out = two(sizes(x)[2:], 1), two(sizes(g)[2:], 1)
    images, tasks = sizes(x)[0], TASKS_PER_CORE * scope.machine.cores
    bands = max(1, min(-(-tasks // images), size[0] // LEAST_ROWS))
    windows = (two(tuple(a[k]), 1) for k in ("kernel", "stride", "dilation"))
    pad = two(tuple(p[0] for p in a["padding"]), 0)
    return PoolDims(images, *size, sizes(x)[1], *out, *(n for pair in windows for n in pair), *pad, bands)


def _candidate(scope: Scope, node: Node, places: Node, d: PoolDims) -> Candidate:
    tasks = d.images * d.bands
    taps = math.prod(sizes(scope.static(node.inputs[0]))) * d.kernel_height * d.kernel_width
    nbytes = 8.0 * (math.prod(sizes(scope.static(node.output))) + math.prod(sizes(scope.static(node.inputs[0]))))
    return Candidate(
        nodes=(places, node),
        inputs=(*places.inputs, node.inputs[0]),
        outputs=node.outputs,
        seconds=costs.pool_gradient_seconds(scope.machine, taps, nbytes, tasks),
        reason=f"own gradient of max pooling, {tasks} tasks",
        impl=BuiltinCall("max_pool_gradient", astuple(d), tasks),
        proposer="x86",
        strided_in=(False,) * 3,
        strided_out=(False,),
    )
