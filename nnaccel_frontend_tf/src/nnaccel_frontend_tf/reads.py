"""Values of many variables as one operation of TensorFlow's graphs.

TensorFlow schedules an operation for each variable that is read, before any kernel runs; of MobileNetV2's 262, reading at once
saves 0.1 to 0.3 ms a call. The operation for it has no name in TensorFlow's Python interface.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import op_def_library, op_def_registry
from tensorflow.python.ops import resource_variable_ops

READ = "_ReadVariablesOp"


def read(variables: Sequence[Any]) -> list[Any]:
    """The values of ``variables`` now, as tensors of the current graph; gradients go on to the variables."""
    together = [k for k, v in enumerate(variables) if _plain(v)] if op_def_registry.get(READ) is not None else []
    of_device: dict[str, list[int]] = {}
    for k in together:
        of_device.setdefault(variables[k].handle.device, []).append(k)
    found: dict[int, Any] = {}
    for places in of_device.values():
        if len(places) > 1:
            found.update(zip(places, _read_at_once([variables[k] for k in places]), strict=True))
    return [found[k] if k in found else tf.convert_to_tensor(v) for k, v in enumerate(variables)]


def _plain(variable: Any) -> bool:
    """Whether reading is all that TensorFlow does where ``variable`` becomes a tensor."""
    return type(variable) is resource_variable_ops.ResourceVariable and variable._caching_device is None


def _read_at_once(variables: Sequence[Any]) -> list[Any]:
    for v in variables:
        resource_variable_ops.variable_accessed(v)  # tells tapes, and the function that is being made
    handles = [v.handle for v in variables]
    found = op_def_library.apply_op(READ, name="variables", resources=handles, dtypes=[v.dtype for v in variables])
    found = list(found)
    for t, v in zip(found, variables, strict=True):
        t.set_shape(v.shape)
    record.record_operation(READ, found, handles, backward_function=lambda *grads: grads, forward_function=lambda *grads: grads)
    return found


with contextlib.suppress(KeyError):  # where TensorFlow has come to have one
    tf.RegisterGradient(READ)(lambda op, *grads: grads)
