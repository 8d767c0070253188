"""Which values lie in a slice of a concat's output, so that the concat copies nothing, or less.

A value goes into a slice when what computes it can write strided rows and all that read it can read them. A concat whose
operands follow one another in a later concat (as the layers of a DenseNet block do) is itself a slice of that one's output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nnaccel_core.ir import TensorType, Value
from nnaccel_core.select.cover import Unit


@dataclass(frozen=True)
class Slice:
    """The part of ``owner`` that begins at ``start`` elements of ``axis``."""

    owner: Value
    axis: int
    start: int


@dataclass(frozen=True)
class Slices:
    """What `find_slices` found.

    Attributes:
        of: the slice of each value that has no memory of its own.
        filled: for ``(id of a concat's unit, number of its operand)``: the slice that an earlier concat filled with that operand.
    """

    of: Mapping[Value, Slice]
    filled: Mapping[tuple[int, int], Slice]


def slice_strides(part: TensorType, whole: TensorType) -> tuple[int, ...] | None:
    """Element strides, per logical axis, of a slice of static type ``part`` in ``whole``; None when it is dense memory."""
    strides: tuple[int, ...] = whole.strides()  # type: ignore[assignment]
    dense = all(d == 1 or a == b for d, a, b in zip(part.shape, strides, part.strides(), strict=True))
    return None if dense else strides


def _is_gather(unit: Unit) -> bool:
    return unit.candidate is not None and bool(unit.candidate.gathers)


class _Finder:
    def __init__(self, units: Sequence[Unit], static: Callable[[Value], TensorType], fixed: Collection[Value]) -> None:
        self.units = units
        self.static = static
        self.fixed = fixed
        self.writer: dict[Value, tuple[Unit, int]] = {}
        self.readers: dict[Value, list[tuple[Unit, int]]] = {}
        for unit in units:
            for i, v in enumerate(unit.outputs):
                self.writer[v] = (unit, i)
            for i, v in enumerate(unit.inputs):
                self.readers.setdefault(v, []).append((unit, i))
        self.of: dict[Value, Slice] = {}
        self.parts: dict[Value, list[tuple[int, Sequence[Value]]]] = {}  # owner -> (start, operands) of concats in it

    def place_of(self, v: Value, axis: int) -> Slice | None:
        """Where a concat's output ``v`` lies; None when it is a slice along another axis."""
        found = self.of.get(v)
        if found is None:
            return Slice(v, axis, 0)
        return found if found.axis == axis else None

    def can_be(self, v: Value, at: Slice) -> bool:
        """Whether ``v`` may be given no other memory than ``at``."""
        if v in self.fixed or v in self.of or v in self.parts or v not in self.writer:
            return False
        part, whole = self.static(v), self.static(at.owner)
        if part.dtype != whole.dtype or part.layout != whole.layout:
            return False
        unit, index = self.writer[v]
        c = unit.candidate
        if c is None:
            return False
        if slice_strides(part, whole) is None:
            return True
        if index >= len(c.strided_out) or not c.strided_out[index]:
            return False
        for reader, i in self.readers.get(v, ()):
            c = reader.candidate
            if c is None or i >= len(c.strided_in) or not c.strided_in[i]:
                return False
        return True

    def starts(self, operands: Sequence[Value], axis: int) -> list[int]:
        found, at = [], 0
        for v in operands:
            found.append(at)
            at += int(self.static(v).shape[axis])  # type: ignore[arg-type]
        return found

    def in_larger(self, out: Value, operands: Sequence[Value], axis: int) -> Slice | None:
        """Where the operands follow one another in the output of a later concat."""
        for owner, concats in self.parts.items():
            for start, others in concats:
                for k in range(len(others) - len(operands) + 1):
                    if all(a is b for a, b in zip(others[k:], operands, strict=False)):
                        at = Slice(owner, axis, start + self.starts(others, axis)[k])
                        if self.can_be(out, at):
                            return at
        return None

    def run(self) -> Slices:
        for unit in reversed(self.units):
            if not _is_gather(unit):
                continue
            (node,) = unit.nodes
            out, axis = unit.outputs[0], int(node.attrs["axis"])
            if out not in self.of:
                found = self.in_larger(out, unit.inputs, axis)
                if found is not None:
                    self.of[out] = found
            home = self.place_of(out, axis)
            if home is None:
                continue
            self.parts.setdefault(home.owner, []).append((home.start, unit.inputs))
            for v, start in zip(unit.inputs, self.starts(unit.inputs, axis), strict=True):
                at = Slice(home.owner, axis, home.start + start)
                if self.can_be(v, at):
                    self.of[v] = at
        return Slices(self.of, self._filled())

    def _filled(self) -> dict[tuple[int, int], Slice]:
        seen: set[tuple[Slice, Value]] = set()
        filled: dict[tuple[int, int], Slice] = {}
        for unit in self.units:
            if not _is_gather(unit):
                continue
            axis = int(unit.nodes[0].attrs["axis"])
            home = self.place_of(unit.outputs[0], axis)
            if home is None:
                continue
            for i, (v, start) in enumerate(zip(unit.inputs, self.starts(unit.inputs, axis), strict=True)):
                at = Slice(home.owner, axis, home.start + start)
                if (at, v) in seen:
                    filled[id(unit), i] = at
                seen.add((at, v))
        return filled


def find_slices(units: Sequence[Unit], static: Callable[[Value], TensorType], fixed: Collection[Value]) -> Slices:
    """Slices for the concats among ``units`` (in execution order) that a candidate with `Candidate.gathers` runs.

    Args:
        static: the static type of a value.
        fixed: values with memory of their own, or of which views exist.
    """
    return _Finder(units, static, fixed).run()
