"""Two processes that run one function: what distributed training is tested with."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def results_of(work: Callable[[int, str], None]) -> list[Any]:
    """What ``work(rank, folder)`` saved as ``folder/RANK.pt`` in each of two processes, which must both end well."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        processes = [context.Process(target=work, args=(rank, folder)) for rank in range(2)]
        for p in processes:
            p.start()
        for p in processes:
            p.join(120)
            assert p.exitcode == 0, p.exitcode
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(2)]
