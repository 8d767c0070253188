"""Placing passes by their ``before`` and ``after`` names."""

from __future__ import annotations

from collections.abc import Sequence

from nnaccel_core import debug
from nnaccel_core.api import Pass
from nnaccel_core.errors import PluginError


def order_passes(passes: Sequence[tuple[str, Pass]]) -> list[Pass]:
    """Topological order of ``(package, pass)`` pairs; each comes as early as the order given allows.

    A name in ``before`` or ``after`` that no pass has is ignored (its plug-in may not be installed) and logged.

    Raises:
        PluginError: two passes have one name, or the names form a cycle.
    """
    index: dict[str, int] = {}
    for i, (package, item) in enumerate(passes):
        if item.name in index:
            other = passes[index[item.name]][0]
            raise PluginError(f"pass {item.name!r} is registered by both {other!r} and {package!r}; uninstall or disable one")
        index[item.name] = i
    earlier: list[set[int]] = [set() for _ in passes]  # what must run before each
    for i, (package, item) in enumerate(passes):
        for name in (*item.before, *item.after):
            if name not in index:
                debug.log(debug.PLUGINS, f"pass {item.name!r} of {package} names pass {name!r}, which is not there")
        for name in item.before:
            if name in index:
                earlier[index[name]].add(i)
        earlier[i].update(index[name] for name in item.after if name in index)
    out: list[Pass] = []
    done: set[int] = set()

    def place(i: int, path: list[int]) -> None:
        if i in done:
            return
        if i in path:
            stuck = ", ".join(f"{passes[k][1].name!r} ({passes[k][0]})" for k in sorted(path[path.index(i) :]))
            raise PluginError(f"passes cannot be ordered: the before/after names of {stuck} form a cycle")
        for k in sorted(earlier[i]):
            place(k, [*path, i])
        done.add(i)
        out.append(passes[i][1])

    for i in range(len(passes)):
        place(i, [])
    return out
