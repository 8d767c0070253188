"""Layers that run together on a few rows of images at a time: the same bits as one by one, whatever strips and bands."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from backend_x86.harness import Net, backend, conv_attrs, pack, physical, run_plan
from nnaccel_core import dfp
from nnaccel_core.ir import Value
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import assign_layouts
from nnaccel_core.passes.prepare import split_prepare
from nnaccel_core.place import place
from nnaccel_core.plan import ChainStep
from nnaccel_core.select import chains
from nnaccel_core.select.cover import Selection, select

B = backend()
IMAGE = (0, 2, 3, 1)


def conv(
    net: Net, x: Value, out: int, kernel: int = 1, groups: int = 1, stride: int = 1, pad: int | None = None, dilation: int = 1
) -> Value:
    w = net.param(out, x.type.shape[1] // groups, kernel, kernel)  # type: ignore[operator]
    attrs = conv_attrs(2, stride, dilation * (kernel // 2) if pad is None else pad, dilation, groups)
    return net.op("conv", x, w, net.param(out), layout=IMAGE, **attrs)


def relu6(net: Net, x: Value) -> Value:
    return net.op("clip", x, layout=IMAGE, min=0.0, max=6.0)


def chosen(net: Net, *outputs: Value, numerics: str = "fast") -> Selection:
    """By kernels of our own and generated ones only."""
    graph, options = net.graph(*outputs), Options(numerics=numerics)
    found = [*dfp.propose(graph, {}, B.machine, options, "ispc"), *B.candidates(graph, {}, options)]
    return select(graph, [c for c in found if c.by_rows is not None or c.gathers or len(c.nodes) == 1])


def run(net: Net, selection: Selection, *outputs: Value, threads: int = 2) -> list[np.ndarray]:
    p = place(net.graph(*outputs), selection, {})
    owners = [net.data[v] if form is None else pack(B, net.data[v], form.key, form.nbytes) for v, form in p.prepared]
    addresses = [o.ctypes.data if isinstance(o, np.ndarray) else o.address for o in owners]
    return run_plan(B, p.plan, [physical(net.data[v], v.type) for v in net.inputs], addresses, threads)


def check(net: Net, monkeypatch: pytest.MonkeyPatch, *outputs: Value, whole: bool = True) -> list[ChainStep]:
    """Compares every way to cut with running the layers one by one; returns the chains of the last way."""
    monkeypatch.setattr(chains, "WINS", float("inf"))
    graph, alone = net.graph(*outputs), chosen(net, *outputs)
    separate = run(net, alone, *outputs)
    steps: list[ChainStep] = []
    for per_core, band in itertools.product((1, 2, 5), (1, 2, 3, 32)):
        monkeypatch.setattr(chains, "STRIPS_PER_CORE", (per_core,))
        monkeypatch.setattr(chains, "BANDS", (band,))
        together = chains.form_chains(graph, alone, lambda v: v.type, B.machine)
        steps = [s for s in place(graph, together, {}).plan.steps if isinstance(s, ChainStep)]
        assert steps, "no chain was formed"
        if whole:
            assert len(steps) == len([u for u in together.units if not u.is_view]) == 1
        for threads in (1, 2):
            for got, want, v in zip(run(net, together, *outputs, threads=threads), separate, outputs, strict=True):
                exact = net.reference(v)
                assert float(np.abs(got - exact).max()) < 5e-5 * max(1.0, float(np.abs(exact).max())), (per_core, band, threads)
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(exact).max()))
    return steps


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel,dilation", [(3, 1), (5, 1), (3, 2)])
def test_expansion_depthwise_projection(
    batch: int, stride: int, kernel: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = Net()
    x = net.input(batch, 24, 17, 15, layout=IMAGE)
    y = relu6(net, conv(net, x, 72))
    y = relu6(net, conv(net, y, 72, kernel, 72, stride, dilation=dilation))
    check(net, monkeypatch, conv(net, y, 24))


def test_residual_of_a_local_and_of_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(2, 16, 12, 9, layout=IMAGE)
    for _ in range(2):
        y = conv(net, relu6(net, conv(net, relu6(net, conv(net, x, 48)), 48, 3, 48)), 16)
        x = net.op("add", y, x, layout=IMAGE)
    check(net, monkeypatch, x)


def test_squeeze_and_two_expansions(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(1, 32, 13, 13, layout=IMAGE)
    s = net.op("relu", conv(net, x, 16), layout=IMAGE)
    check(net, monkeypatch, conv(net, s, 40), conv(net, s, 24, 3))


def test_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(2, 48, 11, 11, layout=IMAGE)
    check(net, monkeypatch, conv(net, x, 16), net.op("relu", conv(net, x, 40), layout=IMAGE), conv(net, x, 8, 3))


def test_results_in_slices_of_a_concat(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(1, 32, 10, 10, layout=IMAGE)
    s = net.op("relu", conv(net, x, 16), layout=IMAGE)
    steps = check(net, monkeypatch, net.op("concat", conv(net, s, 32), conv(net, s, 16, 3), layout=IMAGE, axis=1), whole=False)
    outputs = [m.outputs[0] for m in steps[0].members[1:]]  # type: ignore[union-attr]
    assert all(ref.strides is not None for ref in outputs)


def test_pooling_in_front_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(1, 32, 21, 21, layout=IMAGE)
    attrs = {"kernel": (3, 3), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    check(net, monkeypatch, conv(net, net.op("max_pool", x, layout=IMAGE, **attrs), 16))


def test_copy_first_layer_and_pooling(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.op("reorder", net.input(2, 3, 31, 29), layout=IMAGE)
    y = net.op("relu", conv(net, x, 24, 3, stride=2), layout=IMAGE)
    attrs = {"kernel": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    check(net, monkeypatch, net.op("max_pool", y, layout=IMAGE, **attrs))


def test_padding_beyond_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    x = net.input(1, 16, 4, 6, layout=IMAGE)
    check(net, monkeypatch, conv(net, conv(net, x, 16), 16, 5, 16, pad=4))


def test_what_is_stored_or_read_elsewhere_is_no_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that the graph returns, or that something reads that has no rows, stays in memory."""
    monkeypatch.setattr(chains, "WINS", float("inf"))
    for last in (lambda net, y: y, lambda net, y: net.op("reduce_mean", y, axes=(1, 2, 3), keepdims=False)):
        net = Net()
        x = net.input(1, 16, 9, 9, layout=IMAGE)
        y = conv(net, x, 16)
        outputs = (last(net, y), conv(net, y, 8, 3, 1))
        graph = net.graph(*outputs)
        together = chains.form_chains(graph, chosen(net, *outputs), lambda v: v.type, B.machine)
        assert all(y in u.outputs for u in together.units if any(n.output is y for n in u.nodes))


