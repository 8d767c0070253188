"""Small graphs for tests, and a builder that types them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnaccel_core.ir import Graph, Node, TensorType, Value
from nnaccel_core.ops.registry import infer


class Builder:
    """Builds a graph node by node."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.params: list[Value] = []
        self.nodes: list[Node] = []

    def input(self, *shape: Any, dtype: str = "float32", layout: Any = None) -> Value:
        v = Value(TensorType(shape, dtype, layout), f"x{len(self.inputs)}")
        self.inputs.append(v)
        return v

    def param(self, *shape: int, dtype: str = "float32") -> Value:
        v = Value(TensorType(shape, dtype), f"p{len(self.params)}")
        self.params.append(v)
        return v

    def const(self, value: Any, dtype: str = "float32") -> Value:
        return self("constant", value=np.asarray(value, dtype))

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        types = infer(op, [v.type for v in inputs], attrs)
        outs = tuple(Value(t, f"v{len(self.nodes)}") for t in types)
        self.nodes.append(Node(op, inputs, outs, attrs, f"layer{len(self.nodes)}"))
        return outs[0]

    def done(self, *outputs: Value, **more: Any) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.params), tuple(self.nodes), outputs, **more)


CONV: dict[str, Any] = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


def random_values(graph: Graph, seed: int = 0, env: dict[str, int] | None = None) -> tuple[list[Any], dict[str, Any]]:
    """Random inputs (symbols bound by ``env``) and positive parameters, so that variances are valid."""
    rng = np.random.default_rng(seed)

    def draw(v: Value, lo: float, hi: float) -> Any:
        shape: Sequence[int] = v.type.concrete(env or {}).shape  # type: ignore[assignment]
        return rng.uniform(lo, hi, shape).astype(v.dtype)

    return [draw(v, -2, 2) for v in graph.inputs], {p.name: draw(p, 0.3, 1.5) for p in graph.params}


def conv_bn_relu_net(batch: Any = 2) -> Graph:
    """Two conv + batch norm + relu, one of them depthwise, a residual add, pooling, a classifier."""
    b = Builder()
    x = b.input(batch, 3, 9, 9)

    def bn(v: Value) -> Value:
        c = v.shape[1]
        return b("batch_norm", v, b.param(c), b.param(c), b.param(c), b.param(c), eps=1e-5)

    y = b("relu", bn(b("conv", x, b.param(8, 3, 3, 3), **CONV)))
    z = b("clip", bn(b("conv", y, b.param(8, 1, 3, 3), **{**CONV, "groups": 8})), min=0.0, max=6.0)
    z = b("add", z, y)
    z = b("max_pool", z, kernel=(3, 3), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), ceil_mode=False)
    z = b("adaptive_avg_pool", z, output_size=(1, 1))
    z = b("reshape", z, shape=(batch, 8))
    z = b("matmul", z, b.param(5, 8), b.param(5), transpose_b=True)
    return b.done(b("softmax", z, axis=1))
