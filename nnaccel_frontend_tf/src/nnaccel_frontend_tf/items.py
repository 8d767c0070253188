"""What a tensor of TensorFlow's graph stands for while it is imported."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np

from nnaccel_core.ir import Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Known:
    """A constant. ``parameter`` is a name, where it is large enough to be kept as a parameter."""

    array: Array
    parameter: str = ""


@dataclass(frozen=True, eq=False)
class Host:
    """Integers of which some are expressions over the sizes of inputs: an object array of dims, of rank 0 or 1.

    ``dtype``: ``"int32"`` or ``"int64"``, what TensorFlow has them as.
    """

    dims: Array
    dtype: str


@dataclass(frozen=True, eq=False)
class Opaque:
    """Something that only TensorFlow handles: a resource, strings, a tensor whose sizes are known only while it runs."""

    name: str


@dataclass(frozen=True, eq=False)
class Outside:
    """A tensor from outside the captured graph, given to each call by TensorFlow itself: a variable's handle, a table."""

    tensor: Any


Item = Union[Known, Host, Value, Opaque, Outside]
