"""What `benchmarks/gpu_train.py --profile` writes, of the CPU's plans."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import nnaccel

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_train.py"


@pytest.fixture
def gpu_train(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parents[1]))
    spec = importlib.util.spec_from_file_location("gpu_train_of_a_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Largest(nn.Module):
    """Ends in an operator of two results."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)

    def forward(self, x):
        return self.conv(x).flatten(2).topk(3, dim=-1)[0]


def test_a_step_with_several_results_is_profiled(gpu_train):
    net, x = nnaccel.optimize(Largest().train()), torch.randn(2, 3, 8, 8)
    side = SimpleNamespace(net=net)

    def step(side):
        side.net(x).sum().backward()

    step(side)
    text = gpu_train.profiled(side, step)
    assert "topk [Nx8x3, Nx8x3] host" in text
    assert "[Nx8x8x8]" in text
