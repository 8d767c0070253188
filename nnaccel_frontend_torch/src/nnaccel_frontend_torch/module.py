"""The optimized module: an object of a subclass of the user's own class that shares the user's ``__dict__``."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import types
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nnaccel_core.errors import UnsupportedError
from nnaccel_frontend_torch.call import State
from nnaccel_frontend_torch.released import check_values

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session

_is_compiling = torch.compiler.is_compiling
_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()


class _Forward:
    """``forward`` of the optimized class. A data descriptor: a ``forward`` assigned to the instance becomes the
    user's own, which capture follows, instead of hiding the optimized one."""

    def __init__(self, own: Any) -> None:
        self.function = _forward_like(own)

    def __get__(self, module: Any, owner: type | None = None) -> Any:
        return self.function if module is None else types.MethodType(self.function, module)

    def __set__(self, module: Any, value: Any) -> None:
        module.__dict__["forward"] = value

    def __delete__(self, module: Any) -> None:
        try:
            del module.__dict__["forward"]
        except KeyError:
            raise AttributeError("forward") from None


def _forward_like(own: Any) -> Any:
    """The optimized forward under the user's name and signature, which fx and inspect look at."""

    @functools.wraps(own)
    def forward(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        if _is_compiling():
            # torch.compile of the optimized module compiles the user's own network.
            return module._nnaccel.user.forward(*args, **kwargs)
        return module._nnaccel.run(args, kwargs)

    return forward


#: Methods of modules that need the values of all parameters, or write them, and what they do.
_NEEDS_VALUES = {
    "_apply": "the network is moved or cast",
    "state_dict": "its state is read",
    "load_state_dict": "its state is written",
}


def _refusing(own: Any, doing: str) -> Any:
    """The method ``own``, which raises ReleasedError once parameters were released."""

    @functools.wraps(own)
    def method(module: Any, *args: Any, **kwargs: Any) -> Any:
        module._nnaccel.releasing.refuse(doing)
        return own(module, *args, **kwargs)

    return method


class Optimized:
    """What the optimized class adds to the user's."""

    __slots__ = ()
    _nnaccel: State

    def nnaccel_report(self) -> dict[str, Any]:
        """How calls ran.

        Returns:
            ``compiled_calls``; ``own_calls``: reason to number of calls in which the user's own forward ran;
            ``captures``, ``recaptures`` (module state changed), ``refreshes`` (weights changed);
            ``released_bytes``: of parameters, given back to the system;
            ``programs``: how each program was captured; ``trace_refused``: why Dynamo captures, if it does.
        """
        return self._nnaccel.report()

    def nnaccel_refresh(self) -> None:
        """Drop everything derived from the weights before the next call."""
        self._nnaccel.refresh()

    def nnaccel_release(self) -> int:
        """Give back the memory of parameters that the calls so far read in packed or derived forms only, as
        ``optimize(..., release_parameters=True)`` does after each call. The network is for prediction only from then on: what
        needs such a parameter's values raises `ReleasedError`. A new input size is planned with the forms that there are, so
        call those first that are to be fast.

        Returns:
            how many bytes were given back.

        Raises:
            UnsupportedError: ``verify`` compares with the framework's own results.
        """
        if self._nnaccel.session.options.verify:
            raise UnsupportedError("verify compares with torch's own results, which need all parameters; optimize without it")
        return self._nnaccel.now().release_parameters()

    def __copy__(self) -> Any:
        self._nnaccel.releasing.refuse("the network is copied")
        return _again(copy.copy(self._nnaccel.user), self._nnaccel.session)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self._nnaccel.releasing.refuse("the network is copied")
        twin = _again(copy.deepcopy(self._nnaccel.user, memo), self._nnaccel.session)
        memo[id(self)] = twin
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._nnaccel.releasing.refuse("the network is pickled")
        session = self._nnaccel.session
        return _rebuilt, (self._nnaccel.user, session.device, session.options)


def optimized_class(base: type[nn.Module]) -> type[nn.Module]:
    """The optimized subclass of ``base``, made once."""
    found = _classes.get(base)
    if found is None:

        def train(self: Any, mode: bool = True) -> Any:
            if self._nnaccel.releasing.tensors and mode is False and not any(m.training for m in self.modules()):
                return self  # nothing changes, so that nothing need be derived again
            self._nnaccel.releasing.refuse("the network changes its mode")
            self._nnaccel.refresh()
            if not mode:
                self._nnaccel.release()
            return base.train(self, mode)

        functools.update_wrapper(train, base.train)
        whole = {name: _refusing(getattr(base, name), doing) for name, doing in _NEEDS_VALUES.items()}
        body = {
            **whole,
            "__slots__": ("_nnaccel",),
            "__doc__": base.__doc__,
            "__module__": base.__module__,
            "forward": _Forward(base.forward),
            "train": train,
            "_get_name": lambda self: base._get_name(self._nnaccel.user),
        }
        found = type(f"Optimized{base.__name__}", (Optimized, base), body)
        _classes[base] = found
    return found


def wrap(user: nn.Module, session: Session) -> nn.Module:
    """The optimized module of ``user``, sharing parameters, buffers, submodules, hooks and attributes with it.

    Raises:
        UnsupportedError: TorchScript modules, whose Python class has no forward to stand in for; ReleasedError: another optimized
            network of these parameters released some.
    """
    if isinstance(user, Optimized):
        user = user._nnaccel.user  # type: ignore[unreachable]
    if isinstance(user, torch.jit.ScriptModule):
        raise UnsupportedError(
            f"{type(user).__name__} is a TorchScript module; give optimize() the Python module that it was made from"
        )
    for p in user.parameters():
        check_values(p)
    home = session.bridge.home or session.device
    if home.split(":")[0] != "cpu" or any(t.device.type not in ("cpu", "meta") for t in user.parameters()):
        user.to(home)
    optimized = object.__new__(optimized_class(type(user)))
    object.__setattr__(optimized, "__dict__", user.__dict__)
    object.__setattr__(optimized, "_nnaccel", State(user, session))
    if session.options.release_parameters:
        user.requires_grad_(False)
    return optimized


def _again(user: nn.Module, session: Session) -> nn.Module:
    return wrap(user, type(session)(session.backend, session.bridge, session.options))


def _rebuilt(user: nn.Module, device: str, options: Any) -> nn.Module:
    """Unpickling: optimize the network again, for the device it was optimized for."""
    from nnaccel_core import optimize

    arguments = inspect.signature(optimize).parameters
    given = {k: v for k, v in dataclasses.asdict(options).items() if k in arguments}
    return optimize(user, device, **given)  # type: ignore[no-any-return]
