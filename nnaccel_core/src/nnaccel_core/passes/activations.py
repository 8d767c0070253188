"""Recognize activations that exporters write out, so that libraries and kernels take them as one epilogue."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from nnaccel_core.ir import Graph, Node, Value
from nnaccel_core.ops.registry import rewriter

#: What is written out in other types is rounded in other places.
WIDE = frozenset({"float32", "float64"})


class _Matcher:
    def __init__(self, graph: Graph) -> None:
        self.producers = graph.producers()
        uses, results = graph.uses(), set(graph.results())
        self.alone = {v for v, nodes in uses.items() if len(set(nodes)) == 1 and v not in results}
        self.graph = graph

    def number(self, v: Value) -> float | None:
        """The value of a constant of one element."""
        node = self.producers.get(v)
        if node is None or node.op != "constant" or v.type.size != 1:
            return None
        return float(np.asarray(node.attrs["value"]).reshape(-1)[0])

    def inner(self, v: Value, op: str) -> Node | None:
        """The node that computes ``v``, if it is an ``op`` that nothing else reads."""
        node = self.producers.get(v)
        return node if node is not None and node.op == op and v in self.alone else None

    def with_number(self, node: Node, want: float) -> Value | None:
        """The other operand of ``node``, if one is the number ``want``, up to rounding, and broadcasts nothing."""
        for x, other in (node.inputs, node.inputs[::-1]):
            found = self.number(other)
            if found is not None and math.isclose(found, want, rel_tol=3e-7) and x.shape == node.output.shape:
                return x
        return None

    def scaled(self, v: Value, factor: float, op_alone: bool = True) -> Value | None:
        """``x`` where ``v`` is ``x * factor`` or ``x / (1 / factor)``."""
        node = self.producers.get(v)
        if node is None or (op_alone and v not in self.alone):
            return None
        if node.op == "mul":
            return self.with_number(node, factor)
        if node.op == "div" and node.inputs[0].shape == node.output.shape:
            found = self.number(node.inputs[1])
            if found is not None and math.isclose(found, 1 / factor, rel_tol=3e-7):
                return node.inputs[0]
        return None

    def ramp(self, v: Value) -> Value | None:
        """``x`` where ``v`` is ``clip(x + 3, 0, 6)``."""
        clip = self.inner(v, "clip")
        if clip is None or (clip.attrs["min"], clip.attrs["max"]) != (0.0, 6.0):
            return None
        plus = self.inner(clip.inputs[0], "add")
        return None if plus is None else self.with_number(plus, 3.0)

    # --- each of these gives x where the result of node is the activation of x ---------------------------------------

    def hardsigmoid(self, node: Node) -> Value | None:
        """``clip(x + 3, 0, 6) / 6``, or ``clip(x / 6 + 0.5, 0, 1)``."""
        if node.op == "clip":
            if (node.attrs["min"], node.attrs["max"]) != (0.0, 1.0):
                return None
            plus = self.inner(node.inputs[0], "add")
            part = None if plus is None else self.with_number(plus, 0.5)
            return None if part is None else self.scaled(part, 1 / 6)
        part = self.scaled(node.output, 1 / 6, op_alone=False)
        return None if part is None else self.ramp(part)

    def hardswish(self, node: Node) -> Value | None:
        """``x * clip(x + 3, 0, 6) / 6`` in any order, or x times its `hardsigmoid`."""
        if node.op == "mul":
            for x, other in (node.inputs, node.inputs[::-1]):
                gate = self.producers.get(other)
                if gate is None or other not in self.alone:
                    continue
                if gate.op == "hardsigmoid" and gate.inputs[0] is x:
                    return x
                if gate.op in ("clip", "mul", "div") and self.hardsigmoid(gate) is x:
                    return x
        whole = self.scaled(node.output, 1 / 6, op_alone=False)
        product = None if whole is None else self.inner(whole, "mul")
        if product is not None:
            for x, other in (product.inputs, product.inputs[::-1]):
                if self.ramp(other) is x:
                    return x
        return None

    def silu(self, node: Node) -> Value | None:
        """``x * sigmoid(x)``."""
        if node.op == "mul":
            for x, other in (node.inputs, node.inputs[::-1]):
                gate = self.inner(other, "sigmoid")
                if gate is not None and gate.inputs[0] is x:
                    return x
        return None

    def gelu(self, node: Node) -> tuple[Value, str] | None:
        """``0.5 * x * (1 + erf(x / sqrt(2)))`` or ``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``, multiplied
        in any order (Hendrycks and Gimpel 2016)."""
        factors = list(self._factors(node.output, root=True))
        for k, v in enumerate(factors):
            rest = factors[:k] + factors[k + 1 :]
            plus = self.inner(v, "add")
            part = None if plus is None else self.with_number(plus, 1.0)
            if part is None or len(rest) != 2 or not any(self.number(f) == 0.5 for f in rest):
                continue
            x = rest[0] if self.number(rest[1]) == 0.5 else rest[1]
            bell = self.producers.get(part)
            if bell is None or part not in self.alone or x.shape != node.output.shape:
                continue
            if bell.op == "erf" and self.scaled(bell.inputs[0], math.sqrt(0.5)) is x:
                return x, "none"
            if bell.op == "tanh" and self._cubic(bell.inputs[0], x):
                return x, "tanh"
        return None

    def _factors(self, v: Value, root: bool = False) -> Iterator[Value]:
        """What is multiplied to make ``v``, through products that nothing else reads."""
        node = self.producers.get(v)
        if node is None or node.op != "mul" or not (root or v in self.alone):
            yield v
        else:
            yield from (f for x in node.inputs for f in self._factors(x))

    def _cubic(self, v: Value, x: Value) -> bool:
        """Whether ``v`` is ``sqrt(2 / pi) * (x + 0.044715 * x * x * x)``."""
        inside = self.scaled(v, math.sqrt(2 / math.pi))
        plus = None if inside is None else self.inner(inside, "add")
        if plus is None or x not in plus.inputs:
            return False
        cube = plus.inputs[1] if plus.inputs[0] is x else plus.inputs[0]
        factors = list(self._factors(cube)) if cube in self.alone else []
        numbers = [n for f in factors if (n := self.number(f)) is not None]
        close = len(numbers) == 1 and math.isclose(numbers[0], 0.044715, rel_tol=3e-7)
        return close and len(factors) == 4 and sum(f is x for f in factors) == 3


def recognize_activations(graph: Graph) -> Graph:
    """Hard sigmoid, hard swish, SiLU and GELU as operators of that name; multiplications by one go away."""
    for run in (_drop_ones, _named):
        graph = run(graph)
    return graph


def _drop_ones(graph: Graph) -> Graph:
    m, r = _Matcher(graph), rewriter(graph)
    for node in graph.nodes:
        x = None
        if node.op in ("mul", "div"):
            for other, one in (node.inputs, node.inputs[::-1])[: 1 if node.op == "div" else 2]:
                if m.number(one) == 1.0 and other.type.shape == node.output.type.shape:
                    x = other
        if x is None:
            r.emit(node)
        else:
            r.alias(node.output, r.get(x))
    return r.finish()


def _named(graph: Graph) -> Graph:
    m, r = _Matcher(graph), rewriter(graph)
    for node in graph.nodes:
        found = _match(m, node) if node.op in ("mul", "div", "clip") and node.output.dtype in WIDE else None
        if found is None:
            r.emit(node)
            continue
        op, x, attrs = found
        r.alias(node.output, r.add(op, [r.get(x)], attrs, origin=node.origin, name=node.output.name))
    return r.finish()


def _match(m: _Matcher, node: Node) -> tuple[str, Value, Mapping[str, str]] | None:
    for op in ("hardswish", "hardsigmoid", "silu"):
        x: Value | None = getattr(m, op)(node)
        if x is not None and x.type == node.output.type:
            return op, x, {}
    if node.op == "mul":
        found = m.gelu(node)
        if found is not None and found[0].type == node.output.type:
            return "gelu", found[0], {"approximate": found[1]}
    return None

