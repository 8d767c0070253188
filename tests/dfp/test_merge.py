"""Which layers become groups, and every reason for which they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfp.helpers import MACHINE, Net
from dfp.networks import efficientnet_lite0
from nnaccel_core.dfp import propose
from nnaccel_core.dfp.build import Sized
from nnaccel_core.dfp.group import Reason
from nnaccel_core.dfp.merge import MAX_NODES, Context, acyclic, legal, merge, profitable
from nnaccel_core.ir import Graph, Node
from nnaccel_core.options import Options


def groups(graph: Graph, **env: int) -> list[list[str]]:
    return [[n.op for n in g] for g in merge(Context(graph, env, MACHINE))]


def test_chain_is_one_group() -> None:
    net = Net()
    x = net.input("n", 64, 56, 56)
    y = net.avg_pool(net.max_pool(net.op("relu", x)), 2, 1)
    assert groups(net.graph(y), n=4) == [["relu", "max_pool", "avg_pool"]]


def test_products_stay_outside() -> None:
    net = Net()
    x = net.input("n", 32, 28, 28)
    y = net.relu6(net.conv(net.relu6(net.depthwise(net.relu6(net.conv(x, 32)))), 64))
    found = groups(net.graph(y), n=4)
    assert all("conv" not in g or g.count("conv") == 1 for g in found)
    assert len(found) == 1 and found[0][-2:] == ["conv", "clip"]


def test_epilogue_of_a_product_is_offered_apart() -> None:
    net = Net()
    x = net.input("n", 32, 56, 56)
    y = net.relu6(net.depthwise(net.relu6(net.conv(x, 192))))
    g = net.graph(y)
    ops = {tuple(n.op for n in c.nodes) for c in propose(g, {"n": 1}, MACHINE, Options(), "test") if c.group == "dfp"}
    assert ("conv", "clip") in ops  # the first clip may be the convolution's epilogue


def test_without_dfp_every_layer_is_alone() -> None:
    found = propose(efficientnet_lite0(), {"n": 1}, MACHINE, Options(dfp=False), "test")
    assert all(len(c.nodes) == 1 and c.group == "layer" for c in found)
    assert len({c.nodes[0] for c in found}) == len(efficientnet_lite0().nodes)


def test_every_node_keeps_its_own_candidate() -> None:
    g = efficientnet_lite0()
    found = propose(g, {"n": 1}, MACHINE, Options(), "test")
    assert {c.nodes[0] for c in found if len(c.nodes) == 1} == set(g.nodes)
    assert all(c.seconds > 0 for c in found)


def test_candidates_cover_convex_sets() -> None:
    g = efficientnet_lite0()
    ctx = Context(g, {"n": 1}, MACHINE)
    for c in propose(g, {"n": 1}, MACHINE, Options(), "test"):
        assert not ctx.between(c.nodes)
        assert c.outputs == ctx.outputs(c.nodes)


def _pair(graph: Graph, a: Node, b: Node) -> tuple[Context, frozenset[Node], frozenset[Node]]:
    return Context(graph, {"n": 1}, MACHINE), frozenset((a,)), frozenset((b,))


def test_refused_across_a_node_outside() -> None:
    net = Net()
    x = net.input("n", 16, 8, 8)
    a = net.op("relu", x)
    y = net.op("add", net.conv(a, 16), a)
    ctx, first, last = _pair(net.graph(y), net.nodes[0], net.nodes[-1])
    reason = acyclic(ctx, first, last, {})
    assert isinstance(reason, Reason) and "lies between" in reason.text and reason.nodes[0].op == "conv"


def test_refused_across_another_group() -> None:
    net = Net()
    x, z = net.input("n", 16), net.input("n", 16)
    a = net.op("relu", x)
    b = net.op("relu", z)
    c = net.op("add", a, b)
    net.op("neg", c)
    g = net.graph(*(n.output for n in net.nodes))
    n = net.nodes
    other = frozenset((n[1], n[3]))  # contains something before c and something after it
    ctx = Context(g, {"n": 1}, MACHINE)
    reason = acyclic(ctx, frozenset((n[1],)), frozenset((n[3],)), {})
    assert reason is not None
    owner = {n[1]: other, n[3]: other}
    reason = acyclic(ctx, frozenset((n[0],)), frozenset((n[2],)), {g: ctx.masks(g) for g in owner.values()})
    assert isinstance(reason, Reason) and "another group" in reason.text


def test_refused_when_outputs_have_no_common_grid() -> None:
    net = Net()
    x = net.input("n", 16, 8, 8)
    a = net.op("relu", x)
    y = net.max_pool(a)
    g = net.graph(a, y)
    ctx, first, last = _pair(g, net.nodes[0], net.nodes[1])
    reason = legal(ctx, first, last)
    assert isinstance(reason, Reason) and "no common tile grid" in reason.text
    assert str(reason).endswith("[user.0 (relu), user.1 (max_pool)]")


def test_refused_when_too_long() -> None:
    net = Net()
    y = net.input("n", 16)
    for _ in range(MAX_NODES + 1):
        y = net.op("sigmoid", y)
    found = merge(ctx := Context(net.graph(y), {"n": 4}, MACHINE))
    assert max(len(g) for g in found) == MAX_NODES
    assert any("more than" in r.text for r in ctx.refusals)


def test_refused_when_work_repeated_outweighs_stores() -> None:
    net = Net()
    x = net.input(1, 8, 64, 64)
    y = net.depthwise(net.depthwise(x, 7), 7)
    # With next to no cache, tiles are single rows, and each would compute seven rows of the first layer.
    tiny = replace(MACHINE, l2=1 << 12, bandwidth=1e13, cores=64)
    ctx = Context(net.graph(y), {}, tiny)
    a, b = (frozenset((n,)) for n in net.nodes)
    assert legal(ctx, a, b) is None
    reason = profitable(ctx, a, b)
    assert isinstance(reason, Reason) and "us apart" in reason.text


def test_profitable_when_the_intermediate_leaves_the_cache() -> None:
    net = Net()
    x = net.input(16, 64, 112, 112)
    y = net.op("sigmoid", net.op("neg", x))
    ctx = Context(net.graph(y), {}, MACHINE)
    a, b = (frozenset((n,)) for n in net.nodes)
    assert profitable(ctx, a, b) is None


def test_parameters_are_prepared_not_recomputed() -> None:
    net = Net()
    x = net.input("n", 16, 8, 8)
    w = net.op("neg", net.param(16, 1, 1))
    g = net.graph(net.op("mul", x, w))
    assert groups(g, n=2) == []


def test_plan_is_a_function_of_sizes() -> None:
    net = Net()
    x = net.input("n", 64, 112, 112)
    g = net.graph(net.max_pool(x))
    for n in (1, 16):
        planned = Context(g, {"n": n}, MACHINE).planned(g.nodes)
        assert isinstance(planned, Sized)
        assert planned.plan.tasks >= 4 * MACHINE.cores
        assert planned.plan.scratch <= MACHINE.l2 // 2


@pytest.mark.parametrize("cores", [1, 2, 16, 64])
def test_small_outputs_still_give_tasks(cores: int) -> None:
    machine = replace(MACHINE, cores=cores, flops=100e9 * cores)
    net = Net()
    x = net.input("n", 1280, 7, 7)
    g = net.graph(net.mean(x, 2, 3))
    planned = Context(g, {"n": 1}, machine).planned(g.nodes)
    assert isinstance(planned, Sized)
    assert planned.plan.tasks >= min(cores, 40)
