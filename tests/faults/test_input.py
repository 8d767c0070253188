"""Bad input to `optimize` and to optimized torch networks: a clear error, or what torch itself gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nnaccel_backend_x86")

from torch import nn  # noqa: E402

import nnaccel_core as nnaccel  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:ISPC was not found")


@pytest.fixture(scope="module")
def nets() -> tuple[nn.Module, nn.Module]:
    """A small convolutional network and its optimized form."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, groups=8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    return net, nnaccel.optimize(net)


def same_as_torch(net: Callable[..., Any], fast: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Both give the same result, or both raise the same error."""
    with torch.no_grad():
        try:
            want = net(*args, **kwargs)
        except Exception as e:
            with pytest.raises(type(e)) as caught:
                fast(*args, **kwargs)
            assert str(caught.value) == str(e)
        else:
            got = fast(*args, **kwargs)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5, equal_nan=True)


X = torch.randn(2, 3, 12, 12)

CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "right": ((X,), {}),
    "channels": ((torch.randn(2, 4, 12, 12),), {}),
    "rank 2": ((torch.randn(2, 3),), {}),
    "rank 3, a single image": ((torch.randn(3, 12, 12),), {}),
    "rank 5": ((torch.randn(1, 2, 3, 12, 12),), {}),
    "rank 0": ((torch.tensor(1.0),), {}),
    "image smaller than the kernel": ((torch.randn(2, 3, 3, 3),), {}),
    "another size": ((torch.randn(2, 3, 15, 20),), {}),
    "float64": ((X.double(),), {}),
    "float16": ((X.half(),), {}),
    "int64": ((torch.ones(2, 3, 12, 12, dtype=torch.int64),), {}),
    "bool": ((torch.ones(2, 3, 12, 12, dtype=torch.bool),), {}),
    "complex": ((X.to(torch.complex64),), {}),
    "empty batch": ((torch.randn(0, 3, 12, 12),), {}),
    "zero height": ((torch.randn(2, 3, 0, 12),), {}),
    "zero channels": ((torch.randn(2, 0, 12, 12),), {}),
    "no input": ((), {}),
    "two inputs": ((X, X), {}),
    "unknown keyword": ((X,), {"scale": 2}),
    "keyword": ((), {"input": X}),
    "list": ((X.tolist(),), {}),
    "None": ((None,), {}),
    "numpy array": ((X.numpy(),), {}),
    "string": (("image.png",), {}),
    "meta tensor": ((X.to("meta"),), {}),
    "sparse": ((X.to_sparse(),), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_first_and_later_calls_are_torchs_own(nets, name):
    """Whatever was called before, and as the very first call of a network."""
    net, fast = nets
    args, kwargs = CALLS[name]
    if name == "meta tensor":
        with torch.no_grad(), pytest.raises((RuntimeError, NotImplementedError)):
            fast(*args)
    else:
        same_as_torch(net, fast, *args, **kwargs)
        same_as_torch(net, nnaccel.optimize(net), *args, **kwargs)
    same_as_torch(net, fast, X)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["one pixel", "all"])
def test_not_finite(nets, bad, where):
    net, fast = nets
    x = torch.full_like(X, bad) if where == "all" else X.clone()
    x[0, 1, 2, 3] = bad
    same_as_torch(net, fast, x)
    same_as_torch(net, fast, X)


def test_not_finite_weights():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2), nn.Hardtanh()).eval()
    net[0].weight.data[1, 0, 0, 0] = float("nan")
    net[3].bias.data[0] = float("inf")
    same_as_torch(net, nnaccel.optimize(net), torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize(("device", "error", "text"), [
    ("tpu", nnaccel.DeviceError, r"no backend for device 'tpu'; devices installed: cpu"),
    ("", nnaccel.DeviceError, r"no backend for device ''; devices installed"),
    ("cpu:three", nnaccel.DeviceError, "there is no device 'cpu:three' on this machine; devices of backend 'x86': cpu:0"),
    ("cpu:7", nnaccel.DeviceError, "there is no device 'cpu:7'"),
])  # fmt: skip
def test_devices(nets, device, error, text):
    with pytest.raises(error, match=text):
        nnaccel.optimize(nets[0], device=device)


def test_device_that_is_no_string(nets):
    with pytest.raises(nnaccel.DeviceError, match="no backend for device '3'"):
        nnaccel.optimize(nets[0], device=3)
    fast = nnaccel.optimize(nets[0], device=torch.device("cpu"))
    same_as_torch(nets[0], fast, X)


@pytest.mark.parametrize("model", [None, 3, "resnet18", torch.ones(3), torch.relu, nn.Linear, [nn.Linear(2, 2)]], ids=str)
def test_no_model(model):
    with pytest.raises(nnaccel.PluginError, match="no frontend accepts a .*frontends installed: .*torch"):
        nnaccel.optimize(model)


def test_options(nets):
    with pytest.raises(ValueError, match="numerics must be 'fast' or 'strict', not 'exact'"):
        nnaccel.optimize(nets[0], numerics="exact")


def test_a_network_without_forward():
    net = nn.Module().eval()
    same_as_torch(net, nnaccel.optimize(net), X)


def test_a_network_without_parameters():
    same_as_torch(nn.ReLU(), nnaccel.optimize(nn.ReLU().eval()), X)


def test_a_network_that_raises_leaves_the_next_call_intact():
    class Picky(nn.Module):
        def forward(self, x: Any) -> Any:
            if x.shape[0] == 3:
                raise ValueError("three is one too many")
            return torch.relu(x)

    net = Picky().eval()
    fast = nnaccel.optimize(net)
    for n in (3, 2, 3, 4):
        same_as_torch(net, fast, torch.randn(n, 4))


def test_wrong_inputs_of_a_program_are_named():
    """Below the frontend, where no framework checks first."""
    import numpy as np

    from nnaccel_core.ir import sym
    from nnaccel_core.testing.conformance import compile_graph
    from nnaccel_core.testing.contract import _Graph
    from nnaccel_core.testing.interpreter import InterpreterBackend

    g = _Graph()
    graph = g.done(g("add", g.input(sym("n"), 3), g.input(3)))
    machine = InterpreterBackend.probe()
    assert machine is not None
    compiled = compile_graph(graph, InterpreterBackend(machine, "interp"))
    a, b = np.ones((2, 3), np.float32), np.ones(3, np.float32)
    np.testing.assert_array_equal(compiled([a, b])[0], a + b)
    with pytest.raises(nnaccel.InputError, match=r"input 0 \(%x0\) has shape \[2, 4\]"):
        compiled([np.ones((2, 4), np.float32), b])
    with pytest.raises(nnaccel.InputError, match="takes 2 tensors, got 1"):
        compiled([a])
    with pytest.raises(nnaccel.InputError, match="takes 2 tensors, got 3"):
        compiled([a, b, b])
    with pytest.raises(nnaccel.InputError, match=r"input 1 \(%x1\) has dtype float64"):
        compiled([a, b.astype(np.float64)])
