"""Arrays on a GPU, with a stand-in for CuPy whose device memory is the host's; networks run on the loop IR's interpreter.

``tests/backend_cuda/test_gpu_onnx.py`` does the same on a real one.
"""

from __future__ import annotations

import contextlib
import sys
import types

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper
import pytest

from frontend_onnx.devices import ReferenceBackend
from nnaccel_core.driver.session import Session
from nnaccel_core.errors import InputError, UnsupportedError
from nnaccel_core.options import Options
from nnaccel_core.testing.interpreter import InterpreterBackend
from nnaccel_frontend_onnx.frontend import OnnxFrontend
from nnaccel_frontend_onnx.network import Network

F, INT, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL


class DeviceArray(np.ndarray):
    """In place of ``cupy.ndarray``."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def __array__(self, *_, **__):
        raise TypeError("implicit conversion to a numpy array is not allowed")


class Elsewhere:
    """A tensor of another framework on the GPU."""

    def __init__(self, array):
        self.held = array.view(DeviceArray)

    def __dlpack_device__(self):
        return 2, 0

    def __array__(self, *_, **__):
        raise TypeError("can't convert a tensor on cuda:0 to numpy")


@pytest.fixture
def gpu(monkeypatch):
    """The module, and what was copied from and to the device."""
    log = []

    def asarray(x):
        log.append("to")
        return np.array(x).view(DeviceArray)

    def asnumpy(x):
        log.append("from")
        return np.array(x.view(np.ndarray))

    cupy = types.SimpleNamespace(
        ndarray=DeviceArray, asarray=asarray, asnumpy=asnumpy, from_dlpack=lambda x: x.held,
        array=lambda x, order: np.array(x.view(np.ndarray), order=order).view(DeviceArray),
        empty=lambda shape, dtype: np.empty(shape, dtype).view(DeviceArray),
        concatenate=lambda parts: np.concatenate([p.view(np.ndarray) for p in parts]).view(DeviceArray),
        cuda=types.SimpleNamespace(
            Device=lambda k: contextlib.nullcontext(log.append(f"device {k}")),
            get_current_stream=lambda: types.SimpleNamespace(ptr=0),
        ),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return types.SimpleNamespace(log=log, on=lambda x: np.array(x).view(DeviceArray))


def network(proto, backend=InterpreterBackend, device="cuda", **options):
    from nnaccel_frontend_onnx.gpu import CupyCudaBridge
    from nnaccel_frontend_onnx.loading import load

    session = Session(backend(backend.probe(), device), CupyCudaBridge(), Options(**options))
    return Network(load(proto), session)


def model(nodes, inputs, outputs, initializers=None):
    infos = [[h.make_tensor_value_info(n, t, s) for n, (t, s) in d.items()] for d in (inputs, outputs)]
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (initializers or {}).items()]
    return h.make_model(h.make_graph(nodes, "net", *infos, tensors), opset_imports=[h.make_opsetid("", 20)], ir_version=9)


def linear(batch="N"):
    w = np.arange(6, dtype="f").reshape(3, 2)
    nodes = [h.make_node("MatMul", ["x", "w"], ["t"]), h.make_node("Relu", ["t"], ["y"])]
    return model(nodes, {"x": (F, [batch, 3])}, {"y": (F, [batch, 2])}, {"w": w}), w


def test_numpy_in_numpy_out(gpu):
    proto, w = linear()
    net = network(proto)
    for batch in (2, 5, 5):
        x = np.random.default_rng(batch).normal(size=(batch, 3)).astype("f")
        got = net(x)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, np.maximum(x @ w, 0), rtol=1e-6, atol=1e-6)


def test_arrays_on_the_gpu_stay_there_and_are_not_copied(gpu):
    proto, w = linear()
    net = network(proto)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("f")
    net(x)
    gpu.log.clear()
    for given in (gpu.on(x), Elsewhere(x), gpu.on(np.stack([x, x], 1))[:, 0]):
        got = net(given)
        assert type(got) is DeviceArray
        np.testing.assert_allclose(got.view(np.ndarray), np.maximum(x @ w, 0), rtol=1e-6, atol=1e-6)
    assert not gpu.log
    with pytest.raises(InputError, match="float32"):
        net(gpu.on(x.astype("d")))


def test_host_and_gpu_arrays_together(gpu):
    nodes = [h.make_node("Add", ["a", "b"], ["y"]), h.make_node("Identity", ["c"], ["z"])]
    proto = model(nodes, {"a": (F, ["N"]), "b": (F, ["N"])}, {"y": (F, ["N"]), "z": (F, [2])}, {"c": np.ones(2, "f")})
    net = network(proto)
    a, b = np.arange(3, dtype="f"), np.ones(3, "f")
    y, z = net(gpu.on(a), b)
    assert type(y) is type(z) is DeviceArray and y.tolist() == [1, 2, 3] and z.tolist() == [1, 1]
    y, z = net(a, b)
    assert type(y) is type(z) is np.ndarray


def test_an_input_that_is_an_output_is_copied(gpu):
    net = network(model([h.make_node("Identity", ["x"], ["y"])], {"x": (F, [2])}, {"y": (F, [2])}))
    x = gpu.on(np.zeros(2, "f"))
    y = net(x)
    y[:] = 5
    assert type(y) is DeviceArray and x.tolist() == [0, 0]


def test_what_onnx_runs_is_on_the_host(gpu):
    """An operator that is not compiled, between two that are."""
    nodes = [h.make_node("Neg", ["x"], ["a"]), h.make_node("Acos", ["a"], ["b"]), h.make_node("Relu", ["b"], ["y"])]
    net = network(model(nodes, {"x": (F, ["N"])}, {"y": (F, ["N"])}))
    x = np.array([-0.5, 0.25, 1], "f")
    want = np.maximum(np.arccos(-x), 0)
    got = net(gpu.on(x))
    assert type(got) is DeviceArray and any("Acos" in n for n in net.notes())
    np.testing.assert_allclose(got.view(np.ndarray), want, rtol=1e-6)
    np.testing.assert_allclose(net(x), want, rtol=1e-6)


def test_values_that_decide_shapes(gpu):
    proto = model([h.make_node("Reshape", ["x", "s"], ["y"])], {"x": (F, [6]), "s": (INT, [2])}, {"y": (F, None)})
    net = network(proto)
    x = np.arange(6, dtype="f")
    for shape in ((2, 3), (3, 2), (6, 1), (2, 3)):
        assert net(gpu.on(x), gpu.on(np.array(shape))).shape == shape
        assert net(x, np.array(shape)).shape == shape


def test_conditions_and_samples_one_by_one(gpu):
    then = h.make_graph([h.make_node("Neg", ["x"], ["p"])], "then", [], [h.make_tensor_value_info("p", F, [1, 3])])
    other = h.make_graph([h.make_node("Softmax", ["x"], ["q"], axis=0)], "else", [], [h.make_tensor_value_info("q", F, [1, 3])])
    nodes = [h.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)]
    proto = model(nodes, {"x": (F, [1, 3]), "flag": (BOOL, [])}, {"y": (F, [1, 3])})
    net = network(proto, ReferenceBackend)
    x = np.array([[1, -2, 3]], "f")
    for flag, want in ((True, -x), (False, np.ones_like(x))):
        got = net(gpu.on(x), np.array(flag))
        assert type(got) is DeviceArray and np.array_equal(got.view(np.ndarray), want)
    mixed = model([h.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": (F, [1, 3])}, {"y": (F, [1, 3])})
    for x in (np.zeros((4, 3), "f"), gpu.on(np.zeros((4, 3), "f"))):
        got = network(mixed)(x)
        assert type(got) is type(x) and got.shape == (4, 3) and got.min() == 1


def test_verify(gpu):
    proto, w = linear()
    x = np.ones((2, 3), "f")
    assert np.allclose(network(proto, verify=True)(gpu.on(x)).view(np.ndarray), x @ w)


def test_the_gpu_that_was_asked_for_is_current(gpu):
    network(linear()[0], device="cuda:1")(np.ones((2, 3), "f"))
    assert "device 1" in gpu.log


def test_training_on_a_gpu_is_refused(gpu):
    from nnaccel_frontend_onnx.gpu import CupyCudaBridge

    session = Session(InterpreterBackend(InterpreterBackend.probe(), "cuda"), CupyCudaBridge(), Options(train=True))
    with pytest.raises(UnsupportedError, match="trained on the CPU"):
        OnnxFrontend().wrap(linear()[0], session)
