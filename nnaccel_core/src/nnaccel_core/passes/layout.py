"""Choose the physical layout of every value; copies between layouts become explicit ``reorder`` nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nnaccel_core.ir import Graph, Node, Value, channels_last, identity
from nnaccel_core.ir.graph import Update
from nnaccel_core.ir.types import Layout
from nnaccel_core.ops.conv import is_depthwise
from nnaccel_core.ops.registry import lookup, rewriter
from nnaccel_core.passes.reshapes import reshape_layouts

#: Ops whose kernels want channels innermost: SIMD runs over channels, windows over pixels.
IMAGE_OPS = frozenset({"conv", "conv_backward_data", "max_pool", "avg_pool", "avg_pool_backward", "adaptive_max_pool"})
#: Those all of whose operands are images: what is pooled, where maxima stand, and gradients.
POSITION_OPS = frozenset(
    {"max_pool_positions", "max_pool_backward", "adaptive_max_pool_positions", "adaptive_max_pool_backward"}
)

#: Heads may stand before or behind positions, in memory, as a network has projected and split them; rows are dense.
ATTENTION_OPS = frozenset({"sdpa", "sdpa_backward"})


def _drop_axes(layout: Layout, axes: Sequence[int]) -> Layout:
    kept = [a for a in layout if a not in axes]
    rank = {a: i for i, a in enumerate(sorted(kept))}
    return tuple(rank[a] for a in kept)


def transposed_layout(layout: Layout, perm: Sequence[int]) -> Layout:
    """The layout under which a transposed tensor is the same memory."""
    return tuple(list(perm).index(a) for a in layout)


class _Assigner:
    def __init__(self, graph: Graph, weights_last: bool) -> None:
        self.graph = graph
        self.weights_last = weights_last
        #: rounded weights, and how convolutions want them: brought there as they are rounded, and kept so for a backward pass
        self.rounded = self._rounded_weights() if weights_last else {}
        self.nodes: list[Node] = []
        self.map: dict[Value, Value] = {}
        self.copies: dict[tuple[Value, Layout], Value] = {}

    def _rounded_weights(self) -> dict[Value, Layout]:
        casts = {n.output for n in self.graph.nodes if n.op == "cast"}
        found: dict[Value, Layout] = {}
        for node in self.graph.nodes:
            if node.op in ("conv", "conv_backward_data") and 3 <= node.output.type.rank <= 5 and node.inputs[1] in casts:
                found.setdefault(node.inputs[1], self._weights_layout(node))
        return found

    def _weights_layout(self, node: Node) -> Layout:
        """How the weights of ``node``, a convolution or the gradient of its input, are to lie."""
        rank = node.output.type.rank
        if is_depthwise(node):  # channels innermost in the weights too: (spatial..., 1, O)
            return (*range(2, rank), 1, 0)
        # Frameworks differ in the order of their weights, libraries and kernels expect one.
        return channels_last(rank) if self.weights_last else identity(rank)

    def get(self, v: Value) -> Value:
        return self.map.get(v, v)

    def to(self, v: Value, layout: Layout, origin: str) -> Value:
        """``v`` (of the new graph) in ``layout``; a copy where its memory differs."""
        if v.type.same_memory(layout):
            return v
        found = self.copies.get((v, layout))
        if found is None:
            found = Value(v.type.with_layout(layout), f"{v.name}_r")
            self.nodes.append(Node("reorder", (v,), (found,), {"layout": layout}, origin))
            self.copies[v, layout] = found
        return found

    def emit(self, node: Node, inputs: Sequence[Value], layouts: Sequence[Layout]) -> None:
        outputs = []
        for v, layout in zip(node.outputs, layouts, strict=True):
            new = v if v.type.layout == layout else Value(v.type.with_layout(layout), v.name)
            self.map[v] = new
            outputs.append(new)
        self.nodes.append(replace(node, inputs=tuple(inputs), outputs=tuple(outputs)))

    def visit(self, node: Node) -> None:
        inputs = [self.get(v) for v in node.inputs]
        rank = node.outputs[0].type.rank if node.outputs else 0
        op = node.op
        if op in IMAGE_OPS and 3 <= rank <= 5:
            x = self.to(inputs[0], channels_last(rank), node.origin)
            rest = inputs[1:]
            if op in ("conv", "conv_backward_data"):
                rest[0] = self.to(rest[0], self._weights_layout(node), node.origin)
            self.emit(node, [x, *rest], [channels_last(rank)])
        elif op in POSITION_OPS and 3 <= rank <= 5:
            self.emit(node, [self.to(v, channels_last(rank), node.origin) for v in inputs], [channels_last(rank)])
        elif op == "conv_backward_weights" and 3 <= rank <= 5:
            # Both operands are images; the gradient lies as the weights do.
            last = self.weights_last and not (node.attrs["groups"] > 1 and node.output.shape[1] == 1)
            moved = [self.to(v, channels_last(rank), node.origin) for v in inputs]
            self.emit(node, moved, [channels_last(rank) if last else identity(rank)])
        elif op in ATTENTION_OPS:
            dense = [v.type.layout[-1] == v.type.rank - 1 for v in inputs]
            moved = [v if ok else self.to(v, identity(v.type.rank), node.origin) for v, ok in zip(inputs, dense, strict=True)]
            first = moved[0].type.layout
            outputs = [first, identity(rank)] if op == "sdpa" else [v.type.layout for v in moved[:3]]
            self.emit(node, moved, outputs)
        elif op == "transpose":
            self.emit(node, inputs, [transposed_layout(inputs[0].type.layout, node.attrs["perm"])])
        elif op == "reshape":
            wanted, layout = reshape_layouts(inputs[0].type, node.output.shape)
            self.emit(node, [self.to(inputs[0], wanted, node.origin)], [layout])
        elif op.startswith("reduce_"):
            layout = inputs[0].type.layout
            kept = layout if node.attrs["keepdims"] else _drop_axes(layout, node.attrs["axes"])
            self.emit(node, inputs, [kept])
        elif lookup(op).limit == "any" or op in ("softmax", "log_softmax", "concat"):
            same_rank = [v for v in inputs if v.type.rank == rank]
            wanted = self._common_layout(same_rank, rank)
            size = node.outputs[0].type.size
            moved = [
                self.to(v, wanted, node.origin) if v.type.rank == rank and (v.type.size == size or op == "concat") else v
                for v in inputs
            ]
            self.emit(node, moved, [wanted] * len(node.outputs))
            if (y := node.outputs[0]) in self.rounded:
                self.map[y] = self.to(self.map[y], self.rounded[y], node.origin)
        elif op == "reorder":
            self.emit(node, inputs, [node.attrs["layout"]])
        else:
            moved = [self.to(v, identity(v.type.rank), node.origin) for v in inputs]
            self.emit(node, moved, [identity(v.type.rank) for v in node.outputs])

    @staticmethod
    def _common_layout(values: Sequence[Value], rank: int) -> Layout:
        """The layout of the largest operands; channels-last where they disagree."""
        layouts = [v.type.layout for v in values if any(d != 1 for d in v.shape)]
        # An operand that is one run of memory either way has no say.
        firm = [v.type.layout for v in values if sum(d != 1 for d in v.shape) > 1 and v.type.layout in layouts]
        if not firm:
            return layouts[0] if layouts else identity(rank)
        return channels_last(rank) if channels_last(rank) in firm else firm[0]


def assign_layouts(graph: Graph, output_layouts: Sequence[Layout | None] = (), weights_last: bool = False) -> Graph:
    """Images become channels-last (N, spatial..., C in memory); views keep memory; the rest follows its inputs.

    ``output_layouts`` are what the caller wants of each output; row-major where not given, any where None. ``weights_last``:
    weights of dense convolutions are brought to channels-last too, and their gradients come so; else both are row-major.
    """
    a = _Assigner(graph, weights_last)
    for node in graph.nodes:
        a.visit(node)
    outputs = []
    for i, v in enumerate(graph.outputs):
        wanted = output_layouts[i] if i < len(output_layouts) else identity(v.type.rank)
        outputs.append(a.get(v) if wanted is None else a.to(a.get(v), wanted, "output"))
    updates = tuple(Update(u.target, a.to(a.get(u.value), u.target.type.layout, "update")) for u in graph.updates)
    return replace(graph, nodes=tuple(a.nodes), outputs=tuple(outputs), updates=updates)


def view_root(v: Value, producers: dict[Value, Node]) -> Value:
    """The value whose memory ``v`` shares, through views."""
    while True:
        node = producers.get(v)
        if node is None or node.op == "constant" or not node.inputs or lookup(node.op).limit != "view":
            return v
        v = node.inputs[0]


def materialize_outputs(graph: Graph) -> Graph:
    """Every result gets memory of its own: copies where it would be an input, a parameter, a constant or another output."""
    producers = graph.producers()
    given = set(graph.inputs) | set(graph.params)
    taken: set[Value] = set()
    r = rewriter(graph)
    for node in graph.nodes:
        r.emit(node)
    outputs: list[Value] = []
    for v in graph.results():
        root = view_root(v, producers)
        if root in given or root in taken or (root in producers and producers[root].op == "constant"):
            (v,) = r.add_multi("reorder", [v], {"layout": v.type.layout}, origin="output", name=f"{v.name}_out", types=[v.type])
        else:
            taken.add(root)
        outputs.append(v)
    n = len(graph.outputs)
    updates = tuple(Update(u.target, v) for u, v in zip(graph.updates, outputs[n:], strict=True))
    return replace(graph, nodes=tuple(r.nodes), outputs=tuple(outputs[:n]), updates=updates)
