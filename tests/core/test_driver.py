"""From a graph to results through the whole driver, on the loop IR's interpreter: no framework, no device."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from core.graphs import CONV, Builder, conv_bn_relu_net, random_values
from nnaccel_core.api import Captured, Signature
from nnaccel_core.driver.session import Compiled, Session
from nnaccel_core.errors import GuardError, InputError
from nnaccel_core.interp import run_graph, run_values
from nnaccel_core.ir import Foreign, Graph, If, Loop, Program, Segment, Update, channels_last, sym
from nnaccel_core.options import Options
from nnaccel_core.testing.interpreter import InterpreterBackend
from nnaccel_core.testing.memory import NumpyBridge


def make_backend() -> InterpreterBackend:
    machine = InterpreterBackend.probe()
    assert machine is not None
    return InterpreterBackend(machine, "interp")


def compile_program(program: Program, params: dict[str, Any], options: Options = Options()) -> Compiled:  # noqa: B008
    getters = {name: (lambda name=name: params[name]) for name in params}
    return Compiled(Captured(program, getters), make_backend(), NumpyBridge(), options)


def compile_graph(graph: Graph, params: dict[str, Any], options: Options = Options()) -> Compiled:  # noqa: B008
    inputs = tuple(v.name for v in graph.inputs)
    outputs = tuple(f"out{i}" for i in range(len(graph.outputs)))
    return compile_program(Program(inputs, (Segment(graph, inputs, outputs),), outputs), params, options)


@pytest.mark.parametrize("dfp", [True, False])
def test_a_network_runs_at_several_batch_sizes(dfp):
    graph = conv_bn_relu_net(sym("n"))
    _, params = random_values(graph, env={"n": 1})
    compiled = compile_graph(graph, params, Options(dfp=dfp))
    for n in (1, 2, 3):
        inputs, _ = random_values(graph, seed=n, env={"n": n})
        (got,) = compiled(inputs)
        (want,) = run_graph(graph, inputs, params)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_results_of_one_call_are_not_overwritten_by_the_next():
    graph = conv_bn_relu_net(2)
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, params)
    (first,) = compiled(inputs)
    kept = first.copy()
    compiled([-inputs[0]])
    np.testing.assert_array_equal(first, kept)


def test_parameters_are_live_after_refresh():
    graph = conv_bn_relu_net(1)
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, params)
    compiled(inputs)
    for name in params:
        params[name] = params[name] * 0.9
    compiled.refresh()
    np.testing.assert_allclose(compiled(inputs)[0], run_graph(graph, inputs, params)[0], rtol=1e-4, atol=1e-5)
    assert compiled.prepared_bytes() > 0


def test_channels_last_inputs_and_outputs():
    b = Builder()
    x = b.input(2, 3, 5, 6, layout=channels_last(4))
    y = b("relu", x)
    graph = b.done(y)
    out = y.type.with_layout(channels_last(4))
    object.__setattr__(y, "type", out)
    compiled = compile_graph(graph, {})
    data = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    assert NumpyBridge().type_of(data).layout == channels_last(4)
    (got,) = compiled([data])
    assert NumpyBridge().type_of(got).layout == channels_last(4)
    np.testing.assert_array_equal(got, np.maximum(data, 0))


def test_outputs_that_are_inputs_constants_or_twice_the_same():
    b = Builder()
    x, p = b.input(2, 3), b.param(3)
    y = b("add", x, p)
    graph = b.done(x, y, y, p, b("reshape", y, shape=(6,)), b.const([4.0]))
    inputs, params = random_values(graph)
    got = compile_graph(graph, params)(inputs)
    for a, want in zip(got, run_graph(graph, inputs, params), strict=True):
        np.testing.assert_allclose(a, want)
    assert len({a.ctypes.data for a in got}) == 6


def test_updates_write_inputs_and_parameters():
    b = Builder()
    x, p = b.input(3), b.param(3)
    moved = b("add", p, x)
    doubled = b("add", x, x)
    graph = b.done(b("relu", x), updates=(Update(p, moved), Update(x, doubled)))
    data, param = np.array([1, 2, 3], np.float32), np.array([10, 20, 30], np.float32)
    compiled = compile_graph(graph, {"p0": param})
    (y,) = compiled([data])
    np.testing.assert_array_equal(y, [1, 2, 3])
    np.testing.assert_array_equal(param, [11, 22, 33])
    np.testing.assert_array_equal(data, [2, 4, 6])


def test_guards_hold_or_refuse():
    b = Builder()
    n, m = sym("n"), sym("m")
    x, y = b.input(n), b.input(m)
    graph = b.done(b("add", x, y), guards=((n, m),))
    compiled = compile_graph(graph, {})
    one = np.ones(4, np.float32)
    np.testing.assert_array_equal(compiled([one, one])[0], one * 2)
    with pytest.raises(GuardError, match="n == m"):
        compiled([one, np.ones(5, np.float32)])


def test_wrong_shapes_are_named():
    graph = conv_bn_relu_net(sym("n"))
    inputs, params = random_values(graph, env={"n": 1})
    compiled = compile_graph(graph, params)
    with pytest.raises(InputError, match=r"input 0 \(%x0\)"):
        compiled([inputs[0][:, :, :5]])
    assert compiled.matches(inputs)
    assert not compiled.matches([inputs[0][:, :, :5]])
    assert not compiled.matches([inputs[0].astype(np.float64)])


def relu_segment(name_in: str, name_out: str, op: str = "relu") -> Segment:
    b = Builder()
    x = b.input(sym("n"))
    return Segment(b.done(b(op, x)), (name_in,), (name_out,))


def test_foreign_parts_run_between_segments():
    calls = []

    def foreign(a):
        calls.append(a.copy())
        return (a - 3,)

    program = Program(
        ("x",),
        (relu_segment("x", "a"), Foreign(foreign, ("a",), ("b",), "no mapping"), relu_segment("b", "y", "neg")),
        ("y", "a"),
    )
    x = np.array([-1.0, 5.0], np.float32)
    y, a = compile_program(program, {})([x])
    np.testing.assert_array_equal(a, [0, 5])
    np.testing.assert_array_equal(y, [3, -2])
    assert len(calls) == 1
    assert "foreign" in str(program)
    assert "no mapping" in str(program)


def test_if_and_loop():
    then = Program(("x",), (relu_segment("x", "y"),), ("y",))
    other = Program(("x",), (relu_segment("x", "y", "neg"),), ("y",))
    program = Program(("c", "x"), (If("c", then, other),), ("y",))
    compiled = compile_program(program, {})
    x = np.array([-1.0, 5.0], np.float32)
    np.testing.assert_array_equal(compiled([np.array(True), x])[0], [0, 5])
    np.testing.assert_array_equal(compiled([np.array(False), x])[0], [1, -5])
    body = Program(("x",), (relu_segment("x", "y", "exp"),), ("y",))
    loop = Program(("n", "x"), (Loop("n", None, (("x", "y"),), body),), ("x",))
    np.testing.assert_allclose(compile_program(loop, {})([np.array(2), x * 0])[0], np.exp(np.exp(x * 0)), rtol=1e-5)


def test_session_captures_once_per_key_even_from_threads():
    graph = conv_bn_relu_net(1)
    inputs, params = random_values(graph)
    session = Session(make_backend(), NumpyBridge(), Options())
    captures = []

    def capture() -> Captured:
        captures.append(1)
        program = Program(("x0",), (Segment(graph, ("x0",), ("y",)),), ("y",))
        return Captured(program, {k: (lambda k=k: params[k]) for k in params})

    results: list[Any] = []

    def work() -> None:
        compiled = session.compiled("key", Signature(()), capture)
        results.append(compiled(inputs)[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(captures) == 1
    for r in results:
        np.testing.assert_array_equal(r, results[0])
    session.forget()
    session.compiled("key", Signature(()), capture)
    assert len(captures) == 2


def test_convolution_without_a_library_runs_on_its_loop_nest():
    b = Builder()
    x = b.input(1, 3, 5, 5)
    graph = b.done(b("conv", x, b.param(4, 3, 3, 3), b.param(4), **CONV))
    inputs, params = random_values(graph)
    got = compile_graph(graph, params)(inputs)
    np.testing.assert_allclose(got[0], run_graph(graph, inputs, params)[0], rtol=1e-4, atol=1e-4)


def test_a_large_batch_runs_in_slices_and_plans_are_shared():
    graph = conv_bn_relu_net(sym("n"))
    _, params = random_values(graph, env={"n": 1})
    sliced, whole = compile_graph(graph, params), compile_graph(graph, params, Options(slicing=False))
    (segment,) = sliced.segments.values()
    assert segment.batch == "n"
    segment.slice = 2
    for n in (5, 3, 4):
        inputs, _ = random_values(graph, seed=n, env={"n": n})
        want = run_graph(graph, inputs, params)[0]
        np.testing.assert_allclose(sliced(inputs)[0], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole(inputs)[0], want, rtol=1e-4, atol=1e-5)
    assert {dict(env)["n"] for _, _, env in segment._wholes} == {1, 2}  # 5 is 2, 2, 1; 3 is 2, 1; 4 is 2, 2
    (large,) = whole.segments.values()
    small, big = (max(b.placed.plan.arena for b in s._built.values()) for s in (segment, large))
    assert small < big


def test_parameters_of_a_sliced_batch_are_live():
    graph = conv_bn_relu_net(sym("n"))
    inputs, params = random_values(graph, env={"n": 3})
    compiled = compile_graph(graph, params)
    next(iter(compiled.segments.values())).slice = 2
    compiled(inputs)
    for name in params:
        params[name] = params[name] * 0.9
    compiled.refresh()
    np.testing.assert_allclose(compiled(inputs)[0], run_graph(graph, inputs, params)[0], rtol=1e-4, atol=1e-5)


def test_folded_parameters_are_rounded_once():
    graph = conv_bn_relu_net(1)
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, params)
    compiled(inputs)
    (segment,) = compiled.segments.values()
    exact = run_values(segment.prepare, [], {k: v.astype(np.float64) for k, v in params.items()})
    derived = [(v, m) for (v, pack), (_, m) in segment.prepared._memory.items() if pack is None and hasattr(m, "numpy")]
    assert derived
    for v, memory in derived:
        np.testing.assert_array_equal(memory.numpy(v.type), exact[v].astype(np.float32))


def test_views_of_parameters_are_read_where_they_lie():
    b = Builder()
    x, p = b.input(2, 6), b.param(3, 8)
    graph = b.done(b("matmul", x, b("reshape", p, shape=(6, 4))))
    inputs, params = random_values(graph)
    compiled = compile_graph(graph, params)
    np.testing.assert_allclose(compiled(inputs)[0], inputs[0] @ params["p0"].reshape(6, 4), rtol=1e-5)
    assert compiled.prepared_bytes() == 0


def test_numbers_that_follow_from_sizes_need_no_steps():
    n = sym("n")
    b = Builder()
    x = b.input(n, 3)
    count = b("extent", dim=n * 3, dtype="float32")
    ratio = b("div", count, b("sub", count, b.const(1.0)))
    spread = b("reshape", b("expand", b("reshape", ratio, shape=(1,)), shape=(3,)), shape=(1, 3))
    per_channel = b("mul", spread, b.const([[1.0, 2.0, 3.0]]))
    graph = b.done(b("reduce_sum", b("mul", x, per_channel), axes=(1,), keepdims=False), ratio)
    for dfp in (True, False):
        compiled = compile_graph(graph, {}, Options(dfp=dfp))
        for size in (2, 5):
            inputs, _ = random_values(graph, seed=size, env={"n": size})
            for got, want in zip(compiled(inputs), run_graph(graph, inputs, {}), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-5)
        (segment,) = compiled.segments.values()
        steps = segment.built({"n": 5}).placed.plan.steps
        assert len(steps) <= 3, "the products, the sum, and the number that is a result"
