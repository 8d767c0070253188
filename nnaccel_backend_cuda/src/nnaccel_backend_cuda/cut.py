"""Which steps of a plan a CUDA graph holds: large inputs are read, and large results written, where the caller has them.

A graph has fixed addresses, so what it reads of the caller's must be copied in and what it gives back copied out: twice the bytes
through memory, and scratch memory for them. Steps launched outside the graph take any address. So the steps that read a large
input go in front of the graph, and those that write a large result behind it, where these are few.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnaccel_core.ir import evaluate
from nnaccel_core.plan import BufferRef, HostStep, KernelStep, LibraryStep, Plan, Step

#: Seconds that a launch outside the graph costs more than one inside: copies that take less are made instead.
LAUNCH = 3e-6
#: At most so many steps in front of the graph, and behind it.
MOST_OUTSIDE = 3
#: Seconds that the host takes to launch a generated kernel, and a step of a library.
HOST, HOST_LIBRARY = 8e-6, 40e-6
#: Copies that take less seconds in all, or less than this part of the plan's own time, are no reason against a graph.
SMALL, PART = 2e-5, 0.05


@dataclass(frozen=True)
class Cut:
    """Steps ``[begin, end)`` are the graph's; none where all steps are launched one by one.

    Attributes:
        inputs, outputs: indices of those that only steps outside the graph touch, so that they need no copy.
    """

    begin: int
    end: int
    inputs: frozenset[int]
    outputs: frozenset[int]

    @property
    def empty(self) -> bool:
        """Whether no step is left for a graph."""
        return self.begin >= self.end


def refs(s: Step) -> tuple[BufferRef, ...]:
    """All operands of a step."""
    if isinstance(s, KernelStep):
        return s.buffers
    more = (s.workspace,) if isinstance(s, LibraryStep) and s.workspace is not None else ()
    return (*s.inputs, *s.outputs, *more)


def _busy(plan: Plan, bandwidth: float) -> float:
    """Seconds that the operands of all steps take through memory."""
    return sum(int(evaluate(r.type.nbytes, {})) for s in plan.steps for r in refs(s)) / bandwidth


def cut(plan: Plan, bandwidth: float) -> Cut:
    """The cut of ``plan`` on a device that moves ``bandwidth`` bytes a second."""
    count = len(plan.steps)
    if any(isinstance(s, HostStep) for s in plan.steps):
        return Cut(0, 0, frozenset(), frozenset())
    first: dict[tuple[str, int], int] = {}
    last: dict[tuple[str, int], int] = {}
    for i, s in enumerate(plan.steps):
        for r in refs(s):
            first.setdefault((r.space, r.index), i)
            last[r.space, r.index] = i

    def large(nbytes: int) -> bool:
        return 2 * nbytes > LAUNCH * bandwidth

    begin, end = 0, count
    inputs, outputs = set(), set()
    for i, t in enumerate(plan.inputs):
        until = last.get(("input", i), -1) + 1
        if large(int(evaluate(t.nbytes, {}))) and until <= MOST_OUTSIDE:
            inputs.add(i)
            begin = max(begin, until)
    for i, t in enumerate(plan.outputs):
        since = first.get(("output", i), count)
        if large(int(evaluate(t.nbytes, {}))) and since >= count - MOST_OUTSIDE:
            outputs.add(i)
            end = min(end, since)
    return Cut(begin, end, frozenset(inputs), frozenset(outputs))


def _copied(plan: Plan, cut: Cut) -> int:
    """Bytes of the inputs and results that a graph with ``cut`` would have copies of."""
    given = [t for i, t in enumerate(plan.inputs) if i not in cut.inputs]
    given += [t for i, t in enumerate(plan.outputs) if i not in cut.outputs]
    return sum(int(evaluate(t.nbytes, {})) for t in given)


def dear(plan: Plan, cut: Cut, bandwidth: float) -> str:
    """Why a graph of ``plan`` would cost more than it saves; "" where it does not.

    A pass of training on large batches gives back, or reads, an activation of nearly every layer. Copying them all takes time,
    and twice the memory; while launching steps one by one takes none as long as the device is busy with those in front.
    """
    nbytes = _copied(plan, cut)
    busy = _busy(plan, bandwidth)
    host = sum(HOST_LIBRARY if isinstance(s, LibraryStep) else HOST for s in plan.steps)
    if 2 * nbytes / bandwidth <= max(host - busy, SMALL):
        return ""
    return f"copying {nbytes >> 20} MiB of inputs and results would take longer than launching {len(plan.steps)} steps"


def heavy(plan: Plan, cut: Cut, bandwidth: float) -> str:
    """Why a graph of ``plan`` that works on copies takes more time, or memory, than one on the caller's memory is to; "" where
    copies cost little."""
    nbytes = _copied(plan, cut)
    if nbytes <= copying_bytes(plan, bandwidth):
        return ""
    return f"{nbytes >> 20} MiB of inputs and results would be copied, and held twice"


def copying_bytes(plan: Plan, bandwidth: float) -> int:
    """Bytes that may be copied for each replay of a graph of ``plan`` on the caller's memory."""
    return int(max(SMALL, PART * _busy(plan, bandwidth)) * bandwidth / 2)


__all__ = ["Cut", "copying_bytes", "cut", "dear", "heavy", "refs"]
