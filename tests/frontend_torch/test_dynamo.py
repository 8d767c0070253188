"""Dynamo as the second way of capture, and as a backend of ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frontend_torch.nets import Lambda, ResNet, settled
from frontend_torch.reference import InterpretedSession, close, interpreted
from nnaccel_core.ir import Segment
from nnaccel_frontend_torch.dynamo import DynamoGraph


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def programs(fast: Any) -> list[Any]:
    return [p.captured.program for p in fast._nnaccel.session.made.values()]


def by_dynamo(net: nn.Module, *args: Any, sizes: tuple[int, ...] = (2, 2, 3)) -> Any:
    """The optimized network, whose trace must be refused and whose results must be torch's."""
    net.eval()
    fast = interpreted(net)
    with torch.no_grad():
        for n in sizes:
            x = torch.randn(n, 4)
            close(fast(x, *args), net(x, *args))
    assert fast.nnaccel_report()["trace_refused"], fast.nnaccel_report()
    return fast


def test_factories_and_branches() -> None:
    def f(self: Any, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(x) + torch.ones(4) * 2 + torch.arange(4)
        return x if x.is_contiguous() else -x

    fast = by_dynamo(Lambda(f, fc=nn.Linear(4, 4)))
    assert not fast.nnaccel_report()["own_calls"], fast.nnaccel_report()
    kinds = [type(p) for program in programs(fast) for p in program.parts]
    assert kinds and all(k is Segment for k in kinds)
    graph = programs(fast)[0].parts[0].graph
    assert len(graph.params) == 2, "weight and bias are parameters, not inputs"
    assert len(graph.inputs) == 1


def test_weights_stay_live() -> None:
    net = Lambda(lambda s, x: s.fc(x) + int(x.is_contiguous()), fc=nn.Linear(4, 4)).eval()
    fast = interpreted(net)
    x = torch.randn(2, 4)
    with torch.no_grad():
        close(fast(x), net(x))
        for change in (
            lambda: net.fc.weight.data.mul_(2),
            lambda: net.fc.bias.detach().numpy().__iadd__(1),
            lambda: net.fc.weight.add_(1),
            lambda: setattr(net.fc.weight, "data", torch.randn(4, 4)),
            lambda: setattr(net.fc, "bias", nn.Parameter(torch.randn(4))),
            lambda: setattr(net, "fc", nn.Linear(4, 4)),
        ):
            change()
            close(fast(x), net(x))
    assert fast.nnaccel_report()["trace_refused"] and not fast.nnaccel_report()["own_calls"]


def test_counters_count() -> None:
    def f(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x * self.calls

    net, twin = Lambda(f, calls=0).eval(), Lambda(f, calls=0).eval()
    fast = interpreted(net)
    for _ in range(5):
        x = torch.randn(3)
        close(fast(x), twin(x))
    assert net.calls == twin.calls == 5


def test_data_dependent_branches() -> None:
    net = Lambda(lambda s, x: s.fc(x) * 2 if x.sum() > 0 else s.fc(x) - 1, fc=nn.Linear(4, 4)).eval()
    fast = interpreted(net)
    with torch.no_grad():
        for x in (torch.ones(2, 4), -torch.ones(2, 4), torch.ones(3, 4)):
            close(fast(x), net(x))


def test_data_dependent_sizes() -> None:
    net = Lambda(lambda s, x: s.fc(x[x[:, 0] > 0]), fc=nn.Linear(4, 4))
    by_dynamo(net)


def test_lstm() -> None:
    lstm, head = nn.LSTM(4, 5, batch_first=True), nn.Linear(5, 2)
    net = Lambda(lambda s, x: s.head(s.lstm(x[:, None] + int(x.is_contiguous()))[0]), lstm=lstm, head=head)
    by_dynamo(net)


def test_attention_layers() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    fast = interpreted(net)
    with torch.no_grad():
        for n in (2, 3):
            x = torch.randn(n, 5, 8)
            close(fast(x), net(x), 1e-3)


def test_random_numbers_are_torchs() -> None:
    net = Lambda(lambda s, x: s.fc(x) + torch.rand(4), fc=nn.Linear(4, 4)).eval()
    fast = interpreted(net)
    x = torch.randn(2, 4)
    with torch.no_grad():
        for _ in range(2):
            torch.manual_seed(5)
            a = fast(x)
            torch.manual_seed(5)
            close(a, net(x))


def test_gradients_run_in_torch() -> None:
    net = Lambda(lambda s, x: s.fc(x) + int(x.is_contiguous()), fc=nn.Linear(4, 4)).eval()
    fast = interpreted(net)
    x = torch.randn(2, 4)
    with torch.no_grad():
        fast(x)
    fast(x).sum().backward()
    assert net.fc.weight.grad is not None


def compiled(net: nn.Module) -> tuple[Any, InterpretedSession, dict[str, int]]:
    from collections import Counter

    session, reasons = InterpretedSession(), Counter[str]()
    return torch.compile(net, backend=lambda m, i: DynamoGraph(m, i, session, reasons)), session, reasons


def test_backend_of_torch_compile() -> None:
    net = settled(ResNet(4, 5, (1, 1)))
    fast, session, reasons = compiled(net)
    with torch.no_grad():
        for n in (2, 3, 4, 5):
            x = torch.randn(n, 3, 24, 24)
            close(fast(x), net(x))
        assert not reasons, reasons
        assert len(session.made) <= 2, "the second program takes any batch"
        net.fc.weight.data.mul_(3)
        close(fast(x), net(x))
    fast(x).square().sum().backward()
    assert not reasons, reasons
    found = [p.grad for p in net.parameters()]
    net.zero_grad()
    net(x).square().sum().backward()
    for got, p in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(got, p.grad, rtol=1e-3, atol=1e-4)
    origins = {n.origin for n in next(iter(session.made.values())).captured.program.parts[0].graph.nodes}
    assert "layer1.0.conv1" in origins, origins


def test_backend_keeps_aliases_and_writes() -> None:
    def f(self: Any, x: torch.Tensor) -> Any:
        x.add_(1)
        y = x * 2
        return y, y[0], x

    net = Lambda(f)
    fast, _, reasons = compiled(net)
    with torch.no_grad():
        a, b = torch.ones(2, 3), torch.ones(2, 3)
        got, want = fast(a), net(b)
        close(got, want)
        close(a, b)
        got[1].zero_()
        assert not got[0][0].any()
        assert got[2] is a
    assert not reasons, reasons


def test_entry_point_names_the_backend() -> None:
    text = (Path(__file__).parents[2] / "nnaccel_frontend_torch" / "pyproject.toml").read_text()
    assert 'nnaccel = "nnaccel_frontend_torch.dynamo:nnaccel"' in text
    from nnaccel_frontend_torch import dynamo

    load: Callable[..., Any] = EntryPoint("nnaccel", "nnaccel_frontend_torch.dynamo:nnaccel", "torch_dynamo_backends").load()
    assert load is dynamo.nnaccel
