"""A real training run: scikit-learn's digits with plain torch and with nnaccel, from one seed."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")
pytest.importorskip("sklearn", reason="needs scikit-learn for its digits")

import nnaccel


@pytest.fixture(scope="module")
def digits() -> Any:
    """The example as a module."""
    path = Path(__file__).parents[2] / "examples" / "training" / "digits.py"
    spec = importlib.util.spec_from_file_location("digits_example", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_losses_stay_together_and_accuracies_are_the_same(digits: Any) -> None:
    net = digits.network()
    theirs = digits.train(copy.deepcopy(net), epochs=4)
    fast = nnaccel.optimize(net)
    ours = digits.train(fast, epochs=4)
    for step, (a, b) in enumerate(zip(theirs.losses[:50], ours.losses[:50], strict=True)):
        # Rounding grows from step to step, in torch between two numbers of threads as here.
        assert b == pytest.approx(a, rel=1e-4 * 1.15**step, abs=1e-5), step
    assert ours.accuracy == pytest.approx(theirs.accuracy, abs=0.02)
    assert ours.accuracy > 0.9
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
