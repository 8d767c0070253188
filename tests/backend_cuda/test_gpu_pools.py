"""Gradients of max pooling on the GPU against PyTorch's own in float64, equal maxima and NaN among what is pooled."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from nnaccel_backend_cuda import probe  # noqa: E402
from nnaccel_backend_cuda.kernels import KernelLoader  # noqa: E402
from nnaccel_backend_cuda.pools import PoolGradient, PoolSpec, Windows  # noqa: E402

pytestmark = pytest.mark.gpu

#: kernel, stride, padding, dilation, channels, height, width
SHAPES = [
    (3, 2, 1, 1, 64, 30, 41), (2, 2, 0, 1, 40, 24, 17), (3, 2, 0, 1, 192, 35, 35), (3, 1, 1, 1, 24, 14, 13),
    (5, 1, 2, 1, 16, 13, 11), (2, 3, 1, 1, 8, 19, 22), (3, 1, 1, 2, 72, 15, 14), (4, 2, 2, 1, 32, 21, 20),
]  # fmt: skip
WITHIN = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}


@pytest.mark.parametrize(("shape", "dtype", "fused"), [*itertools.product(SHAPES, WITHIN, (False, True))], ids=str)
def test_gradients(shape: tuple[int, ...], dtype: str, fused: bool) -> None:
    """``fused``: two gradients are added, and those of a ReLU masked; otherwise there are NaN and infinities."""
    k, s, p, d, c, h, w = shape
    kind = getattr(torch, dtype)
    x = (torch.randn(3, c, h, w, device="cuda") * 2).round().div(2)
    if fused:
        x = x.relu()
    else:
        x[torch.rand_like(x) < 0.01] = float("nan")
        x[0, :, : h // 2] = -float("inf")
    judge = x.double().requires_grad_()
    y = torch.nn.functional.max_pool2d(judge, k, s, p, d)
    first, second = (torch.randn(y.shape, device="cuda").to(kind) for _ in range(2))
    g = first + second if fused else first
    y.backward(g.double())
    want = torch.where(x > 0, judge.grad, 0.0) if fused else judge.grad
    last = torch.channels_last
    given = [t.to(kind).to(memory_format=last) for t in (x, first, *([second] if fused else []))]
    found = torch.full_like(given[0], float("nan"))
    spec = PoolSpec((3, c, h, w), tuple(y.shape[2:]), Windows((k, k), (s, s), (d, d), (p, p)), dtype, fused, fused)
    run = PoolGradient(spec, KernelLoader(probe.machine(0), 0))
    run.run([t.data_ptr() for t in (*given, found)], 0, torch.cuda.current_stream().cuda_stream)
    assert float((found.double() - want).norm() / want.norm()) < WITHIN[dtype]
    assert torch.equal(found == 0, want == 0)
