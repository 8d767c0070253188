"""What tests of whole networks share."""

from __future__ import annotations

from pathlib import Path

import pytest

_PRELUDE = Path(__file__).parents[2] / "benchmarks" / "torchvision_without_operators.py"


@pytest.fixture(scope="module")
def torchvision_models() -> None:
    """torchvision's networks, also where its compiled operators are missing."""
    try:
        exec(compile(_PRELUDE.read_text(), str(_PRELUDE), "exec"), {"__name__": "prelude"})
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"torchvision does not import here: {e}")
