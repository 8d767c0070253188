"""Tests that need an NVIDIA GPU skip with the reason where there is none."""

from __future__ import annotations

import functools

import pytest

pytest.importorskip("nnaccel_backend_cuda", reason="the package nnaccel_backend_cuda is not on the path")


@functools.lru_cache(maxsize=1)
def reason() -> str:
    """Why tests on the GPU cannot run here; "" when they can."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    from nnaccel_backend_cuda import probe

    if not probe.count():
        return probe.problem()
    return "" if torch.cuda.is_available() else "this torch has no CUDA"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") and reason():
            item.add_marker(pytest.mark.skip(reason=reason()))
