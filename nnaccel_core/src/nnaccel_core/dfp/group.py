"""What a depth-first group is, and its generalization: the same computation with every extent a fresh symbol.

Kernels are generated from the generalized group, so two groups of equal structure share one kernel whatever
their sizes, and the sizes of this plan are arguments of the kernel.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import Dim, Expr, Node, TensorType, Value, free_symbols, substitute, sym
from nnaccel_core.ir.types import Layout
from nnaccel_core.loopir.grammar import Kernel
from nnaccel_core.loopir.source import KernelSource
from nnaccel_core.ops import registry

#: A concat of more operands than this is computed for the extents that it has.
MANY_OPERANDS = 4


@dataclass(frozen=True)
class Reason:
    """Why something was refused. ``nodes`` are the nodes it is about."""

    text: str
    nodes: tuple[Node, ...] = ()

    def __str__(self) -> str:
        names = ", ".join(n.where() for n in self.nodes)
        return f"{self.text} [{names}]" if names else self.text


@dataclass(frozen=True)
class KernelCall:
    """One launch of a generated kernel.

    Attributes:
        source: makes the kernel when it is needed: most candidates are never chosen.
        args: graph values in the order of ``kernel.buffers``; dims: integers in the order of ``kernel.dims``.
        tasks: size of the task grid (0: nothing to do); scratch: bytes of tile memory one thread needs.
        threads: on GPUs, the threads that share a task, and its tile memory.
        rows: the entry of ``dims`` with the rows of an image that a tile has, where the last entry is the first of them.
    """

    source: KernelSource
    args: tuple[Value, ...]
    dims: tuple[int, ...]
    tasks: int
    scratch: int
    threads: int = 0
    rows: int | None = None

    @property
    def kernel(self) -> Kernel:
        return self.source.kernel


@dataclass(frozen=True)
class Generated:
    """``Candidate.impl`` of the core's own candidates: kernels in order, and values that live between them."""

    calls: tuple[KernelCall, ...]
    temporaries: tuple[Value, ...] = ()


@dataclass(frozen=True, eq=False)
class Group:
    """A stand-alone computation: nodes in topological order over canonical values.

    Attributes:
        inputs: values read from outside (``v0``, ``v1``, ...); outputs: values needed outside.
        constants: inputs that are scalar constants of the graph, by their value; the kernel contains them.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[Value, float | int | bool]


@dataclass(frozen=True, eq=False)
class General:
    """A generalized group and where its symbols come from.

    Attributes:
        sources: each symbol's ``(input number, axis)``; for user symbols in attributes ``(-1, number)``.
    """

    group: Group
    sources: tuple[tuple[str, tuple[int, int]], ...]


@dataclass(frozen=True)
class Pattern:
    """The structure of a group, hashable, and its binding to one graph.

    Attributes:
        key: equal for groups that may share a kernel; holds no name and no extent of the graph.
        inputs, outputs: the graph's values, in the group's order; layouts: physical layouts of the inputs.
        symbols: user symbols that occur in attributes.
        constants: scalar constants among the inputs.
    """

    key: tuple[Any, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layouts: tuple[Layout, ...]
    symbols: tuple[str, ...]
    constants: tuple[Value, ...]


def is_depthwise(node: Node) -> bool:
    """Whether ``node`` is a convolution with one filter per channel, or its input's gradient."""
    if node.op not in ("conv", "conv_backward_data"):
        return False
    w, x = node.inputs[1], node.inputs[0]
    return w.shape[1] == 1 and node.attrs.get("groups", 1) == x.shape[1] == w.shape[0] and x.shape[1] != 1


def _structural_axes(node: Node, position: int) -> range:
    """Axes of an operand whose extents stay constants: the window of a convolution, and what many operands of a concat bring to
    it. Few groups share that many operands, and where each one begins would be a sum over all in front of it."""
    if node.op in ("conv", "conv_backward_data") and position == 1:
        return range(2, node.inputs[1].type.rank)
    if node.op == "concat" and len(node.inputs) > MANY_OPERANDS:
        axis = int(node.attrs["axis"])
        return range(axis, axis + 1)
    return range(0)


def _freeze(value: Any, rename: Mapping[str, Expr]) -> Any:
    if isinstance(value, Expr):
        return substitute(value, rename)
    if isinstance(value, (tuple, list)):
        return tuple(_freeze(v, rename) for v in value)
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    return value


def _attr_symbols(value: Any) -> set[str]:
    if isinstance(value, Expr):
        return free_symbols(value)
    if isinstance(value, (tuple, list)):
        return set().union(*(_attr_symbols(v) for v in value)) if value else set()
    return set()


