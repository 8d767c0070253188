"""Which layers of a network run together: decided once, remembered in the process and on disk.

Looking for groups and asking a library about every way to fuse is most of planning. What was chosen for a graph at some
sizes is the same in the next process, as long as the same code, machine and options decide.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nnaccel_core.cache import DiskCache, make_key
from nnaccel_core.ir import Env, Graph, Node
from nnaccel_core.options import Options
from nnaccel_core.select.cover import Selection

if TYPE_CHECKING:
    from nnaccel_core.api import Backend

#: The groups of a selection: whether the core generates the kernel, and the layers.
Cover = frozenset[tuple[bool, frozenset[Node]]]
#: What tuning chose: in which way it runs (`trials`); whether the core generates the kernel, the layers, `Candidate.reason`,
#: measured seconds.
Tuned = tuple[str, list[tuple[bool, frozenset[Node], str, float]]]


def cover_of(selection: Selection) -> Cover:
    """The groups that ``selection`` chose."""
    chosen = [u.candidate for u in selection.units if u.candidate is not None]
    return frozenset((c.proposer == "core", frozenset(c.nodes)) for c in chosen)


class Covers:
    """The covers of one graph, by options; those of the first size that is asked for are kept on disk."""

    def __init__(self, cache: DiskCache, graph: Graph, backend: Backend) -> None:
        self._cache = cache
        self._graph = graph
        self._backend = backend
        self._settings = backend.choices_key()
        self._known: dict[Options, Cover] = {}

    @functools.cached_property
    def _digest(self) -> str:
        return digest(self._graph)

    def get(self, options: Options, env: Env) -> Cover | None:
        """What an earlier size of this process chose, or an earlier process at these sizes; None when nothing is known."""
        found = self._known.get(options)
        if found is None and self._settings:
            found = self._read(options, env)
            if found is not None:
                self._known[options] = found
        return found

    def add(self, options: Options, env: Env, cover: Cover) -> None:
        """Keep ``cover`` for later sizes, and for later processes that begin with these sizes."""
        if options not in self._known:
            self._known[options] = cover
            if not self._settings:
                return
            order = {node: i for i, node in enumerate(self._graph.nodes)}
            record = sorted([core, sorted(order[n] for n in nodes)] for core, nodes in cover)
            self._cache.put("covers", self._key(options, env), json.dumps(record).encode())

    def get_tuned(self, options: Options, env: Env) -> Tuned | None:
        """What `add_tuned` kept at these sizes; None when nothing is known."""
        record = self._load("tuned", options, env) if self._settings else None
        nodes = self._graph.nodes
        try:
            way, chosen = record or ("", None)
            return chosen and (
                str(way),
                [(bool(c), frozenset(nodes[i] for i in members), str(r), float(s)) for c, members, r, s in chosen],
            )
        except (ValueError, TypeError, IndexError):
            return None

    def add_tuned(self, options: Options, env: Env, selection: Selection, way: str) -> None:
        """Keep a selection by measured times, and in which way it runs, for later processes."""
        if self._settings:
            order = {node: i for i, node in enumerate(self._graph.nodes)}
            chosen = [u.candidate for u in selection.units if u.candidate is not None]
            record = [(c.proposer == "core", [order[n] for n in c.nodes], c.reason, c.seconds) for c in chosen]
            self._cache.put("tuned", self._key(options, env), json.dumps([way, record]).encode())

    def get_slice(self, options: Options, env: Env) -> int | None:
        """What `add_slice` kept for a batch of these sizes; None when nothing is known."""
        found = self._load("slices", options, env) if self._settings else None
        return found if isinstance(found, int) and found > 0 else None

    def add_slice(self, options: Options, env: Env, size: int) -> None:
        """Keep the measured size of slices for later processes."""
        if self._settings:
            self._cache.put("slices", self._key(options, env), json.dumps(size).encode())

    def _load(self, kind: str, options: Options, env: Env) -> Any:
        path = self._cache.get(kind, self._key(options, env))
        try:
            return json.loads(path.read_bytes()) if path is not None else None
        except (OSError, ValueError):  # evicted meanwhile, or not ours: decided anew
            return None

    def _key(self, options: Options, env: Env) -> str:
        backend = self._backend
        packages = (__name__.partition(".")[0], type(backend).__module__.partition(".")[0])
        code = [fingerprint(p) for p in dict.fromkeys(packages)]
        about = (backend.name, self._settings, repr(backend.machine), repr(options), repr(sorted(env.items())))
        return make_key("cover", *code, *about, self._digest)

    def _read(self, options: Options, env: Env) -> Cover | None:
        record = self._load("covers", options, env)
        nodes = self._graph.nodes
        try:
            return record and frozenset((bool(core), frozenset(nodes[i] for i in members)) for core, members in record)
        except (ValueError, TypeError, IndexError):
            return None


@functools.lru_cache(maxsize=8)
def fingerprint(package: str) -> str:
    """Changes with every change of a package's files: their names, sizes and times."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        return ""
    seen = hashlib.sha256()
    roots = [Path(p) for p in spec.submodule_search_locations or ()] or [Path(spec.origin or "")]
    files = [f for root in roots for f in ([root] if root.is_file() else root.rglob("*")) if f.suffix in (".py", ".so")]
    for path in sorted(files):
        stat = path.stat()
        seen.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def digest(graph: Graph) -> str:
    """Equal for graphs of the same operators, attributes, types and connections, whatever their values are called.

    Of array attributes only type and shape count: what runs together does not depend on their contents.
    """
    number: dict[Any, int] = {}
    seen = hashlib.sha256()

    def names(values: Iterable[Any]) -> str:
        return " ".join(f"{number.setdefault(v, len(number))}:{v.type}" for v in values)

    seen.update(f"{names(graph.inputs)}|{names(graph.params)}\n".encode())
    for node in graph.nodes:
        attrs = ", ".join(f"{k}={_plain(x)}" for k, x in sorted(node.attrs.items()))
        read = " ".join(str(number[v]) for v in node.inputs)
        seen.update(f"{node.op} {read} {attrs} -> {names(node.outputs)}\n".encode())
    seen.update(" ".join(str(number[v]) for v in graph.results()).encode())
    return seen.hexdigest()


def _plain(x: Any) -> str:
    return f"{x.dtype}{x.shape}" if isinstance(x, np.ndarray) and x.size > 1 else repr(x)
