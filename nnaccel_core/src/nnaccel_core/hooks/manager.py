"""What the driver asks of plug-ins: the frontend of a model, the backend of a device, a bridge, passes, ops."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from nnaccel_core import debug
from nnaccel_core.api import Backend, Bridge, Frontend, Pass
from nnaccel_core.errors import DeviceError, PluginError
from nnaccel_core.hooks.ordering import order_passes
from nnaccel_core.hooks.plugins import PluginInfo, Plugins
from nnaccel_core.ops.registry import OpDef, register

__all__ = ["Manager", "PluginInfo", "backend_for", "bridge_for", "frontend_for", "list_plugins", "load_ops", "manager", "passes"]

STAGES = ("graph", "loop")

#: Devices and frameworks of the packages we publish, to the extra that brings them.
EXTRAS = {"cpu": "x86", "cuda": "cuda", "onnx": "onnx", "torch": "torch", "tf": "tf", "tensorflow": "tf", "keras": "tf"}


def device_kind(device: str) -> str:
    """``"cuda:1"`` -> ``"cuda"``."""
    return device.split(":", 1)[0].strip().lower()


class Manager:
    """Answers the driver's questions from a set of plug-ins."""

    def __init__(self, plugins: Plugins | None = None) -> None:
        self.plugins = plugins or Plugins()
        self._bridges: dict[type[Bridge], Bridge] = {}
        self._ops_loaded = False
        self._lock = threading.RLock()

    def list_plugins(self) -> list[PluginInfo]:
        """All installed plug-ins, from metadata; imports none of them."""
        return self.plugins.infos()

    def frontend_for(self, model: Any) -> Frontend:
        """A new frontend object that accepts ``model``.

        Raises:
            PluginError: none accepts it, or two do; names the plug-ins that are broken.
        """
        found, errors = self.plugins.each("nnaccel_register_frontends", Frontend)
        accepting = []
        for package, cls in found:
            try:
                if cls.accepts(model):
                    accepting.append((package, cls))
            except Exception as e:
                errors.append(_failed(package, cls, "accepts", e))
        if len(accepting) > 1:
            raise PluginError(f"{_type_name(model)} is accepted by {_both(accepting)}; uninstall or disable one")
        if accepting:
            frontend: Frontend = _made(*accepting[0])
            return frontend
        known = ", ".join(cls.name for _, cls in found) or "none"
        framework = type(model).__module__.split(".")[0]
        hint = _install_hint([framework] + [base.__module__.split(".")[0] for base in type(model).__mro__], known)
        raise PluginError(f"no frontend accepts a {_type_name(model)}; frontends installed: {known}{hint}{self._why(errors)}")

    def backend_for(self, device: str) -> tuple[type[Backend], str]:
        """The backend class of ``device`` ("cpu", "cuda:1") and the device string without stray spaces or capitals.

        Raises:
            DeviceError: no backend knows the device, or it is absent on this machine.
            PluginError: two plug-ins claim it, or the one that may is broken.
        """
        device = device.strip().lower()
        kind = device_kind(device)
        found, errors = self.plugins.each("nnaccel_register_backends", Backend)
        mine = [(package, cls) for package, cls in found if kind in cls.devices]
        if len(mine) > 1:
            raise PluginError(f"device {kind!r} is claimed by {_both(mine)}; uninstall or disable one")
        if not mine:
            known = ", ".join(sorted({d for _, cls in found for d in cls.devices})) or "none"
            hint = _install_hint([kind], known)
            text = f"no backend for device {device!r}; devices installed: {known}{hint}{self._why(errors)}"
            raise PluginError(text) if errors else DeviceError(text)
        package, cls = mine[0]
        index = device[len(kind) + 1 :]
        try:
            machine = cls.probe()
            count = cls.count() if machine is not None else None
        except Exception as e:
            raise _failed(package, cls, "probe", e) from e
        if ":" in device and not (index.isdecimal() and (count is None or int(index) < count)):
            known = f"{kind}:0" + (f" to {kind}:{count - 1}" if count and count > 1 else "")
            raise DeviceError(f"there is no device {device!r} on this machine; devices of backend {cls.name!r}: {known}")
        if machine is None:
            why = cls.absent()
            raise DeviceError(f"device {device!r} is not present on this machine (asked backend {cls.name!r} of {package})"
                              f"{': ' + why if why else ''}; run: nnaccel doctor")  # fmt: skip
        debug.log(debug.PLUGINS, f"device {device!r}: backend {cls.name!r} of {package} on {machine.name}")
        return cls, device

    def bridge_for(self, framework: str, device: str) -> Bridge:
        """The bridge of a framework's memory on a device; one object per process.

        Raises:
            PluginError: there is none, or two.
        """
        kind = device_kind(device)
        found, errors = self.plugins.each("nnaccel_register_bridges", Bridge)
        mine = [(package, cls) for package, cls in found if cls.framework == framework and cls.device == kind]
        if len(mine) > 1:
            raise PluginError(f"the bridge {framework!r} to {kind!r} is claimed by {_both(mine)}; uninstall or disable one")
        if not mine:
            known = ", ".join(f"{cls.framework}-{cls.device}" for _, cls in found) or "none"
            why = self._why(errors)
            raise PluginError(f"no bridge between framework {framework!r} and device {kind!r}; installed: {known}{why}")
        package, cls = mine[0]
        with self._lock:
            if cls not in self._bridges:
                self._bridges[cls] = _made(package, cls)
            return self._bridges[cls]

    def passes(self, stage: str, device: str, own: Sequence[Pass] = ()) -> list[Pass]:
        """The core's ``own`` passes and the plug-ins' of ``stage``, ordered by their before/after names.

        Passes of a broken plug-in are left out and logged.

        Raises:
            PluginError: a name is used twice, or the names form a cycle.
        """
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {STAGES}, not {stage!r}")
        found, errors = self.plugins.each("nnaccel_register_passes", Pass, stage=stage, device=device_kind(device))
        for package, item in found:
            if item.stage != stage:
                text = f"package {package}: pass {item.name!r} says stage {item.stage!r}, but is registered for {stage!r}"
                errors.append(PluginError(text))
        for error in errors:
            debug.log(debug.PLUGINS, f"passes of a broken plug-in are left out: {error}")
        usable = [(package, item) for package, item in found if item.stage == stage]
        return order_passes([("nnaccel_core", item) for item in own] + usable)

    def load_ops(self) -> None:
        """Register the operators of all plug-ins, once.

        Raises:
            PluginError: an operator's name is taken.
        """
        with self._lock:
            if self._ops_loaded:
                return
            found, errors = self.plugins.each("nnaccel_register_ops", OpDef)
            for error in errors:
                debug.log(debug.PLUGINS, f"operators of a broken plug-in are left out: {error}")
            for package, op in found:
                register(op, package)
            self._ops_loaded = True

    def _why(self, errors: Sequence[PluginError]) -> str:
        text = "".join(f"\n  not usable: {e}" for e in errors)
        off = sorted(self.plugins.disabled())
        return text + (f"\n  switched off by NNACCEL_DISABLE_PLUGINS: {', '.join(off)}" if off else "")


