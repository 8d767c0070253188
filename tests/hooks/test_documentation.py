"""docs/plugins.md describes every hook with its exact signature."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import nnaccel_core.hooks.hookspecs as hookspecs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def specs() -> dict[str, str]:
    found = {n: f for n, f in vars(hookspecs).items() if n.startswith("nnaccel_") and inspect.isfunction(f)}
    return {name: name + str(inspect.signature(f)).replace("'", "") for name, f in found.items()}


def test_there_are_five_hooks():
    assert len(specs()) == 5 and all(f.__doc__ for n, f in vars(hookspecs).items() if n in specs())


def test_every_hook_is_documented_with_its_exact_signature():
    documented = re.findall(r"^```python\n(nnaccel_\w+\(.*\) -> .*)\n```$", PAGE.read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(specs().values())
