"""Training steps as what is timed: gradients of a loss, then the optimizer's step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from nnaccel_frontend_torch.bench.nets import Network

#: So small that no network's weights run away in the steps of a benchmark.
LEARNING_RATE = 1e-4


def prepare(net: Any) -> None:
    """Train mode; dropout draws nothing, so that everybody's gradients can be compared with those in float64."""
    import torch

    net.train()
    for m in net.modules():
        if isinstance(m, torch.nn.modules.dropout._DropoutNd):
            m.p = 0.0


def step_of(net: Any, x: Any) -> Callable[[], None]:
    """One step: zero the gradients, forward, cross entropy over all results, backward, plain gradient descent."""
    import torch

    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE)

    def step() -> None:
        with torch.enable_grad():
            optimizer.zero_grad()
            loss_of(net(x)).backward()
            optimizer.step()

    return step


def loss_of(out: Any) -> Any:
    """Cross entropy against fixed classes, added over all results (Inception has two in training)."""
    import torch

    results = [out] if isinstance(out, torch.Tensor) else list(out)
    target = torch.arange(results[0].shape[0]) % results[0].shape[1]
    return sum(torch.nn.functional.cross_entropy(y, target) for y in results)


def gradients(net: Any) -> np.ndarray[Any, Any]:
    """All parameters' gradients in one row."""
    return np.concatenate([p.grad.detach().numpy().ravel() for p in net.parameters()])


def reference(network: Network, x: Any) -> np.ndarray[Any, Any]:
    """The gradients of the first step in float64."""
    import torch

    net = copy.deepcopy(network.module).double()
    with torch.enable_grad():
        loss_of(net(x.double())).backward()
    return gradients(net)


def relative_error(found: np.ndarray[Any, Any], judge: np.ndarray[Any, Any]) -> float:
    """In the 2-norm over all gradients."""
    return float(np.linalg.norm(found - judge) / np.linalg.norm(judge))
