"""torchvision's 24 classifiers: one traced segment each, a symbolic batch, and results within the framework's own error."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the torch frontend's tests need torch")
pytest.importorskip("nnaccel_backend_x86", reason="needs the x86 backend")

import nnaccel_core  # noqa: E402
from nnaccel_core.ir import Segment  # noqa: E402
from nnaccel_frontend_torch.bench.nets import VARIANTS, load  # noqa: E402

pytestmark = pytest.mark.slow

_PRELUDE = Path(__file__).parents[2] / "benchmarks" / "torchvision_without_operators.py"
#: Image sizes that every layer of the network still fits; everything else takes 96.
_SIZES = {"inception_v3": 139}


@pytest.fixture(scope="module", autouse=True)
def _torchvision() -> None:
    try:
        exec(compile(_PRELUDE.read_text(), str(_PRELUDE), "exec"), {"__name__": "prelude"})
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"torchvision does not import here: {e}")


def _relative(a: Any, judge: Any) -> float:
    return float((a.double() - judge).abs().max() / judge.abs().max())


@pytest.mark.parametrize("name", VARIANTS)
def test_one_segment_symbolic_batch_and_the_frameworks_precision(name: str) -> None:
    net = load(name).module
    judge_net = copy.deepcopy(net).double()
    size = _SIZES.get(name, 96)
    fast = nnaccel_core.optimize(net)
    with torch.no_grad():
        for batch in (1, 2):
            x = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))
            got = fast(x)
        judge = judge_net(x.double())
        ours, theirs = _relative(got, judge), _relative(net(x), judge)
    report = fast.nnaccel_report()
    assert not report["own_calls"], report
    assert not report["trace_refused"], report
    assert report["captures"] == 1, report
    assert len(report["programs"]) == 1
    assert set(report["programs"]) == {"traced"}, report
    entries = [e for e in fast._nnaccel._entries.values() if not isinstance(e, str)]
    parts = [p for e in entries for p in e.record.captured.program.parts]
    assert len(parts) == 1
    assert isinstance(parts[0], Segment)
    assert ours <= 4 * theirs, f"{ours:.2e} against torch's {theirs:.2e}"
