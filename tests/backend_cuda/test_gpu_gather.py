"""Gathers and their gradients on the GPU, against the references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import nnaccel  # noqa: E402
from nnaccel_core.ops.registry import Sample, lookup  # noqa: E402
from nnaccel_core.options import Options  # noqa: E402

pytestmark = pytest.mark.gpu


def index(high: int, *shape: int, negative: bool = False) -> Any:
    return np.random.default_rng(3).integers(-high if negative else 0, high, shape)


def draw(*shape: int) -> Any:
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


CASES = [
    *((name, s) for name in ("gather", "gather_backward") for s in lookup(name).samples()),
    ("gather", Sample((draw(50, 257), index(50, 3, 40, negative=True)), {"axis": 0})),
    ("gather", Sample((draw(4, 6, 33), index(33, 21).astype(np.int32)), {"axis": 2})),
    ("gather", Sample((index(9, 5, 7) > 4, index(5, 4)), {"axis": 0})),
    ("gather_backward", Sample((draw(400, 300), index(50, 400, negative=True)), {"axis": 0, "extent": 50})),
    ("gather_backward", Sample((draw(3, 5, 70), index(4, 3, 70)), {"axis": 2, "batch": 1, "extent": 4})),
]


@pytest.mark.parametrize(("name", "sample"), CASES, ids=[f"{n}-{'x'.join(map(str, s.inputs[0].shape))}" for n, s in CASES])
def test_numbers(name: str, sample: Sample) -> None:
    from backend_cuda.harness import op_graph, run

    op = lookup(name)
    (got,) = run(op_graph(op, sample, False), sample.inputs, Options(), calls=3)
    (want,) = op.ref(sample.inputs, sample.attrs)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_training_of_a_table(dtype: Any) -> None:
    theirs = torch.nn.Embedding(30, 48).to("cuda", dtype)
    ours = nnaccel.optimize(torch.nn.Sequential(torch.nn.Embedding(30, 48)).to("cuda", dtype), device="cuda")
    with torch.no_grad():
        next(ours.parameters()).copy_(theirs.weight)
    tokens = torch.randint(0, 30, (5, 64), device="cuda")
    seed = torch.randn(5, 64, 48, device="cuda").to(dtype)
    exact = torch.nn.functional.embedding(tokens, w := theirs.weight.detach().double().requires_grad_())
    exact.backward(seed.double())
    found = []
    for _ in range(3):
        ours.zero_grad()
        y = ours(tokens)
        assert torch.equal(y, theirs(tokens))
        y.backward(seed)
        found.append(next(ours.parameters()).grad.clone())
    assert torch.equal(found[0], found[2]), "runs repeat"
    off = float((found[0].double() - w.grad).norm() / w.grad.norm())
    assert off < {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}[dtype]
    report = ours.nnaccel_report()
    assert not report["own_calls"], report
