"""Gradients of convolutions: each candidate of the x86 backend, and PyTorch's, shape by shape, on the same sizes and interleaved.

    python benchmarks/gradients.py [--threads 2] [--batch 16] [--turns 2] [--only weights] [--without-torch]

Prints milliseconds and GFLOP/s of each, and the estimate of `nnaccel_backend_x86.costs`.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks.products import IMAGE, Runner
from nnaccel_backend_x86.backend import X86Backend
from nnaccel_core.ir import Graph, Node, TensorType, Value
from nnaccel_core.ops.registry import infer
from nnaccel_core.options import Options

#: channels, output channels, size, window, stride, groups
SHAPES = (
    (3, 64, 224, 7, 2, 1), (64, 64, 56, 3, 1, 1), (64, 256, 56, 1, 1, 1), (128, 128, 56, 3, 2, 1), (128, 128, 28, 3, 1, 1),
    (256, 256, 14, 3, 1, 1), (512, 512, 7, 3, 1, 1), (1024, 2048, 14, 1, 2, 1), (1024, 256, 14, 1, 1, 1), (96, 96, 56, 3, 1, 96),
)  # fmt: skip


def graphs(batch: int, shape: tuple[int, ...]) -> dict[str, Graph]:
    """One gradient each, by its short name."""
    c, o, size, k, stride, groups = shape
    pad = (k // 2,) * 2
    attrs = {"stride": (stride,) * 2, "padding": (pad, pad), "dilation": (1, 1), "groups": groups}
    out = (size + 2 * pad[0] - k) // stride + 1
    g, x = (Value(TensorType(s, "float32", IMAGE), n) for s, n in (((batch, o, out, out), "g"), ((batch, c, size, size), "x")))
    w = Value(TensorType((o, c // groups, k, k), "float32"), "w")

    def make(op: str, inputs: tuple[Value, ...], params: tuple[Value, ...], more: dict[str, object]) -> Graph:
        (t,) = infer(op, [v.type for v in (*inputs, *params)], {**attrs, **more})
        y = Value(t.with_layout(IMAGE if op == "conv_backward_data" else None), "y")
        return Graph(inputs, params, (Node(op, (*inputs, *params), (y,), {**attrs, **more}, op),), (y,))

    return {
        "data": make("conv_backward_data", (g,), (w,), {"spatial": (size, size)}),
        "weights": make("conv_backward_weights", (g, x), (), {"window": (k, k)}),
    }


def of_torch(batch: int, shape: tuple[int, ...], which: str) -> Callable[[], object]:
    """PyTorch's own gradient, on channels-last tensors."""
    import torch

    c, o, size, k, stride, groups = shape
    pad, last = k // 2, torch.channels_last
    out = (size + 2 * pad - k) // stride + 1
    x, g = torch.randn(batch, c, size, size), torch.randn(batch, o, out, out)
    x, g, w = x.to(memory_format=last), g.to(memory_format=last), torch.randn(o, c // groups, k, k)
    mask = [which == "data", which == "weights", False]
    pads, ones = [pad, pad], [1, 1]
    backward: Any = torch.ops.aten.convolution_backward
    return lambda: backward(g, x, w, None, [stride, stride], pads, ones, False, [0, 0], groups, mask)


def fastest(runs: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """The shortest of some calls of each, in turns of three calls after one that is not counted."""
    best = [math.inf] * len(runs)
    for _ in range(turns):
        for i, run in enumerate(runs):
            run()
            for _ in range(3):
                started = time.perf_counter()
                run()
                best[i] = min(best[i], time.perf_counter() - started)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--only", default="", help="data or weights")
    parser.add_argument("--without-torch", action="store_true")
    args = parser.parse_args()
    machine = X86Backend.probe()
    if machine is None:
        raise SystemExit("no x86 processor")
    backend = X86Backend(machine, "cpu")
    if not args.without_torch:
        import torch

        torch.set_num_threads(args.threads)
    rng = np.random.default_rng(0)
    for shape in SHAPES:
        c, o, size, k, stride, groups = shape
        for which, graph in graphs(args.batch, shape).items():
            if args.only and which != args.only:
                continue
            data = {v: rng.standard_normal(v.shape).astype(np.float32) for v in (*graph.inputs, *graph.params)}  # type: ignore[arg-type]
            found = backend.candidates(graph, {}, Options())
            runs: list[Callable[[], object]] = [Runner(backend, f, data, args.threads).run for f in found]
            names = [f"{f.reason} (estimated {f.seconds * 1e3:.1f} ms)" for f in found]
            if not args.without_torch:
                runs.append(of_torch(args.batch, shape, which))
                names.append("PyTorch")
            flops = 2e-9 * args.batch * o * ((size - 1) // stride + 1) ** 2 * (c // groups) * k * k
            print(f"{which} {k}x{k}/{stride} {c}->{o} @{size}" + (f" groups {groups}" if groups > 1 else ""))
            for name, seconds in zip(names, fastest(runs, args.turns), strict=True):
                print(f"  {seconds * 1e3:8.2f} ms {flops / seconds:7.1f} GFLOP/s  {name}", flush=True)


if __name__ == "__main__":
    main()
