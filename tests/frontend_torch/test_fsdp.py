"""An optimized network under FSDP2 (`fully_shard`): two processes over gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nnaccel
from two_processes import results_of

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without distributed")

STEPS = 3


class Block(nn.Module):
    """What is sharded together."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))))


class Net(nn.Module):
    """Two blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Block(6, 8), Block(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.one(x)))


def network() -> Net:
    torch.manual_seed(0)
    return Net()


def train(net: nn.Module, part: slice = slice(None)) -> None:
    """Some steps of Adam on a part of the batch."""
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    t = torch.arange(8) % 3
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), t[part]).backward()
        optimizer.step()


def sharded(mesh: Any) -> dict[str, nn.Module]:
    """Networks whose parameters are sharded in ways that a user may choose."""
    from torch.distributed.fsdp import fully_shard

    whole, units = nnaccel.optimize(network()), nnaccel.optimize(network())
    fully_shard(whole, mesh=mesh)
    for module in (units.one, units.two, units):
        fully_shard(module, mesh=mesh)
    return {"whole": whole, "units": units}


def work(rank: int, folder: str) -> None:
    """One of two processes, on its half of the batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for name, net in sharded(torch.distributed.device_mesh.init_device_mesh("cpu", (2,))).items():
        local = sum(p.to_local().numel() for p in net.parameters())
        train(net, slice(rank * 4, rank * 4 + 4))
        found[name] = ([p.full_tensor().detach() for p in net.parameters()], local, net.nnaccel_report())
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_end_with_the_parameters_of_one() -> None:
    net = network()
    train(net)
    want = list(net.parameters())
    for found in results_of(work):
        for parameters, local, report in found.values():
            for a, b in zip(parameters, want, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
            assert local < sum(p.numel() for p in want), "each process holds a part"
            assert not report["own_calls"], report
        # Parameters of one unit are whole while it runs: the network is one program, traced once.
        assert found["whole"][2]["compiled_calls"] == STEPS and found["whole"][2]["captures"] == 1
        # Units gather their parameters one after the other, in hooks between which there is one program each.
        assert found["units"][2]["compiled_calls"] == 3 * STEPS
        assert len(found["units"][2]["programs"]) == 3
