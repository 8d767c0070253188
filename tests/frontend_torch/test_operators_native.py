"""The calls of `test_operators` through the compiler: whole families in one network, results beside torch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import nnaccel_core
from frontend_torch import test_operators as families
from frontend_torch.nets import Lambda
from frontend_torch.reference import close


def _functions(test: Any) -> Sequence[Callable[..., Any]]:
    (mark,) = (m for m in test.pytestmark if m.name == "parametrize" and m.args[0] == "f")
    return mark.args[1]


_IMAGE = (families.drawn(*families.IMAGE),)
_CASES = {
    "edges": (families.test_pointwise_at_the_edges, (families.EDGES,)),
    "positive": (families.test_pointwise_on_positive_numbers, (families.drawn(5, 7).abs() + 0.1,)),
    "integers": (families.test_signed_integers, (families.drawn(4, 5, dtype=torch.int64),)),
    "booleans": (families.test_integers_and_booleans, (families.drawn(4, 5, dtype=torch.bool),)),
    "products": (families.test_products, (families.drawn(2, 3, 4), families.drawn(2, 4, 5))),
    "reductions": (families.test_reductions_and_order, _IMAGE),
    "moving": (families.test_moving_elements, _IMAGE),
    "images": (families.test_images, _IMAGE),
}


@pytest.mark.parametrize("family", [name if name == "edges" else pytest.param(name, marks=pytest.mark.slow) for name in _CASES])
def test_family(family: str) -> None:
    test, args = _CASES[family]
    functions = _functions(test)
    layers = nn.ModuleList(f for f in functions if isinstance(f, nn.Module))
    net = Lambda(lambda s, *a: tuple(f(*a) for f in functions), layers=layers).eval()
    try:
        fast = nnaccel_core.optimize(net)
        with torch.no_grad():
            got, want = fast(*args), net(*args)
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    wrong = []
    for k, (g, w) in enumerate(zip(got, want, strict=True)):
        try:
            close(g, w, 2e-5)
        except AssertionError as e:
            wrong.append(f"{k}: {e}")
    assert not wrong, "\n".join(wrong)
