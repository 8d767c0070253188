"""No garbage collection while a network is planned.

Planning makes many objects that stay, and so sets off a collection of everything, frameworks included, that finds nothing:
0.2 s with PyTorch loaded, as long as planning itself.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_depth = 0
_enabled = False


@contextlib.contextmanager
def no_collections() -> Iterator[None]:
    """Collections are off until the last such block of any thread ends; then they are what they were before the first."""
    global _depth, _enabled
    with _lock:
        if _depth == 0:
            _enabled = gc.isenabled()
            gc.disable()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth = max(0, _depth - 1)
            if _depth == 0 and _enabled:
                gc.enable()


def _after_fork() -> None:
    # Other threads' blocks do not exist here and would never end.
    global _lock, _depth
    _lock = threading.Lock()
    if _depth and _enabled:
        gc.enable()
    _depth = 0


os.register_at_fork(after_in_child=_after_fork)
