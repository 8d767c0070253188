"""Average pooling behind the 1x1 convolution that reads it: fewer channels to pool."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nnaccel_core.ir import Graph, Node, Value
from nnaccel_core.ops.registry import rewriter


def pool_after_convolution(graph: Graph) -> Graph:
    """conv(avg_pool(x)) becomes avg_pool(conv(x)) for a window of 1 that makes fewer channels: both are linear and each keeps
    to its own axes, so that they commute, whatever padding counts. The bias is added behind, as zeros of padding have none.

    Inception's branches pool all channels of their block for a convolution to a quarter of them or less. Sums are taken in
    another order. NaN and infinity reach the same pixels, except that a sum may overflow where the average came first. Numbers of
    16 bits are rounded once more, in front of the bias.
    """
    r = rewriter(graph)
    uses = graph.uses()
    results = set(graph.results())
    producers = graph.producers()
    for node in graph.nodes:
        if not refusal(node, producers, uses, results):
            pool = producers[node.inputs[0]]
            narrow = r.add("conv", [r.get(pool.inputs[0]), r.get(node.inputs[1])], node.attrs, origin=node.origin)
            made = r.add("avg_pool", [narrow], pool.attrs, origin=pool.origin)
            if len(node.inputs) == 3:
                column = (node.output.shape[1], *([1] * (node.output.type.rank - 2)))
                bias = r.add("reshape", [r.get(node.inputs[2])], {"shape": column}, origin=node.origin)
                made = r.add("add", [made, bias], origin=node.origin, name=node.output.name)
            r.alias(node.output, made)
        else:
            r.emit(node)
    return r.finish()


def refusal(node: Node, producers: Mapping[Value, Node], uses: Mapping[Value, list[Node]], results: set[Value]) -> str:
    """Why ``node`` does not change places with what it reads; empty where it does."""
    if node.op != "conv":
        return "not a convolution"
    x, a = node.inputs[0], node.attrs
    pool = producers.get(x)
    if pool is None or pool.op != "avg_pool":
        return "it reads no average pooling"
    if any(k != 1 for k in node.inputs[1].shape[2:]) or any(s != 1 for s in a["stride"]) or any(map(any, a["padding"])):
        return "its window, stride or padding is not that of single pixels"
    if a["groups"] != 1:
        return "it has groups"
    if len(uses[x]) != 1 or x in results:
        return "the pooling has other readers"
    return _growth(pool, node)


def _growth(pool: Node, conv: Node) -> str:
    """Why it would cost more to convolve first; empty where what lies between the two shrinks and arithmetic does not grow."""
    wide, narrow = pool.inputs[0].shape, conv.output.shape
    pixels, windows = wide[2:], narrow[2:]
    if pixels == windows:  # also where these are symbols
        pixels = windows = (1,)
    known = [d for d in (wide[1], narrow[1], math.prod(pixels), math.prod(windows)) if isinstance(d, int)]
    if len(known) < 4:
        return "its extents are not known"
    c, o, before, after = known
    if o * before >= c * after:
        return "there would not be less to pool"
    taps = math.prod(pool.attrs["kernel"])
    if 2 * c * o * before + taps * o * after > 2 * c * o * after + taps * c * after:
        return "it would convolve more pixels than pooling leaves"
    return ""
