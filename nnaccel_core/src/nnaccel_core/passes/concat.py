"""Passes around concat and pooling: do the work where the tensors are small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnaccel_core.ir import Graph, Node, Rewriter, Value, evaluate, free_symbols
from nnaccel_core.ops.registry import lookup, rewriter
from nnaccel_core.passes.fold import parameter_values

#: Pooling windows never cross channels, so they commute with a concat of channels.
POOLING = frozenset({"max_pool", "avg_pool"})
#: Non-decreasing functions commute with taking a maximum.
MONOTONIC = frozenset({"relu", "clip", "sigmoid", "tanh", "leaky_relu"})
#: What a library call before them takes as an epilogue for nothing.
PRODUCTS = frozenset({"conv", "matmul"})
#: Output channels that a product computes together.
VECTOR = 16


def _single_use(graph: Graph) -> set[Value]:
    """Values read by exactly one node and not returned."""
    uses = graph.uses()
    results = set(graph.results())
    return {v for v, nodes in uses.items() if len(nodes) == 1 and v not in results}


def merge_concats(graph: Graph) -> Graph:
    """concat(a, concat(b, c)) along one axis becomes concat(a, b, c) where nothing else reads the inner one."""
    r = rewriter(graph)
    single = _single_use(graph)
    inner: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.op != "concat":
            r.emit(node)
            continue
        flat: list[Value] = []
        for v in node.inputs:
            source = inner.get(v)
            if source is not None and v in single and source.attrs["axis"] == node.attrs["axis"]:
                flat += source.inputs
            else:
                flat.append(r.get(v))
        made = r.emit(node, flat) if len(flat) == len(node.inputs) else None
        if made is None:
            r.alias(node.output, r.add("concat", flat, node.attrs, origin=node.origin, name=node.output.name))
            made = r.nodes[-1]
        inner[node.output] = made
    return r.finish()


def measure_before_concat(graph: Graph) -> Graph:
    """Statistics of the channels of concat(a, b) become those of a followed by those of b.

    Each part is read once, however many concats it goes into: a layer of DenseNet reads all layers in front of it.
    """
    r = rewriter(graph)
    concats: dict[Value, Node] = {}
    known: dict[Value, tuple[Value, ...]] = {}

    def measured(part: Value, node: Node) -> tuple[Value, ...]:
        if part not in known:
            known[part] = r.add_multi(node.op, [r.get(part)], node.attrs, origin=node.origin)
        return known[part]

    for node in graph.nodes:
        concat = concats.get(node.inputs[0]) if node.op == "batch_norm_stats" else None
        if concat is None:
            r.emit(node)
        else:
            parts = [measured(v, node) for v in concat.inputs]
            for old, pieces in zip(node.outputs, zip(*parts, strict=True), strict=True):
                r.alias(old, r.add("concat", pieces, {"axis": 0}, origin=node.origin, name=old.name))
        if node.op == "concat" and node.attrs["axis"] == 1:
            concats[node.output] = node
        elif node.op == "batch_norm_stats":
            known.setdefault(node.inputs[0], tuple(r.get(v) for v in node.outputs))
    return r.finish()


def _elementwise_of_one(node: Node) -> bool:
    return len(node.inputs) == 1 and lookup(node.op).limit == "any" and node.op not in ("expand", "slice", "pad", "flip", "roll")


def _static_size(v: Value) -> int:
    """Elements of ``v`` with every symbol counted as one: sizes are compared, and batch scales both sides."""
    return evaluate(v.type.size, dict.fromkeys(free_symbols(v.type.size), 1))


def _each_part(r: Rewriter, node: Node, concat: Node, attrs: Mapping[str, Any]) -> Value:
    parts = [r.add(node.op, [r.get(v)], attrs, origin=node.origin, name=node.output.name) for v in concat.inputs]
    return r.add("concat", parts, concat.attrs, origin=concat.origin, name=node.output.name)


def move_before_concat(graph: Graph) -> Graph:
    """pool(concat(a, b)) becomes concat(pool(a), pool(b)): the concat then copies the smaller tensors.

    Element-wise layers move too, where that repeats no work: they join their producers instead of running over the
    whole concat. A part that others read as well keeps its place, since it would be computed twice.
    """
    r = rewriter(graph)
    single = _single_use(graph)
    concats: dict[Value, Node] = {}
    for node in graph.nodes:
        concat = concats.get(node.inputs[0]) if node.inputs else None
        movable = False
        if concat is not None and node.inputs[0] in single:
            if node.op in POOLING and concat.attrs["axis"] == 1:
                movable = _static_size(node.output) < _static_size(node.inputs[0])
            elif _elementwise_of_one(node):
                movable = all(v in single for v in concat.inputs)
        if movable and concat is not None:
            r.alias(node.output, _each_part(r, node, concat, node.attrs))
            # What follows may move in front of the new concat, whose parts nothing else reads.
            concats[node.output] = r.nodes[-1]
            single.update(r.nodes[-1].inputs)
        else:
            r.emit(node)
        if node.op == "concat":
            concats[node.output] = node
    return r.finish()


def activate_after_max_pool(graph: Graph) -> Graph:
    """max_pool(relu(x)) becomes relu(max_pool(x)), equal for every monotonic function: fewer elements to activate.

    Not behind a convolution or product, whose epilogue activates for nothing.
    """
    r = rewriter(graph)
    single = _single_use(graph)
    producers = graph.producers()
    for node in graph.nodes:
        activation = producers.get(node.inputs[0]) if node.inputs else None
        if (
            node.op == "max_pool"
            and activation is not None
            and activation.op in MONOTONIC
            and node.inputs[0] in single
            and activation.attrs.get("alpha", 0.0) >= 0
        ):
            source = producers.get(activation.inputs[0])
            if source is None or source.op not in PRODUCTS:
                pooled = r.add("max_pool", [r.get(activation.inputs[0])], node.attrs, origin=node.origin)
                made = r.add(activation.op, [pooled], activation.attrs, origin=activation.origin, name=node.output.name)
                r.alias(node.output, made)
                continue
        r.emit(node)
    return r.finish()


def merge_sibling_convolutions(graph: Graph) -> Graph:
    """Narrow 1x1 convolutions of one input with equal attributes become one, whose result is sliced apart.

    The input is read once and the product is wider. Only where the slices go into element-wise layers, other 1x1
    convolutions or a concat, which read slices in place, where the weights are parameters, and where vectors are filled
    better (`_fills_vectors`): taking slices apart costs more than one reading of the input. Measured, AVX2, one core, time of
    separate over merged at 1 and 4 images: 4 x 8 channels of 128 at 28x28 1.06, 1.04 (medians 1.08, 1.06); 3 x 16 of 512 at
    56x56 0.96, 0.99; 3 x 64 of 256 at 56x56 0.97, 0.83; 64 + 48 + 64 of 192 at 35x35 0.93, 0.94; 3 x 192 of 768 at 17x17 0.97,
    0.89; 320 + 384 + 448 of 2048 at 8x8 0.99, 0.89. All of Inception-v3's siblings merged: 0.98 on two cores at one image.
    SqueezeNet and DenseNet have none.
    """
    r = rewriter(graph)
    uses = graph.uses()
    results = set(graph.results())
    fixed = parameter_values(graph)
    groups: dict[tuple[Any, ...], list[Node]] = {}
    for node in graph.nodes:
        if node.op == "conv" and all(v in fixed for v in node.inputs[1:]) and all(k == 1 for k in node.inputs[1].shape[2:]):
            if node.attrs["groups"] == 1 and node.output not in results:
                key = (node.inputs[0], len(node.inputs), tuple(sorted(node.attrs.items())))
                groups.setdefault(key, []).append(node)
    merged = {id(n): nodes for nodes in groups.values() if _mergeable(nodes, uses) for n in nodes}
    # Weights first: the first sibling now needs those of the last.
    for node in sorted(graph.nodes, key=lambda n: n.output not in fixed if len(n.outputs) == 1 else True):
        nodes = merged.get(id(node))
        if nodes is None:
            r.emit(node)
        elif node is nodes[0]:
            _merge(r, nodes)
    return r.finish()


def _fills_vectors(nodes: list[Node]) -> bool:
    """Whether all channels together take a quarter fewer vectors than those of each convolution by itself."""
    channels = [evaluate(n.output.shape[1], {}) for n in nodes]
    apart = sum(-(-c // VECTOR) for c in channels)
    return 4 * -(-sum(channels) // VECTOR) <= 3 * apart


def _mergeable(nodes: list[Node], uses: Mapping[Value, list[Node]]) -> bool:
    """Whether there are several, merging them pays, and every result is only read by what reads slices in place."""
    if len(nodes) < 2 or not _fills_vectors(nodes):
        return False
    for n in nodes:
        for reader in uses.get(n.output, ()):
            one_by_one = reader.op == "conv" and all(k == 1 for k in reader.inputs[1].shape[2:])
            if not (one_by_one or reader.op == "concat" or lookup(reader.op).limit == "any"):
                return False
    return True


def _merge(r: Rewriter, nodes: list[Node]) -> None:
    first = nodes[0]
    weights = r.add("concat", [r.get(n.inputs[1]) for n in nodes], {"axis": 0}, origin=first.origin)
    operands = [r.get(first.inputs[0]), weights]
    if len(first.inputs) == 3:
        operands.append(r.add("concat", [r.get(n.inputs[2]) for n in nodes], {"axis": 0}, origin=first.origin))
    whole = r.add("conv", operands, first.attrs, origin=first.origin, name="merged")
    at = 0
    for n in nodes:
        channels = evaluate(n.output.shape[1], {})
        starts = (0, at, *([0] * (whole.type.rank - 2)))
        ends = (whole.shape[0], at + channels, *whole.shape[2:])
        part = r.add("slice", [whole], {"starts": starts, "ends": ends, "steps": (1,) * whole.type.rank}, origin=n.origin)
        r.alias(n.output, part)
        at += channels