@dataclass(frozen=True)
class _Facts:
    """What of a node goes into patterns. ``attrs`` are frozen, with user symbols ``symbols`` as they are."""

    attrs: tuple[tuple[str, Any], ...]
    symbols: frozenset[str]
    layouts: tuple[Layout, ...]
    fixed: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[str, Layout], ...]


#: Patterns of one node are made many times while groups grow, and again for every size of the network.
_facts: weakref.WeakKeyDictionary[Node, _Facts] = weakref.WeakKeyDictionary()


def _facts_of(node: Node) -> _Facts:
    found = _facts.get(node)
    if found is None:
        depthwise = is_depthwise(node)
        attrs = tuple((k, "channels" if k == "groups" and depthwise else _freeze(x, {})) for k, x in sorted(node.attrs.items()))
        symbols = frozenset(s for v in node.attrs.values() for s in _attr_symbols(v))
        fixed = []
        for i, v in enumerate(node.inputs):
            keep = _structural_axes(node, i)
            fixed.append(tuple(d if isinstance(d, int) and (a in keep or d == 1) else 0 for a, d in enumerate(v.shape)))
        found = _facts[node] = _Facts(
            attrs,
            symbols,
            tuple(v.type.layout for v in node.inputs),
            tuple(fixed),
            tuple((v.dtype, v.type.layout) for v in node.outputs),
        )
    return found


def pattern(nodes: Sequence[Node], outputs: Sequence[Value], constants: Mapping[Value, Any] = MappingProxyType({})) -> Pattern:
    """The structure of the group ``nodes`` whose values ``outputs`` are needed outside.

    ``constants`` gives the scalar constants of the graph, which become part of the structure.
    """
    number: dict[Value, int] = {}
    inputs: list[Value] = []
    layouts: list[Layout] = []
    arguments: list[Any] = []
    scalars: list[Any] = []
    consts: list[Value] = []
    produced = {v for n in nodes for v in n.outputs}
    facts = [_facts_of(n) for n in nodes]
    symbols = sorted(frozenset().union(*(f.symbols for f in facts)))
    rename = {s: sym(f"u{i}") for i, s in enumerate(symbols)}
    rows: list[Any] = []
    for n, f in zip(nodes, facts, strict=True):
        for i, v in enumerate(n.inputs):
            if v in number or v in produced:
                continue
            number[v] = len(number)
            inputs.append(v)
            layouts.append(f.layouts[i])
            arguments.append((v.dtype, f.layouts[i], f.fixed[i]))
            if v in constants:
                consts.append(v)
                scalars.append((number[v], repr(constants[v])))
        attrs = tuple((k, _freeze(x, rename)) for k, x in f.attrs) if f.symbols else f.attrs
        operands = tuple(number[v] for v in n.inputs)
        for v in n.outputs:
            number[v] = len(number)
        rows.append((n.op, attrs, operands, f.outputs))
    key = (tuple(rows), tuple(arguments), tuple(number[v] for v in outputs), tuple(scalars))
    return Pattern(key, tuple(nodes), tuple(inputs), tuple(outputs), tuple(layouts), tuple(symbols), tuple(consts))


def generalize(p: Pattern, constants: Mapping[Value, Any] = MappingProxyType({})) -> General:
    """The group of ``p`` on fresh symbols.

    Every extent of an input other than the int 1 and windows becomes a symbol; shape inference then runs again,
    and the equalities it could not decide are solved by substitution. So extents are equal in the result only
    when the structure makes them equal, never because two sizes coincide in this network.
    """
    solved: dict[str, Dim] = {}
    shapes: list[tuple[Dim, ...]] = []
    sources: dict[str, tuple[int, int]] = {}
    for i, (_, _, fixed) in enumerate(p.key[1]):
        dims: list[Dim] = []
        for a, d in enumerate(fixed):
            if d:
                dims.append(d)
            else:
                name = f"x{len(sources)}"
                sources[name] = (i, a)
                dims.append(sym(name))
        shapes.append(tuple(dims))
    for i, _ in enumerate(p.symbols):
        sources[f"u{i}"] = (-1, i)

    types = dict(_infer_types(p, shapes, solved))
    # A second run on the solved shapes lets every shape profit from equalities found later in the list.
    for _ in range(3):
        before = len(solved)
        shapes = [tuple(_resolve(d, solved) for d in s) for s in shapes]
        types = dict(_infer_types(p, shapes, solved))
        if len(solved) == before:
            break
    left: dict[str, None] = {}
    for t in types.values():
        for d in t.shape:
            for s in _ordered_symbols(d):
                left.setdefault(s)
    names = {old: sym(f"d{k}") for k, old in enumerate(s for s in left)}
    return _rebuild(p, types, names, sources, constants, solved)


