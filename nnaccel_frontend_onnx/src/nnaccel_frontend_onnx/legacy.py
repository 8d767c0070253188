"""What exporters write that onnx does not define, or no longer: operators, and sizes that are open."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper


def modernize(proto: onnx.ModelProto) -> None:
    """Write it as onnx does, in place: ``ImageScaler`` (CNTK, WinMLTools), a factor and a bias for each channel of (N, C, H, W);
    sizes of -1 and of the name ``?``, by which Paddle says that any will do, and not that they are equal."""
    graph = proto.graph
    for v in (*graph.input, *graph.value_info, *graph.output):
        for d in v.type.tensor_type.shape.dim if v.type.HasField("tensor_type") else ():
            if d.dim_value < 0 or d.dim_param in ("?", "-1"):
                d.ClearField("value")
    if not any(n.op_type == "ImageScaler" and n.domain in ("", "ai.onnx") for n in graph.node):
        return
    taken = {v for n in graph.node for v in (*n.input, *n.output)} | {t.name for t in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "ImageScaler" or len(node.input) != 1 or len(node.output) != 1:
            nodes.append(node)
            continue
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        bias = np.asarray(attrs.get("bias", [0.0]), np.float32).reshape(1, -1, 1, 1)
        scale = np.full((1, 1, 1, 1), attrs.get("scale", 1.0), np.float32)
        names = []
        for hint in ("scale", "bias", "scaled"):
            name = f"{node.output[0]}_{hint}"
            while name in taken:
                name += "_"
            taken.add(name)
            names.append(name)
        for name, array in zip(names[:2], (scale, bias), strict=True):
            nodes.append(onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array)))
        old = {"broadcast": 1} if _version(proto) < 7 else {}
        nodes.append(onnx.helper.make_node("Mul", [node.input[0], names[0]], [names[2]], node.name, **old))
        nodes.append(onnx.helper.make_node("Add", [names[2], names[1]], list(node.output), node.name, **old))
    del graph.node[:]
    graph.node.extend(nodes)


def _version(proto: onnx.ModelProto) -> int:
    return max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
