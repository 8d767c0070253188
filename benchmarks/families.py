"""Each family of kernels against oneDNN, on layers of the 24 variants, with the part of the machine that it reaches.

    python -m benchmarks.families [--threads 1,2] [--calls 30] [--only depthwise]

Prints a table in Markdown, for each number of threads: microseconds of ours and of oneDNN as both take them without Python's part
of a call (medians of ``--calls`` calls, in turns), oneDNN's over ours, what ours does a second, and its part of what the machine
can. That is for products the speed of the register tiles alone, measured on as many threads (Winograd counts the operations of
the direct convolution, so that it may exceed that); for fully connected layers, whose weights come from memory, and for what
moves data, the speed of reading as many bytes in the same state, in the same turns. Other data than these weights stays in the
caches that it fits, on both sides.

What the backend asks oneDNN for (convolutions, products, copies between layouts) runs as in the backend. Pooling, element-wise
layers and concats it never asks for: ``onednn_layers.cpp``, compiled on the way, which takes a C++ compiler and oneDNN's headers
(``onednn-devel-cpu-gomp``).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import ctypes
import math
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bandwidth import cold, far_bandwidth, read
from benchmarks.microkernels import ISAS, tile_size, tile_speed
from benchmarks.products import IMAGE, Conv, Fc, add_node, parameter
from nnaccel_backend_x86 import native, winograd
from nnaccel_backend_x86.backend import X86Backend
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_backend_x86.onednn import PrimitiveCall
from nnaccel_core import dfp
from nnaccel_core.ir import Graph, Node, TensorType, Value, evaluate, identity
from nnaccel_core.options import Options
from nnaccel_core.passes.layout import assign_layouts, materialize_outputs
from nnaccel_core.passes.prepare import split_prepare
from nnaccel_core.place import place
from nnaccel_core.select.candidate import Candidate
from nnaccel_core.select.cover import select

Kind = Callable[[Candidate], bool]
POOL, NORM, SUM, HARDSWISH, CONCAT = range(5)


def library(c: Candidate) -> bool:
    """oneDNN, by the backend."""
    return isinstance(c.impl, PrimitiveCall)


def generated(c: Candidate) -> bool:
    return c.proposer == "core"


def own(name: str) -> Kind:
    """A kernel of the native library."""
    return lambda c: isinstance(c.impl, BuiltinCall) and c.impl.name == name


@dataclass(frozen=True)
class Case:
    """A layer: its graph, which candidates are ours, operations or bytes; oneDNN's form where the backend has none."""

    family: str
    name: str
    graph: Graph
    ours: Kind
    flops: float = 0.0
    layer: tuple[int, tuple[int, ...]] | None = None
    tiles: int = 0

    @property
    def nbytes(self) -> int:
        return sum(evaluate(v.type.nbytes, {}) for v in (*self.graph.inputs, *self.graph.params, *self.graph.outputs))


@dataclass
class Net:
    """A graph of one layer, on images with channels last."""

    inputs: list[Value] = field(default_factory=list)
    params: list[Value] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    def image(self, size: int, channels: int, layout: tuple[int, ...] = IMAGE) -> Value:
        v = Value(TensorType((1, channels, size, size), "float32", layout), f"x{len(self.inputs)}")
        self.inputs.append(v)
        return v

    def param(self, *shape: int) -> Value:
        self.params.append(parameter(f"p{len(self.params)}", *shape))
        return self.params[-1]

    def op(self, name: str, *inputs: Value, **attrs: object) -> Value:
        return add_node(self.nodes, name, *inputs, **attrs)

    def done(self, output: Value) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.params), tuple(self.nodes), (output,))


def product(family: str, *case: Any) -> Case:
    conv = Conv(*case)
    return Case(family, str(conv), conv.graph(), own("product"), 1e9 * conv.work()[0])


def squares(m: int, net: str, size: int, channels: int, columns: int) -> Case:
    conv = Conv(net, size, channels, columns, 3)
    return Case(f"Winograd F({m}x{m})", str(conv), conv.graph(), own("winograd"), 1e9 * conv.work()[0], tiles=m)


