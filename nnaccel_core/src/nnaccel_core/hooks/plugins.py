"""Finding and loading plug-ins, one at a time and guarded.

Plug-ins are listed from the metadata of installed packages without importing them. Each is loaded on first use; one
that fails is remembered as broken and raises only when it is asked for, so that it never takes others down with it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from nnaccel_core import debug
from nnaccel_core.api import API
from nnaccel_core.errors import PluginError
from nnaccel_core.hooks import hookspecs

#: Oldest contract this core still drives; a plug-in's ``api`` must lie in ``OLDEST_API..API``.
OLDEST_API = 0


def core_version() -> str:
    """Version of the installed core, for messages."""
    try:
        return metadata.version("nnaccel-core")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@dataclass(frozen=True)
class PluginInfo:
    """A plug-in as `nnaccel plugins` shows it.

    Attributes:
        name: of the entry point; package, version: of the distribution that declares it.
        state: ``"available"`` (installed, not loaded yet), ``"loaded"``, ``"broken"`` or ``"disabled"``.
        error: why it is broken.
    """

    name: str
    package: str
    version: str
    state: str
    error: str = ""


@dataclass
class _Slot:
    """One plug-in name, and the outcome of loading it once that was tried."""

    name: str
    points: list[metadata.EntryPoint]
    plugin: Any = None
    error: PluginError | None = None
    made: dict[tuple[str, ...], Sequence[Any]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return f"plug-in {self.name!r} (package {_package(self.points[0])} {_version(self.points[0])})"


def _package(point: metadata.EntryPoint) -> str:
    return point.dist.metadata["Name"] if point.dist is not None else "(unknown)"


def _version(point: metadata.EntryPoint) -> str:
    return point.dist.version if point.dist is not None else "(unknown)"


def _read_entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=hookspecs.PROJECT)


class Plugins:
    """All plug-ins of this process; safe to use from several threads.

    Args:
        read: gives the entry points; tests pass their own.
    """

    def __init__(self, read: Callable[[], Iterable[metadata.EntryPoint]] = _read_entry_points) -> None:
        self._lock = threading.RLock()
        self._pm = pluggy.PluginManager(hookspecs.PROJECT)
        self._pm.add_hookspecs(hookspecs)
        self._slots: dict[str, _Slot] = {}
        for point in sorted(read(), key=lambda p: (p.name, _package(p))):
            self._slots.setdefault(point.name, _Slot(point.name, [])).points.append(point)
        debug.log(debug.PLUGINS, lambda: "plug-ins installed: " + (", ".join(self._slots) or "none"))

    def disabled(self) -> frozenset[str]:
        """Names switched off by ``NNACCEL_DISABLE_PLUGINS``."""
        return frozenset(n.strip() for n in os.environ.get("NNACCEL_DISABLE_PLUGINS", "").split(",") if n.strip())

    def names(self) -> list[str]:
        """Names of the plug-ins that are installed and not disabled."""
        off = self.disabled()
        return [n for n in self._slots if n not in off]

    def infos(self) -> list[PluginInfo]:
        """All installed plug-ins; imports none."""
        off = self.disabled()
        out = []
        for slot in self._slots.values():
            double = self._duplicate_error(slot)
            error = slot.error or double
            here = "loaded" if slot.plugin is not None else "available"
            state = "disabled" if slot.name in off else "broken" if error else here
            for point in slot.points:
                out.append(PluginInfo(slot.name, _package(point), _version(point), state, str(error or "")))
        return out

    def load(self, name: str) -> _Slot:
        """Load the plug-in ``name``, once.

        Raises:
            PluginError: it is not installed, disabled, declared by two packages, or failed to load (now or before).
        """
        with self._lock:
            slot = self._slots.get(name)
            if slot is None:
                raise PluginError(f"no plug-in named {name!r} is installed; installed: {', '.join(self._slots) or 'none'}")
            if name in self.disabled():
                raise PluginError(f"{slot.label} is switched off by NNACCEL_DISABLE_PLUGINS; take its name out to use it")
            if slot.error is None and slot.plugin is None:
                slot.error = self._duplicate_error(slot)
                if slot.error is None:
                    self._load(slot)
            if slot.error is not None:
                raise slot.error.with_traceback(None)  # raised many times; its cause keeps its own traceback
            return slot

    def _duplicate_error(self, slot: _Slot) -> PluginError | None:
        if len(slot.points) < 2:
            return None
        owners = " and ".join(f"{_package(p)} {_version(p)}" for p in slot.points)
        return PluginError(f"two plug-ins are named {slot.name!r}: packages {owners}; uninstall one of them")

    def _load(self, slot: _Slot) -> None:
        # A plug-in may raise anything at all while it is imported, SystemExit included.
        try:
            plugin = slot.points[0].load()
            self._pm.register(plugin, slot.name)
            unknown = [c.name for c in self._pm.get_hookcallers(plugin) or () if c.spec is None]
            if unknown:
                self._pm.unregister(plugin)
                raise PluginError(f"it implements hooks that do not exist: {', '.join(unknown)}")
        except KeyboardInterrupt:
            raise
        except BaseException as e:
            slot.error = _wrapped(f"{slot.label} failed to load", e)
            debug.log(debug.PLUGINS, str(slot.error))
            return
        slot.plugin = plugin
        debug.log(debug.PLUGINS, f"loaded {slot.label}")

    def call(self, name: str, hook: str, kind: type, **arguments: str) -> Sequence[Any]:
        """What plug-in ``name`` registers through ``hook``, called once per set of arguments and checked.

        Args:
            kind: class that the registered objects must be instances of, or subclasses of where they are classes.

        Raises:
            PluginError: it cannot be loaded, the hook raised, or what it registered is of the wrong kind or API version.
        """
        with self._lock:
            slot = self.load(name)
            key = (hook, *arguments.values())
            if key not in slot.made:
                others = [p for n, p in self._pm.list_name_plugin() if n != name]
                try:
                    results = self._pm.subset_hook_caller(hook, others)(**arguments)
                    items = [item for result in results for item in result]
                except KeyboardInterrupt:
                    raise
                except BaseException as e:
                    raise _wrapped(f"{slot.label} failed in {hook}", e) from e
                for item in items:
                    _check(slot, hook, kind, item)
                slot.made[key] = tuple(items)
            return slot.made[key]

    def each(self, hook: str, kind: type, **arguments: str) -> tuple[list[tuple[str, Any]], list[PluginError]]:
        """``(package, object)`` pairs of all working plug-ins, and the errors of those that do not work."""
        found: list[tuple[str, Any]] = []
        errors: list[PluginError] = []
        for name in self.names():
            try:
                package = _package(self._slots[name].points[0])
                found += [(package, item) for item in self.call(name, hook, kind, **arguments)]
            except PluginError as e:
                errors.append(e)
        return found, errors


def _wrapped(what: str, cause: BaseException) -> PluginError:
    error = PluginError(f"{what}: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _check(slot: _Slot, hook: str, kind: type, item: Any) -> None:
    is_class = isinstance(item, type)
    if not (issubclass(item, kind) if is_class else isinstance(item, kind)):
        raise PluginError(f"{slot.label}: {hook} registered {item!r}, which is not a {kind.__name__}")
    if not is_class:
        return
    api = getattr(item, "api", None)
    if not isinstance(api, int) or not OLDEST_API <= api <= API:
        supported = str(API) if OLDEST_API == API else f"{OLDEST_API} to {API}"
        older = isinstance(api, int) and api < OLDEST_API
        mend = f"upgrade {_package(slot.points[0])}" if older else "upgrade nnaccel-core"
        raise PluginError(
            f"{slot.label}: {item.__name__} is written for plug-in API {api!r}; "
            f"nnaccel-core {core_version()} supports API {supported}; {mend}"
        )
