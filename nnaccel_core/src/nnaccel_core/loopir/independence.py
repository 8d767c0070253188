"""Which loops of a kernel may run all their iterations side by side, a statement at a time, with the results of a serial run.

A loop may where each buffer that its body writes, and does not allocate itself, is one of these:

- *separate*: some index of every access is ``c * axis + rest`` with one ``c``, and the rests are the same but for constants
  smaller than ``c``, so that no two iterations meet in an element;
- *collected*: the body does nothing with it but one `Accumulate`, in no loop that runs serially. Terms come in the order of
  the iterations, so that sums of floats are the same too;
- trusted: the loop is bound to lanes, threads or tasks, whose iterations may not depend on one another by the IR's rules.
  ``lanes`` registers, which all lanes share, and memory known under two names are not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from nnaccel_core.ir import dims
from nnaccel_core.ir.dims import Dim
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.ranges import free_symbols, substitute

_TRUSTED = ("simd", "parallel", "grid", "block")
_linear = lru_cache(maxsize=1 << 14)(dims.linear)


@dataclass
class _Access:
    buffer: g.Buffer
    index: tuple[Dim, ...]
    kind: str
    #: whether it stands in a loop, inside the one looked at, that runs serially
    serial: bool = False


class Independence:
    """The loops of ``kernel``, and its tasks, that may run side by side.

    ``same`` maps buffers to one that stands for the same memory.
    """

    def __init__(self, kernel: g.Kernel, same: Mapping[g.Buffer, g.Buffer]) -> None:
        self._same = same
        self._dims = frozenset(kernel.dims)
        self._loops: dict[int, bool] = {}
        self._fixed = True
        self._body(kernel.body, {})
        #: whether every allocation has extents that the kernel's dims decide
        self.tasks = self._fixed and not same

    def of(self, loop: g.Loop) -> bool:
        """Whether iterations of this loop of the kernel may run side by side."""
        return self._fixed and self._loops[id(loop)]

    def _body(self, body: Sequence[g.Stmt], lets: Mapping[str, Dim]) -> tuple[list[_Access], set[str]]:
        """What ``body`` accesses, but for what it allocates, with lets written out, and the axes of its loops."""
        found: list[_Access] = []
        axes: set[str] = set()
        local: set[g.Buffer] = set()
        for s in body:
            if isinstance(s, g.Let):
                lets = {**lets, s.name: substitute(s.dim, lets)}
            elif isinstance(s, g.Alloc):
                local.add(s.buffer)
                self._fixed &= all(free_symbols(d) <= self._dims for d in s.buffer.shape)
            elif isinstance(s, g.Loop):
                inner, names = self._body(s.body, lets)
                together = all(self._apart(group, s, names) for group in _by_buffer(inner))
                # One loop may stand in several places.
                self._loops[id(s)] = together = self._loops.get(id(s), True) and together
                for a in inner:
                    a.serial |= not together
                found += inner
                axes |= names | {s.axis}
            elif isinstance(s, g.If):
                self._scalar(s.cond, lets, found)
                for part in (s.then, s.other):
                    inner, names = self._body(part, lets)
                    found += inner
                    axes |= names
            elif isinstance(s, (g.Store, g.Accumulate)):
                self._access(s.buffer, s.index, type(s).__name__, lets, found)
                self._scalar(s.value, lets, found)
        return [a for a in found if a.buffer not in local], axes

    def _access(self, buffer: g.Buffer, index: Sequence[Dim], kind: str, lets: Mapping[str, Dim], to: list[_Access]) -> None:
        to.append(_Access(self._same.get(buffer, buffer), tuple([substitute(d, lets) for d in index]), kind))

    def _scalar(self, s: g.Scalar, lets: Mapping[str, Dim], to: list[_Access]) -> None:
        if isinstance(s, g.Load):
            assert isinstance(s.buffer, g.Buffer), "a kernel loads buffers"
            self._access(s.buffer, s.index, "Load", lets, to)
        for child in g.children(s):
            self._scalar(child, lets, to)

    def _apart(self, accesses: Sequence[_Access], loop: g.Loop, inner: set[str]) -> bool:
        buffer = accesses[0].buffer
        if all(a.kind == "Load" for a in accesses):
            return True
        if len(accesses) == 1 and accesses[0].kind == "Accumulate" and not accesses[0].serial:
            return True
        if loop.bind in _TRUSTED and buffer.space != "lanes" and buffer not in self._same.values():
            return True
        ranks = {len(a.index) for a in accesses}
        return len(ranks) == 1 and any(_separate({a.index[d] for a in accesses}, loop.axis, inner) for d in range(ranks.pop()))


def _by_buffer(accesses: Sequence[_Access]) -> list[list[_Access]]:
    found: dict[g.Buffer, list[_Access]] = {}
    for a in accesses:
        found.setdefault(a.buffer, []).append(a)
    return list(found.values())


def _separate(indices: set[Dim], axis: str, inner: set[str]) -> bool:
    """Whether no two iterations have equal indices, whichever of ``indices`` each takes."""
    forms = [_linear(d, axis) for d in indices]
    first = forms[0]
    if first is None or not first[0] or not inner.isdisjoint(free_symbols(first[1])):
        return False
    steps = [f[1] - first[1] if f is not None and f[0] == first[0] else None for f in forms]
    known = [s for s in steps if isinstance(s, int)]
    return len(known) == len(steps) and max(known) - min(known) < abs(first[0])
