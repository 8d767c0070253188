"""The gradient of max pooling by a kernel written by hand: what is offered, how it is tiled, that the compiler takes it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest

from backend_cuda.test_executable import Gpu, gpu
from backend_cuda.test_stems import MACHINE, compiles
from dfp.helpers import Net
from nnaccel_backend_cuda import pools
from nnaccel_backend_cuda.candidates import Proposer
from nnaccel_backend_cuda.pools import PoolSpec, Windows
from nnaccel_core.api import Machine
from nnaccel_core.autodiff import derive
from nnaccel_core.ir import Graph
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import assign_layouts

__all__ = ["gpu"]

USUAL = Windows((3, 3), (2, 2), (1, 1), (1, 1))


def spec(c: int = 64, size: int = 112, windows: Windows = USUAL, dtype: str = "bfloat16", **more: Any) -> PoolSpec:
    pooled = tuple(
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for k, s, d, p in zip(windows.kernel, windows.stride, windows.dilation, windows.padding, strict=True)
    )
    given: dict[str, Any] = {"added": True, "masked": True} | more
    return PoolSpec((8, c, size, size), pooled, windows, dtype, **given)  # type: ignore[arg-type]


CASES = [
    spec(), spec(dtype="float32"), spec(192, 71, Windows((3, 3), (2, 2), (1, 1), (0, 0)), "float16", added=False),
    spec(64, 224, Windows((2, 2), (2, 2), (1, 1), (0, 0)), masked=False), spec(24, 28, Windows((3, 3), (1, 1), (1, 1), (1, 1))),
    spec(8, 30, Windows((2, 3), (3, 1), (1, 2), (0, 1)), "float32"), spec(512, 13, Windows((5, 5), (1, 1), (1, 1), (2, 2))),
    spec(512, 20, Windows((4, 5), (2, 1), (1, 1), (2, 2))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiles_fit_and_cover(case: PoolSpec) -> None:
    found = pools.tiling(case)
    assert found.slots(case.windows) * 32 <= pools.SHARED
    assert 1 <= found.vectors <= case.vectors()
    assert math.prod(case.cells()) * math.prod(case.windows.stride) >= math.prod(case.image[2:])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiler_takes_the_kernel(case: PoolSpec) -> None:
    compiles(pools.source(case, pools.tiling(case)), "pool.cu")


def backward(last: bool = True, relu: bool = True, branches: int = 2, channels: int = 8) -> Graph:
    """The gradients of a network that pools what a convolution gave, and adds up readers of what was pooled."""
    net = Net(last)
    x = net.conv(net.input("n", channels, 12, 12), channels, 3)
    y = net.max_pool(net.op("relu", x) if relu else x, 3, 2, 1)
    found = net.op("sigmoid", y)
    for _ in range(branches - 1):
        found = net.op("add", found, net.conv(y, channels, 1))
    graph = net.graph(found)
    return assign_layouts(derive(graph, graph.params).backward, weights_last=True)


def offered(graph: Graph, machine: Machine = MACHINE) -> list[Any]:
    return [c for c in Proposer(graph, {"n": 2}, machine, Options(), None).propose() if isinstance(c.impl, PoolSpec)]


def test_what_lies_around_comes_along(gpu: Gpu) -> None:
    kinds = {tuple(n.op for n in c.nodes): c for c in offered(backward())}
    both, mask = ("max_pool_positions", "max_pool_backward"), ("le", "where")
    assert set(kinds) == {a + both + b for a, b in itertools.product([(), ("add",)], [(), mask])}
    whole = kinds[("add", *both, *mask)]
    assert whole.impl.added and whole.impl.masked and len(whole.inputs) == 3
    assert kinds[both].impl == replace(whole.impl, added=False, masked=False)
    assert {tuple(n.op for n in c.nodes) for c in offered(backward(relu=False, branches=1))} == {both}


def test_what_is_not_offered(gpu: Gpu) -> None:
    assert not offered(backward(channels=6)), "24 bytes of channels are no multiple of 16"
    assert not offered(backward(), replace(MACHINE, isa="sm_75"))
