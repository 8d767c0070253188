"""NaN and infinity in inputs and parameters come out as the framework lets them out, with fused epilogues in use."""

from __future__ import annotations

import copy
import threading
from typing import Any
from unittest import mock

import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

from torch import nn  # noqa: E402

import nnaccel_core  # noqa: E402

#: Channels: enough for the library to be the fastest.
WIDE = 128
NAN, INF = float("nan"), float("inf")


def conv(act: nn.Module, groups: int = 1, kernel: int = 3) -> nn.Module:
    return nn.Sequential(nn.Conv2d(WIDE, WIDE, kernel, padding=kernel // 2, groups=groups), nn.BatchNorm2d(WIDE), act)


def fused(act: nn.Module, groups: int = 1, kernel: int = 3) -> nn.Module:
    """Another convolution follows, so that the activation is not taken along by the copy to the output's layout."""
    return nn.Sequential(conv(act, groups, kernel), nn.Conv2d(WIDE, WIDE, 3, padding=1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(nn.ReLU()), nn.Conv2d(WIDE, WIDE, 1)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.b(self.a(x)) + x)


NETWORKS = {
    "conv-relu": lambda: fused(nn.ReLU()),
    "1x1-relu": lambda: fused(nn.ReLU(), kernel=1),
    "conv-clip": lambda: fused(nn.ReLU6()),
    "conv-leaky": lambda: fused(nn.LeakyReLU(0.1)),
    "conv-leaky-0": lambda: fused(nn.LeakyReLU(0.0)),
    "conv-gelu": lambda: fused(nn.GELU()),
    "conv-silu": lambda: fused(nn.SiLU()),
    "conv-hardswish": lambda: fused(nn.Hardswish()),
    "conv-sigmoid": lambda: fused(nn.Sigmoid()),
    "conv-tanh": lambda: fused(nn.Tanh()),
    "depthwise-relu6": lambda: fused(nn.ReLU6(), groups=WIDE),
    "residual": Residual,
    "max-pool": lambda: nn.Sequential(conv(nn.ReLU()), nn.MaxPool2d(3, 2, 1)),
    "avg-pool": lambda: nn.Sequential(nn.AvgPool2d(2), conv(nn.ReLU())),
    "linear-relu": lambda: nn.Sequential(
        conv(nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDE, 512), nn.ReLU(), nn.Linear(512, 10)
    ),
    "softmax": lambda: nn.Sequential(conv(nn.ReLU()), nn.Softmax(1)),
}


def network(name: str) -> Any:
    torch.manual_seed(0)
    net = NETWORKS[name]().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 1.5)
    return net


def plain(net: Any, x: Any) -> Any:
    """PyTorch's result, GELU in float64: of vectors of 16 floats it makes NaN of gelu(inf), and inf of each float by itself."""
    with mock.patch.object(nn.GELU, "forward", lambda self, x: nn.functional.gelu(x.double()).float()):
        return net(x)


def same(got: Any, want: Any) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4, equal_nan=True)


def images(batch: int) -> Any:
    return torch.randn(batch, WIDE, 24, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETWORKS)
def test_in_inputs(name: str) -> None:
    net = network(name)
    fast = nnaccel_core.optimize(net)
    with torch.no_grad():
        for batch in (1, 3):
            for value in (NAN, INF, -INF):
                x = images(batch)
                same(fast(x), plain(net, x))
                x[-1, 3, 5, 6] = value
                same(fast(x), plain(net, x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_in_weights(name: str, value: float) -> None:
    net = network(name)
    fast = nnaccel_core.optimize(net)
    x = images(2)
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        same(fast(x), plain(net, x))
        kept = layer.weight.clone()
        layer.weight[2, 0, 0, 0] = value
        same(fast(x), plain(net, x))
        layer.weight.copy_(kept)
        same(fast(x), plain(net, x))
        layer.bias[1] = value
        same(fast(x), plain(net, x))


def test_strict_numerics_is_as_before() -> None:
    net = network("residual")
    fast = nnaccel_core.optimize(net, numerics="strict")
    x = images(1)
    x[0, 0, 0, 0] = NAN
    with torch.no_grad():
        same(fast(x), plain(net, x))


def test_threads_meet_nan_at_the_same_time() -> None:
    net = network("conv-relu")
    fast = nnaccel_core.optimize(net)
    clean, dirty = images(1), images(1)
    dirty[0, 0, 0, 0] = NAN
    errors: list[BaseException] = []

    def work(x: Any) -> None:
        try:
            with torch.no_grad():
                want = net(x)
                for _ in range(20):
                    same(fast(x), want)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(x,)) for x in (clean, dirty, clean, dirty)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors[0]


def test_a_copy_with_nan_does_not_slow_the_original() -> None:
    net = network("conv-relu")
    broken = copy.deepcopy(net)
    with torch.no_grad():
        broken[0][0].weight.fill_(NAN)
        x = images(1)
        fast, bad = nnaccel_core.optimize(net), nnaccel_core.optimize(broken)
        assert bad(x).isnan().all()
        same(fast(x), plain(net, x))


def test_the_check_is_what_makes_it_right(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnaccel_backend_x86.executable import X86Executable

    monkeypatch.setattr(X86Executable, "exact", lambda *args: True)
    # In groups, which our own kernels, that keep NaN, do not take.
    net = nn.Sequential(nn.Conv2d(WIDE, WIDE, 3, padding=1, groups=4), nn.ReLU()).eval()
    x = images(1)
    x[0, 3, 5, 6] = NAN
    with torch.no_grad():
        got, want = nnaccel_core.optimize(net)(x), net(x)
    assert want.isnan().any()
    assert not torch.equal(got.isnan(), want.isnan())
