"""Stage 3, `storage`: what each intermediate of a group shrinks to.

*inlined*: an element-wise producer is substituted into the loads of its consumers. *register*: a reduction's
value goes straight into the element-wise nest that follows it (the epilogue). *tile*: scratch of one task.
*global*: the group's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nnaccel_core.dfp.nests import format_nests, loads_of, nest_loads, rename, scalar_cost, substitute_loads, transform
from nnaccel_core.ir import Dim, Value, free_symbols, substitute, sym
from nnaccel_core.ir.dims import linear
from nnaccel_core.loopir.grammar import Acc, Cast, Load, Nest, Scalar
from nnaccel_core.loopir.nests import acc_dtype
from nnaccel_core.loopir.numeric import compute_dtype

#: An element-wise value is recomputed at each use instead of stored while that costs at most this many additions.
RECOMPUTE = 4
#: How often an element is taken to be used along an axis whose extent is not known.
MANY = 64


@dataclass(frozen=True)
class Staged:
    """A group after `storage`: fewer, larger nests.

    Attributes:
        nests: in order of execution; each writes a tile buffer or an output.
        inputs, outputs: the group's; kinds: what became of each intermediate, by its name.
    """

    nests: tuple[Nest, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    kinds: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return "".join(f"{name}: {kind}\n" for name, kind in self.kinds) + format_nests(self.nests)


def uses_per_element(nest: Nest, load: Load, in_final: bool) -> float:
    """How often ``nest`` reads one element of what ``load`` reads, on average."""
    extents: dict[str, Dim] = dict(zip(nest.axes, nest.out.shape, strict=True))
    if not in_final:
        extents |= dict(nest.reduce)
    reduced = {name for name, _ in nest.reduce}
    times = 1.0
    seen: set[str] = set()
    for d in load.index:
        names = free_symbols(d) & extents.keys()
        seen |= names
        steps = [linear(d, n) for n in sorted(names) if n not in reduced]
        stride = max([abs(s[0]) for s in steps if s is not None], default=0)
        window = [extents[n] for n in sorted(names) if n in reduced]
        if stride and window:
            for k in window:
                times *= max(1.0, (k if isinstance(k, int) else MANY) / stride)
        elif len(names) > 1:
            times *= MANY
    for name, extent in extents.items():
        if name not in seen and extent != 1:
            times *= extent if isinstance(extent, int) else MANY
    return times


class _Readers:
    """Which nests read a value, and what recomputing it there costs; remembered, as the same are asked for again and again."""

    def __init__(self) -> None:
        # The nests are kept beside what is known of them, so that no other gets their identity.
        self._reads: dict[int, tuple[Nest, frozenset[int]]] = {}
        self._costs: dict[tuple[int, ...], tuple[Sequence[Nest], float]] = {}

    def of(self, nests: Sequence[Nest], value: Value) -> list[Nest]:
        """Those of ``nests`` that read ``value``."""
        return [n for n in nests if id(value) in self._read_by(n)]

    def _read_by(self, nest: Nest) -> frozenset[int]:
        found = self._reads.get(id(nest))
        if found is None:
            found = self._reads[id(nest)] = nest, frozenset(id(ld.buffer) for ld in nest_loads(nest))
        return found[1]

    def cost(self, producer: Nest, readers: Sequence[Nest]) -> float:
        """`_recompute_cost`."""
        key = (id(producer), *map(id, readers))
        found = self._costs.get(key)
        if found is None:
            found = self._costs[key] = (producer, *readers), _recompute_cost(producer, readers)
        return found[1]


def _recompute_cost(producer: Nest, consumers: Sequence[Nest]) -> float:
    """Additions spent per element when ``producer`` is evaluated anew at every use."""
    times = 0.0
    for n in consumers:
        for expression, in_final in ((n.body, False), (n.final, True)):
            times += sum(uses_per_element(n, ld, in_final) for ld in loads_of(expression) if ld.buffer is producer.out)
    cost = scalar_cost(producer.body)
    extra_loads = max(0, sum(1 for _ in loads_of(producer.body)) - 1)
    return (cost + extra_loads) * (times - 1)


def inline(producer: Nest, consumer: Nest, rounded: bool = False) -> Nest:
    """``consumer`` with every load of ``producer``'s value replaced by the expression that computes it; if ``rounded``, to the
    value's type where that has 16 bits, since expressions of such are computed in 32."""
    to = producer.out.dtype if rounded and producer.out.dtype != compute_dtype(producer.out.dtype) else None
    memo: dict[tuple[Dim, ...], Scalar] = {}

    def loads(load: Load) -> Scalar:
        if load.buffer is not producer.out:
            return load
        if load.index not in memo:
            env: Mapping[str, Dim] = dict(zip(producer.axes, load.index, strict=True))
            value = transform(producer.body, lambda d: substitute(d, env))
            memo[load.index] = value if to is None or isinstance(value, Load) else Cast(value, to)
        return memo[load.index]

    return substitute_loads(consumer, loads)


