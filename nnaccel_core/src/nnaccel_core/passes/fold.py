"""Fold per-channel affine operations into the convolutions and products before them."""

from __future__ import annotations

from collections.abc import Callable

from nnaccel_core.ir import Dim, Graph, Node, Rewriter, Value
from nnaccel_core.ops.reduce import batch_norm_affine
from nnaccel_core.ops.registry import lookup, rewriter


def parameter_values(graph: Graph) -> set[Value]:
    """Parameters, constants and everything computed from these alone.

    Not what has a symbolic shape (a constant expanded to the batch), nor an extent itself: these are known at the call only.
    """
    known: set[Value] = set(graph.params)
    for node in graph.nodes:
        if node.op == "extent" and not isinstance(node.attrs["dim"], int):
            continue
        if all(v in known for v in node.inputs) and all(v.type.is_static for v in node.outputs):
            known.update(node.outputs)
    return known


def factor_shape(layer: Node) -> tuple[Dim, ...]:
    """The shape under which a number for each output channel multiplies the weights of ``layer``: a conv, a conv_transpose
    without groups, or a matmul by a matrix."""
    w = layer.inputs[1]
    last = layer.op == "conv_transpose" or (layer.op == "matmul" and not layer.attrs.get("transpose_b", False))
    ones = [1] * (w.type.rank - 2)
    return (1, w.shape[1], *ones) if last else (w.shape[0], 1, *ones)


def _scaled(r: Rewriter, producer: Node, factor: Value, shift: Value, fixed: set[Value], origin: str) -> Value | None:
    """``producer``'s result times ``factor`` plus ``shift`` per channel, as one layer; None when it cannot take them."""
    weight = producer.inputs[1]
    if weight not in fixed:
        return None
    if producer.op == "conv_transpose" and producer.attrs["groups"] != 1:
        return None
    if producer.op == "matmul" and not (producer.attrs.get("transpose_b", False) and weight.type.rank == 2):
        return None
    column = r.add("reshape", [factor], {"shape": factor_shape(producer)}, origin=origin)
    new_weight = r.add("mul", [weight, column], origin=origin, name=f"{weight.name}_folded")
    bias = shift
    if len(producer.inputs) == 3:
        bias = r.add("add", [r.add("mul", [producer.inputs[2], factor], origin=origin), shift], origin=origin)
    return r.add(producer.op, [producer.inputs[0], new_weight, bias], producer.attrs, origin=producer.origin, name="folded")


def fold_batch_norm(graph: Graph) -> Graph:
    """conv -> batch_norm becomes conv with scaled weights (Jacob et al. 2017, section 3.2); likewise conv_transpose and matmul.

    The scaled weights depend on parameters only, so they end up in ``prepare``.
    """
    r = rewriter(graph)
    fixed = parameter_values(graph)
    uses = graph.uses()
    results = set(graph.results())
    made: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.op == "batch_norm" and all(v in fixed for v in node.inputs[1:]):
            x = r.get(node.inputs[0])
            producer = made.get(x)
            if producer is not None and len(uses[node.inputs[0]]) == 1 and node.inputs[0] not in results:
                mark = len(r.nodes)
                factor, shift = batch_norm_affine(r, node, [r.get(v) for v in node.inputs])
                new = _scaled(r, producer, factor, shift, fixed | set(r.map.values()), node.origin)
                if new is not None:
                    r.alias(node.output, new)
                    made[new] = r.nodes[-1]
                    continue
                del r.nodes[mark:]
        made_node = r.emit(node)
        if node.op in ("conv", "conv_transpose", "matmul"):
            made[made_node.output] = made_node
    return r.finish()


def fold_bias(graph: Graph) -> Graph:
    """conv -> add of a per-channel parameter becomes the convolution's bias; likewise matmul and its last axis."""
    r = rewriter(graph)
    fixed = parameter_values(graph)
    uses = graph.uses()
    results = set(graph.results())
    made: dict[Value, Node] = {}
    for node in graph.nodes:
        if node.op == "add":
            for x, b in (node.inputs, node.inputs[::-1]):
                producer = made.get(r.get(x))
                if producer is None or len(producer.inputs) == 3 or b not in fixed or len(uses[x]) != 1 or x in results:
                    continue
                channel_axis = 1 if producer.op == "conv" else x.type.rank - 1
                rank = x.type.rank
                offset = rank - b.type.rank
                full = [1] * max(offset, 0) + list(b.shape)
                if (
                    offset < 0
                    or any(d != 1 for k, d in enumerate(full) if k != channel_axis)
                    or full[channel_axis] != x.shape[channel_axis]
                ):
                    continue
                flat = r.add("reshape", [r.get(b)], {"shape": (x.shape[channel_axis],)}, origin=node.origin)
                new = r.add(producer.op, [*producer.inputs, flat], producer.attrs, origin=producer.origin, name="biased")
                r.alias(node.output, new)
                break
            else:
                r.emit(node)
            continue
        made_node = r.emit(node)
        if node.op in ("conv", "matmul"):
            made[made_node.output] = made_node
    return r.finish()


def decompose(graph: Graph, which: Callable[[Node], bool] = lambda n: not lookup(n.op).fused) -> Graph:
    """Replace every op that is defined by decompositions with its first one, until none is left but those that ``which`` leaves:
    by default fused ones, which are there since the backend runs them whole (`decompose_fused`)."""
    for _ in range(8):
        wanted = {id(n) for n in graph.nodes if lookup(n.op, n.where()).decompositions and which(n)}
        if not wanted:
            return graph
        r = rewriter(graph)
        for node in graph.nodes:
            if id(node) not in wanted:
                r.emit(node)
                continue
            ways = lookup(node.op).decompositions
            outputs = next(iter(ways.values()))(r, node, [r.get(v) for v in node.inputs])
            for old, new in zip(node.outputs, outputs, strict=True):
                r.alias(old, new)
        graph = r.finish()
    return graph


def decompose_fused(graph: Graph, whole: Callable[[Node], bool]) -> Graph:
    """Decompose fused operators, except those that the backend runs ``whole``: other passes then see what they consist of."""
    return decompose(graph, lambda n: lookup(n.op).fused and not whole(n))