def _failed(package: str, cls: type, method: str, cause: Exception) -> PluginError:
    error = PluginError(f"package {package}: {cls.__name__}.{method} failed: {type(cause).__name__}: {cause}")
    error.__cause__ = cause
    return error


def _made(package: str, cls: type) -> Any:
    try:
        return cls()
    except Exception as e:
        raise _failed(package, cls, "__init__", e) from e


def _both(claims: Sequence[tuple[str, type]]) -> str:
    return " and ".join(f"{cls.__name__} of package {package}" for package, cls in claims)


def _type_name(model: Any) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _install_hint(wanted: Sequence[str], known: str) -> str:
    for name in wanted:
        if name in EXTRAS and not {name, EXTRAS[name]} & set(known.split(", ")):
            return f"; install it with: pip install 'nnaccel[{EXTRAS[name]}]'"
    return ""


_manager: Manager | None = None
_manager_lock = threading.Lock()


def manager() -> Manager:
    """The process's manager, made on first use."""
    global _manager
    with _manager_lock:
        if _manager is None:
            _manager = Manager()
        return _manager


def frontend_for(model: Any) -> Frontend:
    """`Manager.frontend_for` of the process's manager."""
    return manager().frontend_for(model)


def backend_for(device: str) -> tuple[type[Backend], str]:
    """`Manager.backend_for` of the process's manager."""
    return manager().backend_for(device)


def bridge_for(framework: str, device: str) -> Bridge:
    """`Manager.bridge_for` of the process's manager."""
    return manager().bridge_for(framework, device)


def passes(stage: str, device: str, own: Sequence[Pass] = ()) -> list[Pass]:
    """`Manager.passes` of the process's manager."""
    return manager().passes(stage, device, own)


def load_ops() -> None:
    """`Manager.load_ops` of the process's manager."""
    manager().load_ops()


def list_plugins() -> list[PluginInfo]:
    """`Manager.list_plugins` of the process's manager."""
    return manager().list_plugins()
