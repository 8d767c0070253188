"""Our own products and convolutions against oneDNN's, shape by shape, on the same memory and interleaved.

    python benchmarks/products.py [--threads 1] [--seconds 0.4] [--only resnet50]

Prints GFLOP/s of both (GB/s of weights for fully connected layers), the ratio, and the fraction of the best product (of the
read bandwidth) that ours reaches; both are measured first. Lines that end in "prologue" compare our BatchNorm + ReLU +
convolution with oneDNN's convolution alone, which needs a pass over its input besides.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnaccel_backend_x86.backend import X86Backend
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_core.ir import Graph, Node, TensorType, Value
from nnaccel_core.ops.registry import infer
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Candidate

IMAGE = (0, 2, 3, 1)


@dataclass(frozen=True)
class Conv:
    """A convolution with ReLU: image size, channels in and out, window, stride; BatchNorm and ReLU in front; a residual."""

    net: str
    size: int
    channels: int
    columns: int
    window: int = 1
    stride: int = 1
    prologue: bool = False
    residual: bool = False
    images: int = 1

    def graph(self) -> Graph:
        x = Value(TensorType((self.images, self.channels, self.size, self.size), "float32", IMAGE), "x")
        params = [parameter("w", self.columns, self.channels, self.window, self.window), parameter("b", self.columns)]
        nodes: list[Node] = []
        at, inputs = x, [x]
        if self.prologue:
            params += [parameter("scale", self.channels, 1, 1), parameter("shift", self.channels, 1, 1)]
            at = add_node(nodes, "mul", at, params[2])
            at = add_node(nodes, "add", at, params[3])
            at = add_node(nodes, "relu", at)
        pad = (self.window // 2,) * 2
        attrs = {"stride": (self.stride,) * 2, "padding": (pad, pad), "dilation": (1, 1), "groups": 1}
        at = add_node(nodes, "conv", at, *params[:2], **attrs)
        if self.residual:
            inputs.append(Value(at.type, "residual"))
            at = add_node(nodes, "add", at, inputs[1])
        at = add_node(nodes, "relu", at)
        return Graph(tuple(inputs), tuple(params), tuple(nodes), (at,))

    def work(self) -> tuple[float, str]:
        pixels = self.images * math.ceil(self.size / self.stride) ** 2
        return 2e-9 * pixels * self.columns * self.channels * self.window**2, "GFLOP/s"

    def __str__(self) -> str:
        extra = (" prologue" if self.prologue else "") + (" residual" if self.residual else "")
        return f"{self.net} {self.window}x{self.window}/{self.stride} {self.channels}->{self.columns} @{self.size}{extra}"


@dataclass(frozen=True)
class Fc:
    """A fully connected layer."""

    net: str
    rows: int
    channels: int
    columns: int

    def graph(self) -> Graph:
        x = Value(TensorType((self.rows, self.channels), "float32"), "x")
        params = (parameter("w", self.columns, self.channels), parameter("b", self.columns))
        nodes: list[Node] = []
        out = add_node(nodes, "matmul", x, *params, transpose_b=True)
        return Graph((x,), params, tuple(nodes), (out,))

    def work(self) -> tuple[float, str]:
        return 4e-9 * self.channels * self.columns, "GB/s"

    def __str__(self) -> str:
        return f"{self.net} fc {self.channels}->{self.columns} x {self.rows} rows"


def parameter(name: str, *shape: int) -> Value:
    return Value(TensorType(shape, "float32"), name)


def add_node(nodes: list[Node], op: str, *inputs: Value, **attrs: object) -> Value:
    (t,) = infer(op, [v.type for v in inputs], attrs)
    out = Value(t.with_layout(IMAGE if t.rank == 4 else None), f"v{len(nodes)}")
    nodes.append(Node(op, inputs, (out,), attrs, f"layer{len(nodes)}"))
    return out


CASES: Sequence[Conv | Fc] = (
    *(Conv("resnet50", *c) for c in [(56, 64, 64), (56, 64, 256), (56, 256, 64), (56, 256, 128), (28, 128, 512), (28, 512, 128)]),
    *(Conv("resnet50", *c) for c in [(14, 256, 1024), (14, 1024, 256), (7, 512, 2048), (7, 2048, 512)]),
    Conv("resnet50", 56, 256, 512, stride=2), Conv("resnet50", 28, 128, 512, residual=True), Conv("resnet50", 56, 128, 128, 3, 2),
    Conv("resnet50", 224, 3, 64, 7, 2), Conv("resnet50", 28, 128, 512, images=4), Conv("resnet50", 7, 2048, 512, images=4),
    *(Conv("mobilenet_v2", *c) for c in [(112, 32, 16), (112, 16, 96), (56, 96, 24), (56, 24, 144), (56, 144, 24)]),
    *(Conv("mobilenet_v2", *c) for c in [(28, 192, 32), (28, 32, 192), (14, 64, 384), (14, 384, 64), (14, 96, 576)]),
    *(Conv("mobilenet_v2", *c) for c in [(7, 960, 320), (7, 320, 1280)]),
    *(Conv("densenet121", *c, prologue=True) for c in [(56, 64, 128), (56, 224, 128), (28, 256, 128), (28, 512, 256)]),
    *(Conv("densenet121", *c, prologue=True) for c in [(14, 512, 128), (14, 992, 128), (7, 512, 128), (7, 992, 128)]),
    *(Conv("densenet121", *c, 3) for c in [(56, 128, 32), (28, 128, 32), (14, 128, 32), (7, 128, 32)]),
    *(Fc("alexnet", rows, 9216, 4096) for rows in (1, 2, 4, 8)), Fc("vgg16", 1, 25088, 4096), Fc("resnet50", 1, 2048, 1000),
    Fc("resnet50", 4, 2048, 1000), Fc("resnet50", 16, 2048, 1000),
)  # fmt: skip


class SmallPages:
    """Memory in pages of 4 KB, as frameworks hold their parameters."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._map = mmap.mmap(-1, nbytes)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))


