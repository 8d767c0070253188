"""The conformance kit's second part: what `api.Backend` promises beyond right numbers.

    from nnaccel_core.testing import contract

    @pytest.mark.parametrize("check", contract.checks(), ids=str)
    def test_contract(check):
        check(my_backend())

Each check is a function of a backend whose memory is the host's, and raises AssertionError with what is wrong.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnaccel_core.api import Backend, Captured
from nnaccel_core.driver.session import Compiled
from nnaccel_core.errors import NnaccelError, OutOfMemoryError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, Program, Segment, TensorType, Value, channels_last, sym
from nnaccel_core.ops.registry import infer
from nnaccel_core.options import Options
from nnaccel_core.testing.conformance import compile_graph
from nnaccel_core.testing.memory import NumpyBridge

Array = np.ndarray[Any, Any]
_CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}


@dataclass(frozen=True)
class Check:
    """One promise of a backend; call it with the backend."""

    name: str
    run: Callable[[Backend], None]

    def __call__(self, backend: Backend) -> None:
        self.run(backend)

    def __str__(self) -> str:
        return self.name


_checks: list[Check] = []


def checks() -> Sequence[Check]:
    """All checks, in order."""
    return tuple(_checks)


def _check(run: Callable[[Backend], None]) -> Callable[[Backend], None]:
    _checks.append(Check(run.__name__, run))
    return run


class _Graph:
    """Builds a graph with types inferred."""

    def __init__(self) -> None:
        self.inputs: list[Value] = []
        self.params: list[Value] = []
        self.nodes: list[Node] = []

    def input(self, *shape: Any, layout: Any = None) -> Value:
        self.inputs.append(Value(TensorType(shape, "float32", layout), f"x{len(self.inputs)}"))
        return self.inputs[-1]

    def param(self, *shape: int) -> Value:
        self.params.append(Value(TensorType(shape, "float32"), f"p{len(self.params)}"))
        return self.params[-1]

    def __call__(self, op: str, *inputs: Value, **attrs: Any) -> Value:
        types = infer(op, [v.type for v in inputs], attrs)
        outputs = tuple(Value(t, f"v{len(self.nodes)}_{i}") for i, t in enumerate(types))
        self.nodes.append(Node(op, inputs, outputs, attrs, f"layer{len(self.nodes)}"))
        return outputs[0]

    def done(self, *outputs: Value) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.params), tuple(self.nodes), outputs, name="contract")


def _network() -> Graph:
    """Convolution, bias, activation, pooling, a fully connected layer, on any batch."""
    g = _Graph()
    x = g.input(sym("n"), 3, 6, 6)
    y = g("sigmoid", g("conv", x, g.param(4, 3, 3, 3), g.param(4), **_CONV))
    y = g("reduce_mean", y, axes=(2, 3), keepdims=False)
    return g.done(g("matmul", y, g.param(5, 4), g.param(5), transpose_b=True))


def _numbers(graph: Graph, n: int, seed: int = 0) -> tuple[list[Array], dict[str, Array]]:
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=v.type.concrete({"n": n}).shape).astype(v.dtype) for v in (*graph.inputs, *graph.params)]  # type: ignore[arg-type]
    return made[: len(graph.inputs)], {p.name: a for p, a in zip(graph.params, made[len(graph.inputs) :], strict=True)}


def _same(got: Sequence[Array], want: Sequence[Array], what: str) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.shape == np.shape(b) and a.dtype == b.dtype, f"{what}: {a.dtype}{a.shape} instead of {b.dtype}{np.shape(b)}"
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=what)


def _compiled(backend: Backend) -> tuple[Compiled, Graph, dict[str, Array]]:
    graph = _network()
    _, params = _numbers(graph, 1)
    return compile_graph(graph, backend, params), graph, params


@_check
def probe_describes_the_machine(backend: Backend) -> None:
    """`probe` is repeatable, and every number of the machine is positive."""
    machine = type(backend).probe()
    assert machine is not None and machine == type(backend).probe()
    for field in ("cores", "simd_bytes", "l1", "l2", "flops", "bandwidth"):
        assert getattr(machine, field) > 0, f"{field} is {getattr(machine, field)}"
    assert machine.key() and machine.name
    assert backend.devices and all(d == d.lower() and ":" not in d for d in backend.devices), backend.devices


@_check
def memory_is_aligned_and_its_own(backend: Backend) -> None:
    """64-byte aligned, as large as asked, apart from other memory, and the same bytes through every view."""
    held = [backend.memory(n) for n in (1, 63, 64, 4097, 1 << 20)]
    spans = sorted((m.address, m.address + m.nbytes) for m in held)
    for m, n in zip(held, (1, 63, 64, 4097, 1 << 20), strict=True):
        assert m.address % 64 == 0, f"{n} bytes at {m.address:#x}"
        assert m.nbytes >= n
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans)), "two memories overlap"
    flat = TensorType((2 * 3 * 4 * 5,), "float32")
    last = TensorType((2, 3, 4, 5), "float32", channels_last(4))
    held[-1].numpy(flat)[...] = np.arange(120, dtype=np.float32)
    want = np.arange(120, dtype=np.float32).reshape(2, 4, 5, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(held[-1].numpy(last), want, "numpy() must give logical axes")


@_check
def too_much_memory_is_an_error_of_its_own(backend: Backend) -> None:
    """`OutOfMemoryError` (a MemoryError too) that says how much was asked for; the backend works on."""
    try:
        backend.memory(1 << 60)
    except OutOfMemoryError as e:
        assert isinstance(e, MemoryError) and any(c.isdigit() for c in str(e)), f"the message names no size: {e}"
    else:
        raise AssertionError("2**60 bytes were given")
    assert backend.memory(64).address


@_check
def several_sizes_of_one_network(backend: Backend) -> None:
    """Executables for different batch sizes live side by side."""
    compiled, graph, params = _compiled(backend)
    for n in (1, 3, 2, 3, 1):
        inputs, _ = _numbers(graph, n, seed=n)
        _same(compiled(inputs), run_graph(graph, inputs, params), f"batch {n}")


@_check
def empty_tensors(backend: Backend) -> None:
    """Dims of 0 give results with dims of 0; a sum over nothing is 0."""
    g = _Graph()
    x = g.input(sym("n"), 3)
    graph = g.done(g("relu", x), g("reduce_sum", x, axes=(0,), keepdims=False))
    compiled = compile_graph(graph, backend)
    for n in (0, 2, 0):
        inputs, _ = _numbers(graph, n)
        _same(compiled(inputs), run_graph(graph, inputs, {}), f"{n} rows")


@_check
def scalars(backend: Backend) -> None:
    """Tensors of rank 0."""
    g = _Graph()
    graph = g.done(g("exp", g("add", g.input(), g.input())))
    inputs, _ = _numbers(graph, 1)
    _same(compile_graph(graph, backend)(inputs), run_graph(graph, inputs, {}), "rank 0")


@_check
def channels_last_inputs_and_results(backend: Backend) -> None:
    """Layouts of inputs and results are physical; axes stay logical."""
    g = _Graph()
    x = g.input(2, 3, 4, 5, layout=channels_last(4))
    y = g("relu", x)
    object.__setattr__(y, "type", y.type.with_layout(channels_last(4)))
    data = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32).transpose(0, 3, 1, 2)
    (got,) = compile_graph(g.done(y), backend)([data])
    found = NumpyBridge().type_of(got)
    assert found is not None and found.layout == channels_last(4)
    _same([got], [np.maximum(data, 0)], "channels last")


@_check
def inputs_and_results_are_left_alone(backend: Backend) -> None:
    """A call writes nothing but its own results: neither its inputs, nor what an earlier call returned."""
    compiled, graph, _ = _compiled(backend)
    inputs, _ = _numbers(graph, 2)
    before = [a.copy() for a in inputs]
    first = compiled(inputs)
    kept = [a.copy() for a in first]
    for _ in range(3):
        compiled([-a for a in inputs])
    for a, b in zip([*first, *inputs], [*kept, *before], strict=True):
        np.testing.assert_array_equal(a, b)


@_check
def parameters_change_between_calls(backend: Backend) -> None:
    """After `refresh`, runs see the parameters' new values, packed ones included."""
    graph = _network()
    inputs, params = _numbers(graph, 2)
    program = Program(("x",), (Segment(graph, ("x",), ("y",)),), ("y",))
    getters = {name: (lambda name=name: params[name]) for name in params}
    compiled = Compiled(Captured(program, getters), backend, NumpyBridge(), Options())
    compiled(inputs)
    for name in params:
        params[name] = (params[name] * 0.5).astype(np.float32)
    compiled.refresh()
    _same(compiled(inputs), run_graph(graph, inputs, params), "new parameters")


