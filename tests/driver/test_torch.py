"""`verify` and `explain` of torch modules, on the interpreter: no device, no compiler."""

from __future__ import annotations

import re
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from driver.wrong import wrong_backend  # noqa: E402
from nnaccel_core import explain  # noqa: E402
from nnaccel_core.driver.session import Session  # noqa: E402
from nnaccel_core.errors import InputError, MismatchError, PluginError  # noqa: E402
from nnaccel_core.options import Options  # noqa: E402


def optimized(net: nn.Module, verify: bool = True, **wrong: Any) -> Any:
    """``net`` as `optimize` gives it, on a backend of the test's."""
    from nnaccel_frontend_torch.bridge import TorchCpuBridge
    from nnaccel_frontend_torch.module import wrap

    class InterpBridge(TorchCpuBridge):
        device, home = "interp", "cpu"

    return wrap(net.eval(), Session(wrong_backend(**wrong or {"op": "none"}), InterpBridge(), Options(verify=verify)))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 3)
        self.second = nn.Sequential(nn.Tanh(), nn.Linear(3, 2))

    def forward(self, x: Any) -> Any:
        return {"y": self.second(torch.tanh(self.first(x)))}


@torch.no_grad()
def test_a_wrong_group_raises_and_is_named_by_its_layer():
    fast = optimized(Net(), layer="second.0", error=0.5)
    with pytest.raises(MismatchError, match=r"first group that differs is second.0 \[tanh\] \(interpreter: wrong library call\)"):
        fast(torch.randn(2, 4))


@torch.no_grad()
def test_the_first_two_calls_of_a_program_are_verified(monkeypatch):
    from nnaccel_frontend_torch import call

    checked = []
    real = call.verified
    monkeypatch.setattr(call, "verified", lambda *a: checked.append(1) or real(*a))
    net = Net()
    fast = optimized(net)
    for n in (2, 3, 4, 4):
        x = torch.randn(n, 4)
        torch.testing.assert_close(fast(x), net(x))
    assert len(checked) == 2
    assert fast.nnaccel_report()["compiled_calls"] == 4


class Counter(nn.Module):
    """Writes its argument and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Any) -> Any:
        x.mul_(2)
        self.seen.add_(x.sum(0))
        return torch.tanh(x)


@torch.no_grad()
@pytest.mark.parametrize("transposed", [False, True])
def test_writes_happen_once(transposed):
    net = Counter()
    twin = Counter()
    fast = optimized(net)
    for _ in range(3):
        x = torch.randn(3, 2).t() if transposed else torch.randn(2, 3)
        y = x.clone()
        torch.testing.assert_close(fast(x), twin(y))
        torch.testing.assert_close(x, y)
        torch.testing.assert_close(net.seen, twin.seen)


@torch.no_grad()
def test_the_networks_own_errors_come_through():
    fast = optimized(Net())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fast(torch.randn(2, 5))


@torch.no_grad()
def test_dynamo_graphs_are_verified():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.Tanh()

        def forward(self, x: Any) -> Any:
            return self.act(x) if x.sum() > 0 else self.act(-x)

    fast = optimized(Branching(), error=0.5)
    with pytest.raises(MismatchError, match=r"\[tanh\] \(interpreter: wrong library call\)"):
        fast(torch.ones(3, 4))
    torch.testing.assert_close(optimized(Branching())(torch.ones(3, 4)), torch.tanh(torch.ones(3, 4)))


def test_explain_before_anything_is_compiled():
    fast = optimized(Net(), verify=False)
    text = str(explain(fast))
    assert text.startswith("Net on interp (loop IR interpreter, none, 2 cores)\nnothing is compiled yet")
    fast(torch.empty(0, 4))
    assert "ran in torch (1 call): an argument has no elements" in str(explain(fast))


def test_explain_names_groups_times_and_memory():
    fast = optimized(Net(), verify=False, error=0.0)
    found = explain(fast, torch.randn(2, 4))  # runs without gradients
    (program,) = found.programs
    (segment,) = program.segments
    tanh = next(g for g in segment.groups if g.layers == ("second.0",))
    assert tanh.ops == ("tanh",) and tanh.limit == "any"
    assert tanh.chosen == "interpreter: wrong library call" and tanh.estimated == 1e-12 and tanh.measured > 0
    assert any(other.startswith("core: generated") and "wrong library call is faster" in other for other in tanh.others)
    assert tanh.bytes == 2 * 2 * 3 * 4 and tanh.launches == 1
    product = next(g for g in segment.groups if "matmul" in g.ops)
    assert product.limit in ("params", "compute")
    assert segment.results == 2 * 2 * 4 and segment.measured == pytest.approx(sum(g.measured for g in segment.groups))
    assert found.seconds > segment.measured * 0.2
    text = found.text()
    assert text == str(found)
    assert "captured: traced" in text and "by interpreter: wrong library call" in text and "not core: generated" in text
    assert f"in all: {len(segment.groups)} launches" in text and "peak memory" in text
    assert not any(b.executable.profiling for c in fast._nnaccel.session.programs().values()
                   for s in c.segments.values() for b in s._built.values()), "timing is switched off again"  # fmt: skip


@torch.no_grad()
def test_explain_without_inputs_shows_every_size_with_estimates():
    fast = optimized(Net(), verify=False)
    fast(torch.randn(2, 4))
    fast(torch.randn(3, 4))
    (program,) = explain(fast).programs
    assert [dict(s.sizes) for s in program.segments] == [{"N": 2}, {"N": 3}]
    assert all(g.measured is None and g.estimated for s in program.segments for g in s.groups)
    timed = explain(fast, torch.randn(3, 4)).programs[0].segments
    assert [dict(s.sizes) for s in timed] == [{"N": 3}], "only what ran"


@torch.no_grad()
def test_explain_says_what_stays_in_torch_and_why():
    class Sorted(nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.qr(torch.tanh(x))[1] + 1

    text = str(explain(optimized(Sorted(), verify=False), torch.randn(3, 3)))
    assert re.search("left to the framework: .*qr", text)


def test_explain_refuses_what_is_not_optimized():
    with pytest.raises(InputError, match="takes what optimize.. returned, not a .*Net"):
        explain(Net())
    with pytest.raises(PluginError, match="no frontend accepts a builtins.int"):
        explain(3)
