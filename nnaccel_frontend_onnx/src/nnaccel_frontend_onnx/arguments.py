"""Inputs and outputs of a network as the file declares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from nnaccel_core.ir import Dim, sym


@dataclass(frozen=True)
class Argument:
    """An input or output of the network.

    Attributes:
        shape: ints, names of sizes, or None for sizes without a name; None altogether when the rank is not known.
        type: as inference sessions write it, for example ``"tensor(float)"``.
    """

    name: str
    shape: tuple[int | str | None, ...] | None
    type: str


def declared(spec: onnx.ValueInfoProto) -> tuple[Dim, ...] | None:
    """The declared shape with symbols; None where the rank is unknown, or it is no tensor."""
    if not spec.type.HasField("tensor_type") or not spec.type.tensor_type.HasField("shape"):
        return None
    shape: list[Dim] = []
    for k, d in enumerate(spec.type.tensor_type.shape.dim):
        shape.append(d.dim_value if d.HasField("dim_value") else sym(d.dim_param or f"{spec.name}_{k}"))
    return tuple(shape)


def argument(spec: onnx.ValueInfoProto) -> Argument:
    """An input or output for users."""
    kind = spec.type.WhichOneof("value")
    if kind != "tensor_type":
        return Argument(spec.name, None, str(kind).removesuffix("_type"))
    t = spec.type.tensor_type
    element = onnx.TensorProto.DataType.Name(t.elem_type).lower()
    shape = None
    if t.HasField("shape"):
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.shape.dim)
    return Argument(spec.name, shape, f"tensor({element})")


def unwrapped(kind: onnx.TypeProto, value: Any) -> Any:
    """An optional result as its value or None; onnx's reference evaluator makes a list of it."""
    if isinstance(value, list) and len(value) == 1:
        if not kind.HasField("sequence_type") or not isinstance(value[0], np.ndarray):
            return value[0]
    return value


__all__ = ["Argument", "argument", "declared", "unwrapped"]
