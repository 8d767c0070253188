"""Numbers that are known once sizes are (a batch's count of elements, and what is computed from it) need no kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from nnaccel_core.interp import bind_attrs
from nnaccel_core.ir import Env, Graph, Node, Value, evaluate, numpy_dtype
from nnaccel_core.ops.registry import lookup
from nnaccel_core.select.cover import Selection, Unit

#: Bytes of a value at most.
MOST_BYTES = 1 << 10


def sizes_as_constants(graph: Graph, selection: Selection, env: Env) -> Selection:
    """``selection`` with units that read nothing but constants and sizes as constants, at the sizes in ``env``."""
    results = set(graph.results())
    values: dict[Value, np.ndarray[Any, Any]] = {}
    units: list[Unit] = []
    for unit in selection.units:
        if unit.is_view:
            (node,) = unit.nodes
            if all(v in values for v in node.inputs):
                values[node.output] = _run(node, values, env)[0]
            units.append(unit)
            continue
        values_of = [v for n in unit.nodes for v in n.outputs]  # bfloat16 is no type of numpy, in which constants are kept
        small = all(v.dtype != "bfloat16" and int(evaluate(v.type.nbytes, env)) <= MOST_BYTES for v in values_of)
        if not small or not all(v in values for v in unit.inputs):
            units.append(unit)
            continue
        inside = dict(values)
        for node in unit.nodes:
            inside.update(zip(node.outputs, _run(node, inside, env), strict=True))
        values.update((v, inside[v]) for v in unit.outputs)
        if not results.isdisjoint(unit.outputs):  # results are written by steps
            units.append(unit)
            continue
        for v in unit.outputs:
            units.append(Unit((Node("constant", (), (v,), {"value": inside[v]}, unit.origin),), None))
    return replace(selection, units=tuple(units))


def _run(node: Node, values: dict[Value, np.ndarray[Any, Any]], env: Env) -> list[np.ndarray[Any, Any]]:
    if node.op == "constant":
        return [np.asarray(node.attrs["value"])]
    found = lookup(node.op).ref([values[v] for v in node.inputs], bind_attrs(node, env).attrs)
    return [np.asarray(a).astype(numpy_dtype(v.dtype)) for a, v in zip(found, node.outputs, strict=True)]


__all__ = ["sizes_as_constants"]
