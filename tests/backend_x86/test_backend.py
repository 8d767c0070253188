"""The backend class: probing, registration, packing, diagnosis, whole graphs at symbolic sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend_x86.harness import Net, backend, conv_attrs, lower, pack, propose, run_plan
from nnaccel_backend_x86 import costs, plugin, probe
from nnaccel_backend_x86.backend import X86Backend
from nnaccel_core.api import API
from nnaccel_core.errors import ToolchainError
from nnaccel_core.ir import Graph, Node, TensorType, Value, sym
from nnaccel_core.options import Options

B = backend()
IMAGE = (0, 2, 3, 1)


def test_registration() -> None:
    (cls,) = plugin.nnaccel_register_backends()
    assert cls is X86Backend
    assert (cls.name, cls.devices, cls.api) == ("x86", ("cpu",), API)


def test_machine_is_plausible() -> None:
    m = B.machine
    assert m.kind == "x86" and m.isa in ("sse4", "avx", "avx2", "avx512")
    assert m.cores >= 1 and m.simd_bytes in (16, 32, 64)
    assert 8 << 10 <= m.l1 <= 1 << 20 and 128 << 10 <= m.l2 <= 64 << 20
    assert 1e9 < m.flops / m.cores < 1e12 and m.bandwidth > 1e9


def fake_machine(monkeypatch: pytest.MonkeyPatch, folder: Path, flags: str, l1: str = "48K") -> None:
    info = folder / "cpuinfo"
    info.write_text(f"model name\t: Toy CPU\ncpu MHz\t\t: 2000.000\nflags\t\t: {flags}\n")
    for level, kind, size in [("1", "Data", l1), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "30M")]:
        for cpu in (0, 1):
            index = (
                folder / f"cpu{cpu}" / "cache" / f"index{level}{kind[0]}".replace("D", "0").replace("I", "1").replace("U", "2")
            )
            index.mkdir(parents=True, exist_ok=True)
            for name, text in [("level", level), ("type", kind), ("size", size)]:
                (index / name).write_text(text + "\n")
            topology = folder / f"cpu{cpu}" / "topology"
            topology.mkdir(exist_ok=True)
            (topology / "thread_siblings_list").write_text("0-1\n")
    monkeypatch.setattr(probe, "CPUINFO", info)
    monkeypatch.setattr(probe, "CPUS", folder)
    monkeypatch.setattr(probe.os, "sched_getaffinity", lambda pid: {0, 1})


def test_probe_reads_flags_caches_and_siblings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_machine(monkeypatch, tmp_path, "fpu avx avx2 fma f16c bmi2 avx512f avx512bw avx512dq avx512vl avx512cd")
    m = probe.probe()
    assert m is not None
    assert (m.name, m.isa, m.simd_bytes) == ("Toy CPU", "avx512", 64)
    assert m.cores == 1  # two hardware threads of one core
    assert (m.l1, m.l2, m.l3) == (48 << 10, 2 << 20, probe.CORE_L3)  # of 30 MiB, one core's share
    assert m.flops == 2e9 * 64


def test_probe_without_a_known_instruction_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_machine(monkeypatch, tmp_path, "fpu sse sse2")
    assert probe.probe() is None


def test_libraries_false_proposes_nothing() -> None:
    net = Net()
    y = net.op("matmul", net.input(2, 8), net.param(8, 4))
    assert propose(B, net, y)
    assert not B.candidates(net.graph(y), {}, Options(libraries=False))


def test_symbolic_batch_is_evaluated() -> None:
    batch = sym("n")
    x = Value(TensorType((batch, 16, 8, 8), "float32", IMAGE), "x")
    w = Value(TensorType((32, 16, 3, 3), "float32"), "w")
    y = Value(TensorType((batch, 32, 8, 8), "float32", IMAGE), "y")
    graph = Graph((x,), (w,), (Node("conv", (x, w), (y,), conv_attrs(2, 1, 1), "c"),), (y,))
    few, many = (B.candidates(graph, {"n": n}, Options())[0] for n in (1, 32))
    assert few.packs == many.packs
    assert few.seconds < many.seconds


def test_other_dtypes_and_empty_tensors_are_left_alone() -> None:
    for shape, dtype in [((2, 8), "float64"), ((0, 8), "float32")]:
        a = Value(TensorType(shape, dtype), "a")
        b = Value(TensorType((8, 4), dtype), "b")
        y = Value(TensorType((shape[0], 4), dtype), "y")
        assert not B.candidates(Graph((a,), (b,), (Node("matmul", (a, b), (y,), {}),), (y,)), {}, Options())


def test_negative_padding_is_left_alone() -> None:
    net = Net()
    x, w = net.input(1, 4, 8, 8, layout=IMAGE), net.param(4, 4, 3, 3)
    attrs = {"stride": (1, 1), "padding": ((-1, 0), (0, 0)), "dilation": (1, 1), "groups": 1}
    y = Value(TensorType((1, 4, 5, 6), "float32", IMAGE), "y")
    net.nodes.append(Node("conv", (x, w), (y,), attrs, "crop"))
    assert not propose(B, net, y)


def test_packing_keeps_every_weight() -> None:
    net = Net()
    x = net.input(1, 20, 9, 9, layout=IMAGE)
    y = net.op("conv", x, net.param(40, 20, 3, 3), layout=IMAGE, **conv_attrs(2))
    (c,) = propose(B, net, y)
    (p,) = c.packs
    w = net.data[p.value]
    packed = pack(B, w, p.key, p.nbytes)
    values = packed.numpy(TensorType((p.nbytes // 4,), "float32"))
    np.testing.assert_array_equal(np.sort(values[values != 0]), np.sort(w[w != 0]))


def test_an_unknown_weight_format_is_an_error() -> None:
    for key in ("onednn f32 4x4 noSuchTag", "something else", "onednn f32 4x4"):
        node = Node("pack", (Value(TensorType((4, 4), "float32")),), (Value(TensorType((64,), "uint8")),), {"key": key}, "fc")
        with pytest.raises(ToolchainError, match="unknown weight format"):
            B.pack_candidate(node)


def test_diagnosis_names_all_parts() -> None:
    lines = {d.what: d for d in X86Backend.diagnose()}
    for part in ("processor", "OpenMP (libgomp)", "oneDNN", "x86 runtime"):
        assert lines[part].ok and lines[part].detail, part
    assert "3.2.0" in lines["oneDNN"].detail
    assert all(d.ok or d.fix for d in lines.values())


def test_two_candidates_in_one_plan() -> None:
    """A convolution with its epilogue, and the next one, through the arena."""
    from dataclasses import replace

    from nnaccel_core.plan import BufferRef

    net = Net()
    x = net.input(2, 16, 10, 10, layout=IMAGE)
    y = net.op("conv", x, net.param(24, 16, 3, 3), layout=IMAGE, **conv_attrs(2, 1, 1))
    y = net.op("relu", y, layout=IMAGE)
    z = net.op("conv", y, net.param(8, 24, 1, 1), layout=IMAGE, **conv_attrs(2))
    candidates = propose(B, net, z)
    first = next(c for c in candidates if len(c.nodes) == 2)
    second = next(c for c in candidates if c.outputs == (z,))
    plan1, inputs, m1 = lower(B, net, first)
    plan2, _, m2 = lower(B, net, second)
    middle = BufferRef("arena", 0, 256, y.type)
    s1 = replace(plan1.steps[0], outputs=(middle,))
    weights = replace(plan2.steps[0].inputs[1], index=1)
    s2 = replace(plan2.steps[0], inputs=(middle, weights))
    joined = replace(
        plan1, steps=(s1, s2), prepared=plan1.prepared + plan2.prepared, outputs=plan2.outputs, arena=256 + 4 * 2 * 24 * 100
    )
    (got,) = run_plan(B, joined, inputs, [m.address for m in (*m1, *m2)])
    np.testing.assert_allclose(got, net.reference(z), atol=1e-4)


def test_costs_rank_what_was_measured() -> None:
    m = B.machine
    x, out = (1, 64, 56, 56), (1, 64, 56, 56)
    dense = costs.conv_seconds(m, "brgconv:avx2", x, (64, 64, 3, 3), out, 1, 0)
    gemm = costs.conv_seconds(m, "x64:gemm:jit", x, (64, 4, 3, 3), out, 16, 0)
    assert gemm > dense / 4  # a sixteenth of the work, at a fraction of the speed
    assert costs.conv_seconds(m, "brgconv:avx2", x, (64, 64, 3, 3), out, 1, 4 * 64 * 56 * 56) >= dense
    far = 4.0 * 25088 * 4096 + 4 * m.l3  # weights of more than the caches hold are read at the memory's speed
    row = costs.product_seconds(m, False, 1, 1, 4096, 4096, far)
    assert row == pytest.approx(far / m.bandwidth, rel=0.5)
    for rows, better in [(1, False), (16, True)]:
        nbytes = 4.0 * (1280 * 1000 + rows * 2280)
        plain, packed = (costs.product_seconds(m, p, 1, rows, 1000, 1280, nbytes) for p in (False, True))
        assert (packed < plain) == better
