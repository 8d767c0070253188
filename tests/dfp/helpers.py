"""Graphs to generate kernels from, and running generated kernels on the loop IR's interpreter."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel_core.api import Machine
from nnaccel_core.dfp.build import Built, binding, build
from nnaccel_core.dfp.group import Generated, Pattern, Reason, pattern
from nnaccel_core.dfp.merge import Context
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, channels_last, evaluate, identity, numpy_dtype, sym
from nnaccel_core.loopir import interp
from nnaccel_core.loopir.verify import verify
from nnaccel_core.ops import registry
from nnaccel_core.select.candidate import Candidate

Array = np.ndarray[Any, Any]
MACHINE = Machine("x86", "test", "avx2", 2, 32, 32 << 10, 512 << 10, 32 << 20, 200e9, 26e9)


class Net:
    """Builds a graph layer by layer; images are channels-last, as the layout pass would make them."""

    def __init__(self, last: bool = True) -> None:
        self.inputs: list[Value] = []
        self.params: list[Value] = []
        self.nodes: list[Node] = []
        self.last = last

    def _layout(self, rank: int) -> tuple[int, ...]:
        return channels_last(rank) if self.last and rank == 4 else identity(rank)

    def input(self, *shape: Any) -> Value:
        dims = tuple(sym(d) if isinstance(d, str) else d for d in shape)
        v = Value(TensorType(dims, "float32", self._layout(len(dims))), f"user_input_{len(self.inputs)}")
        self.inputs.append(v)
        return v

    def param(self, *shape: int, layout: tuple[int, ...] | None = None) -> Value:
        v = Value(TensorType(shape, "float32", layout), f"layer{len(self.params)}.weight")  # type: ignore[arg-type]
        self.params.append(v)
        return v

    def op(self, name: str, *inputs: Value, physical: tuple[int, ...] | None = None, **attrs: Any) -> Value:
        (found,) = registry.infer(name, [v.type for v in inputs], attrs)
        layout = physical or attrs.get("layout") or self._layout(found.rank)
        out = Value(found.with_layout(layout), f"user.{name}.{len(self.nodes)}")
        self.nodes.append(Node(name, inputs, (out,), attrs, f"user.{len(self.nodes)}"))
        return out

    def conv(self, x: Value, out: int, k: int = 1, s: int = 1, groups: int = 1, bias: bool = True) -> Value:
        """A convolution padded to keep the size at stride 1."""
        p, channels = k // 2, x.shape[1]
        assert isinstance(channels, int)
        # The layout pass puts the channels of depthwise weights innermost.
        innermost = (2, 3, 1, 0) if groups == channels and self.last else None
        weights = self.param(out, channels // groups, k, k, layout=innermost)
        operands = [x, weights, *([self.param(out)] if bias else [])]
        return self.op("conv", *operands, stride=(s, s), padding=((p, p), (p, p)), dilation=(1, 1), groups=groups)

    def depthwise(self, x: Value, k: int = 3, s: int = 1, bias: bool = True) -> Value:
        channels = x.shape[1]
        assert isinstance(channels, int)
        return self.conv(x, channels, k, s, channels, bias)

    def relu6(self, x: Value) -> Value:
        return self.op("clip", x, min=0.0, max=6.0)

    def max_pool(self, x: Value, k: int = 3, s: int = 2, p: int = 1) -> Value:
        return self.op("max_pool", x, kernel=(k, k), stride=(s, s), padding=((p, p), (p, p)), dilation=(1, 1), ceil_mode=False)

    def avg_pool(self, x: Value, k: int = 2, s: int = 2, p: int = 0, count: bool = True, ceil: bool = False) -> Value:
        pads = ((p, p), (p, p))
        return self.op("avg_pool", x, kernel=(k, k), stride=(s, s), padding=pads, ceil_mode=ceil, count_include_pad=count)

    def mean(self, x: Value, *axes: int, keep: bool = True) -> Value:
        return self.op("reduce_mean", x, axes=axes, keepdims=keep)

    def graph(self, *outputs: Value) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.params), tuple(self.nodes), outputs)


def whole(graph: Graph, only: Sequence[str] = ()) -> Pattern:
    """The pattern of all nodes (with ``only``: of the nodes of these ops)."""
    ctx = Context(graph, {}, MACHINE)
    nodes = [n for n in graph.nodes if n.op != "constant" and (not only or n.op in only)]
    return pattern(nodes, ctx.outputs(nodes), ctx.constants)


def built(p: Pattern, constants: Mapping[Value, Any] | None = None) -> Built:
    found = build(p, constants or {}, MACHINE)
    assert not isinstance(found, Reason), str(found)
    return found


def random_inputs(graph: Graph, env: Env, seed: int = 0) -> dict[Value, Array]:
    rng = np.random.default_rng(seed)
    out = {}
    for v in (*graph.inputs, *graph.params):
        dims = [evaluate(d, env) for d in v.shape]
        out[v] = (rng.normal(size=dims) * 2).astype(numpy_dtype(v.dtype))
    return out


def reference(graph: Graph, given: Mapping[Value, Array]) -> dict[Value, Array]:
    """Every value of ``graph`` by the ops' numpy references."""
    known = dict(given)
    for n in graph.nodes:
        known.update(zip(n.outputs, registry.lookup(n.op).ref([known[v] for v in n.inputs], n.attrs), strict=True))
    return known