def depthwise(net: str, size: int, channels: int, window: int, stride: int) -> Case:
    n, pad = Net(), (window // 2, window // 2)
    attrs = {"stride": (stride,) * 2, "padding": (pad, pad), "dilation": (1, 1), "groups": channels}
    y = n.op("conv", n.image(size, channels), n.param(channels, 1, window, window), n.param(channels), **attrs)
    flops = 2.0 * window**2 * channels * math.ceil(size / stride) ** 2
    graph = n.done(n.op("clip", y, min=0.0, max=6.0))
    return Case("depthwise generated", f"{net} {window}x{window}/{stride} {channels} @{size}", graph, generated, flops)


def pool(net: str, op: str, size: int, channels: int, window: int, stride: int, pad: int = 0) -> Case:
    n = Net()
    pads = ((pad, pad),) * 2
    attrs = {"kernel": (window,) * 2, "stride": (stride,) * 2, "padding": pads}
    if op == "avg_pool":
        attrs["count_include_pad"] = False  # type: ignore[assignment]
    y = n.op(op, n.image(size, channels), **attrs)
    out = int(y.type.shape[2])  # type: ignore[arg-type]
    after = max(0, (out - 1) * stride + window - size - pad)
    numbers = (1, channels, size, size, out, out, window, stride, pad, after, int(op == "avg_pool"))
    name = f"{net} {op} {window}x{window}/{stride} {channels} @{size}"
    return Case("pooling generated", name, n.done(y), generated, 0.0, (POOL, numbers))


def normalized(net: str, size: int, channels: int) -> Case:
    n = Net()
    y = n.op("mul", n.image(size, channels), n.param(channels, 1, 1))
    y = n.op("relu", n.op("add", y, n.param(channels, 1, 1)))
    layer = NORM, (1, channels, size, size)
    return Case("element-wise generated", f"{net} normalize + relu {channels} @{size}", n.done(y), generated, 0.0, layer)


def summed(net: str, size: int, channels: int) -> Case:
    n = Net()
    y = n.op("relu", n.op("add", n.image(size, channels), n.image(size, channels)))
    layer = SUM, (1, channels, size, size)
    return Case("element-wise generated", f"{net} add + relu {channels} @{size}", n.done(y), generated, 0.0, layer)


def hardswish(net: str, size: int, channels: int) -> Case:
    n = Net()
    y = n.op("hardswish", n.image(size, channels))
    layer = HARDSWISH, (1, channels, size, size)
    return Case("element-wise generated", f"{net} hardswish {channels} @{size}", n.done(y), generated, 0.0, layer)


def joined(net: str, size: int, *channels: int) -> Case:
    n = Net()
    y = n.op("concat", *(n.image(size, c) for c in channels), axis=1)
    layer = CONCAT, (1, size, size, *channels)
    return Case("concat", f"{net} {'+'.join(map(str, channels))} @{size}", n.done(y), own("concat"), 0.0, layer)


def reordered(net: str, size: int, channels: int, last: bool) -> Case:
    n = Net()
    target = IMAGE if last else identity(4)
    x = n.image(size, channels, identity(4) if last else IMAGE)
    y = Value(x.type.with_layout(target), "y")
    n.nodes.append(Node("reorder", (x,), (y,), {"layout": target}, "copy"))
    name = f"{net} channels {'last' if last else 'first'} {channels} @{size}"
    return Case("reorder generated", name, n.done(y), generated)


FC = (Fc("alexnet", 1, 9216, 4096), Fc("alexnet", 1, 4096, 4096), Fc("alexnet", 1, 4096, 1000), Fc("vgg16", 1, 25088, 4096),
      Fc("resnet50", 1, 2048, 1000), Fc("mobilenet_v2", 1, 1280, 1000))  # fmt: skip
ONE, DIRECT = "1x1 product", "kxk product"
CASES: Sequence[Case] = (
    *(product(ONE, "resnet50", *c) for c in [(56, 64, 256), (28, 512, 128), (14, 1024, 256), (7, 512, 2048)]),
    *(product(ONE, "mobilenet_v2", *c) for c in [(56, 24, 144), (14, 96, 576), (7, 320, 1280)]),
    product(ONE, "densenet121", 28, 256, 128),
    product(DIRECT, "resnet50", 56, 128, 128, 3, 2), product(DIRECT, "resnet50", 224, 3, 64, 7, 2),
    product(DIRECT, "densenet121", 28, 128, 32, 3), product(DIRECT, "inception_v3", 35, 48, 64, 5),
    *(squares(4, "vgg16", *c) for c in [(112, 128, 128), (28, 512, 512)]),
    *(squares(4, "resnet18", *c) for c in [(56, 64, 64), (14, 256, 256), (7, 512, 512)]), squares(4, "densenet121", 28, 128, 32),
    squares(2, "resnet18", 14, 256, 256), squares(2, "densenet121", 28, 128, 32), squares(2, "squeezenet1_1", 13, 64, 256),
    depthwise("mobilenet_v2", 112, 32, 3, 1), depthwise("mobilenet_v2", 112, 96, 3, 2), depthwise("mobilenet_v2", 28, 192, 3, 1),
    depthwise("mobilenet_v2", 14, 576, 3, 1), depthwise("mobilenet_v3_large", 14, 672, 5, 2),
    depthwise("shufflenet_v2_x1_0", 28, 58, 3, 1),
    pool("resnet50", "max_pool", 112, 64, 3, 2, 1), pool("vgg16", "max_pool", 224, 64, 2, 2),
    pool("squeezenet1_1", "max_pool", 55, 128, 3, 2), pool("densenet121", "avg_pool", 56, 128, 2, 2),
    pool("inception_v3", "avg_pool", 35, 192, 3, 1, 1), pool("resnet50", "avg_pool", 7, 2048, 7, 1),
    normalized("densenet121", 56, 256), normalized("densenet121", 14, 1024),
    summed("resnet50", 56, 256), summed("resnet50", 14, 1024),
    hardswish("mobilenet_v3_large", 112, 16), hardswish("mobilenet_v3_large", 14, 480),
    joined("squeezenet1_1", 55, 64, 64), joined("inception_v3", 35, 64, 64, 96, 32), joined("densenet121", 28, 256, 32),
    reordered("resnet50", 224, 3, True), reordered("vgg16", 7, 512, False),
)  # fmt: skip


@contextlib.contextmanager
def winograd_tiles(m: int) -> Iterator[None]:
    """Only tiles of m x m pixels are weighed, where the backend takes the better size by estimate; 0: as it does."""
    cuts = winograd._cuts
    if m:
        winograd._cuts = lambda *args: (b for b in cuts(*args) if b.m == m)
        winograd.best.cache_clear()
    yield
    if m:
        winograd._cuts = cuts
        winograd.best.cache_clear()


class Run:
    """The graph, run by the candidates of one kind. Parameters, and what is packed of them, are random numbers."""

    def __init__(self, backend: X86Backend, graph: Graph, kind: Kind, threads: int, tiles: int = 0) -> None:
        main = graph
        if kind is not library:  # weights as our kernels want them; oneDNN packs them itself
            laid_out = materialize_outputs(assign_layouts(graph, [v.type.layout for v in graph.outputs]))
            main = split_prepare(laid_out).main
        options = Options()
        with winograd_tiles(tiles):
            offered = [*backend.candidates(main, {}, options)]
        offered += dfp.propose(main, {}, backend.machine, options, backend.printer().name)
        placed = place(main, select(main, [c for c in offered if kind(c)]), {})
        self.steps = len(placed.plan.steps)
        self.executable = backend.build(placed.plan, options)
        self.executable.profiling = True
        types = (main.inputs, [p.nbytes if p else v for v, p in placed.prepared], main.outputs)
        self.memories = [[_random(t if isinstance(t, int) else evaluate(t.type.nbytes, {})) for t in ts] for ts in types]
        self.given = [tuple(m.address for m in ms) for ms in self.memories]
        self.threads = threads

    def __call__(self) -> float:
        """Seconds of one call."""
        inputs, prepared, outputs = self.given
        self.executable.run(inputs, prepared, outputs, self.threads, 0)
        return sum(seconds for _, seconds in self.executable.profile())


def _random(nbytes: int) -> X86Memory:
    memory = X86Memory(nbytes)
    count = nbytes // 4
    memory.numpy(TensorType((count,), "float32"))[...] = np.random.default_rng(0).uniform(0.1, 1.0, count)
    return memory


class LibraryRun:
    """A layer of ``onednn_layers.cpp``."""

    def __init__(self, case: Case, threads: int) -> None:
        assert case.layer is not None
        kind, numbers = case.layer
        values = [*case.graph.inputs, *case.graph.params, *case.graph.params * (kind == NORM), *case.graph.outputs]
        self.memories = [_random(evaluate(v.type.nbytes, {})) for v in values]
        given = (ctypes.c_int64 * len(numbers))(*numbers)
        at = (ctypes.c_void_p * len(values))(*(m.address for m in self.memories))
        self.layer = _layers().layer_new(kind, given, len(numbers), at, threads)
        if not self.layer:
            raise SystemExit(f"oneDNN refuses {case.name}")
        self.threads = threads

    def __call__(self) -> float:
        return float(_layers().layer_run(self.layer, self.threads))

    def __del__(self) -> None:
        if getattr(self, "layer", None):
            _layers().layer_free(self.layer)


@cache
def _layers() -> ctypes.CDLL:
    compiler = shutil.which("c++")
    onednn = native.find_onednn()
    if compiler is None or onednn is None:
        raise SystemExit("oneDNN's layers take a C++ compiler and oneDNN: apt-get install g++; " + native.ONEDNN_INSTALL)
    native.library()
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "layers.so")
        flags = ["-O2", "-std=c++17", "-fopenmp", "-fPIC", "-shared", f"-I{onednn.parent.parent}/include"]
        subprocess.run([compiler, *flags, "-o", found, Path(__file__).with_name("onednn_layers.cpp"), onednn], check=True)
        made = ctypes.CDLL(str(found))
    made.layer_new.restype, made.layer_run.restype = ctypes.c_void_p, ctypes.c_double
    made.layer_new.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
    made.layer_run.argtypes, made.layer_free.argtypes = (ctypes.c_void_p, ctypes.c_int), (ctypes.c_void_p,)
    return made


