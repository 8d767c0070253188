"""Structures kept on disk: a new process plans as the one before, without lowering or mapping anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfp.helpers import MACHINE, Net
from nnaccel_core.cache import DiskCache
from nnaccel_core.dfp import build as build_module
from nnaccel_core.dfp import propose, store
from nnaccel_core.dfp.group import pattern
from nnaccel_core.ir import Graph
from nnaccel_core.loopir.format import format_kernel
from nnaccel_core.ops import registry
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate


def _graph() -> Graph:
    net = Net()
    y = net.relu6(net.depthwise(net.relu6(net.input("n", 32, 20, 20)), 3, 1))
    return net.graph(net.op("softmax", net.mean(y, 2, 3), axis=1))


def _facts(found: list[Candidate]) -> list[tuple[object, ...]]:
    out: list[tuple[object, ...]] = []
    for c in found:
        call = c.impl.calls[0]
        out.append((c.reason, c.seconds, len(c.inputs), call.dims, call.tasks, call.scratch, call.source.identity))
    return out


@pytest.fixture
def new_process(monkeypatch: pytest.MonkeyPatch):
    def forget() -> None:
        monkeypatch.setattr(build_module, "_built", {})

    forget()
    return forget


def test_a_new_process_lowers_nothing(tmp_path: Path, new_process, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path)
    first = propose(_graph(), {"n": 2}, MACHINE, Options(), "test", cache)
    texts = [format_kernel(c.impl.calls[0].kernel) for c in first]
    new_process()
    with monkeypatch.context() as m:
        m.setattr(build_module, "_stages", lambda *a: pytest.fail("lowered again"))
        second = propose(_graph(), {"n": 2}, MACHINE, Options(), "test", DiskCache(tmp_path))
    assert _facts(second) == _facts(first)
    assert all(c.impl.calls[0].source.identity for c in second)
    assert [format_kernel(c.impl.calls[0].kernel) for c in second] == texts


def test_refusals_are_kept(tmp_path: Path, new_process, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = build_module.Reason("no")
    with monkeypatch.context() as m:
        m.setattr(build_module, "stage", lambda *_: reason)
        assert propose(_graph(), {"n": 2}, MACHINE, Options(), "test", DiskCache(tmp_path)) == []
    new_process()
    assert propose(_graph(), {"n": 2}, MACHINE, Options(), "test", DiskCache(tmp_path)) == []


def test_other_code_starts_over(tmp_path: Path, new_process, monkeypatch: pytest.MonkeyPatch) -> None:
    first = propose(_graph(), {"n": 2}, MACHINE, Options(), "test", DiskCache(tmp_path))
    new_process()
    monkeypatch.setattr(store, "code_version", lambda: "other")
    second = propose(_graph(), {"n": 2}, MACHINE, Options(), "test", DiskCache(tmp_path))
    identities = [{c.impl.calls[0].source.identity for c in found} for found in (first, second)]
    assert identities[0] and not identities[0] & identities[1]


def test_operators_of_other_packages_have_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    out = net.op("relu", net.input(4, 5))
    p = pattern(net.nodes, (out,))
    assert store.identity(p)
    monkeypatch.setitem(registry._ops, "relu", (registry.lookup("relu"), "another_package"))
    assert store.identity(p) == ""