class Runner:
    """A candidate, built, with memory of its own for packed weights and for the output."""

    def __init__(
        self,
        backend: X86Backend,
        c: Candidate,
        data: dict[Value, np.ndarray],
        threads: int,
        copies: int = 0,
        kind: type[X86Memory] | type[SmallPages] = X86Memory,
    ) -> None:
        """``copies``: of the weights (the second input) in memory of this ``kind``, of which each call may take another."""
        packs = {p.value: p for p in c.packs}
        refs, types, inputs = [], [], []
        self.keep: list[object] = []
        self.weights: list[X86Memory | SmallPages] = []
        for v in c.inputs:
            given, array = v.type, np.ascontiguousarray(data[v].transpose(v.type.layout))
            memory = X86Memory(array.nbytes)
            memory.numpy(TensorType(array.shape, "float32"))[...] = array
            if v in packs:
                memory = self._packed(backend, v, packs[v].key, packs[v].nbytes, memory)
                given = TensorType((packs[v].nbytes,), "uint8")
            refs.append(BufferRef("input", len(inputs), 0, given))
            types.append(given)
            if len(inputs) == 1:
                self.weights = [kind(memory.nbytes) for _ in range(copies)]
                for m in self.weights:
                    ctypes.memmove(m.address, memory.address, memory.nbytes)
            inputs.append(memory.address)
            self.keep.append(memory)
        out = c.outputs[0].type
        result = X86Memory(int(out.nbytes))  # type: ignore[arg-type]
        step = LibraryStep(c, tuple(refs), (BufferRef("output", 0, 0, out),), None, str(c.reason))
        self.executable = backend.build(Plan("one", (step,), tuple(types), (), (out,)), Options())
        self.keep.append(result)
        self._call = (tuple(inputs), (result.address,), threads)

    def run(self) -> None:
        given, outputs, threads = self._call
        self.executable.run(given, (), outputs, threads, 0)

    def timed(self, weights: X86Memory | SmallPages | None = None) -> float:
        """Seconds of one call as the runtime measures them, with these weights."""
        given, outputs, threads = self._call
        if weights is not None:
            given = (given[0], weights.address, *given[2:])
        self.executable.profiling = True
        self.executable.run(given, (), outputs, threads, 0)
        self.executable.profiling = False
        return sum(seconds for _, seconds in self.executable.profile())

    @staticmethod
    def _packed(backend: X86Backend, v: Value, key: str, nbytes: int, source: X86Memory) -> X86Memory:
        packed = X86Memory(nbytes)
        kind = TensorType((nbytes,), "uint8")
        node = Node("pack", (v,), (Value(kind, "packed"),), {"key": key, "nbytes": nbytes}, "pack")
        refs = (BufferRef("input", 0, 0, v.type),), (BufferRef("output", 0, 0, kind),)
        plan = Plan("pack", (LibraryStep(backend.pack_candidate(node), *refs, None, "pack"),), (v.type,), (), (kind,))
        backend.build(plan, Options()).run((source.address,), (), (packed.address,), 1, 0)
        return packed


