"""The bridge, dtypes and the plug-in's registration."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch

from nnaccel_core.ir import TensorType
from nnaccel_frontend_torch.bridge import TorchCpuBridge
from nnaccel_frontend_torch.dtypes import TO_IR, TO_TORCH, dense_layout, promote


@pytest.fixture
def bridge() -> TorchCpuBridge:
    return TorchCpuBridge()


@pytest.mark.parametrize(
    "shape", [(), (5,), (2, 3), (1, 4), (2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (2, 3, 4, 5, 6), (0, 3)]
)
def test_types_of_every_axis_order(bridge: TorchCpuBridge, shape: tuple[int, ...]) -> None:
    for perm in itertools.permutations(range(len(shape))):
        t = torch.empty([shape[a] for a in perm]).permute([perm.index(a) for a in range(len(shape))])
        type_ = bridge.type_of(t)
        assert type_ is not None and type_.shape == shape
        if t.numel():
            assert type_.same_memory(perm) and type_.same_memory(type_.layout)
            again = bridge.allocate(type_)
            assert all(a == b for a, b, n in zip(again.stride(), t.stride(), shape, strict=True) if n != 1)


def test_channels_last_is_found(bridge: TorchCpuBridge) -> None:
    assert bridge.type_of(torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)) == TensorType(
        (2, 3, 4, 5), "float32", (0, 2, 3, 1)
    )
    assert bridge.type_of(torch.empty(2, 1, 4, 5)).layout == (0, 1, 2, 3)
    assert bridge.type_of(torch.empty(1, 3, 4, 5).to(memory_format=torch.channels_last)).layout == (0, 2, 3, 1)


def test_what_is_not_dense(bridge: TorchCpuBridge) -> None:
    base = torch.randn(4, 6)
    for t in (
        base[:, ::2],
        base[1:, 1:],
        base[:1].expand(4, 6),
        torch._neg_view(base),
        base.to_sparse(),
        torch.complex(base, base),
    ):
        assert bridge.type_of(t) is None
        if not t.is_sparse and not t.is_complex():
            dense = bridge.dense(t)
            assert bridge.type_of(dense) is not None and torch.equal(dense, t) and dense.is_contiguous()


def test_memory(bridge: TorchCpuBridge) -> None:
    t = torch.randn(10)[3:]
    assert bridge.address(t) == t.data_ptr()
    with torch.device("meta"):
        assert bridge.allocate(TensorType((2, 3), "float16")).device.type == "cpu"
    for name, dtype in TO_TORCH.items():
        assert bridge.allocate(TensorType((2,), name)).dtype == dtype and TO_IR[dtype] == name
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert bridge.threads() == 1
    finally:
        torch.set_num_threads(before)


def test_touched_moves_the_version(bridge: TorchCpuBridge) -> None:
    t = torch.zeros(3)
    bridge.touched(t)
    assert t._version == 1
    with torch.inference_mode():
        bridge.touched(torch.zeros(3))
    leaf = torch.nn.Parameter(torch.zeros(3))
    bridge.copy(leaf, torch.ones(3))
    assert leaf.sum() == 3 and leaf._version == 1


def test_promotion_is_torchs() -> None:
    dtypes = list(TO_IR)
    for a, b in itertools.product(dtypes, dtypes):
        for wa, wb in itertools.product((True, False), (True, False)):
            x, y = torch.empty(() if wa else (1,), dtype=a), torch.empty(() if wb else (1,), dtype=b)
            assert promote([(a, wa), (b, wb)]) == torch.result_type(x, y)
        for scalar in (True, 1, 1.0):
            assert promote([(type(scalar), True), (a, False)]) == torch.result_type(torch.empty(1, dtype=a), scalar)


def test_dense_layout_of_units() -> None:
    assert dense_layout((1, 1, 1), (7, 9, 11)) == (0, 1, 2)
    assert dense_layout((3, 1, 2), (2, 99, 1)) == (0, 1, 2)
    assert dense_layout((3, 2), (1, 3)) == (1, 0)
    assert dense_layout((3, 2), (0, 1)) is None


def test_plugin_does_not_import_torch() -> None:
    code = (
        "import sys, nnaccel_frontend_torch.plugin as p\n"
        "fronts, bridges = p.nnaccel_register_frontends(), p.nnaccel_register_bridges()\n"
        "assert [f.name for f in fronts] == ['torch']\n"
        "assert [(b.framework, b.device) for b in bridges] == [('torch', 'cpu'), ('torch', 'cuda')]\n"
        "assert not fronts[0].accepts(3)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
