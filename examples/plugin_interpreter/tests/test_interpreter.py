"""The plug-in's own tests: nnaccel's conformance kit, and a network from one end to the other."""

from __future__ import annotations

import numpy as np
import pytest

import nnaccel_core
from nnaccel_core.api import Backend
from nnaccel_core.hooks import manager
from nnaccel_core.testing import conformance, contract

manager.load_ops()


def backend() -> Backend:
    cls, device = manager.backend_for("interp")
    machine = cls.probe()
    assert machine is not None
    return cls(machine, device)


@pytest.mark.parametrize("check", contract.checks(), ids=str)
def test_contract(check):
    check(backend())


@pytest.mark.parametrize("case", conformance.op_cases(["soft_threshold", "relu", "conv", "softmax", "topk"]), ids=str)
def test_operators(case):
    conformance.check_op(backend(), case)


def test_a_torch_network():
    torch = pytest.importorskip("torch")

    class Shrink(torch.nn.Module):
        def forward(self, x):
            return x - x.clamp(-0.5, 0.5)

    net = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), Shrink(), torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    fast = nnaccel_core.optimize(net, device="interp", verify=True)
    x = torch.randn(2, 2, 4, 4)
    with torch.no_grad():
        np.testing.assert_allclose(fast(x), net(x), rtol=1e-4, atol=1e-5)
    found = nnaccel_core.explain(fast, x)
    assert found.device == "interp"
    assert any("soft_threshold" in g.ops for p in found.programs for s in p.segments for g in s.groups)
