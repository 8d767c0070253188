"""The meaning of a graph: numpy references run node by node. Slow, exact, and needed by no device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnaccel_core.errors import InputError
from nnaccel_core.ir import Graph, Node, Value, substitute
from nnaccel_core.ir.types import common_env
from nnaccel_core.ops.registry import lookup

Array = np.ndarray[Any, Any]


def bind_attrs(node: Node, env: Mapping[str, int]) -> Node:
    """``node`` with symbolic dims in its attributes evaluated under ``env``."""

    def bind(a: Any) -> Any:
        if isinstance(a, tuple):
            return tuple(bind(x) for x in a)
        return substitute(a, env) if type(a).__name__ == "Expr" else a

    return replace(node, attrs={k: bind(v) for k, v in node.attrs.items()})


def bind_inputs(graph: Graph, inputs: Sequence[Array]) -> dict[str, int]:
    """The values of the graph's symbols for these inputs.

    Raises:
        InputError: wrong number, shape or dtype of inputs.
    """
    if len(inputs) != len(graph.inputs):
        raise InputError(f"{graph.name} takes {len(graph.inputs)} inputs, got {len(inputs)}")
    env: dict[str, int] = {}
    for value, array in zip(graph.inputs, inputs, strict=True):
        if not common_env(value.shape, array.shape, env):
            raise InputError(f"input %{value.name}: {value.type} does not fit an array of shape {list(array.shape)}")
    return env


def run_values(graph: Graph, inputs: Sequence[Array], params: Mapping[str, Array]) -> dict[Value, Array]:
    """Every value of the graph, as row-major arrays in logical axis order."""
    env = bind_inputs(graph, inputs)
    values: dict[Value, Array] = dict(zip(graph.inputs, inputs, strict=True))
    values.update((p, params[p.name]) for p in graph.params)
    for node in graph.nodes:
        bound = bind_attrs(node, env)
        outs = lookup(node.op, node.where()).ref([values[v] for v in node.inputs], bound.attrs)
        values.update(zip(node.outputs, outs, strict=True))
    return values


def run_graph(graph: Graph, inputs: Sequence[Array], params: Mapping[str, Array]) -> list[Array]:
    """The outputs of ``graph`` for ``inputs`` in order and ``params`` by name."""
    values = run_values(graph, inputs, params)
    return [values[v] for v in graph.outputs]
