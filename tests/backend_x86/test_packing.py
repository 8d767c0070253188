"""Packed weights: their order, and that packing again takes neither new memory nor new code."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, conv_attrs
from nnaccel_backend_x86 import native
from nnaccel_backend_x86.convolution import PANEL, panels_pack
from nnaccel_backend_x86.memory import X86Memory
from nnaccel_core.ir import TensorType, Value
from nnaccel_core.options import Options

B = backend()
Array = np.ndarray[Any, Any]


def panels(w: Array, turned: bool) -> Array:
    """[columns / PANEL][taps][channels][PANEL] of weights (columns, channels, taps), or (channels, columns, taps) turned."""
    if turned:
        w = w.transpose(1, 0, 2)[:, :, ::-1]
    columns, channels, taps = w.shape
    padded = np.zeros((-(-columns // PANEL) * PANEL, channels, taps), w.dtype)
    padded[:columns] = w
    return padded.reshape(-1, PANEL, channels, taps).transpose(0, 3, 2, 1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("taps", [1, 2, 9, 49])
@pytest.mark.parametrize(("columns", "channels"), [(16, 16), (1, 1), (5, 3), (40, 33), (64, 130), (129, 17)])
def test_panels(columns: int, channels: int, taps: int, turned: bool) -> None:
    shape = (channels, columns, taps) if turned else (columns, channels, taps)
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    want = panels(w, turned)
    pack = panels_pack(Value(TensorType(w.shape, "float32"), "w"), (columns, channels, taps, int(turned)))
    assert pack.nbytes == want.nbytes
    memory = B.packed(pack, w)
    np.testing.assert_array_equal(memory.numpy(TensorType(want.shape, "float32")), want)


def test_all_packed_forms_of_a_network_are_the_same_by_either_way() -> None:
    from backend_x86.harness import pack as by_plan

    net = Net()
    x = net.input(2, 40, 9, 9, layout=(0, 2, 3, 1))
    y = net.op("conv", x, net.param(24, 40, 3, 3), layout=(0, 2, 3, 1), **conv_attrs(2, 1, 1))
    z = net.op("matmul", net.input(5, 40), net.param(24, 40), transpose_b=True)
    packs = {p.key: p for c in B.candidates(net.graph(y, z), {}, Options()) for p in c.packs}
    assert len(packs) >= 3
    for p in packs.values():
        whole = TensorType((p.nbytes,), "uint8")
        ours, theirs = B.packed(p, net.data[p.value]), by_plan(B, net.data[p.value], p.key, p.nbytes)
        np.testing.assert_array_equal(ours.numpy(whole), theirs.numpy(whole))


def test_other_types_and_strides_are_converted() -> None:
    w = np.random.default_rng(0).standard_normal((20, 30))
    pack = panels_pack(Value(TensorType((30, 20), "float32"), "w"), (30, 20, 1, 0))
    want = panels(w.T.astype(np.float32)[:, :, None], False)
    memory = B.packed(pack, w.T)
    np.testing.assert_array_equal(memory.numpy(TensorType(want.shape, "float32")), want)


def test_memory_of_packed_parameters_is_used_again() -> None:
    library = native.library()
    before = library.nnx_memory_spare_bytes()
    held = [X86Memory(3 << 20, recycled=True) for _ in range(4)]
    addresses = {m.address for m in held}
    del held[:2]
    kept = library.nnx_memory_spare_bytes() - before
    assert kept == 8 << 20  # two blocks, in whole huge pages
    again = [X86Memory(3 << 20, recycled=True) for _ in range(2)]
    assert {m.address for m in (*held, *again)} == addresses
    del held, again
    assert library.nnx_memory_spare_bytes() <= before  # never more than is in use


def test_packing_again_reads_the_new_values() -> None:
    value = Value(TensorType((32, 16), "float32"), "w")
    pack = panels_pack(value, (32, 16, 1, 0))
    w = np.random.default_rng(0).standard_normal((32, 16)).astype(np.float32)
    first = B.packed(pack, w)
    w *= 2
    second = B.packed(pack, w)
    t = TensorType((512,), "float32")
    np.testing.assert_array_equal(second.numpy(t), 2 * first.numpy(t))
