"""The command line: ``nnaccel plugins | doctor | cache | demo``."""

from nnaccel_core.cli.main import main

__all__ = ["main"]
