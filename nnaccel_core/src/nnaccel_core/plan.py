"""A plan: the flat list of steps, with all memory placed, that a backend builds and runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from nnaccel_core.ir import Node, TensorType
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.schedule import Schedule, row_bytes_of

#: ``input``/``output``/``prepared``/``constant``: the ``index``-th of the plan's lists. ``arena``: scratch of a call.
#: ``local``: what the ``index``-th member of a `ChainStep` computes.
SPACES = ("input", "output", "prepared", "constant", "arena", "local")


@dataclass(frozen=True)
class BufferRef:
    """A placed tensor: ``offset`` bytes into a space. ``type`` is static; ``strides`` (elements, logical axes)
    override the dense strides of the type's layout, for slices of a wider buffer."""

    space: str
    index: int
    offset: int
    type: TensorType
    strides: tuple[int, ...] | None = None

    def element_strides(self) -> tuple[int, ...]:
        return self.strides if self.strides is not None else self.type.strides()  # type: ignore[return-value]


@dataclass(frozen=True)
class KernelStep:
    """A generated kernel over ``tasks`` tasks. ``scratch``: bytes of tile memory per thread; on GPUs per task, which
    ``threads`` threads share. ``rows``: see `nnaccel_core.dfp.group.KernelCall`."""

    source: Kernel | KernelSource
    buffers: tuple[BufferRef, ...]
    dims: tuple[int, ...]
    tasks: int
    scratch: int
    origin: str = ""
    seconds: float = 0.0
    threads: int = 0
    rows: int | None = None

    @property
    def kernel(self) -> Kernel:
        """The kernel; made now if nobody needed it before."""
        return self.source.kernel if isinstance(self.source, KernelSource) else self.source


@dataclass(frozen=True)
class LibraryStep:
    """A backend's own implementation of a candidate. ``inputs`` follow ``candidate.inputs`` (packed where packed)."""

    candidate: Candidate
    inputs: tuple[BufferRef, ...]
    outputs: tuple[BufferRef, ...]
    workspace: BufferRef | None
    origin: str = ""


@dataclass(frozen=True)
class HostStep:
    """An op's numpy reference, run on the host between compiled steps."""

    node: Node
    inputs: tuple[BufferRef, ...]
    outputs: tuple[BufferRef, ...]
    origin: str = ""


@dataclass(frozen=True)
class ChainStep:
    """Steps that run one after the other on a few rows of images at a time (`select.chains`), for backends with `Backend.chains`.

    Attributes:
        members: their tasks are those of all rows; ``schedule`` says which run when.
        locals: intermediates by the number of the member that computes it, dense; each thread holds ``schedule.held`` rows.
        images: of a batch; each is cut into ``schedule.strips``, which run in parallel.
    """

    members: tuple[KernelStep | LibraryStep, ...]
    locals: Mapping[int, TensorType]
    images: int
    schedule: Schedule
    origin: str = ""

    def held_bytes(self) -> int:
        """Bytes of intermediates that each thread holds."""
        return sum(self.schedule.held[m] * row_bytes_of(t) for m, t in self.locals.items())


Step = Union[KernelStep, LibraryStep, HostStep, ChainStep]


@dataclass(frozen=True)
class Plan:
    """Everything a backend needs to build an executable.

    Attributes:
        inputs, prepared, outputs: static types of the memory given at the call.
        constants: arrays that live with the executable.
        arena: bytes of scratch memory one call needs.
    """

    name: str
    steps: tuple[Step, ...]
    inputs: tuple[TensorType, ...]
    prepared: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    constants: tuple[np.ndarray, ...] = field(default=())
    arena: int = 0

    def kernels(self) -> tuple[Kernel | KernelSource, ...]:
        """The distinct sources of kernels, in order of first use."""
        seen: dict[int, Kernel | KernelSource] = {}
        for s in self.single():
            if isinstance(s, KernelStep):
                seen.setdefault(id(s.source), s.source)
        return tuple(seen.values())

    def single(self) -> Iterator[KernelStep | LibraryStep | HostStep]:
        """All steps, members of chains one by one."""
        for s in self.steps:
            if isinstance(s, ChainStep):
                yield from s.members
            else:
                yield s
