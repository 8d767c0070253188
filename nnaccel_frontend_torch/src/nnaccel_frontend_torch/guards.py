"""Snapshots of a network that tell at each call whether its modules or the values of its tensors changed.

Watched: every module's attributes, parameters, buffers and submodules by identity (plain numbers and strings by
value), lists, dicts, sets and plain records inside the attributes, hooks of submodules; of every tensor its memory,
shape, version counter and samples of its values. Writes that miss all samples and go around torch's version counter
(a few elements of a large weight through numpy) are not seen: ``nnaccel_refresh()`` is for them.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

VALUES_CHANGED = 1
STATE_CHANGED = 2
_SAMPLES, _CHUNK, _WHOLE = 16, 8, 256
_MAX_CONTAINERS = 20000
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_TABLES = ("_parameters", "_buffers", "_modules")
#: Attributes of every module that no forward looks at, and those handled on their own.
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}
_LEAVES = (
    bool, int, float, complex, str, bytes, type(None), torch.Tensor, nn.Module, torch.dtype, torch.device, torch.Size, type,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, np.ndarray, np.generic, torch.Generator,
)  # fmt: skip


class Snapshot(Protocol):
    """What the native and the Python guard have in common."""

    def check(self) -> int: ...

    def state_changed(self) -> bool: ...

    def changed_container(self) -> int: ...

    def resample(self) -> None: ...


def containers(root: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every container whose contents the network may look at, with a name for messages."""
    seen: set[int] = set()
    for path, module in root.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # never traced, and its tables are not dicts
        where = path or type(module).__name__
        yield f"attributes of {where}", module.__dict__
        for table in _TABLES:
            yield f"{table} of {where}", module.__dict__[table]
        if module is not root:
            for table in _HOOKS:
                yield f"{table} of {where}", module.__dict__[table]
        for name, value in list(module.__dict__.items()):
            if name not in _INTERNAL:
                yield from _inside(f"{where}.{name}", value, seen, 6)


def _inside(where: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _LEAVES) or id(value) in seen or depth == 0:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        yield where, value
        for key, item in list(value.items()):
            yield from _inside(f"{where}[{key!r}]", item, seen, depth - 1)
    elif isinstance(value, (list, tuple)):
        if isinstance(value, list):
            yield where, value
        for k, item in enumerate(value):
            yield from _inside(f"{where}[{k}]", item, seen, depth - 1)
    elif isinstance(value, (set, bytearray)):
        yield where, value
    elif _is_record(value):
        yield f"attributes of {where}", vars(value)


def _is_record(value: Any) -> bool:
    """A plain configuration object: all its attributes are numbers, strings, tensors, or tuples of such."""

    def plain(x: Any) -> bool:
        return isinstance(x, _LEAVES) or (isinstance(x, (tuple, list)) and len(x) < 64 and all(isinstance(i, _LEAVES) for i in x))

    attributes = getattr(value, "__dict__", None)
    return type(attributes) is dict and len(attributes) < 256 and all(plain(x) for x in attributes.values())


class Kept:
    """Shallow copies of everything `containers` names, to undo what a trace did to the network's own state."""

    def __init__(self, root: nn.Module) -> None:
        self._copies = [(c, _copied(c)) for _, c in containers(root)]

    def restore(self) -> None:
        """Put every changed container back as it was."""
        for now, before in self._copies:
            if _same_items(now, before):
                continue
            if isinstance(now, dict):
                now.clear()
                now.update(before)
            elif isinstance(now, (list, bytearray)):
                now[:] = before
            else:
                now.clear()
                now.update(before)


def tensors(root: nn.Module) -> list[torch.Tensor]:
    """Every tensor the network owns, once."""
    from nnaccel_frontend_torch.capture import network_tensors

    return [get() for _, get in network_tensors(root).values()]


def span(t: torch.Tensor) -> int:
    """Bytes from the first element to the end of the last; 0 when the memory can't be looked at."""
    if t.layout is not torch.strided or t.device.type != "cpu" or t.numel() == 0 or type(t) not in (torch.Tensor, nn.Parameter):
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) * t.element_size()


class PythonGuard:
    """The same checks as the native guard, in Python."""

    def __init__(self, watched: list[Any], watched_tensors: list[tuple[torch.Tensor, int, int, int]]) -> None:
        self._containers = [(c, _copied(c)) for c in watched]
        self._tensors = watched_tensors
        self._seen: list[Any] = []
        self.resample()

    def resample(self) -> None:
        """Take the tensors as they are now as the state to compare with."""
        self._seen = [_Seen(t, n) for t, _, n, _ in self._tensors]

    def changed_container(self) -> int:
        """Index of the first container that changed, or -1."""
        for k, (now, before) in enumerate(self._containers):
            if not _same_items(now, before):
                return k
        return -1

    def state_changed(self) -> bool:
        """Whether a container changed."""
        return self.changed_container() >= 0

    def check(self) -> int:
        """0: as before; 1: tensor values or memory changed; 2: a container changed."""
        if self.state_changed():
            return STATE_CHANGED
        return 0 if all(s.same() for s in self._seen) else VALUES_CHANGED


