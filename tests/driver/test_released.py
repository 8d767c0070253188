"""Parameters whose memory was given back: which may be, and what programs still do without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nnaccel_core
from core.graphs import conv_bn_relu_net, random_values
from nnaccel_core.api import Captured, Signature
from nnaccel_core.driver.session import Compiled, Session
from nnaccel_core.errors import ReleasedError, UnsupportedError
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Program, Segment, sym
from nnaccel_core.options import Options
from nnaccel_core.testing.interpreter import InterpreterBackend
from nnaccel_core.testing.memory import NumpyBridge


class Network:
    """Programs of one session over the same parameters, each captured on its own."""

    def __init__(self, outside: tuple[str, ...] = ()) -> None:
        machine = InterpreterBackend.probe()
        assert machine is not None
        self.session = Session(InterpreterBackend(machine, "interp"), NumpyBridge(), Options())
        _, self.params = random_values(conv_bn_relu_net(sym("n")), env={"n": 1})
        self.kept = {name: p.copy() for name, p in self.params.items()}
        self.gone: set[str] = set()
        self.outside = outside

    def _get(self, name: str) -> Any:
        if name in self.gone:
            raise ReleasedError(name)
        return self.params[name]

    def program(self, key: str) -> tuple[Graph, Compiled]:
        graph = conv_bn_relu_net(sym("n"))
        names = tuple(v.name for v in graph.inputs)
        live = {name: (lambda name=name: self._get(name)) for name in self.params}
        raw = {name: (lambda name=name: self.params[name]) for name in self.params}
        captured = Captured(
            Program(names, (Segment(graph, names, ("y",)),), ("y",)), live, tracked=raw, outside=self.outside
        )
        return graph, self.session.compiled(key, Signature(()), lambda: captured)

    def check(self, key: str, n: int) -> Any:
        graph, compiled = self.program(key)
        inputs, _ = random_values(graph, seed=n, env={"n": n})
        (got,) = compiled(inputs)
        np.testing.assert_allclose(got, run_graph(graph, inputs, self.kept)[0], rtol=1e-4, atol=1e-5)
        return got

    def release(self) -> set[str]:
        ready = self.session.releasable()
        self.session.release_parameters(ready)
        self.gone = {name for name, p in self.params.items() if id(p) in ready}
        for name in self.gone:
            self.params[name].fill(np.nan)
        return self.gone


def test_what_lies_where_plans_read_it_stays() -> None:
    net = Network()
    assert not net.release(), "nothing was called yet"
    before = net.check("a", 2)
    (segment,) = net.program("a")[1].segments.values()
    in_place = {id(owner) for _, owner in segment.prepared._memory.values() if isinstance(owner, np.ndarray)}
    released = net.release()
    assert released
    assert released == {name for name, p in net.params.items() if id(p) not in in_place}
    assert not net.release(), "twice"
    np.testing.assert_array_equal(net.check("a", 2), before)


@pytest.mark.parametrize("key", ["a", "another program"])
def test_other_sizes_and_programs_use_what_was_kept(key: str) -> None:
    net = Network()
    net.check("a", 2)
    assert net.release()
    net.check(key, 3)
    net.check(key, 1)


def test_other_programs_keep_what_they_read() -> None:
    net = Network(outside=("p0",))
    net.check("a", 2)
    assert "p0" not in net.release()
    free = Network()
    free.check("a", 2)
    assert "p0" in free.release()


def test_a_program_that_never_ran_needs_its_parameters() -> None:
    net = Network()
    net.check("a", 2)
    net.program("b")
    assert not net.release()


def test_what_cannot_be_derived_again_is_not_dropped() -> None:
    net = Network()
    before = net.check("a", 2)
    net.release()
    with pytest.raises(ReleasedError, match="parameters changed"):
        net.program("a")[1].refresh()
    np.testing.assert_array_equal(net.check("a", 2), before)


def test_a_form_that_was_not_kept_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network()
    net.check("a", 2)
    net.release()
    net.session.released.forms.clear()
    with pytest.raises(ReleasedError, match=r"cannot be planned for sizes \{'n': 3\}.*nnaccel_release"):
        net.check("b", 3)


def test_other_frontends_and_options_refuse() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("nnaccel_backend_x86")
    with pytest.raises(UnsupportedError, match="verify compares"):
        nnaccel_core.optimize(torch.nn.ReLU(), release_parameters=True, verify=True)
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("nnaccel_frontend_onnx")
    value = onnx.helper.make_tensor_value_info
    relu = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([relu], "net", [value("x", 1, [4])], [value("y", 1, [4])])
    with pytest.raises(UnsupportedError, match="for PyTorch networks; the frontend 'onnx' keeps all"):
        nnaccel_core.optimize(onnx.helper.make_model(graph), release_parameters=True)
