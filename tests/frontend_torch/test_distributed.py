"""An optimized network inside DistributedDataParallel: two processes over gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnaccel
from two_processes import results_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")


class Net(nn.Module):
    """Layers around an operator that stays in torch, so that there are several segments."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        return self.b(torch.special.i0(self.a(h)))


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, 8, 8, generator=g), torch.randint(0, 5, (8,), generator=g)


def network() -> Net:
    torch.manual_seed(0)
    net = Net()
    net.bn.eval()  # statistics of a part of the batch are not those of the whole
    return net


def work(rank: int, folder: str) -> None:
    """One of two processes, on its half of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    fast = nnaccel.optimize(network())
    fast.bn.eval()
    wrapped = nn.parallel.DistributedDataParallel(fast)
    x, t = batch()
    ready: list[str] = []
    for name, p in fast.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: ready.append(name))
    for _ in range(2):
        wrapped.zero_grad()
        ready.clear()
        half = slice(rank * 4, rank * 4 + 4)
        F.cross_entropy(wrapped(x[half]), t[half]).backward()
    report = fast.nnaccel_report()
    torch.save(([p.grad for p in fast.parameters()], ready, report["own_calls"]), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_get_the_gradients_of_one() -> None:
    net = network()
    x, t = batch()
    F.cross_entropy(net(x), t).backward()
    want = [p.grad for p in net.parameters()]
    for found, ready, own in results_of(work):
        assert not own
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        # Later segments' gradients are there before those of earlier ones are computed.
        assert ready.index("b.weight") < ready.index("conv.weight")