def _is_epilogue(reduction: Nest, consumer: Nest) -> bool:
    """Whether ``consumer`` uses the value of ``reduction`` only at its own point."""
    if consumer.combine is not None or consumer.where or len(consumer.axes) != len(reduction.axes):
        return False
    point = tuple(sym(a) for a in consumer.axes)
    return all(ld.index == point for ld in loads_of(consumer.body) if ld.buffer is reduction.out)


def append_epilogue(reduction: Nest, consumer: Nest) -> Nest:
    """One nest that reduces and then evaluates ``consumer`` on the accumulator."""
    moved = rename(
        reduction,
        consumer.out,
        {a: sym(b) for a, b in zip(reduction.axes, consumer.axes, strict=True)},
        consumer.axes,
        [name for name, _ in reduction.reduce],
    )
    value: Scalar = moved.final if moved.final is not None else Acc()
    point = tuple(sym(a) for a in consumer.axes)
    body = transform(consumer.body, lambda d: d, lambda ld: value if ld.buffer is reduction.out and ld.index == point else ld)
    return replace(moved, final=body, acc_dtype=acc_dtype(reduction))


def storage(
    nests: Sequence[Nest], inputs: Sequence[Value], outputs: Sequence[Value], recompute: int = RECOMPUTE, parts: bool = True,
    rounded: bool = False,
) -> Staged:  # fmt: skip
    """Decide where every intermediate lives and merge the nests accordingly.

    Args:
        recompute: stands for `RECOMPUTE`.
        rounded: whether inlined values of 16 bits are rounded as if they were stored, so that a group gives the numbers of its
            layers one by one. Processors have the time; on GPUs, groups keep the 32 bits that they are computed in.
        parts: whether a reduction goes into an element-wise nest of which it gives only a part, as one operand of a concat does.
    """
    work = list(nests)
    kinds: dict[str, str] = {}
    names = _names(nests, inputs, outputs)
    known = _Readers()
    changed = True
    while changed:
        changed = False
        # Producers first, so that a chain is judged by the cost of all of it.
        for p in work:
            if p.out in outputs:
                continue
            readers = known.of(work, p.out)
            if p.combine is None and not p.where and known.cost(p, readers) <= recompute:
                work = [inline(p, n, rounded) if n in readers else n for n in work if n is not p]
                kinds[names[p.out]] = "inlined"
                changed = True
                break
            if p.combine is not None and len(readers) == 1 and _is_epilogue(p, readers[0]):
                if not parts and p.out.shape != readers[0].out.shape:
                    continue
                joined = append_epilogue(p, readers[0])
                work = [joined if n is readers[0] else n for n in work if n is not p]
                kinds[names[p.out]] = "register"
                changed = True
                break
    for n in work:
        kinds[names[n.out]] = "global" if n.out in outputs else "tile"
    ordered = tuple((names[n.out], kinds[names[n.out]]) for n in nests)
    return Staged(tuple(work), tuple(inputs), tuple(outputs), ordered)


def _names(nests: Sequence[Nest], inputs: Sequence[Value], outputs: Sequence[Value]) -> dict[Value, str]:
    """Distinct names of all values, for reports: ops may name temporaries alike."""
    out: dict[Value, str] = {}
    taken: set[str] = set()
    for v in (*inputs, *outputs, *(n.out for n in nests)):
        if v in out:
            continue
        name, k = v.name, 1
        while name in taken:
            name, k = f"{v.name}_{k}", k + 1
        taken.add(name)
        out[v] = name
    return out


__all__ = ["RECOMPUTE", "Staged", "append_epilogue", "inline", "storage", "uses_per_element"]