def fastest(runs: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """The shortest of many calls of each, in turns of some calls each."""
    best = [math.inf] * len(runs)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for i, run in enumerate(runs):
            run()
            for _ in range(4):
                started = time.perf_counter()
                run()
                best[i] = min(best[i], time.perf_counter() - started)
    return best


def rivals(backend: X86Backend, case: Conv | Fc) -> tuple[Candidate, Candidate, dict[Value, np.ndarray]]:
    """Ours and oneDNN's that take most layers along, the best by estimate; and data for all values."""
    rng = np.random.default_rng(0)
    graph = case.graph()
    data = {v: rng.standard_normal(v.shape).astype(np.float32) for v in (*graph.inputs, *graph.params)}  # type: ignore[arg-type]
    data.update((n.output, rng.standard_normal(n.output.shape).astype(np.float32)) for n in graph.nodes)  # type: ignore[arg-type]
    candidates = backend.candidates(graph, {}, Options())
    last = [c for c in candidates if c.outputs[0] is graph.outputs[0]]
    own = [c for c in last if isinstance(c.impl, BuiltinCall) and c.impl.name in ("product", "rows_product")]
    most = max(len(c.nodes) for c in own)
    ours = min((c for c in own if len(c.nodes) == most), key=lambda c: c.seconds)
    others = [c for c in last if not isinstance(c.impl, BuiltinCall)]
    longest = max(len(c.nodes) for c in others)
    return ours, min((c for c in others if len(c.nodes) == longest), key=lambda c: c.seconds), data


def measure(backend: X86Backend, case: Conv | Fc, threads: int, seconds: float) -> tuple[float, float, float, float]:
    """Seconds of ours and of oneDNN's best, then the estimates of both."""
    ours, theirs, data = rivals(backend, case)
    a, b = fastest([Runner(backend, c, data, threads).run for c in (ours, theirs)], seconds)
    return a, b, ours.seconds, theirs.seconds


def peaks(backend: X86Backend, threads: int) -> tuple[float, float]:
    """GFLOP/s of a product whose operands stay in the first-level cache, and GB/s of reading 256 MB of weights."""
    rng = np.random.default_rng(0)

    def run(case: Conv | Fc, kernel: str) -> float:
        graph = case.graph()
        data = {v: rng.standard_normal(v.shape).astype(np.float32) for v in (*graph.inputs, *graph.params)}  # type: ignore[arg-type]
        found = [c for c in backend.candidates(graph, {}, Options()) if isinstance(c.impl, BuiltinCall) and c.impl.name == kernel]
        seconds = fastest([Runner(backend, min(found, key=lambda c: len(c.nodes)), data, threads).run], 0.4)[0]
        return case.work()[0] / seconds

    return run(Conv("", 24, 256, 64), "product"), run(Fc("", 1, 16384, 4096), "rows_product")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="per shape")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    args = parser.parse_args()
    machine = X86Backend.probe()
    assert machine is not None, "not an x86-64 processor"
    backend = X86Backend(machine, "cpu")
    flops, bandwidth = peaks(backend, args.threads)
    print(f"{machine.name}, {args.threads} threads; best product {flops:.0f} GFLOP/s, weights read at {bandwidth:.1f} GB/s")
    print(f"{'shape':52s} {'ours':>8s} {'oneDNN':>8s} {'ratio':>6s} {'of best':>8s}   estimated ours / oneDNN us, measured")
    for case in CASES:
        if args.only not in str(case):
            continue
        a, b, estimated_a, estimated_b = measure(backend, case, args.threads, args.seconds)
        work, unit = case.work()
        best = flops if unit == "GFLOP/s" else bandwidth
        print(
            f"{case!s:52s} {work / a:8.1f} {work / b:8.1f} {b / a:6.2f} {work / a / best:8.0%}   "
            f"{estimated_a * 1e6:7.0f} / {estimated_b * 1e6:7.0f}   {a * 1e6:7.0f} / {b * 1e6:7.0f} {unit}",
            flush=True,
        )


if __name__ == "__main__":
    main()
