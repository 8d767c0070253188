"""Picking rows by indices, and the gradient of that, by kernels written by hand (`gather.cu`): tables of embeddings, mostly.

The gradient is no sum by atomic operations, whose order changes from run to run: a warp looks through all indices for those of
its row. That reads the indices once for each row of the table, from the caches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nnaccel_backend_cuda.kernels import START, written
from nnaccel_backend_cuda.stems import KINDS
from nnaccel_core.ir import Node, identity
from nnaccel_core.ir.types import ITEMSIZE
from nnaccel_core.select.candidate import Candidate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nnaccel_backend_cuda.candidates import Proposer
    from nnaccel_backend_cuda.kernels import KernelLoader
    from nnaccel_core.api import Machine

OPS = ("gather", "gather_backward")
THREADS = 256
#: Elements of a row that each lane of a warp sums.
PER = 8
#: Part of the memory's speed that is reached; indices that a multiprocessor looks through in a second.
BANDWIDTH, LOOKS = 0.6, 5e10


@dataclass(frozen=True)
class GatherSpec:
    """x is (lead, middle, extent, tail), the indices are (lead, count), and what they pick is (lead, middle, count, tail).

    Attributes:
        dtype: of x; index: of the indices, ``"int32"`` or ``"int64"``; negative: whether they may count from the end.
        backward: x's gradient is computed, from that of what was picked.
    """

    lead: int
    middle: int
    extent: int
    count: int
    tail: int
    dtype: str
    index: str
    negative: bool
    backward: bool

    def ready(self, machine: Machine, loader: KernelLoader) -> Gather:
        return Gather(self, machine, loader)

    def seconds(self, machine: Machine) -> float:
        """The estimated time of a run."""
        rows = self.lead * self.middle
        moved = rows * self.tail * ITEMSIZE[self.dtype] * (self.count + (self.extent if self.backward else self.count))
        warps = rows * self.extent * -(-self.tail // (32 * PER)) if self.backward else 0
        return moved / machine.bandwidth / BANDWIDTH + warps * self.count / (LOOKS * machine.cores)


def source(spec: GatherSpec) -> tuple[str, int, int]:
    """The kernel's text, bytes that are copied at a time, and threads that copy a row."""
    row = spec.tail * ITEMSIZE[spec.dtype]
    unit = math.gcd(row, 16)
    group = 1 << min(5, max(0, (row // unit - 1).bit_length()))
    constants: dict[str, int | str] = {
        "UNIT": unit, "GROUP": group, "INDEX": {"int32": "int", "int64": "long long"}[spec.index],
        "NEGATIVE": int(spec.negative), "KIND": KINDS.get(spec.dtype, 0), "PER": PER,
    }  # fmt: skip
    return written("gather.cu", constants), unit, group


class Gather:
    """A gather, or its gradient, ready to run.

    Attributes:
        workspace: bytes that a run takes.
    """

    workspace = 0

    def __init__(self, spec: GatherSpec, machine: Machine, loader: KernelLoader) -> None:
        """
        Raises:
            ToolchainError: NVRTC is missing.
        """
        text, unit, group = source(spec)
        shape = [spec.lead, spec.middle, spec.extent, spec.count]
        if spec.backward:
            warps = math.prod(shape[:3]) * -(-spec.tail // (32 * PER))
            function, last, blocks = loader.text("nn_gather_sum", text), spec.tail, -(-warps * 32 // THREADS)
        else:
            rows = spec.lead * spec.middle * spec.count
            function, last = loader.text("nn_gather", text), spec.tail * ITEMSIZE[spec.dtype] // unit
            blocks = min(-(-rows * group // THREADS), machine.cores * 32)
        self._run = function.bound(blocks, THREADS, 0, 3, [np.int64(n) for n in (*shape, last)])

    def run(self, addresses: Sequence[int], workspace: int, stream: int) -> None:
        """Enqueue. ``addresses``: of x, or the gradient of what was picked; of the indices; of the result."""
        self._run(addresses, stream)


def propose(p: Proposer, node: Node) -> list[Candidate]:
    """The candidate for ``node``."""
    if p.only is not None and frozenset((node,)) not in p.only:
        return []
    first, index, out = (p.static(v) for v in (*node.inputs, node.output))
    if any(0 in t.shape or not t.same_memory(identity(t.rank)) for t in (first, index, out)):
        return []
    backward = node.op == "gather_backward"
    if backward and first.dtype not in KINDS:
        return []
    x = out if backward else first
    axis, batch = node.attrs["axis"], node.attrs.get("batch", 0)
    sizes = [int(d) for d in x.shape]  # type: ignore[arg-type]
    spec = GatherSpec(
        lead=math.prod(sizes[:batch]), middle=math.prod(sizes[batch:axis]), extent=sizes[axis],
        count=math.prod(int(d) for d in index.shape[batch:]), tail=math.prod(sizes[axis + 1 :]),  # type: ignore[arg-type]
        dtype=x.dtype, index=index.dtype, negative=bool(node.attrs.get("negative", True)), backward=backward,
    )  # fmt: skip
    return [
        Candidate(
            nodes=(node,),
            inputs=node.inputs,
            outputs=node.outputs,
            seconds=spec.seconds(p.machine) + START,
            reason=f"{node.op} of {spec.count} rows of {spec.tail}",
            impl=spec,
            proposer="cuda",
        )
    ]


__all__ = ["Gather", "GatherSpec", "propose", "source"]
