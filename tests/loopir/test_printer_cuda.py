"""CUDA kernels: their text against golden files, and NVRTC's opinion of it, which needs no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dfp.helpers import Net, whole
from nnaccel_core.api import Machine
from nnaccel_core.dfp.build import build
from nnaccel_core.dfp.group import Reason
from nnaccel_core.dfp.merge import Context
from nnaccel_core.dfp.simt import Shape
from nnaccel_core.errors import ToolchainError, UnsupportedError, VerifyError
from nnaccel_core.ir import Graph, TensorType, Value, sym
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir.divisors import divisor
from nnaccel_core.loopir.printer_cuda import FLAGS, CudaPrinter
from nnaccel_core.loopir.verify import verify

GPU = Machine("cuda", "test", "sm_90", 132, 16, 227 << 10, 50 << 20, 0, 60e12, 4e12)


def affine_relu() -> Graph:
    net = Net()
    x = net.input("n", 8, 5, 7)
    return net.graph(net.op("relu", net.op("add", net.op("mul", x, net.param(8, 1, 1)), net.param(8, 1, 1))))


def max_pool() -> Graph:
    net = Net()
    return net.graph(net.max_pool(net.input("n", 8, 9, 9), 3, 2, 1))


def depthwise() -> Graph:
    net = Net()
    return net.graph(net.relu6(net.depthwise(net.input("n", 8, 9, 9))))


def pools_in_a_row() -> Graph:
    """The first pool's result, with its halo, lies in shared memory."""
    net = Net()
    return net.graph(net.avg_pool(net.max_pool(net.input("n", 8, 9, 9), 3, 1, 1), 3, 1, 1))


def softmax() -> Graph:
    net = Net()
    return net.graph(net.op("softmax", net.input("n", 8), axis=1))


def global_average() -> Graph:
    net = Net()
    return net.graph(net.mean(net.input("n", 8, 5, 7), 2, 3, keep=False))


def concat_of_many() -> Graph:
    """In bfloat16, with neighbors chosen together and read two to a word."""
    net = Net()
    given = [net.input("n", 8, 5, 7) for _ in range(5)]
    net.inputs = [Value(TensorType(v.shape, "bfloat16", v.type.layout), v.name) for v in given]
    return net.graph(net.op("relu", net.op("concat", *net.inputs, axis=1)))


def concat_relu() -> Graph:
    net = Net()
    return net.graph(net.op("relu", net.op("concat", *(net.input("n", c, 5, 7) for c in (8, 4, 12)), axis=1)))


def cast_half() -> Graph:
    net = Net()
    halves = [net.op("cast", net.op("relu", net.input("n", 8, 5, 7)), dtype=d) for d in ("float16", "bfloat16")]
    return net.graph(net.op("add", *(net.op("cast", net.op("tanh", h), dtype="float32") for h in halves)))


GOLDEN: dict[str, tuple[Callable[[], Graph], Shape]] = {
    "affine_relu": (affine_relu, Shape(4, 1)),
    "max_pool": (max_pool, Shape(4, 1)),
    "depthwise": (depthwise, Shape(4, 2)),
    "pools_in_a_row": (pools_in_a_row, Shape(1, 1)),
    "softmax": (softmax, Shape(1, 1)),
    "global_average": (global_average, Shape(4, 1)),
    "concat_relu": (concat_relu, Shape(4, 1)),
    "cast_half": (cast_half, Shape(4, 1)),
    "concat_of_many": (concat_of_many, Shape(4, 2)),
}


def kernel(name: str) -> g.Kernel:
    make, shape = GOLDEN[name]
    graph = make()
    found = build(whole(graph), Context(graph, {}, GPU).constants, GPU)
    assert not isinstance(found, Reason) and found.gpu is not None
    return found.gpu.source(shape).kernel


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    golden(f"cuda_{name}.cu", CudaPrinter().kernel(name, kernel(name)))


def nvrtc() -> object:
    backend = pytest.importorskip("nnaccel_backend_cuda.nvrtc", reason="the CUDA backend's package is not on the path")
    try:
        backend.library()
    except ToolchainError as e:
        pytest.skip(str(e))
    return backend


@pytest.mark.parametrize("wide", [False, True], ids=["32-bit indices", "64-bit indices"])
def test_nvrtc_takes_all_golden_kernels(wide: bool) -> None:
    compiler = nvrtc()
    text = CudaPrinter().module([(name, kernel(name)) for name in sorted(GOLDEN)])
    options = [*FLAGS, "--gpu-architecture=sm_90", *(["-DNN_WIDE"] if wide else [])]
    code = compiler.compile(text, "golden.cu", options)  # type: ignore[attr-defined]
    assert code[:4] == b"\x7fELF"
    assert all(name.encode() in code for name in GOLDEN)


def test_nvrtc_says_what_is_wrong() -> None:
    compiler = nvrtc()
    with pytest.raises(ToolchainError, match=r"NVRTC refused wrong.cu .*\n.*expected"):
        compiler.compile("__global__ void f() { int x = ; }", "wrong.cu", ["--gpu-architecture=sm_90"])  # type: ignore[attr-defined]


def test_simd_loops_alone_are_refused() -> None:
    n, i = sym("N"), sym("i")
    x = g.Buffer("x", (n,), "float32")
    loop = g.Loop("i", 0, n, "simd", (g.Store(x, (i,), g.Const(1.0)),))
    with pytest.raises(UnsupportedError, match="use map_simt"):
        CudaPrinter().module([("f", g.Kernel("fill", (x,), ("N",), (), (loop,)))])


def block(body: tuple[g.Stmt, ...], extent: int = 8) -> g.Kernel:
    x = g.Buffer("x", (sym("N"),), "float32")
    return g.Kernel("k", (x,), ("N",), (), (g.Loop("i", 0, extent, "block", body),))


def test_rules_of_block_loops() -> None:
    with pytest.raises(VerifyError, match="not reached by all threads"):
        verify(block((g.Barrier(),)))
    with pytest.raises(VerifyError, match="nested in the block loop"):
        verify(block((g.Loop("j", 0, 4, "block", ()),)))
    with pytest.raises(VerifyError, match="one store for each of a constant number"):
        verify(block((g.Loop("j", 0, sym("N"), "simd", ()),)))
    verify(block((g.Loop("j", 0, sym("i"), "serial", ()),)))


def test_divisors() -> None:
    a, b = sym("a"), sym("b")
    facts = {"a": 4}
    assert divisor(12, {}) == 12 and divisor(0, {}) == 0
    assert divisor(3 * a + 8, facts) == 4
    assert divisor(a * b + 2, facts) == 2
    assert divisor((a * 2) // 4, facts) == 2
    assert divisor(a // b, facts) == 1
