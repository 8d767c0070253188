"""What the interpreter runs statements on: points, and the memory they read and write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: Points that run side by side at a time, so that what statements hand on stays in a core's cache; and bytes of their tiles.
COUNT = 1 << 16
BYTES = 1 << 26


class Memory:
    """An array, flat where it is dense in some order of its axes, and, of private memory, which elements were written.

    ``copies``: its first axis counts the points that allocated it.
    """

    def __init__(self, array: Array, private: bool = False, copies: bool = False) -> None:
        self.array, self.copies = array, copies
        self.order = sorted(range(array.ndim), key=lambda d: -array.strides[d])
        turned = array.transpose(self.order)
        self.shape = turned.shape
        self.flat = turned.reshape(-1) if turned.flags.c_contiguous else None
        self.target = array if self.flat is None else self.flat
        self.written = np.zeros(array.size, bool) if private else None

    def find(self, at: Sequence[Any]) -> Any:
        """Where in ``target`` (and ``written``) the element of this index lies, or those of these.

        Raises:
            IndexError: outside of the array.
        """
        if len(at) != len(self.shape):
            raise IndexError
        if any(isinstance(i, np.ndarray) for i in at):
            if self.copies and len(at) == 1:
                return at[0]
            try:
                place: Any = np.ravel_multi_index(tuple([at[d] for d in self.order]), self.shape)
            except ValueError:
                raise IndexError from None
        else:
            place = 0
            for d, n in zip(self.order, self.shape, strict=True):
                if not 0 <= at[d] < n:
                    raise IndexError
                place = place * n + at[d]
        return place if self.flat is not None else tuple(at)


class Points(dict[Any, Any]):
    """Values of symbols: an int, or an array with one for each point that runs; of a buffer, which copy of it is each point's.

    What is not set here is that of ``outer``, at the points ``index`` of it. ``count`` is None where a single point runs and
    every value is an int.
    """

    def __init__(
        self, memory: dict[Any, Memory], outer: Points | None = None, index: Any = None, count: int | None = None
    ) -> None:
        super().__init__()
        self.memory, self.outer, self.index, self.count = memory, outer, index, count

    def __missing__(self, key: Any) -> Any:
        if self.outer is None:
            raise KeyError(key)
        value = self.outer[key]
        if isinstance(value, np.ndarray):
            value = value[self.index]
        self[key] = value
        return value

    def scope(self) -> set[Any]:
        """What has a value."""
        return set(self) | (self.outer.scope() if self.outer is not None else set())

    def only(self, index: Array) -> Points:
        """These of the points."""
        return Points(self.memory, self, index, len(index))

    def where(self, condition: Any) -> tuple[Points | None, Points | None]:
        """The points at which it holds, and those at which it does not; None for no points."""
        if not isinstance(condition, np.ndarray):
            return (self, None) if condition else (None, self)
        yes = np.flatnonzero(condition)
        if len(yes) in (0, len(condition)):
            return (self, None) if len(yes) else (None, self)
        return self.only(yes), self.only(np.flatnonzero(~condition))

    def _each(self, value: Any) -> Array:
        return np.broadcast_to(value, () if self.count is None else self.count)

    def one_by_one(self, axis: str, begin: Any, end: Any) -> Iterator[Points]:
        """An iteration of a loop after the other; at each point, those that it has."""
        if isinstance(begin, np.ndarray) or isinstance(end, np.ndarray):
            begin, steps = self._each(begin), self._each(end - begin)
            for k in range(max(0, int(steps.max()))):
                live = np.flatnonzero(steps > k)
                part = self.only(live)
                part[axis] = begin[live] + k
                yield part
        else:
            for i in range(begin, end):
                self[axis] = i
                yield self
            self.pop(axis, None)

    def side_by_side(self, axis: str, begin: Any, end: Any, bytes_each: int) -> Iterator[Points]:
        """All iterations of a loop at all points, ordered by point, then by iteration, in parts of a limited size."""
        limit = max(1, min(COUNT, BYTES // max(1, bytes_each)))
        steps = end - begin
        if not isinstance(steps, np.ndarray):
            if steps == 1:
                self[axis] = begin
                yield self
                self.pop(axis, None)
                return
            if self.count is None:
                for low in range(begin, end, limit):
                    part = Points(self.memory, self, None, min(end - low, limit))
                    part[axis] = np.arange(low, low + part.count)  # type: ignore[operator]
                    yield part
                return
        steps, begin = np.maximum(self._each(steps), 0), self._each(begin)
        together = max(1, limit // max(1, int(steps.max())))
        for low in range(0, len(steps), together):
            some = steps[low : low + together]
            point = np.repeat(np.arange(low, low + len(some)), some)
            first = np.repeat(begin[low : low + together] - (np.cumsum(some) - some), some)
            value = first + np.arange(len(point))
            for k in range(0, len(point), limit):
                part = self.only(point[k : k + limit])
                part[axis] = value[k : k + limit]
                yield part


def first_of(at: Sequence[Any], bad: Any) -> list[int]:
    """The index of the first point that is ``bad``."""
    k = int(np.flatnonzero(bad)[0]) if isinstance(bad, np.ndarray) else 0
    return [int(i[k]) if isinstance(i, np.ndarray) else int(i) for i in at]


def first_outside(at: Sequence[Any], shape: Sequence[int]) -> list[int]:
    """The first index that is not inside of ``shape``, or any where their numbers of axes differ."""
    bad: Any = len(at) != len(shape)
    for i, n in zip(at, shape, strict=False):
        bad = bad | (i < 0) | (i >= n)
    return first_of(at, bad)


def disagree(kept: Any, new: Array) -> bool:
    """Whether memory does not hold what was just stored in it: points stored different values in one element."""
    differs = kept != new
    return bool(np.any(differs)) and bool(np.any(differs & ((kept == kept) | (new == new))))
