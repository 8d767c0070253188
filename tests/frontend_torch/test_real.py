"""The same networks through `nnaccel_core.optimize` and the CPU backend that is installed."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import nn

import nnaccel_core
from frontend_torch.nets import Lambda, ResNet, mlp, settled
from frontend_torch.reference import close


@pytest.fixture(scope="module", autouse=True)
def _backend() -> None:
    try:
        with torch.no_grad():
            nnaccel_core.optimize(nn.Linear(2, 2).eval())(torch.ones(1, 2))
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")


def check(net: nn.Module, *sizes: tuple[int, ...]) -> Any:
    fast = nnaccel_core.optimize(net)
    with torch.no_grad():
        for size in sizes:
            x = torch.randn(size)
            close(fast(x), net(x), 1e-3)
    report = fast.nnaccel_report()
    assert report["compiled_calls"] == len(sizes) and not report["own_calls"], report
    return fast


def test_resnet_at_several_batch_sizes() -> None:
    fast = check(settled(ResNet(8, 10, (1, 1))), (2, 3, 32, 32), (1, 3, 32, 32), (3, 3, 32, 32))
    assert fast.nnaccel_report()["captures"] == 1


def test_mlp() -> None:
    check(settled(mlp()), (3, 2, 12), (1, 2, 12))


def test_channels_last() -> None:
    net = settled(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU()))
    x = torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        got, want = nnaccel_core.optimize(net)(x), net(x)
    close(got, want)
    assert got.stride() == want.stride()


def test_weights_stay_live() -> None:
    net = settled(mlp())
    fast = check(net, (3, 2, 12))
    x = torch.randn(3, 2, 12)
    with torch.no_grad():
        for change in (lambda: net[1].weight.data.mul_(2), lambda: net[2].running_var.data.mul_(3), lambda: net[5].bias.zero_()):
            change()
            close(fast(x), net(x), 1e-3)


def test_parts_that_stay_in_torch() -> None:
    net = nn.Sequential(nn.Linear(8, 8), Lambda(lambda s, x: torch.special.i0(x)), nn.Linear(8, 8)).eval()
    check(net, (2, 8), (3, 8))


def test_default_dtype_and_shortcuts() -> None:
    net = Lambda(lambda s, x: x * 2.5 + 1).eval()
    check(net, (3, 4), (3, 4))


def test_pickle() -> None:
    net = settled(mlp())
    twin = pickle.loads(pickle.dumps(nnaccel_core.optimize(net)))
    x = torch.randn(3, 2, 12)
    with torch.no_grad():
        close(twin(x), net(x), 1e-3)
    assert twin.nnaccel_report()["compiled_calls"] == 1
