"""Find batch normalization in the arithmetic that TensorFlow writes it as (``tf.nn.moments``, ``tf.nn.batch_normalization``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_core.ir import Graph, Node, Value, numpy_dtype
from nnaccel_core.ops.registry import rewriter


@dataclass
class _Norm:
    """``(x - mean) / sqrt(var + eps) * scale + bias`` per channel, the last axis."""

    x: Value
    mean: Value
    var: Value
    scale: Value | None
    bias: Value | None
    eps: float


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.made = graph.producers()

    def node(self, v: Value, op: str) -> Node | None:
        found = self.made.get(v)
        return found if found is not None and found.op == op else None

    def number(self, v: Value) -> float | None:
        """The value of a constant of one element."""
        found = self.node(v, "constant")
        if found is None:
            cast = self.node(v, "cast")
            return self.number(cast.inputs[0]) if cast is not None else None
        array = found.attrs["value"]
        return float(array.reshape(-1)[0]) if array.size == 1 else None

    def vector(self, v: Value) -> Value | None:
        """``v``, or what it is a view of with axes of one element in front; None where that is no vector. Keras writes both."""
        if v.type.rank == 1:
            return v
        view = self.node(v, "reshape")
        if view is None or view.inputs[0].type.rank != 1 or v.shape[-1] != view.inputs[0].shape[0]:
            return None
        return view.inputs[0]

    def inverse(self, v: Value) -> tuple[Value, float] | None:
        """``rsqrt(var + eps)``."""
        root = self.node(v, "rsqrt")
        total = self.node(root.inputs[0], "add") if root is not None else None
        if total is None:
            return None
        for var, eps in (total.inputs, total.inputs[::-1]):
            number, flat = self.number(eps), self.vector(var)
            if number is not None and flat is not None:
                return flat, number
        return None

    def factor(self, v: Value) -> tuple[Value, float, Value | None] | None:
        """``rsqrt(var + eps) * scale``, or without a scale."""
        plain = self.inverse(v)
        if plain is not None:
            return (*plain, None)
        product = self.node(v, "mul")
        if product is None:
            return None
        for a, scale in (product.inputs, product.inputs[::-1]):
            found, flat = self.inverse(a), self.vector(scale)
            if found is not None and flat is not None:
                return (*found, flat)
        return None

    def shift(self, v: Value, factor: Value) -> tuple[Value, Value | None] | None:
        """``bias - mean * factor``, or without a bias: (mean, bias)."""
        bias: Value | None = None
        apart = self.node(v, "sub")
        if apart is not None:
            bias, v = apart.inputs
        else:
            negative = self.node(v, "neg")
            if negative is None:
                return None
            v = negative.inputs[0]
        product = self.node(v, "mul")
        if product is None or factor not in product.inputs:
            return None
        mean = self.vector(product.inputs[0] if product.inputs[1] is factor else product.inputs[1])
        flat = self.vector(bias) if bias is not None else None
        return None if mean is None or (bias is not None and flat is None) else (mean, flat)

    def norm(self, node: Node) -> _Norm | None:
        """What ``node``, an addition, adds up to."""
        for scaled, moved in (node.inputs, node.inputs[::-1]):
            product = self.node(scaled, "mul")
            if product is None:
                continue
            for x, f in (product.inputs, product.inputs[::-1]):
                found = self.factor(f) if x.type.rank >= 2 and f.type.rank in (1, x.type.rank) else None
                rest = self.shift(moved, f) if found is not None else None
                if found is None or rest is None:
                    continue
                parts = (rest[0], found[0], found[2], rest[1])
                if all(v is None or (v.shape == (x.shape[-1],) and v.dtype == x.dtype) for v in parts):
                    return _Norm(x, rest[0], found[0], found[2], rest[1], found[1])
        return None

    def _mean(self, v: Value) -> Node | None:
        """The ``reduce_mean`` over all axes but the last whose result, without those axes, ``v`` is."""
        view = self.node(v, "reshape")
        found = self.node(view.inputs[0] if view is not None else v, "reduce_mean")
        if found is None or tuple(sorted(found.attrs["axes"])) != tuple(range(found.inputs[0].type.rank - 1)):
            return None
        return found

    def statistics_of(self, mean: Value, var: Value) -> Value | None:
        """The x of which these are mean and (biased) variance over all axes but the last; None where they are not."""
        first, second = self._mean(mean), self._mean(var)
        square = self.node(second.inputs[0], "mul") if second is not None else None
        if first is None or square is None or square.inputs[0] is not square.inputs[1]:
            return None
        off = self.node(square.inputs[0], "sub")
        if off is None:
            return None
        x = first.inputs[0]
        for a, b in (off.inputs, off.inputs[::-1]):
            stopped = self.node(b, "stop_gradient")
            if a is x and (stopped.inputs[0] if stopped is not None else b) is first.output:
                return x
        return None


def find_batch_norm(graph: Graph) -> Graph:
    """``graph`` with batch normalizations over the last axis as such, on transposed images."""
    finder = _Finder(graph)
    norms = {n: found for n in graph.nodes if n.op == "add" and (found := finder.norm(n)) is not None}
    if not norms:
        return graph
    r = rewriter(graph)
    first = {(f.mean, f.var): f for f in norms.values()}
    stats: dict[Value, tuple[Value, Value]] = {}
    of_batch = {v: (x, m) for m, var in first for v in (m, var) if (x := finder.statistics_of(m, var)) is not None}
    images: dict[Value, Value] = {}

    def image(x: Value, origin: str) -> Value:
        """``x`` with channels second."""
        if x not in images:
            new, rank = r.get(x), x.type.rank
            perm = (0, rank - 1, *range(1, rank - 1))
            images[x] = new if rank == 2 else r.add("transpose", [new], {"perm": perm}, origin=origin)
        return images[x]

    def filled(v: Value | None, like: Value, number: float, origin: str) -> Value:
        if v is not None:
            return r.get(v)
        value: Any = np.full(like.shape, number, numpy_dtype(like.dtype))  # type: ignore[call-overload]
        made = r.add("constant", [], {"value": value}, origin=origin)
        return made if made.dtype == like.dtype else r.add("cast", [made], {"dtype": like.dtype}, origin=origin)

    for node in graph.nodes:
        hit = next((v for v in node.outputs if v in of_batch), None)
        if hit is not None:
            x, mean = of_batch[hit]
            if x not in stats:
                a, b = r.add_multi("batch_norm_stats", [image(x, node.origin)], {}, origin=node.origin)
                stats[x] = (a, b)
            r.alias(hit, stats[x][0 if hit is mean else 1])
            continue
        norm = norms.get(node)
        if norm is None:
            r.emit(node)
            continue
        x = image(norm.x, node.origin)
        scale, bias = filled(norm.scale, norm.var, 1.0, node.origin), filled(norm.bias, norm.var, 0.0, node.origin)
        inputs = [x, scale, bias, r.get(norm.mean), r.get(norm.var)]
        out = r.add("batch_norm", inputs, {"eps": norm.eps}, origin=node.origin)
        rank = norm.x.type.rank
        if rank > 2:
            out = r.add("transpose", [out], {"perm": (0, *range(2, rank), 1)}, origin=node.origin, name=node.output.name)
        r.alias(node.output, out)
    return r.finish()
