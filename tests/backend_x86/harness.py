"""Runs single candidates of the x86 backend on graphs built by hand, against float64 references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnaccel_backend_x86.backend import X86Backend
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_backend_x86.onednn import PrimitiveCall
from nnaccel_core.ir import Graph, Node, TensorType, Value
from nnaccel_core.ops.registry import infer, lookup
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Candidate

Array = np.ndarray[Any, Any]


def backend() -> X86Backend:
    machine = X86Backend.probe()
    assert machine is not None
    return X86Backend(machine, "cpu")


class Net:
    """A graph under construction, with data for its inputs and parameters."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.data: dict[Value, Array] = {}
        self.inputs: list[Value] = []
        self.params: list[Value] = []
        self.nodes: list[Node] = []

    def _draw(self, shape: Sequence[int], layout: tuple[int, ...] | None, name: str, scale: float) -> Value:
        v = Value(TensorType(tuple(shape), "float32", layout), name)  # type: ignore[arg-type]
        self.data[v] = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return v

    def input(self, *shape: int, layout: tuple[int, ...] | None = None) -> Value:
        v = self._draw(shape, layout, f"x{len(self.inputs)}", 1.0)
        self.inputs.append(v)
        return v

    def param(self, *shape: int) -> Value:
        fan_in = max(1, int(np.prod(shape[1:])))
        v = self._draw(shape, None, f"p{len(self.params)}", fan_in**-0.5)
        self.params.append(v)
        return v

    def op(self, name: str, *inputs: Value, layout: tuple[int, ...] | None = None, **attrs: Any) -> Value:
        if name == "reorder":
            attrs["layout"] = layout
        (t,) = infer(name, [v.type for v in inputs], attrs)
        out = Value(t.with_layout(layout), f"v{len(self.nodes)}")
        self.nodes.append(Node(name, inputs, (out,), attrs, f"layer{len(self.nodes)}.{name}"))
        return out

    def graph(self, *outputs: Value) -> Graph:
        return Graph(tuple(self.inputs), tuple(self.params), tuple(self.nodes), outputs)

    def reference(self, value: Value) -> Array:
        """In float64."""
        values = {v: a.astype(np.float64) for v, a in self.data.items()}
        for node in self.nodes:
            results = lookup(node.op).ref([values[v] for v in node.inputs], node.attrs)
            values.update(zip(node.outputs, results, strict=True))
        return values[value]


def physical(array: Array, t: TensorType) -> Array:
    """The bytes of ``array`` in the layout of ``t``."""
    return np.ascontiguousarray(array.transpose(t.layout))


def run_plan(b: X86Backend, plan: Plan, inputs: Sequence[Array], prepared: Sequence[int], threads: int = 2) -> list[Array]:
    """Outputs in logical axis order."""
    outputs = [X86Memory(int(t.nbytes)) for t in plan.outputs]  # type: ignore[arg-type]
    executable = b.build(plan, Options())
    executable.run([a.ctypes.data for a in inputs], tuple(prepared), [m.address for m in outputs], threads, 0)
    return [m.numpy(t).copy() for m, t in zip(outputs, plan.outputs, strict=True)]


def pack(b: X86Backend, array: Array, key: str, nbytes: int) -> X86Memory:
    source = Value(TensorType(array.shape, "float32"), "w")
    node = Node("pack", (source,), (Value(TensorType((nbytes,), "uint8"), "packed"),), {"key": key, "nbytes": nbytes}, "pack")
    packed = X86Memory(nbytes)
    step = LibraryStep(
        b.pack_candidate(node),
        (BufferRef("input", 0, 0, source.type),),
        (BufferRef("output", 0, 0, node.output.type),),
        None,
        "pack",
    )
    executable = b.build(Plan("pack", (step,), (source.type,), (), (node.output.type,)), Options())
    row_major = np.ascontiguousarray(array)
    executable.run([row_major.ctypes.data], (), [packed.address], 1, 0)
    return packed


def lower(b: X86Backend, net: Net, c: Candidate) -> tuple[Plan, list[Array], list[X86Memory]]:
    """A plan of one step that runs ``c``, its inputs, and its packed weights."""
    packs = {p.value: p for p in c.packs}
    refs: list[BufferRef] = []
    inputs: list[Array] = []
    types: list[TensorType] = []
    memories: list[X86Memory] = []
    prepared: list[TensorType] = []
    computed = [v for v in c.inputs if v not in net.data]
    for v in c.inputs:
        if v in packs:
            p = packs[v]
            t = TensorType((p.nbytes,), "uint8")
            refs.append(BufferRef("prepared", len(prepared), 0, t))
            prepared.append(t)
            memories.append(pack(b, net.data[v], p.key, p.nbytes))
        else:
            array = net.reference(v).astype(np.float32) if v in computed else net.data[v]
            refs.append(BufferRef("input", len(inputs), 0, v.type))
            inputs.append(physical(array, v.type))
            types.append(v.type)
    out = BufferRef("output", 0, 0, c.outputs[0].type)
    step = LibraryStep(c, tuple(refs), (out,), None, c.nodes[0].origin)
    return Plan("one", (step,), tuple(types), tuple(prepared), (out.type,)), inputs, memories


def check(b: X86Backend, net: Net, c: Candidate, threads: int = 2, rtol: float = 2e-5) -> None:
    """Run ``c`` and compare its output with the float64 reference, relative to the largest value."""
    plan, inputs, memories = lower(b, net, c)
    (got,) = run_plan(b, plan, inputs, [m.address for m in memories], threads)
    want = net.reference(c.outputs[0])
    scale = max(1.0, float(np.abs(want).max()))
    worst = float(np.abs(got - want).max()) / scale
    assert worst < rtol, f"{c.reason}: off by {worst:.2e} of the largest value"


def propose(b: X86Backend, net: Net, *outputs: Value) -> Sequence[Candidate]:
    """oneDNN's candidates."""
    return [c for c in b.candidates(net.graph(*outputs), {}, Options()) if isinstance(c.impl, PrimitiveCall)]


def propose_own(b: X86Backend, net: Net, *outputs: Value, kernel: str = "") -> Sequence[Candidate]:
    """Candidates that kernels of the native library run; with ``kernel``, those by the kernel of this name."""
    found = [c for c in b.candidates(net.graph(*outputs), {}, Options()) if isinstance(c.impl, BuiltinCall)]
    return [c for c in found if c.impl.name == kernel or not kernel]


def longest(candidates: Sequence[Candidate], where: Callable[[Candidate], bool] = lambda c: True) -> Candidate:
    """The candidate that covers most nodes."""
    return max((c for c in candidates if where(c)), key=lambda c: len(c.nodes))


def conv_attrs(nd: int, stride: int = 1, pad: int = 0, dilation: int = 1, groups: int = 1) -> Mapping[str, Any]:
    return {"stride": (stride,) * nd, "padding": ((pad, pad),) * nd, "dilation": (dilation,) * nd, "groups": groups}
