"""First layers on the GPU: results and gradients of weights against float64, for shapes that leave parts of tiles empty."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

from nnaccel_backend_cuda import probe, stems  # noqa: E402
from nnaccel_backend_cuda.kernels import KernelLoader  # noqa: E402
from nnaccel_backend_cuda.stems import Stem, StemSpec  # noqa: E402

pytestmark = pytest.mark.gpu

#: channels, outputs, window, stride, padding, dilation, height, width
SHAPES = [
    (3, 64, 7, 2, 3, 1, 61, 50), (3, 32, 3, 2, 1, 1, 33, 40), (3, 96, 7, 2, 0, 1, 45, 45), (3, 64, 11, 4, 2, 1, 70, 66),
    (1, 16, 5, 1, 2, 1, 28, 28), (4, 16, 3, 1, 1, 2, 37, 19), (2, 48, 4, 3, 0, 1, 50, 31), (3, 48, 1, 1, 0, 1, 33, 18),
]  # fmt: skip
#: Relative error in the 2-norm that a type's rounding of the operands, or of the result, explains.
WITHIN = {"float32": 1e-3, "float16": 1e-3, "bfloat16": 5e-3}


def spec(shape: tuple[int, ...], math: str, last: bool, **more: Any) -> StemSpec:
    c, o, k, stride, padding, dilation, h, w = shape
    reach = dilation * (k - 1) + 1
    oh, ow = ((n + 2 * padding - reach) // stride + 1 for n in (h, w))
    strides = (c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1)
    given: dict[str, Any] = {
        "image": (3, c, h, w), "window": (o, oh, ow, k, k), "image_strides": strides, "weights_strides": (c * k * k, k * k, k, 1),
        "math": math, "image_dtype": math, "weights_dtype": math, "result_dtype": math, "padding": (padding, padding),
        "stride": (stride, stride), "dilation": (dilation, dilation),
    }  # fmt: skip
    return StemSpec(**(given | more))


def loader() -> KernelLoader:
    return KernelLoader(probe.machine(0), 0)


def off(found: torch.Tensor, want: torch.Tensor) -> float:
    return float((found.double() - want).norm() / want.norm())


@pytest.mark.parametrize(("shape", "math", "last"), [*itertools.product(SHAPES, WITHIN, (False, True))], ids=str)
def test_results(shape: tuple[int, ...], math: str, last: bool) -> None:
    case = spec(shape, math, last, bias=True, steps=(("relu",),))
    assert stems.usable(case, probe.machine(0))
    c, o, k, stride, padding, dilation, h, w = shape
    kind = getattr(torch, math)
    x, weights, bias = (torch.randn(*s, device="cuda").to(kind) for s in ((3, c, h, w), (o, c, k, k), (o,)))
    given = x.to(memory_format=torch.channels_last) if last else x
    y = torch.full((3, o, *case.window[1:3]), float("nan"), device="cuda", dtype=kind).to(memory_format=torch.channels_last)
    stream = torch.cuda.current_stream().cuda_stream
    Stem(case, probe.machine(0), loader()).run([t.data_ptr() for t in (given, weights, bias, y)], 0, stream)
    want = torch.nn.functional.conv2d(x.double(), weights.double(), bias.double(), stride, padding, dilation).relu()
    assert off(y, want) < WITHIN[math]


@pytest.mark.parametrize(("shape", "math"), [*itertools.product([s for s in SHAPES if s[2] > 1], WITHIN)], ids=str)
def test_gradients_of_weights(shape: tuple[int, ...], math: str) -> None:
    case = spec(shape, math, False, gradient=True)
    c, o, k, stride, padding, dilation, h, w = shape
    kind = getattr(torch, math)
    x, dy = torch.randn(3, c, h, w, device="cuda").to(kind), torch.randn(3, o, *case.window[1:3], device="cuda").to(kind)
    laid = dy.to(memory_format=torch.channels_last)
    found = torch.full((o, c, k, k), float("nan"), device="cuda", dtype=kind)
    stem = Stem(case, probe.machine(0), loader())
    workspace = torch.empty(stem.workspace, device="cuda", dtype=torch.uint8)
    stream = torch.cuda.current_stream().cuda_stream
    stem.run([t.data_ptr() for t in (laid, x, found)], workspace.data_ptr(), stream)
    want = torch.nn.grad.conv2d_weight(x.double(), found.shape, dy.double(), stride, padding, dilation)
    assert off(found, want) < WITHIN[math]


def test_nan_and_infinity_reach_what_they_should() -> None:
    case = spec(SHAPES[0], "float32", False, steps=(("relu",),))
    x, weights = torch.randn(3, 3, 61, 50, device="cuda"), torch.randn(64, 3, 7, 7, device="cuda")
    x[0, 0, 30, 20], x[1, 2, 10, 10] = float("nan"), float("inf")
    y = torch.empty(3, 64, *case.window[1:3], device="cuda").to(memory_format=torch.channels_last)
    stream = torch.cuda.current_stream().cuda_stream
    Stem(case, probe.machine(0), loader()).run([x.data_ptr(), weights.data_ptr(), 0, y.data_ptr()], 0, stream)
    want = torch.nn.functional.conv2d(x.double(), weights.double(), None, 2, 3).relu()
    assert torch.equal(y.isnan(), want.isnan()) and torch.equal(y.isinf(), want.isinf())


@pytest.mark.parametrize("math", WITHIN)
def test_numbers_that_no_window_covers_reach_no_gradient(math: str) -> None:
    case = spec((3, 16, 3, 4, 0, 1, 70, 70), math, False, gradient=True)  # the last window ends at 66
    kind = getattr(torch, math)
    x, dy = torch.randn(3, 3, 70, 70, device="cuda").to(kind), torch.randn(3, 16, 17, 17, device="cuda").to(kind)
    x[:, :, 67:], x[:, :, :, 67:] = float("nan"), float("inf")
    found = torch.empty(16, 3, 3, 3, device="cuda", dtype=kind)
    stem = Stem(case, probe.machine(0), loader())
    workspace = torch.empty(stem.workspace, device="cuda", dtype=torch.uint8)
    stream = torch.cuda.current_stream().cuda_stream
    stem.run([t.data_ptr() for t in (dy.to(memory_format=torch.channels_last), x, found)], workspace.data_ptr(), stream)
    want = torch.nn.grad.conv2d_weight(x[:, :, :67, :67].double(), found.shape, dy.double(), 4)
    assert off(found, want) < WITHIN[math]
