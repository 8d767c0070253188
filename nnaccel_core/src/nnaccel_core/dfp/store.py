"""What planning needs of generated kernels, kept on disk: a warm start neither lowers nor maps a group it has seen.

A kernel's structure (`Pattern.key`) says everything about it, so its cost model, the order of its arguments, or the
reason there is none, are found by a digest of the structure and of the code that derives them. All structures of one
network lie in one entry of the disk cache.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.dfp.group import Pattern
from nnaccel_core.ir import Graph
from nnaccel_core.ops import registry

if TYPE_CHECKING:
    from nnaccel_core.api import Machine

#: Folders of this package whose code decides what a structure becomes.
_SOURCES = ("dfp", "ir", "loopir", "ops")


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """A digest of the code that makes kernels and their cost models."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root)} {len(content)} ".encode())
            digest.update(content)
    return digest.hexdigest()


def identity(p: Pattern) -> str:
    """A digest of the structure, good in every process of this version of the code; "" when other packages' operators,
    which change on their own, have a part in it."""
    ops = dict.fromkeys(n.op for n in p.nodes)
    if any(registry.package_of(op) != "nnaccel_core" for op in ops):
        return ""
    return make_key("structure", code_version(), repr(p.key))


class Structures:
    """The known structures of one network on one machine."""

    def __init__(self, cache: DiskCache, graph: Graph, machine: Machine) -> None:
        self._cache = cache
        ops = " ".join(n.op for n in graph.nodes)
        self._key = make_key("structures", code_version(), machine.kind, str(machine.simd_bytes), ops)
        self._known = self._read()
        self._added = False

    def _read(self) -> dict[str, Any]:
        path = self._cache.get("structures", self._key)
        try:
            return dict(json.loads(path.read_bytes())) if path is not None else {}
        except OSError:  # evicted meanwhile
            return {}

    def get(self, digest: str) -> Any:
        """What was kept under ``digest``, or None."""
        return self._known.get(digest)

    def add(self, digest: str, record: Any) -> None:
        """Keep ``record`` (JSON) under ``digest``."""
        self._known[digest] = record
        self._added = True

    def save(self) -> None:
        """Write what was added; of two processes that do so at once, the later one wins."""
        if self._added:
            self._known = {**self._read(), **self._known}
            self._cache.put("structures", self._key, json.dumps(self._known).encode())
            self._added = False


def plain(pairs: Iterable[Iterable[int]]) -> tuple[tuple[int, int], ...]:
    """Pairs as JSON gives them back, as tuples."""
    return tuple((a, b) for a, b in pairs)
