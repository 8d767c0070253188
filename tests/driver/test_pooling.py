"""Where the driver lets average pooling change places with a convolution: prediction and training, not with strict numerics."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

from torch import nn  # noqa: E402

import nnaccel_core  # noqa: E402
from nnaccel_core.driver import segment, training  # noqa: E402


def branch() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(16, 8, 1), nn.Softplus(),
        nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4),
    )  # fmt: skip


@pytest.mark.parametrize(("numerics", "channels"), [("fast", [8, 4]), ("strict", [16, 8])])
def test_prediction(numerics: str, channels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    run = segment.run_passes
    monkeypatch.setattr(segment, "run_passes", lambda *args: seen.append(run(*args)) or seen[-1])
    net = branch().eval()
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(nnaccel_core.optimize(net, numerics=numerics)(x), net(x), rtol=1e-4, atol=1e-5)
    assert [n.output.shape[1] for g in seen for n in g.nodes if n.op == "avg_pool"] == channels


@pytest.mark.parametrize(("numerics", "channels"), [("fast", [8, 4]), ("strict", [16, 8])])
def test_training(numerics: str, channels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    derive = training.derive
    monkeypatch.setattr(training, "derive", lambda g, *args: seen.append(derive(g, *args)) or seen[-1])
    net = branch().double()
    fast = nnaccel_core.optimize(copy.deepcopy(net), numerics=numerics)
    x = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    weights = torch.randn(4, 4, 7, 7, dtype=torch.float64)
    for one in (net, fast):
        (one(x) * weights).sum().backward()
    for (name, p), q in zip(fast.named_parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}.grad: {m}")
    for p, q in zip(fast.buffers(), net.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
    forward = seen[0].forward
    assert [n.output.shape[1] for n in forward.nodes if n.op == "avg_pool"] == channels
