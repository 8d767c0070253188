"""How long reading weights takes at least, whoever reads them.

An estimate of one layer takes weights that fit a cache for cached. Each is read once a call, though, and between two calls all
others pass through the caches: whether a layer's weights are still there depends on the network. Measured on two cores of an
AVX-512 server, GB/s of classifiers at one row inside their networks, by MiB of all weights: 13 (MobileNet v2) 53, 20
(EfficientNet-B0) 50, 21 (MobileNet v3) 52, 30 (DenseNet-121) 30, 45 (ResNet-18) 29, 97 (ResNet-50) 29, 233 (AlexNet) 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nnaccel_core.ir import Env, Graph, evaluate
from nnaccel_core.ops.registry import lookup
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Over `Machine.bandwidth`, which is that of copies: reading in order from memory, the last-level cache, the level-2 caches.
MEMORY, L3, L2 = 1.3, 2.2, 4.0
#: Parts of the last-level and the level-2 caches that weights stay in: activations pass through them too.
KEPT_L3, KEPT_L2 = 0.75, 0.5
#: Part of a candidate's own estimate that waiting for weights does not hide; it also keeps candidates in their order.
BESIDES = 0.05


def reading_seconds(machine: Machine, nbytes: float, among: float) -> float:
    """Seconds to read ``nbytes`` once a call, where a call reads ``among`` bytes of such data in all."""
    if among <= machine.l2 * machine.cores * KEPT_L2:
        speed = L2
    else:
        speed = L3 if among <= machine.l3 * KEPT_L3 else MEMORY
    return nbytes / (machine.bandwidth * speed)


def after_reading(graph: Graph, env: Env, machine: Machine, among: int, candidates: Sequence[Candidate]) -> list[Candidate]:
    """``candidates`` for ``graph``, none faster than reading the weights of its products. ``among``: bytes of weights that a call
    reads in all, of this graph and of others."""
    params = set(graph.params)
    weights = {
        id(n): sum(evaluate(v.type.nbytes, env) for v in dict.fromkeys(n.inputs) if v in params)
        for n in graph.nodes
        if lookup(n.op).flops
    }
    found = []
    for c in candidates:
        nbytes = sum(weights.get(id(n), 0) for n in c.nodes)
        seconds = reading_seconds(machine, nbytes, among) + BESIDES * c.seconds
        found.append(replace(c, seconds=seconds) if nbytes and seconds > c.seconds else c)
    return found
