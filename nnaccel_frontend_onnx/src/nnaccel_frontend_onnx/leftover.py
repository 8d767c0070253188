"""Nodes that are not compiled: they run between the segments, by onnx's reference evaluator or as networks of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper

from nnaccel_core.ir import Dim, TensorType, Value, numpy_dtype, sym
from nnaccel_frontend_onnx.assembly import ForeignPart, given
from nnaccel_frontend_onnx.bridge import ir_dtype
from nnaccel_frontend_onnx.control import control_flow
from nnaccel_frontend_onnx.errors import NeedSizes, Unmapped
from nnaccel_frontend_onnx.foreign import Run, evaluator, names_read, output_types
from nnaccel_frontend_onnx.items import Array, Host, Known, Opaque
from nnaccel_frontend_onnx.loading import where

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.importer import Importer

#: Operands that say how an operator works; gradients are not taken of them.
SETTINGS = {"Clip": (1, 2), "Dropout": (1,), "OneHot": (2,), "Pad": (2,), "Range": (0, 1, 2), "Resize": (1, 2), "Upsample": (1,)}


def leave(c: Importer, node: onnx.NodeProto, reason: str) -> None:
    """Record a node that the reference evaluator runs."""
    names = names_read(node)
    getters: list[Callable[[Sequence[Any]], Any]] = []
    inputs: list[str] = []
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, Array] = {}
    settings = {node.input[k] for k in SETTINGS.get(node.op_type, ()) if k < len(node.input)}
    shaping: dict[str, Array] = {}
    for name in names:
        item = c.items[name]
        if isinstance(item, Host):
            raise NeedSizes(f"{reason}: it gets sizes")
        if isinstance(item, Known):
            getters.append(functools.partial(given, item.array))
            data[name] = item.array
            if name in settings or not c.live(item):
                shaping[name] = c.fixed(item)
            types[name] = c.type_of(item)
            continue
        inner = item.name
        if inner not in inputs:
            inputs.append(inner)
        getters.append(functools.partial(_pick, inputs.index(inner)))
        found = c.type_of(item)
        if found is not None:
            types[name] = found
    results: list[str] = []
    kinds: list[TensorType | None] = []
    for name, kind in zip((o for o in node.output if o), output_types(c.model, node, types, shaping), strict=True):
        inner = c.fresh(name)
        tensor = _tensor_type(c, kind)
        if tensor is None:
            c.items[name] = Opaque(inner, kind)
        else:
            c.items[name] = c.outer[inner] = Value(tensor, inner)
        results.append(inner)
        kinds.append(tensor)
    direct = any(c.live(c.items[n]) for n in names if n not in settings)
    run = _control_flow(c, node, data, types)
    if run is None:
        run = evaluator(c.model, node)
    else:
        reason = "its body is a network of its own"

    def call(*values: Any) -> list[Any]:
        return [_arranged(r, k) for r, k in zip(run(*(g(values) for g in getters)), kinds, strict=True)]

    c.parts.append(ForeignPart(call, inputs, results, reason, c.origin))
    c.constants.clear()
    c.foreign_reasons.append(f"{where(node)}: {reason}")
    for inner, tensor in zip(results, kinds, strict=True):
        if tensor is None or tensor.is_float:
            c.stops[inner] = f"{where(node)} is not compiled: {reason}"
            if direct:
                c.reads_parameters.add(inner)


def drawn(c: Importer, like: Value, draw: Callable[[Array], Array], reason: str) -> Value:
    """An array of the type of ``like`` that ``draw``, given an array of that shape, makes anew at each call.

    Raises:
        Unmapped: ``like`` is a parameter, which no call brings.
    """
    if like.name in c.params:
        raise Unmapped(f"{reason}, of a parameter")
    value = Value(like.type, c.fresh(f"{c.origin}.drawn"))
    c.outer[value.name] = value
    c.parts.append(ForeignPart(lambda x: [draw(x)], [like.name], [value.name], reason, c.origin))
    c.constants.clear()
    return value


def _control_flow(
    c: Importer, node: onnx.NodeProto, known: Mapping[str, Array], types: Mapping[str, onnx.TypeProto]
) -> Run | None:
    """A condition or loop whose bodies are networks; None for other nodes."""
    if c.make is None or node.domain not in ("", "ai.onnx") or node.op_type not in ("If", "Loop", "Scan"):
        return None
    try:
        return control_flow(c.model, node, known, types, c.make)
    except Unmapped:
        return None


def _tensor_type(c: Importer, kind: onnx.TypeProto | None) -> TensorType | None:
    """The IR's type of an inferred one, sizes that are not known as new symbols; None where the IR has none."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    try:
        dtype = ir_dtype(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)))
    except (KeyError, TypeError):
        return None
    if dtype is None:
        return None
    shape: list[Dim] = []
    for d in kind.tensor_type.shape.dim:
        if d.HasField("dim_value"):
            shape.append(d.dim_value)
        else:
            known = next((x for v in c.outer.values() for x in v.shape if d.dim_param and str(x) == d.dim_param), None)
            shape.append(known if known is not None else sym(c.fresh("size")))
    return TensorType(tuple(shape), dtype)


def _pick(k: int, values: Sequence[Any]) -> Any:
    return values[k]


def _arranged(result: Any, kind: TensorType | None) -> Any:
    """A result of the evaluator as compiled code wants it: row-major, of the declared dtype."""
    if kind is None:
        return result
    return np.ascontiguousarray(np.asarray(result), dtype=numpy_dtype(kind.dtype)).reshape(np.shape(result))
