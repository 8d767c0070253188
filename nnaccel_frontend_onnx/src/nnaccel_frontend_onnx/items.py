"""What a name of the ONNX graph stands for while it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import onnx

from nnaccel_core.ir import Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Known:
    """A constant. ``parameter`` is the initializer's name, where it is one."""

    array: Array
    parameter: str = ""


@dataclass(frozen=True, eq=False)
class Host:
    """Integers of which some are expressions over the sizes of inputs: an object array of dims, of rank 0 or 1."""

    dims: Array


@dataclass(frozen=True, eq=False)
class Opaque:
    """Something that only the reference evaluator handles: a sequence, strings, a tensor of unknown rank."""

    name: str
    type: onnx.TypeProto | None = None


Item = Union[Known, Host, Value, Opaque]
