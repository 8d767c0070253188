"""ONNX networks on a real GPU: numpy, CuPy's and PyTorch's arrays; a part of ONNX's conformance tests."""

from __future__ import annotations

import functools

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("nnaccel_frontend_onnx", reason="the package nnaccel_frontend_onnx is not on the path")

import onnx
import onnx.helper as h
import onnx.numpy_helper

from frontend_onnx.conformance import cases, run_case

pytestmark = pytest.mark.gpu
F = onnx.TensorProto.FLOAT


def convolutions() -> onnx.ModelProto:
    """Two convolutions of images of any number and size, a pool, and an operator that stays with onnx."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(16, 3, 3, 3)), "b": rng.normal(size=16), "v": rng.normal(size=(8, 16, 1, 1)) / 4}
    nodes = [
        h.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("Conv", ["r", "v"], ["d"]),
        h.make_node("GlobalAveragePool", ["d"], ["p"]),
        h.make_node("Tanh", ["p"], ["t"]),
        h.make_node("Acos", ["t"], ["y"]),
    ]
    infos = [h.make_tensor_value_info("x", F, ["N", 3, "H", "W"])], [h.make_tensor_value_info("y", F, ["N", 8, 1, 1])]
    tensors = [onnx.numpy_helper.from_array(a.astype("f"), n) for n, a in arrays.items()]
    return h.make_model(h.make_graph(nodes, "net", *infos, tensors), opset_imports=[h.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("batch", [1, 6])
def test_arrays_of_numpy_cupy_and_torch(batch: int) -> None:
    import cupy
    import onnx.reference
    import torch

    import nnaccel_core

    proto = convolutions()
    net = nnaccel_core.optimize(proto, device="cuda")
    x = np.random.default_rng(1).normal(size=(batch, 3, 20, 17)).astype("f")
    (want,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
    for _ in range(3):  # the third call replays a CUDA graph
        got = net(x)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        on_gpu = net(cupy.asarray(x))
        assert isinstance(on_gpu, cupy.ndarray)
        np.testing.assert_allclose(on_gpu.get(), want, rtol=1e-4, atol=1e-4)
        tensor = torch.from_numpy(x).cuda() * 1
        back = torch.from_dlpack(net(tensor))
        assert back.is_cuda
        np.testing.assert_allclose(back.cpu().numpy(), want, rtol=1e-4, atol=1e-4)
    bridge = net.session.bridge
    assert bridge.address(bridge.taken(tensor)) == tensor.data_ptr()
    with torch.cuda.stream(torch.cuda.Stream()):  # the copy is enqueued there; the network waits for it
        moved = torch.from_numpy(x).cuda(non_blocking=True) + 0
        np.testing.assert_allclose(net(moved).get(), want, rtol=1e-4, atol=1e-4)


@functools.cache
def chosen() -> list[object]:
    return cases(("node", "simple"))[::25] + cases(("pytorch-converted", "pytorch-operator"))[::4]


@pytest.mark.parametrize("part", range(4))
def test_conformance(part: int) -> None:
    found = [run_case(c, "cuda") for c in chosen()[part::4]]
    assert not [f"{o.name}: {o.why}" for o in found if o.ending == "failed"]
