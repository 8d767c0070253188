"""A candidate: one way to run a set of nodes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from nnaccel_core.ir import Node, Value
from nnaccel_core.ir.types import Layout
from nnaccel_core.select.schedule import Schedule, Window


@dataclass(frozen=True)
class Pack:
    """A derived form of a parameter that a candidate wants (a blocked weight layout).

    ``key`` is opaque to the core; the backend that made it runs it as op ``pack`` with ``attrs = {"key": key}``,
    producing ``nbytes`` bytes (a ``uint8[nbytes]`` value). Equal (value, key) pairs are packed once.
    """

    value: Value
    key: str
    nbytes: int


@dataclass(frozen=True, eq=False)
class ByRows:
    """How a candidate computes a few rows of images at a time: its one output is (N, C, H, W), channels last in memory.

    Attributes:
        windows: for each input, the rows (of axis 2) that a row of the output needs; None where it needs all or has none.
        tasks: tasks that a row is; those of row r of image n are (n * H + r) * tasks and what follows.
        weights: bytes of parameters that it reads at each call.
        seconds: given the values that stay in the second-level cache: seconds of all rows on all cores, without the launch.
        impl: given the most rows of one call: what takes the place of `Candidate.impl`.
    """

    windows: tuple[Window | None, ...]
    tasks: int
    weights: int
    seconds: Callable[[Collection[Value]], float]
    impl: Callable[[int], Any]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to run ``nodes`` (a convex set, in topological order).

    Attributes:
        inputs: values read from outside, in the order the implementation takes them.
        outputs: values written; every value of ``nodes`` that is used outside must be here.
        seconds: estimated (or measured) time at the current binding of symbols.
        in_layouts / out_layouts: physical layouts it needs; None means those of the values' types.
        strided_in / strided_out: whether each input / output may be a strided slice of a wider buffer.
        packs: derived parameters; ``inputs`` lists the *original* parameter, which the driver replaces.
        workspace: bytes of scratch in the arena.
        inplace: ``(output index, input index)`` pairs that may share memory when the input dies here.
        by_rows: how it computes some rows of its output at a time, where it can (`select.chains`).
        gathers: for a candidate that runs one ``concat`` and leaves out inputs that already lie in their slice of its output:
            seconds that each input costs which does not. Charged to what computes that input and cannot write a slice.
        reason: why this one is offered or what it is, for explain() ("onednn jit:avx2 conv + add + relu").
        impl: what the proposer needs to build it; opaque to the core.
        proposer: backend name, or "core".
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    seconds: float
    reason: str
    impl: Any
    proposer: str
    in_layouts: tuple[Layout, ...] | None = None
    out_layouts: tuple[Layout, ...] | None = None
    strided_in: tuple[bool, ...] = ()
    strided_out: tuple[bool, ...] = ()
    packs: tuple[Pack, ...] = ()
    workspace: int = 0
    inplace: tuple[tuple[int, int], ...] = ()
    group: str = field(default="")
    gathers: tuple[float, ...] = ()
    by_rows: ByRows | None = None


@dataclass(frozen=True, eq=False)
class Chain:
    """``Candidate.impl`` of layers that run together on a few rows of images at a time (`select.chains`).

    Attributes:
        members: candidates in order of execution; each with the implementation for its rows.
        locals: what stays in the cache, by the number of the member that computes it.
        images: of a batch; ``schedule`` is of each.
    """

    members: tuple[Candidate, ...]
    locals: Mapping[int, Value]
    images: int
    schedule: Schedule