def _in_threads(count: int, body: Callable[[int], None]) -> None:
    """Run ``body(i)`` in ``count`` threads at once and raise the first error of any."""
    failed: list[BaseException] = []

    def run(i: int) -> None:
        try:
            body(i)
        except BaseException as e:
            failed.append(e)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise failed[0]


@_check
def several_threads_at_once(backend: Backend) -> None:
    """One executable runs in four threads at once, each with its own inputs."""
    compiled, graph, params = _compiled(backend)
    work = [_numbers(graph, 2, seed=i)[0] for i in range(4)]
    want = [run_graph(graph, inputs, params) for inputs in work]
    compiled(work[0])
    start = threading.Barrier(4)

    def run(i: int) -> None:
        start.wait()
        for _ in range(5):
            _same(compiled(work[i]), want[i], f"thread {i}")

    _in_threads(4, run)


@_check
def compiled_by_several_threads_at_once(backend: Backend) -> None:
    """`candidates` and `build` may be called from several threads."""
    graph = _network()
    inputs, params = _numbers(graph, 2)
    want = run_graph(graph, inputs, params)
    _in_threads(3, lambda i: _same(compile_graph(graph, backend, params)(inputs), want, f"the network of thread {i}"))


@_check
def host_operators_between_kernels(backend: Backend) -> None:
    """Operators that only have a numpy reference run between compiled steps."""
    g = _Graph()
    x = g.input(4, 6)
    top = g("topk", g("exp", x), k=3, axis=1, largest=True, sorted=True)
    graph = g.done(g("neg", top))
    inputs, _ = _numbers(graph, 1)
    _same(compile_graph(graph, backend)(inputs), run_graph(graph, inputs, {}), "topk between exp and neg")


