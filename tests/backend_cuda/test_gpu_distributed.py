"""Two GPUs of one machine: a network on the second one, and DistributedDataParallel over NCCL."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import nnaccel  # noqa: E402
from two_processes import results_of  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]
BATCH, STEPS = 8, 4


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [
        *(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)),
    ]
    net = nn.Sequential(*layers)
    net[1].eval()  # statistics of a part of the batch are not those of the whole
    return net


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 16, 16, generator=g), torch.randint(0, 5, (BATCH,), generator=g)


def full_float32() -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def train(net: torch.nn.Module, fast: torch.nn.Module, device: str, rows: slice) -> list[torch.Tensor]:
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for step in range(STEPS):  # the third one replays CUDA graphs
        x, t = batch(step)
        optimizer.zero_grad()
        functional.cross_entropy(fast(x[rows].to(device)), t[rows].to(device)).backward()
        optimizer.step()
    return [p.detach().cpu() for p in net.parameters()]


def work(rank: int, folder: str) -> None:
    """One of two processes, on its half of the batch and a GPU of its own."""
    full_float32()
    torch.cuda.set_device(rank)
    meet = f"file://{folder}/meet"
    torch.distributed.init_process_group("nccl", init_method=meet, rank=rank, world_size=2, device_id=torch.device("cuda", rank))
    fast = nnaccel.optimize(network(), device=f"cuda:{rank}")
    fast[1].eval()
    wrapped = nn.parallel.DistributedDataParallel(fast, device_ids=[rank])
    half = BATCH // 2
    found = train(fast, wrapped, f"cuda:{rank}", slice(rank * half, (rank + 1) * half))
    torch.save((found, fast.nnaccel_report()["own_calls"]), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_train_like_one() -> None:
    full_float32()
    net = network().cuda()
    want = train(net, net, "cuda", slice(None))
    for found, own in results_of(work):
        assert not own
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_second_gpu_by_its_number() -> None:
    full_float32()
    net = network().eval()
    fast = nnaccel.optimize(copy.deepcopy(net), device="cuda:1")
    assert {p.device for p in fast.parameters()} == {torch.device("cuda", 1)}
    x, _ = batch(0)
    with torch.no_grad():
        want = net(x)
        for _ in range(3):
            got = fast(x.to("cuda:1"))
            assert got.device == torch.device("cuda", 1)
            torch.testing.assert_close(got.cpu(), want, rtol=1e-4, atol=1e-5)
    assert torch.cuda.current_device() == 0
