"""torchvision's 24 classifiers: one traced segment each, a symbolic batch, and results within the framework's own error.

`make test` runs one of each family on small images; `make test-slow` all of them, also at the size they are made for and
at batch 16.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

import nnaccel_core  # noqa: E402
from nnaccel_core.ir import Segment  # noqa: E402
from nnaccel_frontend_torch.bench.nets import VARIANTS, load  # noqa: E402

pytestmark = pytest.mark.usefixtures("torchvision_models")

#: The cheapest of each family.
_REPRESENTATIVE = (
    *("alexnet", "densenet121", "inception_v3", "mobilenet_v2", "mobilenet_v3_small"),
    *("resnet18", "resnet50", "squeezenet1_1", "vgg11_bn"),
)
#: Small images that every layer of the network still fits; everything else takes 96.
_SMALL = {"inception_v3": 139}
#: Our error may be this many times the framework's, both against float64 and relative to the largest output.
WITHIN = 4.0


def _relative(a: Any, judge: Any) -> float:
    return float((a.double() - judge).abs().max() / judge.abs().max())


def _check_whole(fast: Any) -> None:
    """One capture serves all batch sizes and leaves nothing to the framework."""
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    assert report["captures"] == 1, report
    assert report["programs"] == ["traced"], report
    entries = [e for e in fast._nnaccel._entries.values() if not isinstance(e, str)]
    parts = [p for e in entries for p in e.record.captured.program.parts]
    assert len(parts) == 1
    assert isinstance(parts[0], Segment)


def check(name: str, size: int, batches: Sequence[int]) -> None:
    """The network at each batch size, on images of ``size`` x ``size``."""
    net = load(name).module
    judge_net = copy.deepcopy(net).double()
    fast = nnaccel_core.optimize(net)
    wrong = []
    with torch.no_grad():
        for batch in batches:
            x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
            judge = judge_net(x.double())
            ours, theirs = _relative(fast(x), judge), _relative(net(x), judge)
            if not ours <= WITHIN * theirs:
                wrong.append(f"batch {batch}: {ours:.2e} against torch's {theirs:.2e}")
    _check_whole(fast)
    assert not wrong, "; ".join(wrong)
    del fast, net, judge_net
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in _REPRESENTATIVE else pytest.param(n, marks=pytest.mark.full) for n in VARIANTS])
def test_small_images(name: str) -> None:
    check(name, _SMALL.get(name, 96), (1, 3))


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize("name", VARIANTS)
def test_full_size(name: str) -> None:
    check(name, load(name).sample_shape[-1], (1, 3, 16))
