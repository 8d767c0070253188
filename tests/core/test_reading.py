"""Estimates of layers whose weights come from far."""

from __future__ import annotations

import pytest

from core.graphs import Builder
from nnaccel_core.api import Machine
from nnaccel_core.ir import Graph
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.reading import L3, MEMORY, after_reading, reading_seconds

LARGE = Machine("x86", "test", "avx2", 2, 32, 32 << 10, 1 << 20, 32 << 20, 200e9, 20e9)


def layer() -> Graph:
    """A fully connected layer of 4 MB, and a sum with a parameter."""
    b = Builder()
    y = b("matmul", b.input(1, 1000), b.param(1000, 1000))
    return b.done(b("add", y, b.param(1, 1000)))


def test_weights_are_read_from_where_all_of_a_network_fit():
    times = [reading_seconds(LARGE, 4e6, among) for among in (1 << 20, 24 << 20, (24 << 20) + 1, 100 << 20)]
    assert times[0] < times[1] < times[2] == times[3] == pytest.approx(4e6 / 20e9 / MEMORY)
    assert times[1] == pytest.approx(4e6 / 20e9 / L3)


def test_no_candidate_is_faster_than_reading_its_weights():
    g = layer()
    product, addition = g.nodes
    offered = [Candidate((product,), (), (), s, "c", None, "test") for s in (60e-6, 50e-6, 900e-6)]
    offered.append(Candidate((addition,), (), (), 1e-9, "c", None, "test"))
    offered.append(Candidate((product, addition), (), (), 70e-6, "c", None, "test"))
    near = after_reading(g, {}, LARGE, 10_000_000, offered)
    assert near[0].seconds == pytest.approx(4e6 / 20e9 / L3 + 3e-6)
    far = after_reading(g, {}, LARGE, 100_000_000, offered)
    assert all(c.seconds > 4e6 / 20e9 / MEMORY for c in (far[0], far[1], far[4]))
    assert far[1].seconds < far[0].seconds < far[4].seconds  # their order stays
    assert far[2] is offered[2] and far[3] is offered[3]
