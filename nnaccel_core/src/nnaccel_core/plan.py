"""A plan: the flat list of steps, with all memory placed, that a backend builds and runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union

import numpy as np

from nnaccel_core.ir import Node, TensorType
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.select.candidate import Candidate

#: ``input``/``output``/``prepared``/``constant``: the ``index``-th of the plan's lists. ``arena``: scratch of a call.
SPACES = ("input", "output", "prepared", "constant", "arena")


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
    ``threads`` threads share."""

    source: Kernel | KernelSource
    buffers: tuple[BufferRef, ...]
    dims: tuple[int, ...]
    tasks: int
    scratch: int
    origin: str = ""
    seconds: float = 0.0
    threads: int = 0

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


Step = Union[KernelStep, LibraryStep, HostStep]


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
        for s in self.steps:
            if isinstance(s, KernelStep):
                seen.setdefault(id(s.source), s.source)
        return tuple(seen.values())