def _copied(c: Any) -> Any:
    return list(c.items()) if isinstance(c, dict) else c.copy()


def _same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and type(a) in (int, float, str, bytes, bool) and a == b)


def _same_items(now: Any, before: Any) -> bool:
    if isinstance(now, dict):
        return len(now) == len(before) and all(
            _same(k, k0) and _same(v, v0) for (k, v), (k0, v0) in zip(now.items(), before, strict=True)
        )
    if isinstance(now, list):
        return len(now) == len(before) and all(_same(v, v0) for v, v0 in zip(now, before, strict=True))
    return bool(now == before)


class _Seen:
    """One tensor as it was."""

    def __init__(self, t: torch.Tensor, nbytes: int) -> None:
        self.tensor = t
        self.facts = _facts(t)
        self.nbytes = nbytes if nbytes and t.data_ptr() else 0
        if self.nbytes:
            memory = np.frombuffer((ctypes.c_char * nbytes).from_address(t.data_ptr()), np.uint8)  # type: ignore[call-overload]
            if nbytes <= _WHOLE:
                self.index: Any = slice(None)
            else:
                starts = np.array([(nbytes - _CHUNK) * k // (_SAMPLES - 1) for k in range(_SAMPLES)])
                self.index = (starts[:, None] + np.arange(_CHUNK)).ravel()
            self.memory = memory
            self.sample = memory[self.index].tobytes()

    def same(self) -> bool:
        # Facts come first: they say that the address is still the tensor's own.
        if _facts(self.tensor) != self.facts:
            return False
        return not self.nbytes or self.memory[self.index].tobytes() == self.sample


def _facts(t: torch.Tensor) -> tuple[Any, ...]:
    if t.layout is not torch.strided or type(t) not in (torch.Tensor, nn.Parameter):
        return (id(t), getattr(t, "_version", 0))
    version = 0 if t.is_inference() else t._version
    return (t._cdata, t.untyped_storage()._cdata, t.data_ptr(), version, t.storage_offset(), tuple(t.shape), t.stride())


def _load_native() -> Any:
    """The configured native module, or None with the reason in `native_reason`."""
    global native_reason
    try:
        from nnaccel_frontend_torch import _guards, layout_probe  # type: ignore[attr-defined]
    except ImportError as e:
        native_reason = f"the extension module is not built ({e})"
        return None
    try:
        _guards.configure(*layout_probe.find(_guards.read))
        if not layout_probe.verified(_guards):
            raise LookupError("the found fields do not behave as they should")
    except LookupError as e:
        native_reason = f"torch {torch.__version__}: {e}"
        return None
    _guards.use_dict_tag(layout_probe.dict_tag(_guards))
    return _guards


native_reason = ""
_native = _load_native()


def native_available() -> bool:
    """Whether the checks run natively; `native_reason` says why not."""
    return _native is not None


class Guard:
    """A snapshot of a network.

    Args:
        root: the network; None watches only ``watched``.
        watched: tensors to watch; None means all the network owns.
        skip: identities of tensors not to watch (buffers that the network itself writes).
        native: False uses the Python checks.
    """

    def __init__(
        self,
        root: nn.Module | None,
        watched: Collection[torch.Tensor] | None = None,
        skip: Collection[int] = (),
        native: bool = True,
    ) -> None:
        found = list(containers(root))[:_MAX_CONTAINERS] if root is not None else []
        if watched is None:
            watched = tensors(root) if root is not None else []
        self.tensors = [t for t in watched if id(t) not in skip]
        self._names = [name for name, _ in found]
        self._shapes = [(t.shape, t.dtype, t.stride()) if t.layout is torch.strided else () for t in self.tensors]
        build: Callable[..., Snapshot] = PythonGuard
        readable = [(t, t.dim(), span(t), t.element_size()) for t in self.tensors]
        if native and _native is not None and all(type(t) in (torch.Tensor, nn.Parameter) for t in self.tensors):
            build = _native.Guard
        self._snapshot = build([c for _, c in found], readable)
        #: 0: as before; `VALUES_CHANGED`; `STATE_CHANGED`.
        self.check: Callable[[], int] = self._snapshot.check
        self.state_changed: Callable[[], bool] = self._snapshot.state_changed

    def what_changed(self) -> str:
        """Which container changed, for messages."""
        k = self._snapshot.changed_container()
        return self._names[k] if k >= 0 else "tensors"

    def same_shapes(self) -> bool:
        """Whether all tensors still have their shapes, dtypes and strides."""
        return self._shapes == [(t.shape, t.dtype, t.stride()) if t.layout is torch.strided else () for t in self.tensors]

    def resample(self) -> None:
        """Accept the tensors' present values. Their shapes must be the same."""
        self._snapshot.resample()
