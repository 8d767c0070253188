"""Seconds, before every commit: imports, and one tiny network through every stage that is installed."""

from __future__ import annotations

import numpy as np
import pytest


def test_imports():
    import nnaccel
    import nnaccel_core

    assert nnaccel_core.__file__ and nnaccel.optimize is nnaccel_core.optimize


def test_every_operator_agrees_with_its_shapes():
    """Shape inference and numpy reference of each operator's first sample."""
    import nnaccel_core.ops
    from nnaccel_core.ir import TensorType
    from nnaccel_core.ops.registry import all_ops, infer

    checked = 0
    for op in all_ops():
        sample = next(iter(op.samples()), None)
        if sample is None:
            continue
        types = [TensorType(a.shape, str(a.dtype)) for a in sample.inputs]
        outputs = op.ref(sample.inputs, sample.attrs)
        inferred = infer(op.name, types, sample.attrs)
        assert [(t.shape, t.dtype) for t in inferred] == [(np.shape(o), str(o.dtype)) for o in outputs], op.name
        checked += 1
    assert nnaccel_core.ops.__file__ and checked > 10


def test_tiny_network_end_to_end():
    torch = pytest.importorskip("torch")
    import nnaccel
    from nnaccel_core.hooks import manager

    have = {p.name for p in manager.list_plugins()}
    if not {"torch", "x86"} <= have:
        pytest.skip(f"needs the torch and x86 plug-ins, have {sorted(have)}")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 4), torch.nn.Softmax(1),
    ).eval()  # fmt: skip
    optimized = nnaccel.optimize(network)
    with torch.no_grad():
        for batch in (2, 3):
            x = torch.randn(batch, 3, 16, 16)
            torch.testing.assert_close(optimized(x), network(x), rtol=1e-4, atol=1e-5)