def blank(v: Value, env: Env) -> Array:
    """Memory for ``v`` in which what nobody wrote shows."""
    fill = np.nan if v.type.is_float else 77
    return np.full([evaluate(d, env) for d in v.shape], fill).astype(numpy_dtype(v.dtype))


def run_candidate(c: Candidate, known: Mapping[Value, Array], env: Env) -> dict[Value, Array]:
    """Run a candidate's kernels on the interpreter; memory that no task writes stays NaN."""
    assert isinstance(c.impl, Generated)
    memory: dict[Value, Array] = {v: known[v] for v in c.inputs}
    for call in c.impl.calls:
        verify(call.kernel)
        for v in call.args:
            if v not in memory:
                memory[v] = blank(v, env)
        assert interp.scratch_bytes(call.kernel, call.dims) <= call.scratch
        assert evaluate(call.kernel.task_count(), dict(zip(call.kernel.dims, call.dims, strict=True))) == call.tasks
        interp.run(call.kernel, [memory[v] for v in call.args], call.dims)
    return memory


def check_tiles(
    graph: Graph, env: Env, tiles: Sequence[Sequence[int]] | None = None, rtol: float = 1e-5, only: Sequence[str] = ()
) -> Built:
    """Compare the kernel of the whole graph with the references at many tile sizes."""
    p = whole(graph, only)
    constants = Context(graph, env, MACHINE).constants
    b = built(p, constants)
    verify(b.kernel)
    known = reference(graph, random_inputs(graph, env))
    sizes = binding(p, b, env)
    extents = b.model.extents(*sizes)[: b.model.axes]
    if tiles is None:
        # Single points, tails and tiles larger than the output; every fifth combination keeps the test quick.
        sizes_per_axis = [sorted({1, max(1, e // 2), max(1, e - 1), e + 1}) for e in extents]
        tiles = list(itertools.product(*sizes_per_axis))[:: 5 if len(extents) > 1 else 1]
    for t in tiles:
        outs = [blank(v, env) for v in p.outputs]
        interp.run(b.kernel, [*(known[p.inputs[i]] for i in b.used), *outs], (*sizes, *t, *first(b)))
        for v, got in zip(p.outputs, outs, strict=True):
            np.testing.assert_allclose(got, known[v], rtol=rtol, atol=1e-5, err_msg=f"{v} at tiles {t}")
    if b.rows is not None and 0 not in extents:
        check_bands(b, [known[p.inputs[i]] for i in b.used], known[p.outputs[0]], sizes, extents, rtol)
    return b


def first(b: Built, row: int = 0) -> tuple[int, ...]:
    """The last of a kernel's dims, where it can compute images from some row on."""
    return () if b.rows is None else (row,)


def check_bands(
    b: Built, inputs: Sequence[Array], known: Array, sizes: Sequence[int], extents: Sequence[int], rtol: float
) -> None:
    """Compare the kernel of an image with its reference when it computes three rows at a time, from any row on."""
    assert b.rows is not None
    at = b.rows[0]
    images, height = math.prod(extents[:at]), extents[at]
    behind = [max(1, e - 1) for e in extents[at + 1 :]]
    pieces = math.prod(-(-e // t) for e, t in zip(extents[at + 1 :], behind, strict=True))
    out = np.full_like(known, np.nan)
    for row in range(0, height, 3):
        count = min(3, height - row)
        dims = (*sizes, *[1] * at, count, *behind, *first(b, row))
        for image in range(images):
            task = image * -(-height // count) * pieces
            interp.run(b.kernel, [*inputs, out], dims, range(task, task + pieces))
    np.testing.assert_allclose(out, known, rtol=rtol, atol=1e-5, err_msg="in bands of three rows")
