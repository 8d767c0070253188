"""Kernels for thread blocks (`map_simt`), on the loop IR's interpreter: every op, and groups at many tile sizes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from dfp.helpers import Net, binding, blank, random_inputs, reference, run_candidate, whole
from nnaccel_core.api import Machine
from nnaccel_core.dfp import propose
from nnaccel_core.dfp.build import Built, build
from nnaccel_core.dfp.group import Reason
from nnaccel_core.dfp.merge import Context
from nnaccel_core.dfp.simt import Shape
from nnaccel_core.ir import Env, Graph, Node, TensorType, Value, channels_last, identity
from nnaccel_core.loopir import grammar as g
from nnaccel_core.loopir import interp
from nnaccel_core.loopir.printer_cuda import CudaPrinter
from nnaccel_core.loopir.verify import verify
from nnaccel_core.ops.registry import OpDef, Sample, all_ops, infer
from nnaccel_core.options import Options

GPU = Machine("cuda", "test", "sm_90", 132, 16, 227 << 10, 50 << 20, 0, 60e12, 4e12)

_CASES = [
    pytest.param(op, s, last, id=f"{op.name}-{i}-{'last' if last else 'first'}")
    for op in all_ops()
    if op.loop
    for i, s in enumerate(op.samples())
    for last in (False, True)
    if not last or any(a.ndim >= 3 for a in s.inputs)  # else channels-last is row-major
]


@pytest.mark.parametrize(("op", "sample", "last"), _CASES)
def test_sample(op: OpDef, sample: Sample, last: bool) -> None:
    def layout(rank: int) -> tuple[int, ...]:
        return channels_last(rank) if last else identity(rank)

    inputs = tuple(Value(TensorType(a.shape, str(a.dtype), layout(a.ndim)), f"in{i}") for i, a in enumerate(sample.inputs))
    found = infer(op.name, [v.type for v in inputs], sample.attrs)
    outputs = tuple(Value(t.with_layout(layout(t.rank)), f"out{i}") for i, t in enumerate(found))
    graph = Graph(inputs, (), (Node(op.name, inputs, outputs, sample.attrs),), outputs)
    (candidate,) = propose(graph, {}, GPU, Options(dfp=False), "test")
    got = run_candidate(candidate, dict(zip(inputs, sample.inputs, strict=True)), {})
    want = op.ref(sample.inputs, sample.attrs)
    for v, array in zip(outputs, want, strict=True):
        np.testing.assert_allclose(got[v], array, rtol=max(sample.rtol, 1e-5), atol=1e-5)
    for call in candidate.impl.calls:
        assert CudaPrinter().module([("f", call.kernel)])


def check_shapes(graph: Graph, env: Env, shapes: Sequence[Shape], rtol: float = 1e-5) -> Built:
    """Compare the kernels of the whole graph with the references at several tile sizes."""
    p = whole(graph)
    b = build(p, Context(graph, env, GPU).constants, GPU)
    assert not isinstance(b, Reason), str(b)
    assert b.gpu is not None
    known = reference(graph, random_inputs(graph, env))
    sizes = binding(p, b, env)
    extents = b.model.extents(*sizes)[: b.model.axes]
    for shape in shapes:
        kernel = verify(b.gpu.source(shape).kernel)
        steps = [shape.vector if k + 1 == len(extents) else 1 for k in range(len(extents))]
        per_axis = [sorted({s, -(-max(1, e // 2) // s) * s, -(-e // s) * s}) for e, s in zip(extents, steps, strict=True)]
        for tiles in list(itertools.product(*per_axis))[:: 3 if len(extents) > 1 else 1]:
            outs = [blank(v, env) for v in p.outputs]
            interp.run(kernel, [*(known[p.inputs[i]] for i in b.used), *outs], (*sizes, *tiles))
            for v, got in zip(p.outputs, outs, strict=True):
                np.testing.assert_allclose(got, known[v], rtol=rtol, atol=1e-5, err_msg=f"{v} with {shape} at tiles {tiles}")
        assert CudaPrinter().module([("f", kernel)])
    return b


SHAPES = (Shape(1, 1), Shape(4, 1), Shape(4, 4))


@pytest.mark.parametrize(("k", "s"), [(3, 1), (3, 2), (5, 1), (7, 1)])
def test_depthwise(k: int, s: int) -> None:
    net = Net()
    x = net.input("n", 8, 6, 7)
    check_shapes(net.graph(net.relu6(net.depthwise(x, k, s))), {"n": 2}, SHAPES if k == 3 else [Shape(4, 4)])


def test_depthwise_between_others_keeps_its_halo_in_shared_memory() -> None:
    net = Net()
    x = net.input("n", 4, 6, 6)
    y = net.op("add", net.relu6(net.depthwise(net.op("sigmoid", x))), x)
    b = check_shapes(net.graph(y), {"n": 2}, SHAPES)
    assert "tile" in dict(b.staged.kinds).values()
    assert any(isinstance(s, g.Barrier) for s in b.kernel.body)


@pytest.mark.parametrize("stride", [1, 2])
def test_pools(stride: int) -> None:
    net = Net()
    x = net.input("n", 4, 9, 8)
    check_shapes(net.graph(net.max_pool(x, 3, stride, 1)), {"n": 1}, SHAPES)
    net = Net()
    x = net.input("n", 4, 9, 8)
    check_shapes(net.graph(net.avg_pool(x, 3, stride, 1, count=False)), {"n": 1}, SHAPES)
    net = Net()
    x = net.input("n", 3, 9, 8)  # three channels: no wide accesses
    check_shapes(net.graph(net.max_pool(net.op("relu", x), 2, 2, 0)), {"n": 1}, [Shape(1, 1), Shape(1, 4)])


def test_global_average() -> None:
    net = Net()
    x = net.input("n", 8, 5, 3)
    check_shapes(net.graph(net.mean(net.op("relu", x), 2, 3, keep=False)), {"n": 3}, SHAPES)


def test_concat_affine_relu() -> None:
    net = Net()
    parts = [net.input("n", c, 3, 4) for c in (8, 4, 12)]
    y = net.op("concat", *parts, axis=1)
    y = net.op("relu", net.op("add", net.op("mul", y, net.param(24, 1, 1)), net.param(24, 1, 1)))
    check_shapes(net.graph(y), {"n": 2}, SHAPES)
    net = Net()
    parts = [net.input("n", c, 3, 4) for c in (3, 2)]
    check_shapes(net.graph(net.op("concat", *parts, axis=1)), {"n": 2}, [Shape(1, 1)])


def _blocks(channels: Sequence[int]) -> tuple[Net, Value]:
    """What a block of a DenseNet computes after its concat."""
    net = Net()
    y = net.op("concat", *(net.input("n", c, 3, 6) for c in channels), axis=1)
    total = sum(channels)
    return net, net.op("relu", net.op("add", net.op("mul", y, net.param(total, 1, 1)), net.param(total, 1, 1)))


@pytest.mark.parametrize("channels", [(8, 4, 12, 4, 4, 8), (4,) * 18, (16, 4, 4, 4, 20)])
def test_concat_of_many_operands(channels: Sequence[int]) -> None:
    net, y = _blocks(channels)
    b = check_shapes(net.graph(y), {"n": 2}, SHAPES)
    assert b.gpu is not None
    loops = [s for s in b.gpu.source(Shape(4, 1)).kernel.body if isinstance(s, g.Loop) and s.bind == "block"]
    assert len(loops) == 1  # not one for each operand
    b = check_shapes(net.graph(net.op("sigmoid", y), y), {"n": 2}, [Shape(4, 4)])


def test_concat_of_many_operands_along_another_axis() -> None:
    net = Net()
    parts = [net.input("n", 4, h, 5) for h in (1, 2, 1, 3, 2)]
    check_shapes(net.graph(net.op("relu", net.op("concat", *parts, axis=2))), {"n": 2}, SHAPES)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax(axis: int) -> None:
    net = Net()
    x = net.input("n", 5, 8)
    b = check_shapes(net.graph(net.op("softmax", x, axis=axis)), {"n": 3}, [Shape(1, 1), Shape(4, 1)])
    text = CudaPrinter().module([("f", b.kernel)])
    assert ("nn_block_max_f32" in text) == (axis == 2)


def test_multiples_are_checked() -> None:
    net = Net()
    x = net.input("n", 8)
    b = check_shapes(net.graph(net.op("relu", x)), {"n": 2}, [Shape(4, 1)])
    assert b.gpu is not None
    kernel = b.gpu.source(Shape(4, 1)).kernel
    arrays = [np.zeros((2, 6), np.float32), np.zeros((2, 6), np.float32)]
    with pytest.raises(Exception, match="multiples of 4"):
        interp.run(kernel, arrays, (2, 6, 2, 8))


def test_wide_accesses_are_printed_where_they_are_aligned() -> None:
    net = Net()
    x = net.input("n", 8, 6, 7)
    b = check_shapes(net.graph(net.relu6(net.depthwise(x))), {"n": 1}, [Shape(4, 4)])
    assert b.gpu is not None
    text = CudaPrinter().module([("f", b.gpu.source(Shape(4, 4)).kernel)])
    assert "nn_vec<float, 4> v = *(const nn_vec<float, 4>*)(b0" in text
    assert "*(nn_vec<float, 4>*)(b3" in text
    assert "nn_vec<float, 4>*" not in CudaPrinter().module([("f", b.gpu.source(Shape(1, 1)).kernel)])


def test_a_choice_by_value_after_a_sum() -> None:
    """The gradient of ReLU6 behind a depthwise convolution: what is chosen is a sum that is in a register already."""
    net = Net()
    x = net.input("n", 8, 6, 7)
    y = net.depthwise(x)
    mask = net.op("gt", x, net.op("mul", x, x))
    zero = net.op("sub", x, x)
    b = check_shapes(net.graph(net.op("where", mask, y, zero)), {"n": 2}, [Shape(4, 4), Shape(1, 1)])
    assert b.gpu is not None
