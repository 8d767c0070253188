"""What a name of the ONNX graph stands for while it is imported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import onnx

from nnaccel_core.ir import Value
from nnaccel_frontend_onnx.bridge import ir_dtype

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


@dataclass(frozen=True)
class Mode:
    """What a model is imported for.

    Attributes:
        live: floating-point initializers are parameters that may change at any time: nothing is computed from them beforehand.
        random: the generator that dropout draws from. Given for the forward pass of a training step, which also writes
            running statistics.
    """

    live: bool = False
    random: Callable[[], np.random.Generator] | None = None

    @property
    def train(self) -> bool:
        """Whether this is a training step's forward pass."""
        return self.random is not None


#: For prediction with parameters that stay as they are.
PREDICTION = Mode()


def trainable(array: Array) -> bool:
    """Whether an initializer's values are numbers that gradients can be taken of."""
    return ir_dtype(array.dtype) in ("float16", "float32", "float64")


Item = Union[Known, Host, Value, Opaque]
