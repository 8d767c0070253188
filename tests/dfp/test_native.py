"""Generated kernels compiled by each printer's compiler, against the ops' references."""

from __future__ import annotations

import numpy as np
import pytest

from dfp.helpers import MACHINE, Net, random_inputs, reference
from dfp.test_stages import GROUPS
from loopir import native
from nnaccel_core.dfp import propose
from nnaccel_core.ir import Graph, evaluate
from nnaccel_core.options import Options

pytestmark = pytest.mark.parametrize(
    "dialect", [pytest.param(d, marks=pytest.mark.skipif(not ok, reason=native.REASONS[d])) for d, ok in native.DIALECTS.items()]
)


def check(dialect: str, graph: Graph, env: dict[str, int]) -> None:
    """Every candidate of ``graph``, all in one module."""
    found = propose(graph, env, MACHINE, Options(), dialect)
    kernels = list({c.impl.calls[0].kernel.name: c.impl.calls[0].kernel for c in found}.items())
    library = native.build(dialect, native.printer(dialect).module(kernels))
    known = reference(graph, random_inputs(graph, env))
    for c in found:
        arrays = [np.ascontiguousarray(known[v].transpose(v.type.layout)) for v in c.inputs]
        outs = [np.full([evaluate(v.shape[a], env) for a in v.type.layout], np.nan, np.float32) for v in c.outputs]
        call = c.impl.calls[0]
        native.call(library, call.kernel.name, call.kernel, [*arrays, *outs], dict(zip(call.kernel.dims, call.dims, strict=True)))
        for v, got in zip(c.outputs, outs, strict=True):
            np.testing.assert_allclose(got.transpose(np.argsort(v.type.layout)), known[v], rtol=1e-4, atol=1e-4, err_msg=c.reason)


@pytest.mark.parametrize("name", GROUPS)
def test_group(dialect: str, name: str) -> None:
    check(dialect, GROUPS[name](), {"n": 2})


def test_network_of_everything(dialect: str) -> None:
    net = Net()
    x = net.relu6(net.conv(net.input("n", 3, 33, 35), 19, 3, 2))
    x = net.op("add", net.relu6(net.depthwise(x, 5, 1)), x)
    y = net.op("mul", x, net.op("sigmoid", net.mean(x, 2, 3)))
    y = net.mean(y, 2, 3, keep=False)
    y = net.op("matmul", y, net.param(30, 19), net.param(30), transpose_b=True)
    check(dialect, net.graph(net.op("log_softmax", y, axis=1)), {"n": 3})


def test_long_sums_are_as_accurate_as_torch(dialect: str) -> None:
    """Blocked or per-lane partial sums: over 1e5 terms a plain float32 sum is off by about 1e-5."""
    rng = np.random.default_rng(0)
    for shape, axes in (((1, 8, 320, 320), (2, 3)), ((2, 100_000), (1,)), ((100_000, 8), (0,)), ((1, 8, 4, 256), (3,))):
        net = Net()
        x = net.input(*shape)
        g = net.graph(net.mean(x, *axes, keep=False))
        (c,) = propose(g, {}, MACHINE, Options(), dialect)
        call = c.impl.calls[0]
        library = native.build(dialect, native.printer(dialect).module([("sums", call.kernel)]))
        data = rng.uniform(0, 1, shape).astype(np.float32)
        out = np.full([evaluate(d, {}) for d in c.outputs[0].shape], np.nan, np.float32)
        array = np.ascontiguousarray(data.transpose(x.type.layout))
        native.call(library, "sums", call.kernel, [array, out], dict(zip(call.kernel.dims, call.dims, strict=True)))
        exact = data.astype(np.float64).mean(axis=axes)
        assert np.max(np.abs(out - exact) / exact) < 1e-6