@_check
def without_libraries_and_without_depth_first(backend: Backend) -> None:
    """``libraries=False`` and ``dfp=False`` give the same numbers."""
    graph = _network()
    inputs, params = _numbers(graph, 2)
    want = run_graph(graph, inputs, params)
    variants = (Options(libraries=False), Options(dfp=False), Options(dfp=False, libraries=False), Options(numerics="strict"))
    for options in variants:
        _same(compile_graph(graph, backend, params, options)(inputs), want, str(options))


@_check
def profiles_name_every_step(backend: Backend) -> None:
    """While ``profiling`` is set, `profile` gives one time per step of the plan; or never any."""
    compiled, graph, _ = _compiled(backend)
    inputs, _ = _numbers(graph, 2)
    compiled(inputs)
    (segment,) = compiled.segments.values()
    built = segment.built({"n": 2})
    built.executable.profiling = True
    compiled(inputs)
    built.executable.profiling = False
    profile = built.executable.profile()
    if profile:
        assert len(profile) == len(built.placed.plan.steps)
        assert all(origin and seconds >= 0 for origin, seconds in profile)


@_check
def unknown_packs_are_refused(backend: Backend) -> None:
    """`pack_candidate` of a key that the backend never made is an error of nnaccel's."""
    source = Value(TensorType((4,), "float32"), "w")
    node = Node("pack", (source,), (Value(TensorType((16,), "uint8"), "packed"),), {"key": "no such key", "nbytes": 16})
    try:
        backend.pack_candidate(node)
    except NnaccelError:
        return
    raise AssertionError("a key that this backend never made was accepted")
