"""Move transposes of images down until they meet their inverse.

TensorFlow's images are (N, H, W, C), the IR's are (N, C, H, W); the importer puts a transpose in front of each convolution and
another behind it. Neither costs anything, since the memory is the same; but a transpose between a convolution and the layers
that its kernel could take along keeps them apart. So each is moved past whatever works element by element or axis by axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnaccel_core.ir import Dim, Graph, Node, Value
from nnaccel_core.ops.registry import lookup, rewriter

Perm = tuple[int, ...]

#: Element by element over operands that broadcast, without attributes that name axes.
_NOT_POINTWISE = frozenset({"expand", "slice", "slice_update", "pad", "flip", "roll", "concat", "constant", "extent", "reorder"})
#: Of one operand, with one axis as attribute ``axis``; the shape stays.
_AXIS = frozenset({"softmax", "log_softmax", "cumsum"})


def _inverse(perm: Perm) -> Perm:
    return tuple(perm.index(k) for k in range(len(perm)))


def _moves_units(shape: Sequence[Dim], perm: Perm) -> bool:
    """Whether a transpose of ``shape`` moves only axes of extent 1, so that it is a reshape."""
    rest = [a for a in perm if shape[a] != 1]
    return rest == sorted(rest)


class _Sinker:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.r = rewriter(graph)
        #: values that are so far only known as a transpose of another one of the new graph
        self.turned: dict[Value, tuple[Value, Perm]] = {}

    def of(self, v: Value) -> tuple[Value, Perm | None]:
        """``v`` of the old graph as (base, perm)."""
        return self.turned[v] if v in self.turned else (self.r.get(v), None)

    def value(self, v: Value, origin: str) -> Value:
        """``v`` of the old graph itself, in the new one."""
        if v in self.turned and v not in self.r.map:
            self.r.alias(v, self.transpose(*self.turned[v], origin, v.name))
        return self.r.get(v)

    def transpose(self, base: Value, perm: Perm, origin: str, name: str = "") -> Value:
        if _moves_units(base.shape, perm):
            shape = tuple(base.shape[a] for a in perm)
            return base if shape == base.shape else self.r.add("reshape", [base], {"shape": shape}, origin=origin, name=name)
        return self.r.add("transpose", [base], {"perm": perm}, origin=origin, name=name)

    def against(self, v: Value, perm: Perm, origin: str) -> Value:
        """An operand that broadcasts against values turned by ``perm``, turned back likewise."""
        base, own = self.of(v)
        if own == perm:
            return base
        x = self.value(v, origin)
        rank = len(perm)
        if x.type.rank == 0:
            return x
        if x.type.rank < rank:
            x = self.r.add("reshape", [x], {"shape": (*([1] * (rank - x.type.rank)), *x.shape)}, origin=origin)
        return self.transpose(x, _inverse(perm), origin)

    def put(self, node: Node, inputs: Sequence[Value], attrs: Any, perm: Perm | None) -> None:
        """``node`` on other operands; its result is what the new one's is, turned by ``perm``."""
        (out,) = node.outputs
        new = self.r.add(node.op, inputs, attrs, origin=node.origin, name=out.name)
        if perm is None or perm == tuple(range(len(perm))):
            self.r.alias(out, new)
        else:
            self.turned[out] = (new, perm)

    def visit(self, node: Node) -> None:
        if node.op == "transpose":
            self._transpose(node)
            return
        turned = [v for v in node.inputs if v in self.turned]
        if turned and len(node.outputs) == 1 and self._moved(node, turned[0]):
            return
        for v in turned:
            self.value(v, node.origin)
        self.r.emit(node)

    def _transpose(self, node: Node) -> None:
        (x,), (out,) = node.inputs, node.outputs
        perm: Perm = tuple(node.attrs["perm"])
        base, own = self.of(x)
        if own is not None:
            perm = tuple(own[a] for a in perm)
        if perm == tuple(range(len(perm))):
            self.r.alias(out, base)
        elif _moves_units(base.shape, perm):
            self.r.alias(out, self.transpose(base, perm, node.origin, out.name))
        else:
            self.turned[out] = (base, perm)

    def _moved(self, node: Node, x: Value) -> bool:
        """Do ``node`` in front of the transpose of its operand ``x``; False where that can't be."""
        base, perm = self.turned[x]
        a, rank = dict(node.attrs), x.type.rank
        op = lookup(node.op)
        if op.limit == "any" and node.op not in _NOT_POINTWISE:
            full = [v for v in node.inputs if v in self.turned and v.type.rank == node.output.type.rank]
            if not full:
                return False
            perm = self.turned[full[0]][1]
            if any(v.type.rank > len(perm) for v in node.inputs):
                return False
            self.put(node, [self.against(v, perm, node.origin) for v in node.inputs], a, perm)
        elif node.op in _AXIS:
            self.put(node, [base], {**a, "axis": perm[a["axis"]]}, perm)
        elif node.op.startswith("reduce_") or node.op in ("argmax", "argmin"):
            self._reduce(node, base, perm)
        elif node.op == "concat":
            self.put(node, [self.against(v, perm, node.origin) for v in node.inputs], {"axis": perm[a["axis"]]}, perm)
        elif node.op == "pad":
            pads = [(0, 0)] * rank
            for k, p in enumerate(a["pads"]):
                pads[perm[k]] = p
            self.put(node, [base], {**a, "pads": tuple(pads)}, perm)
        elif node.op == "slice":
            back = _inverse(perm)
            self.put(node, [base], {key: tuple(a[key][k] for k in back) for key in ("starts", "ends", "steps")}, perm)
        elif node.op == "flip":
            self.put(node, [base], {"axes": tuple(sorted(perm[k] for k in a["axes"]))}, perm)
        elif node.op == "expand" and len(a["shape"]) == rank:
            self.put(node, [base], {"shape": tuple(a["shape"][k] for k in _inverse(perm))}, perm)
        else:
            return False
        return True

    def _reduce(self, node: Node, base: Value, perm: Perm) -> None:
        a = dict(node.attrs)
        axes = {perm[k] for k in a["axes"]} if "axes" in a else {perm[a["axis"]]}
        a.update({"axes": tuple(sorted(axes))} if "axes" in a else {"axis": next(iter(axes))})
        if a["keepdims"]:
            self.put(node, [base], a, perm)
            return
        order = [p for p in perm if p not in axes]
        rank = {p: k for k, p in enumerate(sorted(order))}
        self.put(node, [base], a, tuple(rank[p] for p in order))

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self.visit(node)
        for v in self.graph.results():
            self.value(v, "output")
        return self.r.finish()


def sink_transposes(graph: Graph) -> Graph:
    """``graph`` with its transposes as far down as they go, most of them gone."""
    return _Sinker(graph).run()
