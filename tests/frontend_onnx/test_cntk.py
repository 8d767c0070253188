"""A network that CNTK 2.5.1 wrote: operator set 8, parameters listed as inputs, SAME_UPPER, the batch fixed at 1."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from frontend_onnx.devices import has_x86, network
from nnaccel_frontend_onnx.legacy import modernize

FILE = Path(__file__).parent / "data" / "cntk-2.5.1-mnist.onnx"
DEVICES = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(not has_x86(), reason="no x86 backend here"))]

#: Strokes (row, column, row, column) of digits on a 28 x 28 field.
STROKES = {
    0: [(5, 9, 5, 18), (5, 18, 22, 18), (22, 18, 22, 9), (22, 9, 5, 9)],
    1: [(4, 14, 23, 14)],
    4: [(4, 9, 14, 9), (14, 9, 14, 20), (4, 18, 23, 18)],
    7: [(5, 8, 5, 19), (5, 19, 23, 12)],
}


def digit(number: int) -> np.ndarray:
    """A drawn digit, 1x28x28 of 0 to 255."""
    image = np.zeros((28, 28), np.float32)
    rows, columns = np.mgrid[:28, :28]
    for r0, c0, r1, c1 in STROKES[number]:
        for t in np.linspace(0, 1, 60):
            distance = (rows - r0 - t * (r1 - r0)) ** 2 + (columns - c0 - t * (c1 - c0)) ** 2
            image = np.maximum(image, 255 * np.exp(-distance / 1.5))
    return image[None]


def digits() -> np.ndarray:
    return np.stack([digit(k) for k in STROKES]).astype(np.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_equals_onnxruntime_and_reads_digits(device):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = runtime.InferenceSession(str(FILE))
    net = network(FILE, device)
    assert [a.name for a in net.inputs] == ["Input3"] and [a.name for a in net.outputs] == ["Plus214_Output_0"]
    for k, image in zip(STROKES, digits(), strict=True):
        x = image[None]
        (want,) = session.run(None, {"Input3": x})
        got = net(Input3=x)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
        assert got.argmax() == want.argmax() == k
    assert not list(net.notes())


@pytest.mark.parametrize("device", DEVICES)
def test_the_batch_can_vary(device):
    net = network(FILE, device)
    x = digits()
    one_by_one = np.concatenate([net(image[None]) for image in x])
    for n in (2, 4, 3):
        got = net(x[:n])
        assert got.shape == (n, 10)
        np.testing.assert_allclose(got, one_by_one[:n], rtol=1e-4, atol=1e-2)


@pytest.fixture(scope="module")
def example():
    """The example as a module."""
    pytest.importorskip("sklearn", reason="needs scikit-learn for its digits")
    path = Path(__file__).parents[2] / "examples" / "onnx_training" / "digits.py"
    spec = importlib.util.spec_from_file_location("onnx_digits_example", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_trains_on(example, tmp_path):
    """From 85 % of scikit-learn's digits, which are not MNIST's, to more than 94 %; 50 at a time, though the file says 1."""
    net = network(FILE, "cpu", train=True)
    assert set(net.parameters()) == {"Parameter5", "23", "Parameter87", "24", "Parameter193_reshape1", "Parameter194"}
    run = example.train(net, epochs=8)
    assert run.before < 0.9 and run.after > 0.94
    assert np.mean(run.losses[-20:]) < 0.1 * np.mean(run.losses[:20])
    net.save(tmp_path / "trained.onnx")
    _, _, x, t = example.data()
    assert example.accuracy(network(tmp_path / "trained.onnx", "cpu"), x, t) == run.after
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    session = runtime.InferenceSession(str(tmp_path / "trained.onnx"))
    theirs = np.concatenate([session.run(None, {"Input3": image[None]})[0] for image in x])
    assert (theirs.argmax(1) == t).mean() == run.after


def test_one_step_is_the_same_on_the_references(example):
    """Forward and backward on the device and on the operators' definitions."""
    x, t, _, _ = example.data()
    nets = [network(FILE, d, train=True) for d in (["reference", "cpu"] if has_x86() else ["reference", "interp"])]
    found = []
    for net in nets:
        net.watch("Input3")
        _, gradient = example.cross_entropy(net.forward(x[:6]), t[:6])
        found.append({**net.backward(gradient), **net.gradients()})
    assert found[0].keys() == found[1].keys() and len(found[0]) == 7
    for name, want in found[0].items():
        np.testing.assert_allclose(found[1][name], want, rtol=1e-3, atol=1e-4 * np.abs(want).max(), err_msg=name)


def test_image_scaler():
    """Removed from onnx, written by CNTK and WinMLTools."""
    import onnx
    import onnx.helper as h

    node = h.make_node("ImageScaler", ["x"], ["y"], scale=0.5, bias=[1.0, 2.0, 3.0])
    info = [h.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 2, 2]) for n in "xy"]
    for version in (6, 8):
        proto = h.make_model(h.make_graph([node], "net", [info[0]], [info[1]]), opset_imports=[h.make_opsetid("", version)])
        proto.ir_version = 3
        x = np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
        want = x * 0.5 + np.array([1, 2, 3], np.float32).reshape(3, 1, 1)
        np.testing.assert_allclose(network(proto)(x), want, rtol=1e-6)
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        modernize(copy)
        assert "ImageScaler" not in {n.op_type for n in copy.graph.node}
