"""The operator Gradient of ``ai.onnx.preview.training``: nodes of the gradients of what stands in front of it."""

from __future__ import annotations

from nnaccel_core.autodiff import gradients
from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Graph, Node, Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, Result, maps


@maps("Gradient", domain="ai.onnx.preview.training")
def gradient(n: Call) -> Result:
    """The derivative of the sum of ``y`` with respect to each of ``xs``."""
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in n.attr("xs", ())]
    others = [name.decode() if isinstance(name, bytes) else str(name) for name in n.attr("zs", ())]
    if list(n.node.input) != [*names, *others]:
        raise Unmapped("a gradient at other values than those that the graph computes with")
    nodes: list[Node] = []
    for part in n.c.parts:
        if not isinstance(part, list):
            raise Unmapped("a gradient behind a node that is not compiled")
        nodes += part
    y, wrt = n.c.read(n.c.items.get(str(n.attr("y")))), [n.x(k) for k in range(len(names))]
    if not all(v.type.is_float for v in (y, *wrt)):
        raise Unmapped("a gradient of integers")
    made = {v for node in nodes for v in node.outputs}
    leaves: dict[Value, None] = dict.fromkeys(wrt)
    leaves.update(dict.fromkeys(v for node in nodes for v in node.inputs if v not in made))
    try:
        joint = gradients(Graph(tuple(leaves), (), tuple(nodes), (y,), name=n.c.origin), wrt)
    except UnsupportedError as e:
        raise Unmapped(str(e)) from e
    one = n.emit("expand", n.number(1, y), shape=y.shape)
    part = n.c.parts[-1]
    assert isinstance(part, list), "it was emitted to"
    known = set(nodes)
    part += [node for node in joint.forward.nodes if node not in known]
    part += [Node("reshape", (one,), (seed,), {"shape": y.shape}, n.c.origin) for _, seed in joint.seeds]
    part += joint.nodes
    n.c.reserve(v.name for node in part for v in node.outputs)
    return [n.emit("expand", n.number(0, v), shape=v.shape) if g is None else g for v, g in zip(wrt, joint.grads, strict=True)]
