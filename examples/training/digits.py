"""Trains a small convolutional network on scikit-learn's digits, with plain PyTorch and with nnaccel, from one seed.

    python examples/training/digits.py [--epochs 8] [--plot digits.png]

The training loop is the user's own; `nnaccel.optimize` is the only difference. Prints both losses as they go, test accuracies and
seconds. Needs scikit-learn; matplotlib for the plot.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import nnaccel

BATCH = 64


@dataclass
class Run:
    """What training gave."""

    losses: list[float] = field(default_factory=list)
    accuracy: float = 0.0
    seconds: float = 0.0


def network(seed: int = 0) -> nn.Module:
    """Three convolutions with normalization, dropout, a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)),
    )


def data() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images (n, 1, 8, 8) in 0..1 and classes: the first 1500 to train on, the other 297 to test on."""
    digits = load_digits()
    x = torch.from_numpy(digits.images.astype(np.float32) / 16)[:, None]
    t = torch.from_numpy(digits.target.astype(np.int64))
    return x[:1500], t[:1500], x[1500:], t[1500:]


def train(net: nn.Module, epochs: int, seed: int = 1) -> Run:
    """A plain training loop with Adam; shuffles and dropout come from ``seed``."""
    x, t, test_x, test_t = data()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    torch.manual_seed(seed)
    run, started = Run(), time.perf_counter()
    for _ in range(epochs):
        net.train()
        for part in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(net(x[part]), t[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.losses.append(loss.item())
    run.seconds = time.perf_counter() - started
    net.eval()
    with torch.no_grad():
        run.accuracy = float((net(test_x).argmax(1) == test_t).float().mean())
    return run


def plot(runs: dict[str, Run], path: Path) -> None:
    """Loss by step, both on one pair of axes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for (name, run), style in zip(runs.items(), ("-", "--"), strict=True):
        axes.plot(run.losses, style, label=f"{name}: test accuracy {run.accuracy:.3f}", linewidth=1.2)
    axes.set(xlabel="step", ylabel="cross entropy", yscale="log", title="scikit-learn's digits, one seed")
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    net = network()
    runs = {"torch": train(copy.deepcopy(net), given.epochs), "nnaccel": train(nnaccel.optimize(net), given.epochs)}
    a, b = runs["torch"].losses, runs["nnaccel"].losses
    for step in range(0, len(a), max(1, len(a) // 10)):
        print(f"step {step:4d}: loss {a[step]:.6f} with torch, {b[step]:.6f} with nnaccel")
    for name, run in runs.items():
        print(f"{name}: test accuracy {run.accuracy:.4f}, {run.seconds:.1f} s")
    if given.plot:
        plot(runs, given.plot)


if __name__ == "__main__":
    main()
