"""The one line: ``fast = nnaccel.optimize(net, device="cpu")``."""

from __future__ import annotations

import threading
from typing import Any

from nnaccel_core import debug
from nnaccel_core.api import Backend, Frontend
from nnaccel_core.driver.session import Session
from nnaccel_core.errors import NnaccelError, UnsupportedError
from nnaccel_core.hooks import manager
from nnaccel_core.options import Options

_backends: dict[str, Backend] = {}
_lock = threading.Lock()


def backend_for(device: str) -> Backend:
    """The process's backend object for ``device``.

    Raises:
        DeviceError: no backend knows the device, or it is absent here.
    """
    cls, name = manager.backend_for(device)
    with _lock:
        found = _backends.get(name)
        if found is None or type(found) is not cls:
            machine = cls.probe()
            if machine is None:
                raise NnaccelError(f"device {name!r} disappeared while it was being opened")
            found = _backends[name] = cls(machine, name)
        return found


def optimize(
    model: Any,
    device: str | None = None,
    *,
    dfp: bool = True,
    numerics: str = "fast",
    libraries: bool = True,
    verify: bool = False,
    slicing: bool | int = True,
    remat: str | float = "auto",
    train: bool = False,
    autotune: bool | float = False,
    release_parameters: bool = False,
) -> Any:
    """An object of the same framework that behaves as ``model`` does, only faster.

    Nothing is compiled here: that happens at the first call, for the shapes it brings.

    Args:
        model: a network of an installed frontend's framework.
        device: where to run (``"cpu"``); None means where the network's parameters are.
        dfp: False runs each layer of a depth-first group as a kernel of its own.
        numerics: ``"fast"`` or ``"strict"`` (no reordering beyond what the framework itself does).
        libraries: False uses generated kernels only.
        slicing: False runs every batch whole; a number, at most that many samples at a time; by default the device decides.
        remat: what training computes again instead of keeping it: ``"auto"``; ``"memory"`` for less memory and more time; a
            number in 0..1 for about that part of the memory that ``"auto"`` keeps, by computing parts of the network again.
        train: True gives an ONNX network that also has ``forward``, ``backward``, live ``parameters()`` and ``save``; PyTorch
            networks are trained by their own loops whatever this says.
        autotune: True measures what else could run each layer, in place, for up to half a minute when a size is met first, and
            keeps what is faster; a number, for up to so many seconds. On the CPU a quarter of that is added to measure how many
            samples of a batch to run at a time. Later processes find the result in the disk cache. On GPUs it is the time for
            choosing among cuDNN's plans.
        verify: compare the first calls with the framework's own result; a difference raises `MismatchError`.
        release_parameters: True (PyTorch, prediction only) gives the memory of a parameter back to the system once calls read it
            in packed form alone. ``model`` itself is then good for nothing else: what asks for such values, ``state_dict()`` or
            ``train()`` for two, raises `ReleasedError`.

    Raises:
        PluginError: no frontend accepts ``model``; DeviceError: no backend for ``device``; UnsupportedError: the backend does not
        know ``autotune``, or the frontend ``release_parameters``, or that was asked for together with ``verify`` or ``train``.
    """
    options = Options(
        dfp=dfp, numerics=numerics, autotune=autotune, verify=verify,
        libraries=libraries, slicing=slicing, remat=remat, train=train,
        release_parameters=release_parameters,
    )  # fmt: skip
    manager.load_ops()
    frontend = manager.frontend_for(model)
    if release_parameters:
        _check_release(type(frontend), options)
    chosen = str(device) if device is not None else type(frontend).default_device(model)
    backend = backend_for(chosen)
    if autotune and not backend.autotune:
        raise UnsupportedError(f"the backend {backend.name!r} has no timers to tune by; leave autotune out on device {chosen!r}")
    bridge = manager.bridge_for(type(frontend).name, backend.device)
    debug.log(debug.PLUGINS, f"{type(model).__name__}: frontend {frontend.name}, backend {backend.name} on {backend.device}")
    return frontend.wrap(model, Session(backend, bridge, options))


def _check_release(frontend: type[Frontend], options: Options) -> None:
    """Raises UnsupportedError where ``release_parameters`` cannot be."""
    if not frontend.releases:
        raise UnsupportedError(f"release_parameters is for PyTorch networks; the frontend {frontend.name!r} keeps all parameters")
    if options.verify or options.train:
        other = "verify compares with the framework's own result" if options.verify else "train needs parameters that change"
        raise UnsupportedError(f"release_parameters and another option exclude each other: {other}; leave out one of the two")