def test_groups_never_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """a1 -> b1 and b2 -> a2: the pairs a and b, each of one input, cannot both be one step."""
    monkeypatch.setattr(chains, "WINS", float("inf"))
    net = Net()
    x, y = net.input(1, 16, 9, 9, layout=IMAGE), net.input(1, 16, 9, 9, layout=IMAGE)
    a1, b2 = conv(net, x, 16), conv(net, y, 16)
    flat = [net.op("reduce_mean", v, axes=(2, 3), keepdims=True, layout=IMAGE) for v in (a1, b2)]
    b1 = conv(net, net.op("mul", y, flat[0], layout=IMAGE), 8)
    a2 = conv(net, net.op("mul", x, flat[1], layout=IMAGE), 8)
    graph, outputs = net.graph(a1, b2, a2, b1), (a1, b2, a2, b1)
    together = chains.form_chains(graph, chosen(net, *outputs), lambda v: v.type, B.machine)
    for got, v in zip(run(net, together, *outputs), outputs, strict=True):
        np.testing.assert_allclose(got, net.reference(v), rtol=1e-4, atol=1e-4)


def test_chains_are_formed_where_the_cache_is_worth_it() -> None:
    """An expansion that does not fit the cache is worth a chain; with a cache that does not hold a few rows there is none."""

    def formed(l2: int) -> bool:
        net = Net()
        x = net.input(1, 16, 112, 112, layout=IMAGE)
        y = relu6(net, conv(net, x, 96))
        out = conv(net, relu6(net, conv(net, y, 96, 3, 96)), 24)
        graph = split_prepare(assign_layouts(net.graph(out), [IMAGE])).main
        machine = replace(B.machine, l2=l2, l3=32 << 20, cores=2, bandwidth=2e10)
        other = type(B)(machine, "cpu")
        options = Options()
        found = [*dfp.propose(graph, {}, machine, options, "ispc"), *other.candidates(graph, {}, options)]
        chained = chains.form_chains(graph, select(graph, found), lambda v: v.type, machine)
        return any(u.candidate is not None and u.candidate.group == "chain" for u in chained.units)

    assert formed(1 << 20)
    assert not formed(1 << 16)



@pytest.mark.parametrize("shape", [(1, 0, 4, 4), (0, 3, 4, 4), (1, 3, 0, 4), (1, 3, 4, 0)])
def test_images_without_elements_have_no_rows(shape: tuple[int, ...]) -> None:
    net = Net()
    graph = net.graph(net.op("relu", net.input(*shape, layout=IMAGE), layout=IMAGE))
    assert all(c.by_rows is None for c in dfp.propose(graph, {}, B.machine, Options(), "ispc"))
