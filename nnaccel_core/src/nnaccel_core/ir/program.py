"""A program: the tree of compiled segments and foreign calls that one captured network becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

from nnaccel_core.ir.graph import Graph

Name = str  # names of values that flow between the parts of a program


@dataclass(frozen=True)
class Segment:
    """A compiled part. ``inputs[i]`` names the value given to ``graph.inputs[i]``; likewise outputs."""

    graph: Graph
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]


@dataclass(frozen=True)
class Foreign:
    """A part that stays in the user's framework.

    Attributes:
        call: takes the named inputs positionally, returns a tuple as long as ``outputs``.
        reason: why it was not mapped, for explain().
        origin: the user's layer path.
    """

    call: Callable[..., Sequence[Any]]
    inputs: tuple[Name, ...]
    outputs: tuple[Name, ...]
    reason: str
    origin: str = ""


@dataclass(frozen=True)
class If:
    """Runs ``then`` or ``other`` on the truth of the named host scalar."""

    condition: Name
    then: Program
    other: Program


@dataclass(frozen=True)
class Loop:
    """Runs ``body`` while the named condition holds (and at most ``trip_count`` times when named).

    ``carried`` pairs a value's name before the body with the body's output that replaces it.
    """

    trip_count: Name | None
    condition: Name | None
    carried: tuple[tuple[Name, Name], ...]
    body: Program


Part = Union[Segment, Foreign, If, Loop]


@dataclass(frozen=True)
class Program:
    """Parts in execution order over named values; ``outputs`` are names of inputs or of parts' outputs.

    ``aliases`` gives, for an output that *is* an input's memory, the input's name.
    """

    inputs: tuple[Name, ...]
    parts: tuple[Part, ...]
    outputs: tuple[Name, ...]
    aliases: tuple[tuple[Name, Name], ...] = ()

    def segments(self) -> list[Segment]:
        """All segments, depth first."""
        out: list[Segment] = []
        for part in self.parts:
            if isinstance(part, Segment):
                out.append(part)
            elif isinstance(part, If):
                out += part.then.segments() + part.other.segments()
            elif isinstance(part, Loop):
                out += part.body.segments()
        return out

    def __str__(self) -> str:
        lines = [f"program({', '.join(self.inputs)}) -> ({', '.join(self.outputs)})"]
        for part in self.parts:
            if isinstance(part, Segment):
                lines.append(f"segment({', '.join(part.inputs)}) -> ({', '.join(part.outputs)})")
                lines += ["    " + line for line in str(part.graph).splitlines()]
            elif isinstance(part, Foreign):
                lines.append(f"foreign {part.origin}({', '.join(part.inputs)}) -> ({', '.join(part.outputs)})  # {part.reason}")
            else:
                lines.append(repr(part))
        return "\n".join(lines)
