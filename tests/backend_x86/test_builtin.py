"""Kernels of the native library: names, weight formats, and our own products and convolutions against float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend_x86.harness import Net, backend, check, conv_attrs, longest, lower, pack, propose_own, run_plan
from nnaccel_backend_x86 import builtin
from nnaccel_backend_x86.builtin import BuiltinCall, row_stride
from nnaccel_backend_x86.products import ProductDims
from nnaccel_core.errors import NnaccelError, ToolchainError
from nnaccel_core.ir import Node, TensorType, Value
from nnaccel_core.options import Options
from nnaccel_core.plan import BufferRef, LibraryStep, Plan
from nnaccel_core.select.candidate import Candidate, Pack

B = backend()
IMAGE = (0, 2, 3, 1)


def convolution(net: Net, batch: int, c: int, o: int, h: int, w: int, *, x: Value | None = None, **attrs: int) -> Value:
    attrs = {"kernel": 1, "stride": 1, "pad": 0, "dilation": 1, **attrs}
    x = x if x is not None else net.input(batch, c, h, w, layout=IMAGE)
    operands = (x, net.param(o, c, attrs["kernel"], attrs["kernel"]), net.param(o))
    return net.op("conv", *operands, layout=IMAGE, **conv_attrs(2, attrs["stride"], attrs["pad"], attrs["dilation"]))


def test_unknown_kernels_are_refused() -> None:
    with pytest.raises(ToolchainError, match="no kernel 'nothing'"):
        builtin.address("nothing")
    w = Value(TensorType((4, 4), "float32"), "w")
    for key, message in [("builtin nothing 1 4x4", "no kernel"), ("builtin pack_panels", "unknown weight format")]:
        packed = Value(TensorType((64,), "uint8"), "packed")
        with pytest.raises(ToolchainError, match=message):
            B.pack_candidate(Node("pack", (w,), (packed,), {"key": key, "nbytes": 64}, "layer"))


def test_rows_of_a_slice() -> None:
    t = TensorType((2, 5, 3, 4), "float32", IMAGE)
    assert row_stride(BufferRef("arena", 0, 0, t)) == 5
    assert row_stride(BufferRef("arena", 0, 0, t, (12 * 9, 1, 4 * 9, 9))) == 9
    with pytest.raises(NnaccelError, match="no rows at one distance"):
        row_stride(BufferRef("arena", 0, 0, t, (12 * 9 + 1, 1, 4 * 9, 9)))
    one = TensorType((1, 5, 1, 1), "float32", IMAGE)  # axes of one element have any stride
    assert row_stride(BufferRef("arena", 0, 0, one, (77, 1, 13, 9))) == 9
    column = TensorType((2, 6, 7, 1), "float32", (0, 2, 1, 3))  # channels-last memory, though the axis of extent 1 comes last
    assert row_stride(BufferRef("arena", 0, 0, column)) == 6


@pytest.mark.parametrize("columns,channels,taps", [(1, 1, 1), (16, 3, 9), (33, 5, 4)])
def test_packed_panels(columns: int, channels: int, taps: int) -> None:
    w = np.random.default_rng(0).standard_normal((columns, channels, taps)).astype(np.float32)
    panels = -(-columns // 16)
    nbytes = 4 * 16 * panels * taps * channels
    memory = pack(B, w, builtin.pack_key("pack_panels", (columns, channels, taps, 0), panels), nbytes)
    got = memory.numpy(TensorType((panels, taps, channels, 16), "float32"))
    want = np.zeros((panels * 16, channels, taps), np.float32)
    want[:columns] = w
    assert np.array_equal(got, want.reshape(panels, 16, channels, taps).transpose(0, 3, 2, 1))


@pytest.mark.parametrize("columns,channels,window", [(1, 1, 1), (16, 3, 3), (33, 5, 2), (40, 130, 3), (24, 100, 1)])
@pytest.mark.parametrize("turned", [False, True])
def test_weights_are_packed_as_tensorflow_has_them(columns: int, channels: int, window: int, turned: bool) -> None:
    """Window, input and output channels, the last innermost: not brought into another order first."""
    shape = (channels, columns) if turned else (columns, channels)
    row_major = np.random.default_rng(0).standard_normal((*shape, window, window)).astype(np.float32)
    last = np.ascontiguousarray(row_major.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    panels, taps = -(-columns // 16), window * window
    value = Value(TensorType(row_major.shape, "float32"), "w")
    ours = builtin.pack_key("pack_panels", (columns, channels, taps, int(turned)), panels)
    theirs = f"onednn f32 {'x'.join(map(str, row_major.shape))} ABcd8b8a"
    for key, floats in ((ours, panels * 16 * taps * channels), (theirs, taps * -(-shape[0] // 8) * 8 * -(-shape[1] // 8) * 8)):
        assert builtin.packing_order(key, last) is not None
        pack = Pack(value, key, 4 * floats)
        memory = [B.packed(pack, w) for w in (row_major, last)]
        found = [m.numpy(TensorType((floats,), "float32")) for m in memory]
        assert np.array_equal(*found) and np.abs(found[0]).max() > 0
    assert builtin.packing_order(ours, row_major.transpose(0, 1, 3, 2)) is None or window == 1


# Remainders in rows (pixels), columns and channels, one and several chunks and blocks.
POINTWISE = [
    (1, 1, 1, 1, 1), (1, 3, 5, 2, 3), (1, 64, 24, 7, 7), (2, 17, 33, 9, 5), (1, 128, 16, 1, 13),
    (1, 700, 40, 7, 7), (3, 1500, 130, 3, 3), (1, 32, 8, 31, 31), (1, 96, 200, 14, 14),
]  # fmt: skip


@pytest.mark.parametrize("shape", POINTWISE, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolution(shape: tuple[int, ...], stride: int) -> None:
    batch, c, o, h, w = shape
    net = Net()
    y = convolution(net, batch, c, o, h, w, stride=stride)
    for candidate in propose_own(B, net, y, kernel="product"):
        for threads in (1, 2):
            check(B, net, candidate, threads)


WINDOWS = [
    {"kernel": 3, "pad": 1}, {"kernel": 3, "pad": 1, "stride": 2}, {"kernel": 3, "pad": 2, "dilation": 2},
    {"kernel": 5, "pad": 2}, {"kernel": 2}, {"kernel": 7, "pad": 3, "stride": 2}, {"kernel": 1, "pad": 1},
]  # fmt: skip


@pytest.mark.parametrize("window", WINDOWS, ids=lambda w: "-".join(f"{k}{v}" for k, v in w.items()))
@pytest.mark.parametrize("channels", [3, 32, 515])
def test_window_convolution(window: dict[str, int], channels: int) -> None:
    net = Net()
    y = convolution(net, 2, channels, 19, 11, 8, **window)
    y = net.op("relu", net.op("add", net.input(*y.shape, layout=IMAGE), y, layout=IMAGE), layout=IMAGE)
    check(B, net, longest(propose_own(B, net, y, kernel="product")))


@pytest.mark.parametrize("channels", [1, 3, 4, 8])
@pytest.mark.parametrize("height,width", [(5, 2), (1, 40), (9, 23)])
@pytest.mark.parametrize("kernel,stride,pad", [(3, 1, 5), (3, 2, 0), (11, 4, 5), (2, 3, 1), (5, 1, 2)])
def test_rows_of_windows_of_few_channels(channels: int, height: int, width: int, kernel: int, stride: int, pad: int) -> None:
    """A row of a window is one tap; those that cross an edge, on both sides even, or lie beyond it are copied."""
    if min(height, width) + 2 * pad < kernel:
        pytest.skip("the window is larger than the padded image")
    net = Net()
    y = net.op("relu", convolution(net, 2, channels, 20, height, width, kernel=kernel, stride=stride, pad=pad), layout=IMAGE)
    c = longest(propose_own(B, net, y, kernel="product"))
    assert ProductDims(*c.impl.dims).joined and not c.strided_in[0]
    for threads in (1, 2):
        check(B, net, c, threads)


def test_asymmetric_padding_and_lines() -> None:
    net = Net()
    attrs = {**conv_attrs(2), "padding": ((0, 2), (1, 0))}
    y = net.op("conv", net.input(1, 8, 9, 10, layout=IMAGE), net.param(7, 8, 3, 2), layout=IMAGE, **attrs)
    check(B, net, longest(propose_own(B, net, y, kernel="product")))
    net = Net()
    y = net.op("conv", net.input(2, 8, 30, layout=(0, 2, 1)), net.param(7, 8, 3), layout=(0, 2, 1), **conv_attrs(1, 2, 1))
    check(B, net, longest(propose_own(B, net, y, kernel="product")))


ACTIVATIONS: list[tuple[str, dict[str, Any]]] = [
    ("relu", {}), ("leaky_relu", {"alpha": 0.1}), ("clip", {"min": -0.5, "max": 0.7}),
    ("clip", {"min": float("-inf"), "max": 0.5}), ("hardswish", {}), ("hardsigmoid", {}), ("sigmoid", {}), ("silu", {}),
]  # fmt: skip


@pytest.mark.parametrize("name,attrs", ACTIVATIONS, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values())))
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("columns", [5, 24, 64])
def test_epilogues_keep_nan_and_infinity(name: str, attrs: dict[str, Any], residual: bool, columns: int) -> None:
    net = Net()
    y = convolution(net, 1, 20, columns, 6, 5)
    if residual:
        y = net.op("add", y, net.input(*y.shape, layout=IMAGE), layout=IMAGE)
    y = net.op(name, y, layout=IMAGE, **attrs)
    candidates = propose_own(B, net, y, kernel="product")
    assert sorted(len(c.nodes) for c in candidates) == list(range(1, len(net.nodes) + 1))
    c = longest(candidates)
    net.data[net.inputs[0]] *= 20.0  # far into the flat parts
    check(B, net, c)
    x = net.data[net.inputs[0]]
    x[0, 3, 1, 2], x[0, 0, 4, 4], x[0, 7, 0, 0] = np.nan, np.inf, -np.inf
    plan, inputs, memories = lower(B, net, c)
    with np.errstate(all="ignore"):
        (got,) = run_plan(B, plan, inputs, [m.address for m in memories])
        want = net.reference(c.outputs[0])
    assert np.isnan(want).any()
    assert np.array_equal(np.isnan(got), np.isnan(want))
    infinite = np.isinf(want)
    assert np.array_equal(got[infinite], want[infinite].astype(np.float32))


def batch_norm_relu(net: Net, x: Value, *steps: str) -> Value:
    c = x.shape[1]
    for k, step in enumerate(steps):
        if step == "relu":
            x = net.op("relu", x, layout=IMAGE)
        else:
            v = net.param(c, 1, 1) if k % 2 else net.param(1, c, 1, 1)  # type: ignore[arg-type]
            x = net.op(step, *((x, v) if k else (v, x)), layout=IMAGE)
    return x


@pytest.mark.parametrize("steps", [("mul", "add", "relu"), ("mul", "add"), ("add", "relu"), ("mul",), ("relu",), ("mul", "relu")])
@pytest.mark.parametrize("shape", [(2, 40, 33, 9, 7), (1, 515, 128, 7, 7), (1, 16, 24, 40, 40)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_prologue(steps: tuple[str, ...], shape: tuple[int, ...], stride: int) -> None:
    batch, c, o, h, w = shape
    net = Net()
    x = batch_norm_relu(net, net.input(batch, c, h, w, layout=IMAGE), *steps)
    y = net.op("relu", convolution(net, batch, c, o, h, w, x=x, stride=stride), layout=IMAGE)
    found = longest(propose_own(B, net, y, kernel="product"))
    assert len(found.nodes) == len(steps) + 2
    for threads in (1, 2):
        check(B, net, found, threads)


def test_what_is_no_prologue() -> None:
    """Another reader of the activation; a window; padding, which would be of activated values; an operand per pixel."""
    net = Net()
    x = batch_norm_relu(net, net.input(1, 8, 6, 6, layout=IMAGE), "mul", "add", "relu")
    y = convolution(net, 1, 8, 16, 6, 6, x=x)
    assert {len(c.nodes) for c in propose_own(B, net, y, x)} == {1}
    for attrs in ({"kernel": 3, "pad": 1}, {"pad": 1}):
        net = Net()
        x = batch_norm_relu(net, net.input(1, 8, 6, 6, layout=IMAGE), "mul", "add", "relu")
        y = convolution(net, 1, 8, 16, 6, 6, x=x, **attrs)
        assert {len(c.nodes) for c in propose_own(B, net, y, kernel="product")} == {1}
    net = Net()
    x = net.op("add", net.input(1, 8, 6, 6, layout=IMAGE), net.param(1, 1, 6, 6), layout=IMAGE)
    assert {len(c.nodes) for c in propose_own(B, net, convolution(net, 1, 8, 16, 6, 6, x=x))} == {1}


def wide_memory(array: np.ndarray[Any, Any], wide: int, at: int) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """``array`` as channels [at, at + C) of an image of ``wide`` channels: its memory, and element strides."""
    n, c, h, w = array.shape
    memory = np.full((n, h, w, wide), 7.0, np.float32)
    memory[..., at : at + c] = array.transpose(0, 2, 3, 1)
    return memory, (h * w * wide, 1, w * wide, wide)


@pytest.mark.parametrize("window", [{}, {"stride": 2}, {"kernel": 3, "pad": 1}], ids=["1x1", "stride", "3x3"])
def test_slices_in_and_out(window: dict[str, int]) -> None:
    net = Net()
    y = convolution(net, 2, 19, 21, 8, 9, **window)
    y = net.op("relu", net.op("add", y, net.input(*y.shape, layout=IMAGE), layout=IMAGE), layout=IMAGE)
    c = longest(propose_own(B, net, y, kernel="product"))
    assert c.strided_in == (True, False, False, True) and c.strided_out == (True,)
    plan, inputs, memories = lower(B, net, c)
    (step,) = plan.steps
    assert isinstance(step, LibraryStep)
    bias = next(i for i, v in enumerate(c.inputs) if v.type.rank == 1)
    bias_memory = inputs[step.inputs[bias].index]
    n, _, h, w = y.shape
    x_memory, x_strides = wide_memory(net.data[net.inputs[0]], 50, 3)
    res_memory, res_strides = wide_memory(net.data[net.inputs[1]], 64, 30)
    out_memory = np.full((n, h, w, 40), 5.0, np.float32)  # type: ignore[arg-type]
    whole = TensorType((n, 40, h, w), "float32", IMAGE)
    given = [x_memory, res_memory, bias_memory]
    types = tuple(TensorType(a.shape, "float32") for a in given)
    refs = (
        BufferRef("input", 0, 4 * 3, net.inputs[0].type, x_strides),
        step.inputs[1],
        BufferRef("input", 2, 0, types[2]),
        BufferRef("input", 1, 4 * 30, net.inputs[1].type, res_strides),
    )
    out = BufferRef("output", 0, 4 * 9, y.type, (h * w * 40, 1, w * 40, 40))  # type: ignore[operator]
    strided_plan = Plan("slices", (LibraryStep(c, refs, (out,), None, "conv"),), types, plan.prepared, (whole,))
    executable = B.build(strided_plan, Options())
    executable.run([a.ctypes.data for a in given], tuple(m.address for m in memories), [out_memory.ctypes.data], 2, 0)
    want = net.reference(y)
    assert np.abs(out_memory[..., 9 : 9 + 21].transpose(0, 3, 1, 2) - want).max() < 2e-5 * np.abs(want).max()
    assert (out_memory[..., :9] == 5.0).all() and (out_memory[..., 30:] == 5.0).all()  # nothing beyond the slice was written


def test_strided_operands_are_refused_where_they_do_not_fit() -> None:
    net = Net()
    c = longest(propose_own(B, net, net.op("matmul", net.input(2, 8), net.param(6, 8), transpose_b=True), kernel="rows_product"))
    t = TensorType((2, 8), "float32")
    inputs = BufferRef("input", 0, 0, t, (16, 1)), BufferRef("input", 1, 0, t)
    step = LibraryStep(c, inputs, (BufferRef("output", 0, 0, t),), None, "fc")
    assert isinstance(c.impl, BuiltinCall)
    with pytest.raises(NnaccelError, match="strided operand 0"):
        c.impl.bound(step)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 31])
@pytest.mark.parametrize("k,n", [(64, 10), (64, 515), (1280, 1000), (7, 5), (13, 33), (37, 1030), (1, 3)])
def test_few_rows(rows: int, k: int, n: int) -> None:
    net = Net()
    y = net.op("matmul", net.input(rows, k), net.param(n, k), net.param(n), transpose_b=True)
    y = net.op("relu", net.op("add", y, net.input(rows, n)))
    candidates = propose_own(B, net, y)
    assert {c.impl.name for c in candidates} == ({"rows_product", "product"} if rows > 1 else {"rows_product"})
    for kernel in ("rows_product", "product")[: 1 + (rows > 1)]:
        c: Candidate = longest([c for c in candidates if c.impl.name == kernel])
        assert len(c.nodes) == 3
        assert kernel == "product" or not c.packs
        for threads in (1, 2):
            check(B, net, c, threads)


@pytest.mark.parametrize("rows", [7, 130])
def test_products_with_weights_either_way(rows: int) -> None:
    for transposed in (False, True):
        net = Net()
        w = net.param(37, 70) if transposed else net.param(70, 37)
        y = net.op("matmul", net.input(2, rows, 70), w, transpose_b=transposed)
        for c in propose_own(B, net, y):
            check(B, net, c)


def test_small_products_stay_on_the_calling_thread() -> None:
    """Waking another core takes longer than what there is to do."""
    for rows, n, k, alone in ((1, 8, 8, True), (3, 24, 32, True), (1, 1000, 1280, False), (64, 256, 256, False)):
        net = Net()
        y = net.op("matmul", net.input(rows, k), net.param(n, k), net.param(n), transpose_b=True)
        found = propose_own(B, net, y)
        assert found
        for c in found:
            assert (c.impl.tasks == 1) == alone, c.reason
            assert alone == (c.seconds < 3e-6)
            check(B, net, c)