def _ordered_symbols(d: Dim) -> list[str]:
    return sorted(free_symbols(d), key=lambda s: (s[0], int(s[1:])))


def _resolve(d: Dim, solved: Mapping[str, Dim]) -> Dim:
    for _ in range(len(solved) + 1):
        new = substitute(d, solved)
        if new == d:
            return d
        d = new
    return d


def _attrs(p: Pattern, node: Node, types: Mapping[Value, TensorType], rename: Mapping[str, Expr]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for k, x in node.attrs.items():
        if k == "groups" and is_depthwise(node):
            out[k] = types[node.inputs[0]].shape[1]
        else:
            out[k] = x if isinstance(x, np.ndarray) else _freeze(x, rename)
    return out


def _infer_types(p: Pattern, shapes: Sequence[tuple[Dim, ...]], solved: dict[str, Dim]) -> list[tuple[Value, TensorType]]:
    """Types of all values; adds to ``solved`` the symbols that shape inference's guards determine."""
    types: dict[Value, TensorType] = {}
    rename = {s: sym(f"u{i}") for i, s in enumerate(p.symbols)}
    for v, lay, shape in zip(p.inputs, p.layouts, shapes, strict=True):
        types[v] = TensorType(shape, v.dtype, lay)
    for n in p.nodes:
        if is_depthwise(n):
            _solve(types[n.inputs[0]].shape[1], types[n.inputs[1]].shape[0], solved)
        found = _infer_node(p, n, types, rename, solved)
        for v, t in zip(n.outputs, found, strict=True):
            types[v] = TensorType(tuple(_resolve(d, solved) for d in t.shape), t.dtype, v.type.layout)
    return [(v, TensorType(tuple(_resolve(d, solved) for d in t.shape), t.dtype, t.layout)) for v, t in types.items()]


def _infer_node(
    p: Pattern, n: Node, types: Mapping[Value, TensorType], rename: Mapping[str, Expr], solved: dict[str, Dim]
) -> tuple[TensorType, ...]:
    while True:
        before = len(solved)
        now = [TensorType(tuple(_resolve(d, solved) for d in types[v].shape), v.dtype) for v in n.inputs]
        known = {**types, **dict(zip(n.inputs, now, strict=True))}
        with registry.collect_guards() as guards:
            try:
                found, failure = registry.infer(n.op, now, _attrs(p, n, known, rename), n.where()), None
            except ShapeError as e:
                found, failure = (), e
        for a, b in guards:
            _solve(a, b, solved)
        if failure is None:
            return found
        # Some rules compare shapes after guarding them: they hold once the guards are solved.
        if len(solved) == before:
            raise failure


def _solve(a: Dim, b: Dim, solved: dict[str, Dim]) -> None:
    a, b = _resolve(a, solved), _resolve(b, solved)
    if a == b:
        return
    # The later symbol goes, so that names follow the order of the inputs; user symbols stay.
    free = [(x, y) for x, y in ((a, b), (b, a)) if isinstance(x, Expr) and x.op == "sym" and str(x).startswith("x")]
    free = [(x, y) for x, y in free if str(x) not in free_symbols(y)]
    if free:
        x, y = max(free, key=lambda xy: int(str(xy[0])[1:]))
        solved[str(x)] = y


def _rebuild(
    p: Pattern,
    types: Mapping[Value, TensorType],
    names: Mapping[str, Expr],
    sources: Mapping[str, tuple[int, int]],
    constants: Mapping[Value, Any],
    solved: Mapping[str, Dim],
) -> General:
    mini: dict[Value, Value] = {v: Value(types[v].substitute(names), f"v{i}") for i, v in enumerate(types)}
    rename = {s: names.get(f"u{i}", sym(f"u{i}")) for i, s in enumerate(p.symbols)}
    nodes = []
    for n in p.nodes:
        attrs = _attrs(p, n, {v: mini[v].type for v in n.inputs}, rename)
        nodes.append(Node(n.op, tuple(mini[v] for v in n.inputs), tuple(mini[v] for v in n.outputs), attrs, n.op))
    scalars = {mini[v]: constants[v] for v in p.constants}
    inputs = tuple(mini[v] for v in p.inputs if mini[v] not in scalars)
    group = Group(tuple(nodes), inputs, tuple(mini[v] for v in p.outputs), MappingProxyType(scalars))
    used = {old: new for old, new in names.items() if old in sources}
    for i in range(len(p.symbols)):
        if f"u{i}" not in used:
            used[f"u{i}"] = sym(f"u{i}")
    return General(group, tuple((str(new.args[0]), sources[old]) for old, new in used.items()))
