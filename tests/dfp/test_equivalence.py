"""Generated kernels against the ops' numpy references, on the loop IR's interpreter, at many tile sizes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfp.helpers import MACHINE, Net, check_tiles, random_inputs, reference, run_candidate
from nnaccel_core.dfp import propose
from nnaccel_core.ir import evaluate
from nnaccel_core.options import Options


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("k", "s"), [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)])
def test_depthwise(k: int, s: int, last: bool) -> None:
    net = Net(last)
    x = net.input("n", 3, 8, 9)
    y = net.relu6(net.depthwise(x, k, s))
    check_tiles(net.graph(y), {"n": 2}, None if k == 3 else [(1, 2, 3), (1, 8, 3), (2, 3, 2)])


@pytest.mark.parametrize("pads", [(0, 1), (1, 0), (2, 2), (0, 0), (3, 1)])
@pytest.mark.parametrize(("s", "d"), [(1, 1), (2, 1), (1, 2)])
def test_padding_at_the_ends_of_blocks(pads: tuple[int, int], s: int, d: int) -> None:
    """Blocks of seven outputs, one and two of them, and too few outputs for a block, with unequal padding."""
    for width in (6, 9, 16, 22):
        net = Net()
        x, w = net.input("n", 3, 4, width), net.param(3, 1, 3, 3)
        attrs = {"stride": (1, s), "padding": ((1, 1), pads), "dilation": (1, d), "groups": 3}
        y = net.relu6(net.op("conv", x, w, **attrs))
        check_tiles(net.graph(y), {"n": 2}, [(1, 2, 3), (2, 4, 2)])


def test_depthwise_residual_with_halo() -> None:
    net = Net()
    x = net.input("n", 3, 7, 6)
    y = net.op("add", net.relu6(net.depthwise(net.relu6(x))), x)
    b = check_tiles(net.graph(y), {"n": 2})
    assert dict(b.staged.kinds) == {"v3": "tile", "v4": "inlined", "v5": "inlined", "v6": "global"} or len(b.staged.nests) == 2


def test_windows_larger_than_the_image() -> None:
    for k, s in ((7, 1), (5, 2)):
        net = Net()
        x = net.input("n", 2, 2, 3)
        check_tiles(net.graph(net.depthwise(x, k, s)), {"n": 1})


def test_stacked_depthwise() -> None:
    net = Net()
    x = net.input("n", 2, 9, 9)
    y = net.depthwise(net.relu6(net.depthwise(x, 3, 2)), 3, 1)
    check_tiles(net.graph(y), {"n": 1})


def test_pool_chain() -> None:
    net = Net()
    x = net.input("n", 3, 11, 10)
    y = net.avg_pool(net.max_pool(net.op("relu", x)), 2, 1)
    check_tiles(net.graph(y), {"n": 2})


@pytest.mark.parametrize("count", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_average_pool_padding(count: bool, ceil: bool) -> None:
    net = Net()
    x = net.input("n", 3, 8, 7)
    check_tiles(net.graph(net.avg_pool(x, 3, 2, 1, count, ceil)), {"n": 2})


def test_affine_relu_pool() -> None:
    net = Net()
    x = net.input("n", 4, 9, 7)
    y = net.op("add", net.op("mul", x, net.param(4, 1, 1)), net.param(4, 1, 1))
    y = net.op("sigmoid", net.op("relu", y))
    check_tiles(net.graph(net.max_pool(y)), {"n": 2})


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(op: str, axis: int) -> None:
    net = Net()
    x = net.input("n", 5, 11)
    check_tiles(net.graph(net.op(op, x, axis=axis)), {"n": 3})


def test_softmax_subtracts_the_maximum() -> None:
    net = Net()
    x = net.input("n", 5)
    g = net.graph(net.op("softmax", net.op("mul", x, x), axis=1))
    (c,) = [c for c in propose(g, {"n": 2}, MACHINE, Options(), "test") if c.group == "dfp"]
    known = {x: np.array([[10, 20, 30, 11, 29.0], [0, 0, 0, 0, 0]], np.float32)}
    got = run_candidate(c, known, {"n": 2})[g.outputs[0]]
    np.testing.assert_allclose(got, reference(g, known)[g.outputs[0]], rtol=1e-5)


def test_global_average_pool_after_depthwise() -> None:
    net = Net()
    x = net.input("n", 5, 6, 7)
    y = net.mean(net.relu6(net.depthwise(x)), 2, 3)
    check_tiles(net.graph(y), {"n": 2})


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("keep", [True, False])
def test_global_average_pool(last: bool, keep: bool) -> None:
    net = Net(last)
    x = net.input("n", 5, 6, 7)
    check_tiles(net.graph(net.mean(net.op("relu", x), 2, 3, keep=keep)), {"n": 2})


def test_squeeze_and_scale() -> None:
    net = Net()
    x = net.input("n", 5, 4, 3)
    y = net.op("mul", x, net.op("sigmoid", net.mean(x, 2, 3)))
    check_tiles(net.graph(y), {"n": 2})


def test_layer_norm() -> None:
    net = Net()
    x = net.input("n", 4, 13)
    centered = net.op("sub", x, net.mean(x, 2))
    var = net.mean(net.op("mul", centered, centered), 2)
    eps = net.op("constant", value=np.asarray(1e-5, np.float32))
    y = net.op("mul", centered, net.op("rsqrt", net.op("add", var, eps)))
    y = net.op("add", net.op("mul", y, net.param(13)), net.param(13))
    b = check_tiles(net.graph(y), {"n": 3})
    assert len(b.kernel.buffers) == 4  # x, scale, bias, out: the scalar constant is in the kernel


def test_broadcast_add() -> None:
    net = Net()
    a, b = net.input("n", 4, 1, 7), net.input(4, 5, 1)
    check_tiles(net.graph(net.op("add", a, b)), {"n": 2})


def test_several_outputs() -> None:
    net = Net()
    x = net.input("n", 3, 8, 7)
    a = net.op("relu", x)
    b = net.depthwise(a)
    y = net.op("add", b, a)
    check_tiles(net.graph(a, b, y), {"n": 2})


def test_concat_and_pad_inside() -> None:
    net = Net()
    x, z = net.input("n", 3, 6, 7), net.input("n", 2, 6, 7)
    y = net.op("concat", net.op("relu", x), z, axis=1)
    y = net.op("pad", y, pads=((0, 0), (0, 0), (1, 0), (0, 2)), mode="constant", value=0.5)
    check_tiles(net.graph(net.max_pool(y, 3, 1, 0)), {"n": 2})


def test_padding_beside_an_axis_of_one_element() -> None:
    """Tiles of the padding compute nothing of what is padded, and write none of it outside of their memory."""
    for last in (False, True):
        net = Net(last)
        y = net.avg_pool(net.input("n", 1, 6, 7), 2, 1)
        check_tiles(net.graph(net.op("pad", y, pads=((0, 0), (1, 2), (1, 0), (2, 1)), mode="constant", value=0.5)), {"n": 2})


def test_products() -> None:
    net = Net()
    x = net.input("n", 3, 6, 7)
    check_tiles(net.graph(net.conv(x, 5, 3, 2)), {"n": 2}, rtol=1e-4)
    net = Net()
    x = net.input("n", 4, 6, 5)
    check_tiles(net.graph(net.conv(x, 6, 1, 1, 2)), {"n": 2}, rtol=1e-4)
    for transpose in (True, False):
        net = Net()
        x = net.input("n", 70)
        w = net.param(9, 70) if transpose else net.param(70, 9)
        check_tiles(net.graph(net.op("matmul", x, w, net.param(9), transpose_b=transpose)), {"n": 5}, rtol=1e-4)


def test_reorder() -> None:
    net = Net()
    x = net.input("n", 3, 5, 4)
    check_tiles(net.graph(net.op("reorder", x, layout=(0, 1, 2, 3))), {"n": 2})


def test_scalar_reduction() -> None:
    net = Net()
    x = net.input("n", 70)
    check_tiles(net.graph(net.mean(x, 0, 1, keep=False)), {"n": 3}, tiles=[()])


def test_empty_batch_has_no_tasks() -> None:
    net = Net()
    x = net.input("n", 3, 8, 8)
    g = net.graph(net.relu6(net.depthwise(x)))
    empty = {v: np.zeros([evaluate(d, {"n": 0}) for d in v.shape], np.float32) for v in g.values()}
    for c in propose(g, {"n": 0}, MACHINE, Options(), "test"):
        assert c.impl.calls[0].tasks == 0
        run_candidate(c, empty, {"n": 0})


_LAYERS = st.lists(
    st.sampled_from(["relu", "relu6", "sigmoid", "affine", "dw3", "dw5s2", "max", "avg", "residual", "scale", "softmax"]),
    min_size=1, max_size=5,
)  # fmt: skip


def _random_net(layers: list[str], h: int, w: int, c: int, last: bool) -> Net:
    net = Net(last)
    y = net.input("n", c, h, w)
    for name in layers:
        extent = min(int(evaluate(d, {})) for d in y.shape[2:])
        if name in ("relu", "sigmoid"):
            y = net.op(name, y)
        elif name == "relu6":
            y = net.relu6(y)
        elif name == "affine":
            y = net.op("add", net.op("mul", y, net.param(c, 1, 1)), net.param(1, c, 1, 1))
        elif name == "dw3":
            y = net.depthwise(y)
        elif name == "dw5s2":
            y = net.depthwise(y, 5, 2)
        elif name == "max" and extent > 1:
            y = net.max_pool(y)
        elif name == "avg" and extent > 1:
            y = net.avg_pool(y, 2, 1)
        elif name == "residual":
            y = net.op("add", net.depthwise(y), y)
        elif name == "scale":
            y = net.op("mul", y, net.mean(y, 2, 3))
        elif name == "softmax":
            y = net.op("softmax", y, axis=1)
    if not net.nodes:
        y = net.op("relu", y)
    net.result = y  # type: ignore[attr-defined]
    return net


@settings(max_examples=25, deadline=None)
@given(_LAYERS, st.integers(2, 8), st.integers(2, 8), st.integers(2, 9), st.booleans(), st.integers(1, 2), st.booleans())
def test_random_chains(layers: list[str], h: int, w: int, c: int, last: bool, n: int, dfp: bool) -> None:
    net = _random_net(layers, h, w, c, last)
    g = net.graph(net.result)  # type: ignore[attr-defined]
    env = {"n": n}
    known = reference(g, random_inputs(g, env))
    for cand in propose(g, env, MACHINE, Options(dfp=dfp), "test"):
        got = run_candidate(cand, known, env)
        for v in cand.outputs:
            # Sums cancel: the error is relative to what was summed, of which the largest value is the measure.
            largest = float(np.abs(known[v]).max(initial=1.0))
            np.testing.assert_allclose(got[v], known[v], rtol=1e-4, atol=2e-6 * largest, err_msg=cand.reason)
