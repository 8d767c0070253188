"""Models in float64, to judge results of float32 and float16 by."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper


def in_double(graph: onnx.GraphProto, dtype: int = onnx.TensorProto.FLOAT) -> None:
    """Make everything float64 that is of this element type, in place."""
    for t in graph.initializer:
        _tensor(t, dtype)
    for v in (*graph.input, *graph.output, *graph.value_info):
        if v.type.tensor_type.elem_type == dtype:
            v.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for node in graph.node:
        for a in node.attribute:
            if a.HasField("g"):
                in_double(a.g, dtype)
            if a.HasField("t"):
                _tensor(a.t, dtype)
            if a.name in ("to", "dtype", "softmax_precision") and a.i == dtype:
                a.i = onnx.TensorProto.DOUBLE
        if node.op_type == "ConstantOfShape" and not node.attribute and dtype == onnx.TensorProto.FLOAT:
            node.attribute.append(h.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1))))


def _tensor(t: onnx.TensorProto, dtype: int) -> None:
    if t.data_type == dtype:
        t.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t).astype(np.float64), t.name))
