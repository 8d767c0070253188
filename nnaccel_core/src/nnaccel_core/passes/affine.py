"""Fold multiplications and additions of parameters into the convolutions and products around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnaccel_core.ir import Dim, Graph, Node, Rewriter, Value
from nnaccel_core.ops.registry import rewriter
from nnaccel_core.passes.fold import factor_shape, parameter_values

#: Layers whose results have channels as axis 1.
CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
#: Rounding weights once more costs nothing in these.
WIDE = frozenset({"float32", "float64"})


@dataclass(frozen=True)
class _Channels:
    """A fixed operand of one number, or one for each channel. ``value`` is of the new graph."""

    value: Value
    single: bool


class _Folder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.r: Rewriter = rewriter(graph)
        self.uses = graph.uses()
        self.results = set(graph.results())
        self.fixed = parameter_values(graph)
        #: layers of the new graph, by their results
        self.made: dict[Value, Node] = {}

    def alone(self, v: Value) -> bool:
        """Whether one node of the old graph reads ``v``, and it is no result."""
        return len(self.uses.get(v, ())) == 1 and v not in self.results

    def channels(self, v: Value, axis: int, like: Value) -> _Channels | None:
        """``v`` as an operand of ``like``, whose channels are ``axis``; None when it is something else."""
        if v not in self.fixed or v.dtype != like.dtype or not axis < like.type.rank >= v.type.rank:
            return None
        if all(d == 1 for d in v.shape):
            return _Channels(self.r.get(v), True)
        shape: list[Dim] = [*([1] * (like.type.rank - v.type.rank)), *v.shape]
        if shape[axis] != like.shape[axis] or math.prod(d for k, d in enumerate(shape) if k != axis and isinstance(d, int)) != 1:
            return None
        return _Channels(self.r.get(v), False) if all(isinstance(d, int) for d in shape) else None

    def parts(self, node: Node, axis: int) -> list[tuple[Value, _Channels]]:
        """Which operand of a multiplication or addition is the activation, and the fixed one beside it."""
        found = []
        if node.op in ("mul", "add") and len(node.inputs) == 2:
            for x, other in (node.inputs, node.inputs[::-1]):
                if x.type.rank == node.output.type.rank and x.shape == node.output.shape and x not in self.fixed:
                    fixed = self.channels(other, axis, x)
                    if fixed is not None:
                        found.append((x, fixed))
        return found

    def reshaped(self, c: _Channels, shape: Sequence[Dim], origin: str) -> Value:
        """The numbers under ``shape``, which has one axis that is not 1; one number stays one."""
        wanted = (1,) * len(shape) if c.single else tuple(shape)
        return c.value if c.value.shape == wanted else self.r.add("reshape", [c.value], {"shape": wanted}, origin=origin)

    # --- behind a layer --------------------------------------------------------------------------------------------

    def behind(self, node: Node) -> bool:
        """Fold ``node`` into the layer that computes its operand."""
        for x, fixed in self.parts(node, self._channel_axis(node)):
            layer = self.made.get(self.r.get(x))
            if layer is None or not self.alone(x) or not self._foldable(layer):
                continue
            new = self._scaled(layer, fixed, node.origin) if node.op == "mul" else self._shifted(layer, fixed, node.origin)
            self.r.alias(node.output, new)
            self.made[new] = self.r.nodes[-1]
            return True
        return False

    def _channel_axis(self, node: Node) -> int:
        for v in node.inputs:
            layer = self.made.get(self.r.get(v))
            if layer is not None:
                return 1 if layer.op in CONVOLUTIONS else v.type.rank - 1
        return 1

    def _foldable(self, layer: Node) -> bool:
        w = layer.inputs[1]
        plain = w.type.rank == 2 if layer.op == "matmul" else layer.op == "conv" or layer.attrs["groups"] == 1
        return plain and layer.output.dtype in WIDE and w.type.is_static

    def _scaled(self, layer: Node, c: _Channels, origin: str) -> Value:
        r, (x, w, *bias) = self.r, layer.inputs
        weights = r.add("mul", [w, self.reshaped(c, factor_shape(layer), origin)], origin=origin, name=f"{w.name}_scaled")
        # A bias is one number for each channel (`_plain_bias`).
        new = [r.add("mul", [b, self.reshaped(c, (*([1] * (b.type.rank - 1)), self._columns(layer)), origin)]) for b in bias]
        return r.add(layer.op, [x, weights, *new], layer.attrs, origin=layer.origin, name="scaled")

    def _shifted(self, layer: Node, c: _Channels, origin: str) -> Value:
        r, (x, w, *bias) = self.r, layer.inputs
        shift = self.reshaped(c, (self._columns(layer),), origin)
        if c.single:  # shapes of biases are one number for each channel
            one = r.add("reshape", [shift], {"shape": (1,)}, origin=origin)
            shift = r.add("expand", [one], {"shape": (self._columns(layer),)}, origin=origin)
        if bias:
            shift = r.add("add", [bias[0], shift], origin=origin)
        return r.add(layer.op, [x, w, shift], layer.attrs, origin=layer.origin, name="shifted")

    @staticmethod
    def _columns(layer: Node) -> Dim:
        return layer.output.shape[1 if layer.op in CONVOLUTIONS else -1]

    # --- in front of a layer ---------------------------------------------------------------------------------------

    def in_front(self, layer: Node, producers: dict[Value, Node]) -> Value | None:
        """The convolution ``layer`` with what is multiplied and added in front of it in its weights and bias; None where nothing
        can be. A shift passes padding only where there is none: zeros stay zeros."""
        if layer.op != "conv" or layer.output.dtype not in WIDE or layer.inputs[1] not in self.fixed:
            return None
        if any(b not in self.fixed for b in layer.inputs[2:]) or not layer.inputs[1].type.is_static:
            return None
        x, (w, *bias) = layer.inputs[0], (self.r.get(v) for v in layer.inputs[1:])
        mark, origin = len(self.r.nodes), layer.origin
        padded = any(map(any, layer.attrs["padding"]))
        wanted = ["mul"] if padded else ["add", "mul"]
        while wanted:
            node = producers.get(x)
            if node is None or node.op not in wanted or not self.alone(x):
                break
            found = self.parts(node, 1)
            if not found or not (found[0][1].single or layer.attrs["groups"] == 1):
                break
            del wanted[: wanted.index(node.op) + 1]
            x, c = found[0]
            r, ones = self.r, [1] * (w.type.rank - 2)
            factor = self.reshaped(c, (1, w.shape[1], *ones), origin)
            term = r.add("mul", [w, factor], origin=origin, name=f"{w.name}_scaled")
            if node.op == "mul":
                w = term
                continue
            axes = tuple(range(1, w.type.rank))
            shift = r.add("reduce_sum", [term], {"axes": axes, "keepdims": False}, origin=origin, name="shift")
            bias = [r.add("add", [bias[0], shift], origin=origin) if bias else shift]
        if x is layer.inputs[0]:
            del self.r.nodes[mark:]
            return None
        return self.r.add(layer.op, [self.r.get(x), w, *bias], layer.attrs, origin=layer.origin, name="scaled")


def fold_affine(graph: Graph) -> Graph:
    """conv -> mul -> add by parameters, one for all or one for each channel, becomes a convolution with other weights and bias;
    likewise conv_transpose and matmul, and mul -> add -> conv.

    The new weights depend on parameters only, so they end up in ``prepare``. Learnable scales around activations (PP-LCNet) and
    exporters' forms of BatchNorm go away.
    """
    f = _Folder(graph)
    producers = graph.producers()
    for node in graph.nodes:
        if node.op in ("mul", "add") and f.behind(node):
            continue
        if node.op in ("conv", "matmul"):
            new = f.in_front(node, producers)
            if new is not None:
                f.r.alias(node.output, new)
                f.made[new] = f.r.nodes[-1]
                continue
        made = f.r.emit(node)
        if (node.op in CONVOLUTIONS or node.op == "matmul") and all(v in f.fixed for v in node.inputs[1:]) and _plain_bias(made):
            f.made[made.output] = made
    return f.r.finish()


def _plain_bias(layer: Node) -> bool:
    """Whether there is no bias, or one number for each channel."""
    return len(layer.inputs) < 3 or layer.inputs[2].shape == (layer.output.shape[1 if layer.op in CONVOLUTIONS else -1],)
