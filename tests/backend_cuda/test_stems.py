"""First layers on kernels of their own: what is offered, how it is cut into tiles, and that NVRTC takes the text."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from backend_cuda.test_executable import Gpu, gpu
from dfp.helpers import Net
from nnaccel_backend_cuda import nvrtc, stems
from nnaccel_backend_cuda.candidates import Proposer
from nnaccel_backend_cuda.stems import StemSpec
from nnaccel_core.api import Machine
from nnaccel_core.errors import ToolchainError
from nnaccel_core.ir import Graph, Node, TensorType, Value, channels_last
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import assign_layouts

__all__ = ["gpu"]

MACHINE = Machine("cuda", "large", "sm_90", 132, 16, 227 << 10, 50 << 20, 0, 67e12, 4.8e12)


def spec(o: int = 64, k: int = 7, stride: int = 2, **more: Any) -> StemSpec:
    oh = (224 + 6 - k) // stride + 1
    given: dict[str, Any] = {
        "image": (8, 3, 224, 224), "window": (o, oh, oh, k, k), "image_strides": (150528, 50176, 224, 1),
        "weights_strides": (3 * k * k, k * k, k, 1), "math": "float32", "image_dtype": "float32", "weights_dtype": "float32",
        "result_dtype": "float32", "padding": (3, 3), "stride": (stride, stride), "dilation": (1, 1),
    }  # fmt: skip
    return StemSpec(**(given | more))


@pytest.mark.parametrize(
    ("o", "k", "gradient", "math"),
    [*itertools.product((16, 32, 64, 96), (1, 3, 7, 11), (False, True), ("float32", "bfloat16"))],
)
def test_tiles_fit_a_multiprocessor(o: int, k: int, gradient: bool, math: str) -> None:
    case = spec(o, k, gradient=gradient, math=math, result_dtype=math)
    found = stems.tiling(case)
    assert found is not None and case.narrow == (gradient and math == "bfloat16")
    assert found.blocks * found.shared <= 227 << 10
    if gradient:
        pairs = k * ((k + 1) // 2) if case.narrow else (k * k + 1) // 2
        assert found.units * found.pairs * 4 <= stems.ACCUMULATORS and found.across * found.pairs >= pairs
    else:
        assert found.rows * found.columns == 256 and found.units <= 8


def test_what_has_no_kernel() -> None:
    assert not stems.usable(spec(image=(8, 5, 224, 224)), MACHINE)
    assert not stems.usable(spec(o=12), MACHINE)
    assert not stems.usable(spec(k=13), MACHINE)
    assert not stems.usable(spec(), replace(MACHINE, isa="sm_75"))
    assert stems.usable(spec(), MACHINE)


CASES = [
    *(spec(o, k, math=m, image_dtype=x, weights_dtype=m, result_dtype=m, bias=True, steps=(("relu",),))
      for o, k, (m, x) in itertools.product(
          (24, 64), (3, 7), (("float32", "float32"), ("float16", "float16"), ("bfloat16", "float32")))),
    spec(16, 3, steps=(("clip", 0.0, 6.0), ("silu",), ("tanh",), ("sigmoid",))),
    spec(64, 7, gradient=True), spec(32, 11, 4, gradient=True, result_dtype="bfloat16", math="bfloat16"),
    *(spec(o, k, stride, gradient=True, result_dtype=m, math=m, image_dtype=x) for o, k, stride, m, x in (
        (64, 7, 2, "bfloat16", "float32"), (64, 3, 1, "float16", "float16"), (16, 5, 3, "bfloat16", "bfloat16"))),
    spec(16, 3, gradient=True, result_dtype="float16", math="float16", dilation=(2, 2)),
]  # fmt: skip


def compiles(text: str, name: str) -> None:
    """NVRTC takes ``text`` for either architecture; skips where there is no NVRTC."""
    try:
        nvrtc.library()
    except ToolchainError as e:
        pytest.skip(str(e))
    for isa in ("sm_80", "sm_90"):
        assert nvrtc.compile(text, name, ("--std=c++17", f"--gpu-architecture={isa}"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiler_takes_the_kernel(case: StemSpec) -> None:
    found = stems.tiling(case)
    assert found is not None
    compiles(stems.source(case, found), "stem.cu")


def offered(graph: Graph, tf32: bool = True) -> list[Any]:
    options = Options(tf32=("conv",) if tf32 else ())
    found = Proposer(assign_layouts(graph, weights_last=True), {"n": 2}, MACHINE, options, None).propose()
    return [c for c in found if isinstance(c.impl, StemSpec)]


def first_layer(channels: int, last: bool) -> Graph:
    net = Net(last)
    return net.graph(net.op("relu", net.conv(net.input("n", channels, 16, 16), 16, 3, 2)))


def test_the_kernel_reads_the_image_as_it_comes(gpu: Gpu) -> None:
    bare, fused = offered(first_layer(3, last=False))
    assert [n.op for n in bare.nodes] == ["reorder", "reorder", "conv"]
    assert [n.op for n in fused.nodes] == ["reorder", "reorder", "conv", "relu"]
    assert bare.impl.image_strides == (768, 256, 16, 1) and fused.impl.steps == (("relu",),)
    bare, fused = offered(first_layer(3, last=True))
    assert bare.impl.image_strides == (768, 1, 48, 3)


def test_what_is_not_offered(gpu: Gpu) -> None:
    assert not offered(first_layer(8, last=True))
    assert not offered(first_layer(3, last=True), tf32=False), "full float32 needs full float32"


def test_a_rounded_image_is_rounded_as_it_is_read(gpu: Gpu) -> None:
    def value(name: str, shape: tuple[Any, ...], dtype: str) -> Value:
        return Value(TensorType(shape, dtype), name)

    x, w = value("x", (2, 3, 9, 9), "float32"), value("w", (8, 3, 3, 3), "bfloat16")
    low, y = value("low", (2, 3, 9, 9), "bfloat16"), value("y", (2, 8, 9, 9), "bfloat16")
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
    nodes = (Node("cast", (x,), (low,), {"dtype": "bfloat16"}), Node("conv", (low, w), (y,), attrs))
    (found,) = offered(Graph((x, w), (), nodes, (y,)))
    assert "cast" in [n.op for n in found.nodes]
    assert (found.impl.image_dtype, found.impl.math) == ("float32", "bfloat16")
    # A second reader of the rounded image: it has to be in memory.
    (found,) = offered(Graph((x, w), (), nodes, (y, low)))
    assert "cast" not in [n.op for n in found.nodes] and found.impl.image_dtype == "bfloat16"


def test_gradients_of_weights(gpu: Gpu) -> None:
    x, dy = Value(TensorType((2, 3, 9, 9), "float32"), "x"), Value(TensorType((2, 16, 9, 9), "float32"), "dy")
    dw = Value(TensorType((16, 3, 3, 3), "float32"), "dw")
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1, "kernel": (3, 3)}
    (found,) = offered(Graph((dy, x), (), (Node("conv_backward_weights", (dy, x), (dw,), attrs),), (dw,)))
    assert found.impl.gradient and found.impl.image_strides == (243, 81, 9, 1)
    assert found.inputs[0].type.same_memory(channels_last(4)) and found.impl.window == (16, 9, 9, 3, 3)
