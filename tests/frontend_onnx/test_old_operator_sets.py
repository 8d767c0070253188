"""Operators as old operator sets wrote them: attributes that became inputs, broadcasting by attribute, defaults that changed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper
import onnx.reference
import pytest

from frontend_onnx.devices import network

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 4, 5)).astype("f")
C = RNG.normal(size=3).astype("f")
K = RNG.normal(size=(4, 3, 3, 3)).astype("f")
ROWS, BIAS = RNG.normal(size=(6, 5)).astype("f"), RNG.normal(size=6).astype("f")
STATS = [np.abs(RNG.normal(size=3)).astype("f") + np.float32(0.1) for _ in range(4)]


def per_channel(v):
    return v[:, None, None]


def normalized(mean, variance):
    return (X - mean) / np.sqrt(variance + 1e-5) * per_channel(STATS[0]) + per_channel(STATS[1])


BATCH_NORM = normalized(per_channel(STATS[2]), per_channel(STATS[3]))
INSTANCE_NORM = normalized(X.mean((2, 3), keepdims=True), X.var((2, 3), keepdims=True))
PADDED = np.pad(X, [(0, 0), (0, 0), (1, 0), (1, 1)], constant_values=-np.inf)
TOP = np.lib.stride_tricks.sliding_window_view(PADDED, (3, 3), (2, 3))[:, :, ::2, ::2].max((-2, -1))
SCATTERED = X[0, 0].copy()
SCATTERED[[1, 0, 2, 1, 3], range(5)] = 1
WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2]}

#: Operator set, operator, attributes, inputs, initializers, and results (None: onnx's reference evaluator says).
CASES = [
    (1, "Slice", {"starts": [0, 1], "ends": [2, -1], "axes": [1, 3]}, [X], [], None),
    (6, "Clip", {"min": -0.5, "max": 0.5}, [X], [], None),
    (1, "Pad", {"paddings": [0, 0, 1, 2, 0, 0, 3, 1], "mode": "reflect"}, [X], [],
     [np.pad(X, [(0, 0), (0, 0), (1, 3), (2, 1)], mode="reflect")]),
    (2, "Pad", {"pads": [0, 0, 1, 2, 0, 0, 3, 1], "mode": "edge"}, [X], [], None),
    (1, "Upsample", {"height_scale": 2.0, "width_scale": 3.0}, [X], [], [X.repeat(2, 2).repeat(3, 3)]),
    (7, "Upsample", {"scales": [1.0, 1.0, 2.0, 3.0]}, [X], [], [X.repeat(2, 2).repeat(3, 3)]),
    (9, "Upsample", {}, [X], [np.array([1, 1, 2, 3], "f")], [X.repeat(2, 2).repeat(3, 3)]),
    (10, "Resize", {}, [X], [np.array([1, 1, 2, 3], "f")], [X.repeat(2, 2).repeat(3, 3)]),
    (1, "Dropout", {"ratio": 0.5, "is_test": 1}, [X], [], [X]),
    (7, "Dropout", {"ratio": 0.5}, [X], [], [X]),
    (1, "BatchNormalization", {"is_test": 1, "consumed_inputs": [0, 0, 0, 1, 1]}, [X], STATS, [BATCH_NORM]),
    (6, "BatchNormalization", {"is_test": 1}, [X], STATS, [BATCH_NORM]),
    (7, "BatchNormalization", {}, [X], STATS, [BATCH_NORM]),
    (1, "InstanceNormalization", {"consumed_inputs": [0]}, [X], STATS[:2], [INSTANCE_NORM]),
    (1, "Squeeze", {"axes": [0]}, [X[:1]], [], [X[0]]),
    (1, "Unsqueeze", {"axes": [0, 2]}, [X], [], [X[None, :, None]]),
    (1, "ReduceSum", {"axes": [1, 3], "keepdims": 0}, [X], [], [X.sum((1, 3))]),
    (1, "ReduceMax", {"axes": [1, 3], "keepdims": 0}, [X], [], [X.max((1, 3))]),
    (1, "ReduceL2", {"axes": [1, 3]}, [X], [], [np.sqrt((X * X).sum((1, 3), keepdims=True))]),
    (1, "Split", {"axis": 3, "split": [2, 3]}, [X], [], [X[..., :2], X[..., 2:]]),
    (1, "Gemm", {"broadcast": 1, "transB": 1, "alpha": 0.5}, [X[0, 0]], [ROWS, BIAS], [0.5 * X[0, 0] @ ROWS.T + BIAS]),
    (1, "Add", {"broadcast": 1, "axis": 1}, [X, C], [], [X + per_channel(C)]),
    (6, "Mul", {"broadcast": 1, "axis": 1}, [X, C], [], [X * per_channel(C)]),
    (1, "Pow", {"broadcast": 1}, [np.abs(X), np.array([2], "f")], [], [X * X]),
    (6, "PRelu", {}, [X, C], [], [np.where(X > 0, X, X * per_channel(C))]),
    (1, "Cast", {"to": "INT32"}, [X * 3], [], [(X * 3).astype("i4")]),
    (1, "Reshape", {"shape": [2, 0, -1]}, [X], [], [X.reshape(2, 3, 20)]),
    (5, "Reshape", {}, [X], [np.array([2, 0, -1])], [X.reshape(2, 3, 20)]),
    (1, "Concat", {}, [X, X], [], [np.concatenate([X, X], 1)]),
    (1, "TopK", {"k": 2, "axis": 3}, [X], [], [-np.sort(-X, 3)[..., :2], np.argsort(-X, 3)[..., :2]]),
    (10, "TopK", {"axis": 3}, [X], [np.array([2])], [-np.sort(-X, 3)[..., :2], np.argsort(-X, 3)[..., :2]]),
    (1, "Softmax", {"axis": 2}, [X], [], [(np.exp(X) / np.exp(X).sum((2, 3), keepdims=True))]),
    (1, "Flatten", {"axis": 2}, [X], [], [X.reshape(6, 20)]),
    (1, "Conv", {"auto_pad": "SAME_UPPER", **WINDOW}, [X], [K], None),
    (1, "Conv", {"auto_pad": "SAME_LOWER", **WINDOW}, [X], [K], None),
    (1, "MaxPool", {"auto_pad": "SAME_LOWER", **WINDOW}, [X], [], [TOP]),
    (7, "AveragePool", {"auto_pad": "SAME_UPPER", **WINDOW}, [X], [], None),
    (1, "Sum", {}, [X, X], [], [X + X]),
    (9, "Scatter", {"axis": 0}, [X[0, 0]], [np.array([[1, 0, 2, 1, 3]]), np.ones((1, 5), "f")], [SCATTERED]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[1]}-{c[0]}")
def test_an_operator_of_an_old_operator_set(case):
    version, op, attrs, inputs, initializers, want = case
    names = [f"i{k}" for k in range(len(inputs) + len(initializers))]
    outputs = [f"o{k}" for k in range(1 if want is None else len(want))]
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in zip(names[len(inputs) :], initializers, strict=True)]
    arrays = zip(names, [*inputs, *initializers], strict=True)
    infos = [h.make_tensor_value_info(n, h.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in arrays]
    kinds = [h.np_dtype_to_tensor_dtype(w.dtype) for w in want] if want is not None else [onnx.TensorProto.FLOAT]
    results = [h.make_tensor_value_info(n, kind, None) for n, kind in zip(outputs, kinds, strict=True)]
    graph = h.make_graph([h.make_node(op, names, outputs, **attrs)], "old", infos, results, tensors)
    proto = h.make_model(graph, opset_imports=[h.make_opsetid("", version)], ir_version=3)
    feeds = dict(zip(names, inputs, strict=False))
    if want is None:
        want = onnx.reference.ReferenceEvaluator(proto).run(None, feeds)
    net = network(proto)
    for got, right in zip(net.run(None, feeds), want, strict=True):
        assert got.dtype == right.dtype
        np.testing.assert_allclose(got, right, rtol=1e-4, atol=1e-5)
