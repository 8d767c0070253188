"""Trains ResNet-18 on CIFAR-shaped images, with plain PyTorch and with nnaccel, from one seed.

    python examples/training/cifar_resnet18.py [--steps 300] [--batch 64] [--plot cifar.png]

The images (3, 32, 32) of 10 classes are generated, so that nothing is downloaded: waves of a direction and a length that tell the
class, of any phase and color, under noise. The training loop is the user's own; `nnaccel.optimize` is the only difference. Prints
both losses as they go, times of steps, and accuracies on images that were not trained on. Needs matplotlib for the plot.

Training amplifies rounding: two runs of plain PyTorch with different numbers of threads, which add up in different orders, part
as well. So the first steps are run a third time, by PyTorch with another number of threads, to show how far rounding alone goes.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import nnaccel

CLASSES = 10
SIZE = 32
TESTED = 1000
#: Noise is this many times as strong as the waves.
NOISE = 2.0


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def network(seed: int = 0) -> nn.Module:
    """ResNet-18 as it is used for small images: the first convolution keeps their size."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    width = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [BasicBlock(width, outputs, stride), BasicBlock(outputs, outputs, 1)]
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def images(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """``n`` images (n, 3, 32, 32) and their classes (n,): five directions, two wave lengths."""
    classes = torch.randint(0, CLASSES, (n,), generator=generator)
    angle = classes % 5 * (math.pi / 5) + (torch.rand(n, generator=generator) - 0.5) * (math.pi / 12)
    waves = torch.where(classes < 5, 3.0, 6.0) * (1 + (torch.rand(n, generator=generator) - 0.5) * 0.3)
    phase = torch.rand(n, generator=generator) * (2 * math.pi)
    color = F.normalize(torch.randn(n, 3, generator=generator), dim=1)
    at = torch.arange(SIZE) / SIZE
    along = angle.cos()[:, None, None] * at[None, :, None] + angle.sin()[:, None, None] * at[None, None, :]
    pattern = torch.sin(2 * math.pi * waves[:, None, None] * along + phase[:, None, None])
    noise = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return color[:, :, None, None] * pattern[:, None] + NOISE * noise / math.sqrt(3), classes


def batches(steps: int, size: int, seed: int = 1) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``steps`` batches of new images; the same for every run."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield images(size, generator)


@dataclass
class Run:
    """What training gave: losses and milliseconds of each step, the part of test images that was told right."""

    losses: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    accuracy: float = 0.0

    def step_ms(self) -> float:
        """The median of all steps but the first, in which memory is taken and nnaccel compiles."""
        return statistics.median(self.ms[1:] or self.ms)


def train(name: str, net: nn.Module, steps: int, batch: int, rate: float, until: int | None = None) -> Run:
    """A plain training loop: SGD with momentum, a learning rate that rises and falls once; the first ``until`` of its steps."""
    run = Run()
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 2))
    for step, (x, t) in enumerate(batches(steps if until is None else until, batch)):
        started = time.perf_counter()
        loss = F.cross_entropy(net(x), t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.ms.append((time.perf_counter() - started) * 1e3)
        schedule.step()
        run.losses.append(loss.item())
        if step % max(1, steps // 10) == 0 or step == steps - 1:
            print(f"{name:>7}, step {step:4d}: loss {run.losses[-1]:.6f}, {run.ms[-1]:.0f} ms", flush=True)
    if until is not None:
        return run
    net.eval()
    right = 0
    with torch.no_grad():
        x, t = images(TESTED, torch.Generator().manual_seed(2))
        for part, classes in zip(x.split(batch), t.split(batch), strict=True):
            right += int((net(part).argmax(1) == classes).sum())
    run.accuracy = right / TESTED
    return run


def apart(one: Run, other: Run, steps: int) -> list[float]:
    """How far the losses of the first steps are apart, relative to the first's."""
    return [abs(a - b) / a for a, b in zip(one.losses[:steps], other.losses[:steps], strict=True)]


def plot(runs: dict[str, Run], again: Run, batch: int, path: Path) -> None:
    """Loss by step, both on one pair of axes, and how far apart they are, beside how far PyTorch is from itself."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(7, 6), layout="constrained", height_ratios=(3, 2))
    for (name, run), style in zip(runs.items(), ("-", "--"), strict=True):
        upper.plot(run.losses, style, label=f"{name}: accuracy {run.accuracy:.3f}, {run.step_ms():.0f} ms a step", linewidth=1.2)
    upper.set(ylabel="cross entropy", title=f"ResNet-18 on generated 32x32 images, batch {batch}, one seed")
    upper.legend()
    first = len(again.losses)
    for label, run in (("nnaccel", runs["nnaccel"]), ("torch, another number of threads", again)):
        lower.plot([max(d, 1e-8) for d in apart(runs["torch"], run, first)], label=label, linewidth=1.2)
    lower.set(xlabel="step", ylabel="difference from torch", yscale="log")
    lower.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.02, help="the highest learning rate")
    parser.add_argument("--plot", type=Path, help="draw the losses into this file (.png, .svg, .pdf)")
    given = parser.parse_args()
    if given.steps < 1 or given.batch < 2:
        parser.error("--steps must be at least 1, --batch at least 2")
    if given.plot and importlib.util.find_spec("matplotlib") is None:
        sys.exit("--plot needs matplotlib, which is not installed: pip install matplotlib, or leave --plot out")
    net = network()
    first = min(50, given.steps)
    runs = {
        "torch": train("torch", copy.deepcopy(net), given.steps, given.batch, given.rate),
        "nnaccel": train("nnaccel", nnaccel.optimize(copy.deepcopy(net)), given.steps, given.batch, given.rate),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    again = train("again", net, given.steps, given.batch, given.rate, first)
    torch.set_num_threads(threads)
    ours, theirs = max(apart(runs["torch"], runs["nnaccel"], first)), max(apart(runs["torch"], again, first))
    print(f"losses of the first {first} steps: at most {ours:.2g} apart; torch's with another number of threads: {theirs:.2g}")
    for name, run in runs.items():
        speed = given.batch / run.step_ms() * 1e3
        ms = f"{run.step_ms():.0f} ms a step ({speed:.0f} images/s), first {run.ms[0]:.0f} ms"
        print(f"{name}: accuracy {run.accuracy:.4f}, {ms}")
    print(f"nnaccel is {runs['torch'].step_ms() / runs['nnaccel'].step_ms():.2f} times as fast")
    if given.plot:
        plot(runs, again, given.batch, given.plot)


if __name__ == "__main__":
    main()
