"""Which device the network that is being captured lives on, for what asks about it on the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch


class _Place(threading.local):
    device = torch.device("cpu")


_place = _Place()


def device_of(name: str) -> torch.device:
    """The torch device of a device string of nnaccel; ``"cuda"`` is the current one."""
    found = torch.device(name)
    if found.type == "cuda" and found.index is None:
        found = torch.device("cuda", torch.cuda.current_device())
    return found


def here() -> torch.device:
    """The device of the network being captured; the CPU outside of captures."""
    return _place.device


@contextlib.contextmanager
def at(device: torch.device) -> Iterator[None]:
    """Capture for ``device`` inside."""
    before, _place.device = _place.device, device
    try:
        yield
    finally:
        _place.device = before


def is_here(device: Any) -> bool:
    """Whether a ``device`` argument of torch's means the place of the network being captured; None means the CPU."""
    found = torch.device("cpu" if device is None else device)
    home = here()
    return found.type == home.type and (found.index is None or home.index is None or found.index == home.index)
