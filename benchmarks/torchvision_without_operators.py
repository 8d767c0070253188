"""Lets torchvision import beside a torch whose build lacks its compiled operators.

torchvision registers shape functions for operators of its C++ extension while it is imported; without the
extension each registration raises. Its network definitions need none of these operators. Run this before
torchvision's first import (``NNACCEL_BENCH_PRELUDE=benchmarks/torchvision_without_operators.py``).
"""

import torch


def _import_torchvision() -> None:
    try:
        import torchvision

        return
    except RuntimeError:
        import sys

        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
    genuine = torch.library.register_fake
    torch.library.register_fake = lambda *args, **kwargs: lambda function: function
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = genuine


_import_torchvision()
