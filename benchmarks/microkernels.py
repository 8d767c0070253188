"""The register tiles alone, and 3x3 convolutions by Winograd on top of them against direct ones: oneDNN's, and our own.

    python -m benchmarks.microkernels [--threads 1] [--seconds 0.4] [--only resnet18]

Tiles: GFLOP/s on operands in the first-level cache, by instruction set and rows; the best is called the peak below. Convolutions
(bias, ReLU, some a residual): effective GFLOP/s, those of the direct algorithm over the time taken, so that Winograd may exceed
the peak; interleaved, the shortest of many calls. The last columns compare the estimates that choose between them with the times.
"""

from __future__ import annotations

import argparse
import array
import ctypes
from collections.abc import Sequence

import numpy as np

from benchmarks.products import Conv, Runner, fastest
from nnaccel_backend_x86 import builtin
from nnaccel_backend_x86.backend import X86Backend
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_core.options import Options
from nnaccel_core.select.candidate import Candidate

ISAS = ("sse2", "avx2", "avx512")
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
#: Terms of a tile's sums, and tiles per timed call.
DEPTH, CALLS = 256, 500

#: ``(net, image size, channels in, channels out)``.
LAYERS = (
    ("vgg16", 224, 3, 64), ("vgg16", 224, 64, 64), ("vgg16", 112, 64, 128), ("vgg16", 112, 128, 128), ("vgg16", 56, 128, 256),
    ("vgg16", 56, 256, 256), ("vgg16", 28, 256, 512), ("vgg16", 28, 512, 512), ("vgg16", 14, 512, 512),
    ("resnet18", 56, 64, 64), ("resnet18", 28, 128, 128), ("resnet18", 14, 256, 256), ("resnet18", 7, 512, 512),
    ("densenet121", 56, 128, 32), ("densenet121", 28, 128, 32), ("densenet121", 14, 128, 32), ("densenet121", 7, 128, 32),
    ("squeezenet1_1", 55, 16, 64), ("squeezenet1_1", 27, 32, 128), ("squeezenet1_1", 13, 48, 192), ("squeezenet1_1", 13, 64, 256),
    ("inception_v3", 147, 32, 64), ("inception_v3", 35, 64, 96), ("inception_v3", 35, 96, 96), ("inception_v3", 8, 448, 384),
)  # fmt: skip
CASES: Sequence[Conv] = tuple(
    Conv(net, size, channels, columns, 3, residual=net == "resnet18", images=images)
    for images in (1, 4)
    for net, size, channels, columns in LAYERS
    if images == 1 or size < 100
)


def tile_speed(isa: int, rows: int, columns: int) -> float:
    """GFLOP/s of one tile after the other on one thread."""
    a, b = np.ones((rows, DEPTH), np.float32), np.ones((columns // 16, DEPTH, 16), np.float32)
    c = np.zeros((rows, columns), np.float32)
    dims = array.array("q", (isa, rows, columns, 1, DEPTH, DEPTH, 0, 0, DEPTH * 16, columns, 0))
    buffers = array.array("Q", [x.ctypes.data for x in (a, b, c)])
    kernel = KERNEL(builtin.address("tile_product"))
    (seconds,) = fastest([lambda: kernel(buffers.buffer_info()[0], dims.buffer_info()[0], None, 0, CALLS)], 0.05)
    return 2e-9 * rows * columns * DEPTH * CALLS / seconds


def tile_size(isa: int) -> tuple[int, int]:
    """Rows and columns; (0, 0) where this processor lacks the instruction set."""
    found = np.zeros(2, np.float32)
    dims, buffers = array.array("q", (isa, *(0,) * 10)), array.array("Q", [found.ctypes.data] * 3)
    KERNEL(builtin.address("tile_product"))(buffers.buffer_info()[0], dims.buffer_info()[0], None, 0, 1)
    return int(found[0]), int(found[1])


def rivals(backend: X86Backend, case: Conv) -> list[Candidate | None]:
    """The longest candidates by Winograd, oneDNN, and our own direct convolution; None where one is not offered."""
    graph = case.graph()
    last = [c for c in backend.candidates(graph, {}, Options()) if c.outputs[0] is graph.outputs[0]]

    def kind(c: Candidate) -> str:
        return c.impl.name if isinstance(c.impl, BuiltinCall) else "oneDNN"

    found: list[Candidate | None] = []
    for wanted in ("winograd", "oneDNN", "product"):
        of_kind = [c for c in last if kind(c) == wanted]
        most = max((len(c.nodes) for c in of_kind), default=0)
        found.append(min((c for c in of_kind if len(c.nodes) == most), key=lambda c: c.seconds, default=None))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="per shape")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    args = parser.parse_args()
    machine = X86Backend.probe()
    assert machine is not None, "not an x86-64 processor"
    backend = X86Backend(machine, "cpu")
    peak = 0.0
    for isa, name in enumerate(ISAS):
        rows, columns = tile_size(isa)
        speeds = [tile_speed(isa, r + 1, columns) for r in range(rows)]
        peak = max(peak, *speeds, 0.0) if speeds else peak
        text = " ".join(f"{s:.0f}" for s in speeds)
        print(f"tiles {name}: " + (f"{columns} columns, 1 to {rows} rows: {text} GFLOP/s" if rows else "not on this processor"))
    peak *= args.threads
    print(f"{machine.name}, {args.threads} threads; peak {peak:.0f} GFLOP/s; a fraction of it in parentheses")
    print(f"{'shape':44s} {'Winograd':>14s} {'oneDNN':>14s} {'own direct':>14s}  ratio   us: Winograd, oneDNN (estimated)")
    for case in CASES:
        label = f"{case} x {case.images}"
        if args.only not in label:
            continue
        found = rivals(backend, case)
        offered = [c for c in found if c is not None]
        rng = np.random.default_rng(0)
        values = {v for c in offered for v in (*c.inputs, *c.outputs)}
        data = {v: rng.standard_normal(v.shape).astype(np.float32) for v in values}  # type: ignore[arg-type]
        times = dict(
            zip(offered, fastest([Runner(backend, c, data, args.threads).run for c in offered], args.seconds), strict=True)
        )
        work, _ = case.work()
        cells = [f"{work / times[c]:7.1f} ({work / times[c] / peak:3.0%})" if c else "-" for c in found]
        own, library = found[:2]
        tail = ""
        if own and library:
            pairs = [f"{times[c] * 1e6:.0f} ({c.seconds * 1e6 * machine.cores / args.threads:.0f})" for c in (own, library)]
            chosen = min(offered, key=lambda c: c.seconds) is own
            tail = f"{times[library] / times[own]:7.2f}   {', '.join(pairs)}{'' if chosen else '; not chosen'}"
        print(f"{label:44s} " + " ".join(f"{c:>14s}" for c in cells) + tail, flush=True)


if __name__ == "__main__":
    main()
