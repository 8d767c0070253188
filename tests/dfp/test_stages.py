"""The text of every stage for representative groups, against golden files."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dfp.helpers import MACHINE, Net, binding, built, whole
from nnaccel_core.dfp.build import Built
from nnaccel_core.dfp.cost import plan
from nnaccel_core.dfp.group import generalize
from nnaccel_core.dfp.merge import Context
from nnaccel_core.dfp.nests import format_nests, lower
from nnaccel_core.dfp.regions import Tiling
from nnaccel_core.ir import Env, Graph
from nnaccel_core.loopir.format import format_kernel


def depthwise_block() -> Graph:
    net = Net()
    x = net.input("n", 32, 28, 28)
    return net.graph(net.relu6(net.depthwise(net.relu6(x), 3, 1)))


def affine_relu_pool() -> Graph:
    net = Net()
    x = net.input("n", 64, 56, 56)
    y = net.op("add", net.op("mul", x, net.param(64, 1, 1)), net.param(64, 1, 1))
    return net.graph(net.max_pool(net.op("relu", y)))


def softmax() -> Graph:
    net = Net()
    return net.graph(net.op("softmax", net.input("n", 1000), axis=1))


def global_average() -> Graph:
    net = Net()
    return net.graph(net.mean(net.op("relu", net.input("n", 320, 7, 7)), 2, 3, keep=False))


def two_outputs() -> Graph:
    net = Net()
    a = net.op("relu", net.input("n", 16, 14, 14))
    return net.graph(a, net.avg_pool(a, 3, 1, 1, count=False))


def relayout() -> Graph:
    net = Net()
    return net.graph(net.op("reorder", net.input("n", 16, 14, 14), layout=(0, 1, 2, 3)))


def sums_of_rows() -> Graph:
    net = Net()
    x = net.input("n", 32, 28, 28)
    return net.graph(net.mean(net.op("mul", x, x), 3, keep=True))


def scaled_concat() -> Graph:
    net = Net()
    x = net.op("concat", net.input("n", 16, 14, 14), net.input("n", 8, 14, 14), axis=1)
    return net.graph(net.op("relu", net.op("mul", x, net.param(24, 1, 1))))


SAMPLES = (depthwise_block, affine_relu_pool, softmax, global_average, two_outputs, relayout, sums_of_rows, scaled_concat)
GROUPS = {f.__name__: f for f in SAMPLES}


def _tiling_text(t: Tiling) -> str:
    lines = [f"tiled axes {t.axes} of extents ({', '.join(map(str, t.extents))})"]
    for v, region in t.regions.items():
        parts = []
        for s, extent in zip(region, v.shape, strict=True):
            if s is None:
                parts.append(f"[0, {extent})")
            else:
                parts.append(f"[{s.scale}*o{s.tile} + {s.lo}, {s.scale}*(e{s.tile} - 1) + {s.hi + 1})")
        lines.append(f"{v.name}: {' x '.join(parts)}")
    return "\n".join(lines) + "\n"


def stages(graph: Graph, env: Env) -> tuple[str, Built]:
    ctx = Context(graph, env, MACHINE)
    p = whole(graph)
    general = generalize(p, ctx.constants)
    b = built(p, ctx.constants)
    chosen = plan(b.model, binding(p, b, env), MACHINE)
    inputs = "".join(f"{v!r}\n" for v in general.group.inputs)
    sections = {
        "generalize": inputs + "".join(f"{name} = input {i}, axis {a}\n" for name, (i, a) in general.sources),
        "lower": format_nests(lower(general.group)),
        "storage": str(b.staged),
        "regions": _tiling_text(b.tiling),
        "plan": f"tiles {chosen.tiles}, {chosen.tasks} tasks, {chosen.scratch} bytes of scratch\n",
        "map_spmd": format_kernel(b.kernel),
    }
    return "\n".join(f"== {name}\n{text}" for name, text in sections.items()), b


@pytest.mark.parametrize("name", GROUPS)
def test_golden(name: str, golden: Callable[[str, str], None]) -> None:
    text, _ = stages(GROUPS[name](), {"n": 4})
    golden(f"{name}.txt", text)


def test_storage_kinds() -> None:
    _, b = stages(depthwise_block(), {"n": 1})
    assert [kind for _, kind in b.staged.kinds] == ["tile", "register", "global"]
    _, b = stages(affine_relu_pool(), {"n": 1})
    assert [kind for _, kind in b.staged.kinds] == ["inlined", "inlined", "tile", "global"]
    _, b = stages(global_average(), {"n": 1})
    assert [kind for _, kind in b.staged.kinds] == ["inlined", "global"]


def test_sums_that_read_a_large_tile_again_and_again_are_charged_for_it() -> None:
    """A depthwise convolution's gradient of the weights reads both images once for each element of the window."""
    seconds = []
    conv = {"stride": (1, 1), "padding": ((1, 1),) * 2, "dilation": (1, 1), "groups": 32}
    for op, attrs, k in (
        ("conv_backward_weights", {**conv, "window": (3, 3)}, 2),
        ("reduce_sum", {"axes": (0, 2, 3), "keepdims": False}, 1),
    ):
        net = Net()
        images = [net.input("n", 32, 112, 112) for _ in range(k)]
        graph = net.graph(net.op(op, *images, **attrs))
        p = whole(graph)
        b = built(p)
        seconds.append(plan(b.model, binding(p, b, {"n": 16}), MACHINE).seconds / k)
    assert seconds[0] > 2.5 * seconds[1]
