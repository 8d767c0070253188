"""Nodes that stay with onnx: one node as a function, by onnx's reference evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference

from nnaccel_core.errors import NnaccelError
from nnaccel_core.ir import Dim
from nnaccel_frontend_onnx.items import Array
from nnaccel_frontend_onnx.loading import Model, outer_names, subgraphs, where

Run = Callable[..., list[Any]]


def names_read(node: onnx.NodeProto) -> list[str]:
    """Everything a node reads: its inputs, and what its subgraphs take from outside."""
    names = dict.fromkeys(n for n in node.input if n)
    for g in subgraphs(node):
        names.update(dict.fromkeys(outer_names(g)))
    return list(names)


def evaluator(model: Model, node: onnx.NodeProto) -> Run:
    """``node`` as a function of the values of `names_read`, in that order; returns the named outputs.

    The function raises NnaccelError, naming the node, when the evaluator fails.
    """
    names = names_read(node)
    results = [o for o in node.output if o]
    graph = onnx.helper.make_graph(
        [node], "node", [onnx.helper.make_empty_tensor_value_info(n) for n in names],
        [onnx.helper.make_empty_tensor_value_info(n) for n in results],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=list(model.proto.opset_import), functions=list(model.proto.functions))
    proto.ir_version = model.proto.ir_version
    made: list[Any] = []

    def run(*values: Any) -> list[Any]:
        try:
            if not made:
                made.append(onnx.reference.ReferenceEvaluator(proto))
            with np.errstate(all="ignore"):
                found = made[0].run(None, dict(zip(names, values, strict=True)))
        except Exception as e:
            raise NnaccelError(f"{where(node)}, on onnx's reference evaluator: {type(e).__name__}: {e}") from e
        return list(found)

    return run


def output_types(
    model: Model, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto], data: Mapping[str, Array]
) -> list[onnx.TypeProto | None]:
    """What is known of the named outputs of ``node`` before it runs."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    found: Mapping[str, onnx.TypeProto] = {}
    if all(n in types for n in names_read(node)):
        try:
            schema = onnx.defs.get_schema(node.op_type, model.versions.get(domain, 1), domain)
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, dict(types), {n: onnx.numpy_helper.from_array(a) for n, a in data.items() if a.size <= 1024},
                opset_imports=list(model.proto.opset_import), ir_version=model.proto.ir_version,
            )  # fmt: skip
        except Exception:
            found = {}
    return [found[o] if o in found else _loose(model.types.get(o)) for o in node.output if o]


def _loose(type: onnx.TypeProto | None) -> onnx.TypeProto | None:
    """A type of the file without its sizes, which may not be those of this call."""
    if type is None or not type.HasField("tensor_type") or not type.tensor_type.HasField("shape"):
        return type
    return onnx.helper.make_tensor_type_proto(type.tensor_type.elem_type, [None] * len(type.tensor_type.shape.dim))


def type_proto(dtype: str, shape: Sequence[Dim]) -> onnx.TypeProto:
    """A tensor type for shape inference; expressions of sizes become names."""
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return onnx.helper.make_tensor_type_proto(element, [d if isinstance(d, int) else str(d) for d in shape])
