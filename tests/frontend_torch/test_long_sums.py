"""Sums over thousands of products are no less exact than torch's: what decides the error of a classifier."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import nnaccel_core


def _error(a: torch.Tensor, judge: torch.Tensor) -> float:
    return float((a.double() - judge).norm() / judge.norm())


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("length", [1664, 9216])
def test_fully_connected(length: int, rows: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(length, 200).eval()
    judge_net = copy.deepcopy(net).double()
    try:
        fast = nnaccel_core.optimize(net)
        # Activations have a sign, so that partial sums grow.
        x = torch.randn(rows, length).relu() + 0.3
        with torch.no_grad():
            ours, theirs, judge = fast(x), net(x), judge_net(x.double())
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    # One chain of additions is 2 to 5 times as wrong.
    assert _error(ours, judge) <= 2 * _error(theirs, judge)
