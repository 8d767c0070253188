"""LSTM, GRU and RNN: written out against ONNX Runtime, and what stays with onnx."""

from __future__ import annotations

import numpy as np
import onnx.helper as h
import pytest

from frontend_onnx.devices import has_x86, network
from frontend_onnx.test_network import F, model
from frontend_onnx.test_training import D, check_gradients
from nnaccel_core.errors import UnsupportedError

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def recurrent(op, steps=3, direction="forward", hidden=4, width=5, dtype="f", operands="all", **attrs):
    """The operator with its weights as initializers, and random states."""
    rng = np.random.default_rng(0)
    both, rows = 2 if direction == "bidirectional" else 1, GATES[op] * hidden

    def made(*shape):
        return rng.uniform(-0.7, 0.7, shape).astype(dtype)

    values = {"w": made(both, rows, width), "r": made(both, rows, hidden)}
    names = ["x", "w", "r"]
    if operands == "all":
        values |= {"b": made(both, 2 * rows)}
        names += ["b", "", "h"]
        names += ["c"] if op == "LSTM" else []
        if op == "LSTM" and isinstance(steps, int):
            names.append("p")
            values["p"] = made(both, 3 * hidden)
    results = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    kind = F if dtype == "f" else D
    inputs = {"x": (kind, [steps, "N", width])}
    inputs |= {k: (kind, [both, "N", hidden]) for k in "hc" if k in names}
    node = h.make_node(op, names, results, name="cells", hidden_size=hidden, direction=direction, **attrs)
    feeds = {k: made(*(2 if d == "N" else 7 if d == "T" else d for d in shape)) for k, (_, shape) in inputs.items()}
    return model([node], inputs, dict.fromkeys(results, (kind, None)), values, opset=14), feeds


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}), ("RNN", {}),
     ("RNN", {"activations": ["Relu"]}), ("LSTM", {"operands": "few"}), ("GRU", {"operands": "few"})],
)  # fmt: skip
def test_equals_onnxruntime(op, attrs, direction):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    if "activations" in attrs and direction == "bidirectional":
        attrs = {"activations": attrs["activations"] * 2}
    proto, feeds = recurrent(op, direction=direction, **attrs)
    net = network(proto)
    want = runtime.InferenceSession(proto.SerializeToString()).run(None, feeds)
    for a, b in zip(net.run(None, feeds), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not list(net.notes())


@pytest.mark.parametrize("op", list(GATES))
def test_gradients(op):
    proto, feeds = recurrent(op, steps=2, dtype="d")
    net = network(proto, train=True)
    found = check_gradients(net, feeds, watched=["x", "h"], probes=3)
    assert {"w", "r", "b", "x", "h"} <= set(found)


@pytest.mark.parametrize("device", ["reference", *(["cpu"] if has_x86() else [])])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("op", "attrs"),
    [("LSTM", {}), ("GRU", {"linear_before_reset": 0}), ("GRU", {"linear_before_reset": 1}), ("RNN", {}),
     ("RNN", {"activations": ["Relu"]}), ("LSTM", {"operands": "few"}), ("GRU", {"operands": "few", "linear_before_reset": 1}),
     ("LSTM", {"hidden": 35})],
)  # fmt: skip
def test_sequences_of_any_length(op, attrs, direction, device):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    if "activations" in attrs and direction == "bidirectional":
        attrs = {"activations": attrs["activations"] * 2}
    proto, feeds = recurrent(op, "T", direction, **attrs)
    net, session = network(proto, device), runtime.InferenceSession(proto.SerializeToString())
    for steps, batch in ((7, 2), (50, 1), (3, 11)):
        given = {"x": np.resize(feeds["x"], (steps, batch, 5))}
        given.update((k, np.resize(v, (v.shape[0], batch, v.shape[2]))) for k, v in feeds.items() if k != "x")
        for a, b in zip(net.run(None, given), session.run(None, given), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6)
    assert not any("cells" in note for note in net.notes())


def test_an_empty_sequence_leaves_the_state():
    proto, feeds = recurrent("LSTM", "T")
    y, last, cell = network(proto).run(None, {**feeds, "x": np.zeros((0, 2, 5), "f")})
    assert y.shape == (0, 1, 2, 4)
    np.testing.assert_array_equal(last, feeds["h"])
    np.testing.assert_array_equal(cell, feeds["c"])


def test_long_sequences_are_not_trained():
    proto, feeds = recurrent("GRU", steps=40)
    net = network(proto, train=True)
    with pytest.raises(UnsupportedError, match="a sequence of 40 steps; up to 32 are written out for training"):
        net.forward(**feeds)


@pytest.mark.parametrize("attrs", [{"clip": 1.0, "steps": 2}, {"clip": 1.0, "steps": "T"}])
def test_what_stays_with_onnx(attrs):
    """Rare attributes: the reference evaluator runs them."""
    proto, feeds = recurrent("RNN", **attrs)
    net = network(proto)
    y, last = net.run(None, feeds)
    assert np.array_equal(y[-1], last)
    assert any("cells" in note for note in net.notes())
