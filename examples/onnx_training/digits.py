"""Trains an ONNX network on: the MNIST network that CNTK 2.5.1 wrote, with scikit-learn's digits resized to 28 x 28.

    python examples/onnx_training/digits.py [--model net.onnx] [--epochs 8] [--save trained.onnx]

The optimizer is the user's own, here Adam in a few lines of numpy. Prints the mean loss of each epoch, the test accuracy before
and after, and seconds. Needs scikit-learn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import nnaccel

MODEL = Path(__file__).resolve().parents[2] / "tests/frontend_onnx/data/cntk-2.5.1-mnist.onnx"
BATCH = 50
#: Of Adam at first; it falls to 0 in a line.
RATE = 2e-3
Array = np.ndarray[Any, Any]


@dataclass
class Run:
    """What training gave."""

    losses: list[float] = field(default_factory=list)
    before: float = 0.0
    after: float = 0.0
    seconds: float = 0.0


def resized(images: Array) -> Array:
    """Images (n, 8, 8) of 0 to 16 as (n, 1, 28, 28) of 0 to 255: 20 x 20 by linear interpolation, centered as MNIST's are."""
    at = np.clip((np.arange(20) + 0.5) * 8 / 20 - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(8)))
    larger = weights @ images @ weights.T
    return np.pad(larger * (255 / 16), ((0, 0), (4, 4), (4, 4))).astype(np.float32)[:, None]


def data() -> tuple[Array, Array, Array, Array]:
    """Images and classes: the first 1500 to train on, the other 297 to test on."""
    digits = load_digits()
    x, t = resized(digits.images), digits.target.astype(np.int64)
    return x[:1500], t[:1500], x[1500:], t[1500:]


def cross_entropy(scores: Array, classes: Array) -> tuple[float, Array]:
    """The mean loss of ``scores`` (n, classes), and its gradient."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    chances = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = np.arange(len(classes))
    loss = np.log(np.exp(shifted).sum(axis=1)).mean() - shifted[rows, classes].mean()
    chances[rows, classes] -= 1
    return float(loss), chances / np.float32(len(classes))


class Adam:
    """Kingma and Ba 2015, on arrays that are changed in place."""

    def __init__(self, parameters: dict[str, Array], rate: float) -> None:
        self.parameters, self.rate, self.steps = parameters, rate, 0
        self.means = {n: np.zeros_like(p) for n, p in parameters.items()}
        self.squares = {n: np.zeros_like(p) for n, p in parameters.items()}

    def step(self, gradients: dict[str, Array]) -> None:
        """Move the parameters against ``gradients``."""
        self.steps += 1
        for name, g in gradients.items():
            mean, square = self.means[name], self.squares[name]
            mean += 0.1 * (g - mean)
            square += 0.001 * (g * g - square)
            size = np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8
            self.parameters[name] -= self.rate / (1 - 0.9**self.steps) * mean / size


def accuracy(net: Any, x: Array, t: Array) -> float:
    """The part of ``x`` that ``net`` gives the class ``t``."""
    return float((net(x).argmax(1) == t).mean())


def train(net: Any, epochs: int, seed: int = 1) -> Run:
    """Train ``net``, what ``nnaccel.optimize(model, train=True)`` gave."""
    x, t, test_x, test_t = data()
    run, rng = Run(before=accuracy(net, test_x, test_t)), np.random.default_rng(seed)
    optimizer, steps = Adam(net.parameters(), RATE), epochs * (len(x) // BATCH)
    started = time.perf_counter()
    for _ in range(epochs):
        for part in np.split(rng.permutation(len(x)), len(x) // BATCH):
            loss, gradient = cross_entropy(net.forward(x[part]), t[part])
            net.backward(gradient)
            optimizer.rate = RATE * (1 - len(run.losses) / steps)
            optimizer.step(net.gradients())
            run.losses.append(loss)
    run.seconds = time.perf_counter() - started
    run.after = accuracy(net, test_x, test_t)
    return run


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(MODEL), help="an ONNX file that takes (n, 1, 28, 28) and gives 10 scores")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--save", type=Path, help="write the trained network here")
    given = parser.parse_args()
    net = nnaccel.optimize(given.model, train=True)
    run = train(net, given.epochs)
    for epoch, losses in enumerate(np.split(np.array(run.losses), given.epochs)):
        print(f"epoch {epoch + 1}: loss {losses.mean():.4f}")
    print(f"test accuracy {run.before:.4f} before, {run.after:.4f} after {given.epochs} epochs; {run.seconds:.1f} s")
    if given.save:
        net.save(given.save)
        print(f"wrote {given.save}")


if __name__ == "__main__":
    main()
