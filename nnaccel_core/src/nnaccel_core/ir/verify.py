"""The rules of the graph IR. Run after every stage: a broken rule is a defect of the stage before."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from nnaccel_core.errors import NnaccelError, VerifyError
from nnaccel_core.ir.graph import Graph, Node, Value
from nnaccel_core.ir.types import TensorType

#: Nodes whose types were found right, and by which inference. Nodes and types never change, so one look is enough; most
#: nodes pass through most stages as they are.
_typed: weakref.WeakKeyDictionary[Node, Callable[..., tuple[TensorType, ...]]] = weakref.WeakKeyDictionary()


def verify(graph: Graph, infer: Callable[..., tuple[TensorType, ...]], after: str = "") -> Graph:
    """Check ``graph`` and return it.

    Rules: single assignment; definition before use; known ops; outputs typed as inference says; unique
    parameter names; outputs and updates defined; update targets are inputs or parameters of the same type.

    Raises:
        VerifyError: names the stage ``after`` which it was found and the node.
    """
    stage = f" after {after}" if after else ""

    def fail(text: str) -> None:
        raise VerifyError(f"graph {graph.name}{stage}: {text}")

    defined: set[Value] = set()
    names: set[str] = set()
    for v in (*graph.inputs, *graph.params):
        if v in defined:
            fail(f"%{v.name} is given twice")
        defined.add(v)
    for p in graph.params:
        if p.name in names:
            fail(f"two parameters are called {p.name!r}")
        names.add(p.name)
    for node in graph.nodes:
        for v in node.inputs:
            if v not in defined:
                fail(f"{node.where()} reads %{v.name} before it is defined")
        for v in node.outputs:
            if v in defined:
                fail(f"{node.where()} assigns %{v.name} again")
            defined.add(v)
        if _typed.get(node) is infer:
            continue
        try:
            types = infer(node.op, [v.type for v in node.inputs], node.attrs, node.where())
        except NnaccelError as e:
            fail(str(e))
        if len(types) != len(node.outputs):
            fail(f"{node.where()} has {len(node.outputs)} outputs, inference gives {len(types)}")
        for v, t in zip(node.outputs, types, strict=True):
            same_shape = v.shape == t.shape or all(
                a == b or not isinstance(a - b, int) for a, b in zip(v.shape, t.shape, strict=False)
            )
            if v.dtype != t.dtype or v.type.rank != t.rank or not same_shape:
                fail(f"{node.where()} is typed {v.type}, inference gives {t}")
        _typed[node] = infer
    for v in graph.outputs:
        if v not in defined:
            fail(f"output %{v.name} is never computed")
    for u in graph.updates:
        if u.target not in (*graph.inputs, *graph.params):
            fail(f"update of %{u.target.name}, which is neither input nor parameter")
        if u.value not in defined:
            fail(f"update value %{u.value.name} is never computed")
        if u.value.type.shape != u.target.type.shape or u.value.dtype != u.target.dtype:
            fail(f"update of %{u.target.name}: {u.target.type} with {u.value.type}")
    return graph
