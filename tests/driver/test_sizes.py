"""A second size is planned from the groups of the first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from core.graphs import CONV, Builder, random_values
from driver.wrong import WrongBackend
from nnaccel_core.interp import run_graph
from nnaccel_core.ir import Graph, Node, sym
from nnaccel_core.options import Options
from nnaccel_core.testing.conformance import compile_graph


def net() -> Graph:
    b = Builder()
    x = b.input(sym("n"), 2, 6, 6)
    y = b("tanh", b("exp", b("conv", x, b.param(3, 2, 3, 3), **CONV)))
    return b.done(b("sqrt", b("exp", b("tanh", b("conv", y, b.param(3, 3, 3, 3), **CONV)))))


class Watched(WrongBackend):
    """Offers a "library" tanh up to a size, and remembers what it was asked for."""

    error = 0.0
    most = 100

    def candidates(self, graph: Graph, env: Any, options: Options, only: Collection[frozenset[Node]] | None = None) -> Any:
        self.asked.append(only)
        return super().candidates(graph, env, options, only) if env["n"] <= self.most else ()


def run(backend: Any, compiled: Any, graph: Graph, n: int) -> None:
    inputs, params = random_values(graph, env={"n": n}, seed=n)
    (got,) = compiled(inputs)
    (want,) = run_graph(graph, inputs, compiled.testing_params)
    assert abs(got - want).max() < 1e-5


@pytest.fixture
def watched() -> Any:
    graph = net()
    _, params = random_values(graph, env={"n": 1})
    machine = Watched.probe()
    assert machine is not None
    backend = Watched(machine, "interp")
    backend.asked = []  # type: ignore[attr-defined]
    compiled = compile_graph(graph, backend, params, Options(slicing=False))
    compiled.testing_params = params  # type: ignore[attr-defined]
    return graph, backend, compiled


def groups(compiled: Any, n: int) -> list[tuple[str, ...]]:
    (segment,) = compiled.segments.values()
    return [tuple(node.op for node in u.nodes) for u in segment.built({"n": n}).selection.units]


def test_only_the_chosen_groups_are_offered_again(watched, monkeypatch):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 1)
    assert backend.asked == [None]
    from nnaccel_core import dfp

    monkeypatch.setattr(dfp, "merge", lambda ctx: pytest.fail("looked for groups again"))
    run(backend, compiled, graph, 3)
    assert [[sorted(n.op for n in nodes) for nodes in only] for only in backend.asked[1:]] == [[["tanh"], ["tanh"]]]
    assert groups(compiled, 3) == groups(compiled, 1)


def test_a_size_that_a_chosen_group_is_not_offered_at_is_selected_afresh(watched):
    graph, backend, compiled = watched
    run(backend, compiled, graph, 1)
    backend.most = 1
    run(backend, compiled, graph, 4)
    assert [only is None for only in backend.asked] == [True, False, True]
    assert groups(compiled, 4) != groups(compiled, 1)
