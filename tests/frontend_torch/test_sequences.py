"""Sequence networks are captured whole: one traced segment, at every batch size, but for what the report names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import nnaccel_core
from frontend_torch.nets import Lambda
from frontend_torch.reference import close, interpreted
from frontend_torch.sequences import Bert, Gpt, OlderGpt, Tagger, Vit, encoder
from nnaccel_core.ir import Foreign, Segment


def ids(n: int, t: int = 12) -> torch.Tensor:
    return torch.randint(1, 50, (n, t), generator=torch.Generator().manual_seed(n))


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))


def text(n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    mask = (torch.arange(12) < torch.tensor([[12], [9], [4]])[torch.arange(n) % 3]).long()
    return ids(n), mask, (torch.arange(12) > 5).long().expand(n, -1).contiguous()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "bert": (Bert, text),
    "gpt": (Gpt, lambda n: (ids(n),)),
    "older gpt": (OlderGpt, lambda n: (drawn(n, 9, 32),)),
    "vit": (Vit, lambda n: (drawn(n, 3, 32, 32),)),
    "encoder": (encoder, lambda n: (drawn(n, 9, 32),)),
    "up": (lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, 1), lambda n: (drawn(n, 4, 5, 6),)),
    "multi-head attention": (
        lambda: Lambda(lambda s, x: s.layer(x, x, x), layer=nn.MultiheadAttention(32, 4, batch_first=True)),
        lambda n: (drawn(n, 9, 32),),
    ),
}


def run(fast: nn.Module, net: nn.Module, inputs: Callable[[int], Any], rtol: float = 1e-4) -> dict[str, Any]:
    with torch.no_grad():
        for n in (2, 3, 1):
            close(fast(*inputs(n)), net(*inputs(n)), rtol)
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    return report


def parts_of(fast: Any) -> list[Any]:
    return [p for e in fast._nnaccel._entries.values() if not isinstance(e, str) for p in e.record.captured.program.parts]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_segment_for_all_batches(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    net = make().eval()
    fast = interpreted(net)
    report = run(fast, net, inputs)
    assert report["captures"] == 1, report["programs"]
    (part,) = parts_of(fast)
    assert isinstance(part, Segment)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt", "vit", "up"])
def test_through_the_compiler(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = NETWORKS[name]
    net = make().eval()
    try:
        fast = nnaccel_core.optimize(net)
        with torch.no_grad():
            fast(*inputs(2))
    except (nnaccel_core.DeviceError, nnaccel_core.ToolchainError, nnaccel_core.PluginError) as e:
        pytest.skip(f"no CPU backend here: {e}")
    assert run(fast, net, inputs, 1e-3)["captures"] == 1


def test_only_the_recurrence_of_a_tagger_stays_in_torch() -> None:
    torch.manual_seed(0)
    net = Tagger().eval()
    fast = interpreted(net)
    run(fast, net, lambda n: (ids(n),))
    (foreign,) = {p.reason for p in parts_of(fast) if isinstance(p, Foreign)}
    assert "lstm" in foreign
    assert sum(isinstance(p, Segment) for p in parts_of(fast)) == 2 * sum(isinstance(p, Foreign) for p in parts_of(fast))
