"""Which rows of which layer run when, so that a chain of layers runs on a few rows of its images at a time.

An image's rows of the last layer are cut into strips, one task each, and a strip into bands. For each band every layer computes
the rows that the layers behind it need and that it has not computed yet; a layer keeps its rows as long as something behind it
needs them. So rows are computed twice only where two strips meet. (Alwani et al. 2016, "Fused-layer CNN accelerators", call it
reuse.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnaccel_core.ir import TensorType


@dataclass(frozen=True)
class Window:
    """Row r of an output is computed from rows ``stride * r + lo`` to ``stride * r + hi`` of an input, both included."""

    stride: int = 1
    lo: int = 0
    hi: int = 0

    @property
    def overlap(self) -> int:
        """Rows that two neighboring rows of the output both need."""
        return max(0, self.size(1) - self.stride)

    def size(self, count: int) -> int:
        """Rows that ``count`` neighboring rows of the output need."""
        return self.stride * (count - 1) + self.hi - self.lo + 1

    def before(self, other: Window) -> Window:
        """The rows of this one's input for an output of which ``other`` reads rows."""
        return Window(self.stride * other.stride, self.stride * other.lo + self.lo, self.stride * other.hi + self.hi)


@dataclass(frozen=True)
class Layer:
    """A member of a chain, as far as rows go.

    Attributes:
        height: rows of an image of its output.
        readers: ``(number of a later member, the rows it reads)`` of all that read its output; () for what the chain stores.
    """

    height: int
    readers: tuple[tuple[int, Window], ...] = ()


@dataclass(frozen=True)
class Schedule:
    """The rows of one image.

    Attributes:
        strips: tasks; bands: of a strip.
        rows: for each strip, band and member: the rows to compute, ``(first, end)``.
        first: for each strip, band and member: the first row that has to be held from then on.
        held: for each member: the most rows held at a time.
    """

    strips: int
    bands: int
    rows: tuple[tuple[tuple[tuple[int, int], ...], ...], ...]
    first: tuple[tuple[tuple[int, ...], ...], ...]
    held: tuple[int, ...]


def row_bytes_of(t: TensorType) -> int:
    """Bytes of a row of a static image (N, C, H, W), channels last in memory."""
    return t.itemsize * int(t.shape[1]) * int(t.shape[3])  # type: ignore[arg-type]


def reach(layers: Sequence[Layer]) -> list[Window] | None:
    """For each member, its rows that a row of what is stored needs; None where readers step over it at different strides."""
    found: list[Window] = []
    for layer in reversed(layers):
        needs = [window.before(found[len(layers) - 1 - k]) for k, window in layer.readers] or [Window()]
        if any(w.stride != needs[0].stride for w in needs):
            return None
        found.append(Window(needs[0].stride, min(w.lo for w in needs), max(w.hi for w in needs)))
    return found[::-1]


def schedule(layers: Sequence[Layer], strips: int, band: int) -> Schedule:
    """``strips`` of as many rows, as evenly as can be, in bands of ``band`` rows of what the chain stores.

    Args:
        layers: in order of execution; those without readers are stored and have one height.
    """
    height = layers[-1].height
    bands = max(-(-(height * (s + 1) // strips - height * s // strips) // band) for s in range(strips))
    all_rows, all_first = [], []
    held = [0] * len(layers)
    for s in range(strips):
        begin, end = height * s // strips, height * (s + 1) // strips
        done: list[int | None] = [None] * len(layers)
        kept = [0] * len(layers)
        strip_rows, strip_first = [], []
        for b in range(bands):
            low, high = min(end, begin + b * band), min(end, begin + (b + 1) * band)
            rows: list[tuple[int, int]] = [(0, 0)] * len(layers)
            for m in reversed(range(len(layers))):
                layer, at = layers[m], done[m]
                if not layer.readers:
                    rows[m] = low, high
                    continue
                ends = [w.stride * (rows[k][1] - 1) + w.hi + 1 for k, w in layer.readers if rows[k][0] < rows[k][1]]
                if not ends:
                    rows[m] = (at or 0, at or 0)
                    continue
                # A reader with nothing to do now goes on later where it is.
                needed = max(0, min(w.stride * rows[k][0] + w.lo for k, w in layer.readers)), min(layer.height, max(ends))
                first = needed[0] if at is None else max(at, needed[0])
                rows[m] = first, max(first, needed[1])
                kept[m] = needed[0] if at is None else max(kept[m], needed[0])
            for m, (_, until) in enumerate(rows):
                if layers[m].readers and rows[m] != (0, 0):
                    done[m] = until
                    held[m] = max(held[m], until - kept[m])
            strip_rows.append(tuple(rows))
            strip_first.append(tuple(kept))
        all_rows.append(tuple(strip_rows))
        all_first.append(tuple(strip_first))
    return Schedule(strips, bands, tuple(all_rows), tuple(all_first), tuple(held))


__all__ = ["Layer", "Schedule", "Window", "reach", "row_bytes_of", "schedule"]
