"""Memory against time of training steps: what nnaccel computes again instead of keeping, beside torch's checkpoints.

    python benchmarks/remat.py [--nets resnet18] [--batch 16] [--json remat.json] [--plot remat.png]

Each way runs in a process of its own: torch eager; torch with `checkpoint_sequential` in some numbers of segments, where the
network is a chain of its modules (a network that is not, is left out there); nnaccel with ``remat="auto"``, ``"memory"`` and
numbers. Times are medians of whole steps (forward, cross entropy, backward, plain gradient descent); memory is what
`nnaccel bench --train --memory` measures: the largest sum of live intermediates and gradients, without inputs and parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnaccel_core.workers import timed_block
from nnaccel_frontend_torch.bench import memory, nets, steps


@dataclass(frozen=True)
class Point:
    """One way of training one network: milliseconds of a step, peak bytes, relative error of the gradients against float64."""

    net: str
    batch: int
    way: str
    ms: float
    peak_bytes: int
    error: float


def chain(net: Any, x: Any) -> Any:
    """``net`` as one `torch.nn.Sequential` of its own modules.

    Raises:
        ValueError: it is not the chain of its modules.
    """
    import torch

    parts: list[Any] = []
    for child in net.children():
        for part in child if isinstance(child, torch.nn.Sequential) else (child,):
            if isinstance(part, torch.nn.Linear) and not any(isinstance(p, torch.nn.Flatten) for p in parts):
                parts.append(torch.nn.Flatten())
            parts.append(part)
    for found in (torch.nn.Sequential(*parts), torch.nn.Sequential(*parts, torch.nn.Flatten())):
        try:
            with torch.no_grad():
                if torch.equal(found(x), net(x)):
                    return found
        except RuntimeError:
            continue
    raise ValueError("it is not the chain of its modules")


def checkpointed(net: Any, x: Any, segments: int) -> Any:
    """``net`` whose activations torch keeps at the ends of ``segments`` segments only."""
    import torch
    from torch.utils.checkpoint import checkpoint_sequential

    class Checkpointed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = chain(net, x)

        def forward(self, x: Any) -> Any:
            return checkpoint_sequential(self.parts, segments, x, use_reentrant=False)

    return Checkpointed()


def measured(name: str, batch: int, way: str, calls: int, threads: int) -> Point:
    """Time and memory of one way, in this process."""
    import torch

    import nnaccel_core

    prelude = os.environ.get("NNACCEL_BENCH_PRELUDE")
    if prelude:
        exec(compile(Path(prelude).read_text(), prelude, "exec"), {"__name__": "nnaccel_bench_prelude"})
    torch.set_num_threads(threads)
    network = nets.load(name)
    steps.prepare(network.module)
    x = nets.sample(network, batch)
    judge = steps.reference(network, x)
    kind, _, value = way.partition("-")
    if kind == "eager":
        called = network.module
    elif kind == "checkpoint":
        called = checkpointed(network.module, x, int(value))
    else:
        called = nnaccel_core.optimize(network.module, "cpu", remat=value if value in ("auto", "memory") else float(value))
    with torch.no_grad():
        step = steps.step_of(called, x)
        step()
        error = steps.relative_error(steps.gradients(network.module), judge)
        times = timed_block(step, calls, 1)
        peak = memory.plan_bytes(called)[0] if kind == "nnaccel" else memory.eager_peak_bytes(called, x, step)
    return Point(name, batch, way, statistics.median(times), peak, error)


def in_a_process(name: str, batch: int, way: str, calls: int, threads: int) -> Point | str:
    """`measured` elsewhere; a line of text where that failed."""
    command = [sys.executable, __file__, "--one", json.dumps([name, batch, way, calls, threads])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return (done.stderr.strip().splitlines() or ["no result"])[-1]
    return Point(**json.loads(lines[-1]))


def plot(points: Sequence[Point], path: Path) -> None:
    """Time over memory, a pair of axes for each network."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys((p.net, p.batch) for p in points))
    figure, all_axes = plt.subplots(1, len(cases), figsize=(5 * len(cases), 4), layout="constrained", squeeze=False)
    for axes, case in zip(all_axes[0], cases, strict=True):
        of_case = [p for p in points if (p.net, p.batch) == case]
        for kind, label in (("eager", "torch eager"), ("checkpoint", "torch, checkpoints"), ("nnaccel", "nnaccel")):
            here = sorted((p for p in of_case if p.way.startswith(kind)), key=lambda p: p.peak_bytes)
            axes.plot([p.peak_bytes / 2**20 for p in here], [p.ms for p in here], "o-", label=label)
            for p in here:
                text = p.way.partition("-")[2]
                axes.annotate(text, (p.peak_bytes / 2**20, p.ms), xytext=(3, 4), textcoords="offset points", fontsize=8)
        axes.set(title=f"{case[0]}, batch {case[1]}", xlabel="peak of intermediates, MiB", ylabel="step, ms")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure all ways of all networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="resnet18,vgg11_bn", help="torchvision names or module:callable, comma separated")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--segments", default="2,4,8", help="numbers of segments of torch's checkpoints")
    parser.add_argument("--points", default="auto,memory,0.75,0.5,0.35,0.2", help="values of nnaccel's option remat")
    parser.add_argument("--calls", type=int, default=7, help="timed steps of each way")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asdict(measured(*json.loads(given.one)))))
        return
    ways = ["eager", *(f"checkpoint-{n}" for n in given.segments.split(",") if n)]
    ways += [f"nnaccel-{p}" for p in given.points.split(",") if p]
    points = []
    for name in given.nets.split(","):
        for way in ways:
            found = in_a_process(name, given.batch, way, given.calls, given.threads)
            if isinstance(found, str):
                print(f"{name:16} {way:16} left out: {found}", flush=True)
                continue
            points.append(found)
            mib = found.peak_bytes / 2**20
            print(f"{name:16} {way:16} {found.ms:9.1f} ms {mib:9.1f} MiB   error {found.error:.1e}", flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(p) for p in points], indent=1) + "\n")
    if given.plot and points:
        plot(points, given.plot)


if __name__ == "__main__":
    main()