def peak(threads: int) -> float:
    """Operations a second of the best register tile, on as many threads at once."""
    isa = max(i for i in range(len(ISAS)) if tile_size(i)[0])
    rows, columns = tile_size(isa)
    best = max(range(1, rows + 1), key=lambda r: tile_speed(isa, r, columns))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return 1e9 * max(sum(pool.map(lambda _: tile_speed(isa, best, columns), range(threads))) for _ in range(10))


def medians(runs: Sequence[Callable[[], float]], calls: int) -> list[float]:
    """The median of what each returns, in turns of two calls; the second finds its data where the first left it."""
    found: list[list[float]] = [[] for _ in runs]
    for _ in range(calls + 2):
        for run, seconds in zip(runs, found, strict=True):
            run()
            seconds.append(run())
    return [statistics.median(seconds[2:]) for seconds in found]


def measure(backend: X86Backend, case: Case, threads: int, calls: int, flops: float) -> tuple[float, float, float, str]:
    """Seconds of ours and of oneDNN, ours over what the machine can, and ours a second."""
    ours = Run(backend, case.graph, case.ours, threads, case.tiles)
    theirs = Run(backend, case.graph, library, threads) if case.layer is None else LibraryRun(case, threads)
    if case.flops and "depthwise" not in case.family:
        a, b = medians([ours, theirs], calls)
        return a, b, case.flops / a / flops, f"{case.flops / a / 1e9:.0f} GFLOP/s"
    nbytes = case.nbytes
    block = _random(nbytes + (16 << 10))
    plain = [partial(lambda w: nbytes / read(w, block.address, block.nbytes, threads), w) for w in (1, 3)]
    a, b, *reading = medians([ours, theirs, *plain], calls)
    return a, b, min(reading) / a, f"{nbytes / a / 1e9:.0f} GB/s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--only", default="", help="families and layers whose name contains this")
    args = parser.parse_args()
    machine = X86Backend.probe()
    assert machine is not None, "not an x86-64 processor"
    backend = X86Backend(machine, "cpu")
    teams = [int(t) for t in args.threads.split(",")]
    flops = {t: peak(t) for t in teams}
    far = {t: far_bandwidth(t) for t in teams}
    reached = "; ".join(f"{t} threads: {flops[t] / 1e9:.0f} GFLOP/s, {far[t] / 1e9:.1f} GB/s from memory" for t in teams)
    print(f"{machine.name}; {reached}\n")
    heads = [f"{t} threads: ours / oneDNN us | ratio | ours | of the machine" for t in teams]
    print(f"| family | layer | {' | '.join(heads)} |\n|{'---|' * (2 + 4 * len(teams))}")
    for case in CASES:
        if args.only not in f"{case.family} {case.name}":
            continue
        cells = []
        for threads in teams:
            a, b, part, speed = measure(backend, case, threads, args.calls, flops[threads])
            cells.append(f"{a * 1e6:.1f} / {b * 1e6:.1f} | {b / a:.2f} | {speed} | {part:.0%}")
        print(f"| {case.family} | {case.name} | {' | '.join(cells)} |", flush=True)
    for fc in FC:
        if args.only not in f"fully connected {fc}":
            continue
        cells = []
        for threads in teams:
            a, b, plain = cold(backend, fc, threads, args.calls)
            speed = 4e-9 * fc.channels * fc.columns / a
            cells.append(f"{a * 1e6:.0f} / {b * 1e6:.0f} | {b / a:.2f} | {speed:.1f} GB/s | {plain / a:.0%}")
        print(f"| fully connected | {fc} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
