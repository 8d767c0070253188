"""Capture by running the network's own ``forward`` once on stand-ins. Accepted only if nothing escaped the record."""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from nnaccel_core.ir import Expr
from nnaccel_frontend_torch import mapping
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.guards import Kept
from nnaccel_frontend_torch.importer import Importer, NeedMutable, is_paused, paused
from nnaccel_frontend_torch.outputs import Shape
from nnaccel_frontend_torch.refusal import Refusal
from nnaccel_frontend_torch.traced import TracedInt, TracedSize, TracedTensor

#: ``nn.Module.__call__`` and ``__getattr__`` are replaced while a trace runs: one trace at a time.
_tracing = threading.RLock()

#: Functions that make tensors from numbers alone, which torch hands to nobody.
_FACTORIES = ("arange", "eye", "full", "linspace", "ones", "tensor", "zeros")

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_always_called",
)  # fmt: skip


def hooked(module: nn.Module) -> bool:
    """Whether a call of ``module`` runs hooks of its own."""
    return any(getattr(module, name, None) for name in _HOOKS)


class _Watch(TorchDispatchMode):
    """Notes every operation that torch really runs while the network is traced."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_paused():
            self.tracer.note(_real_work(func))
        return func(*args, **(kwargs or {}))


def _real_work(func: Any) -> Refusal:
    name = str(getattr(func, "overloadpacket", func)).split(".")[-1]
    if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
        return Refusal(f"{name} drew random numbers while the network was traced")
    return Refusal(f"{name} ran on real tensors while the network was traced: its result would be frozen")


class Tracer:
    """Runs one trace.

    Args:
        root: the network; ``importer``: where calls go; ``names``: module identity to its path.
        extent: what the batch symbol is at this call.
    """

    def __init__(self, root: nn.Module, importer: Importer, names: Mapping[int, str], extent: int) -> None:
        self.root, self.importer, self.names, self.extent = root, importer, names, extent
        self.refusals: list[Refusal] = []
        self.modes = _modes()
        self.autocast = _autocast_state()

    def note(self, refusal: Refusal) -> None:
        """Remember why this trace can't be accepted, and go on."""
        self.refusals.append(refusal)

    def refuse(self, refusal: Refusal) -> NoReturn:
        """Stop the trace. The reason is kept in case the network's own code catches the exception."""
        self.note(refusal)
        raise refusal

    # --- values -------------------------------------------------------------------------------------------------

    def wrap(self, x: Any) -> Any:
        """The importer's values as what the network's code sees."""
        if isinstance(x, Ref):
            return TracedTensor.make(self, x)
        if isinstance(x, Expr):
            return TracedInt(self, x)
        if isinstance(x, tuple):
            items = [self.wrap(v) for v in x]
            if all(isinstance(v, (int, Expr)) and not isinstance(v, bool) for v in x):
                return TracedSize(items) if any(type(v) is TracedInt for v in items) else torch.Size(items)
            return tuple(items) if type(x) is tuple else type(x)(items)
        if isinstance(x, list):
            return [self.wrap(v) for v in x]
        return x

    def unwrap(self, x: Any) -> Any:
        """The inverse of `wrap`, through containers."""
        kind = type(x)
        if kind is TracedTensor:
            return x.ref
        if kind is TracedInt:
            return x.dim
        if kind in (TracedSize, torch.Size, tuple):
            return tuple(self.unwrap(v) for v in x)
        if kind is list:
            return [self.unwrap(v) for v in x]
        if kind is dict:
            return {k: self.unwrap(v) for k, v in x.items()}
        if kind is slice:
            return slice(self.unwrap(x.start), self.unwrap(x.stop), self.unwrap(x.step))
        if isinstance(x, tuple) and hasattr(x, "_fields"):
            return kind(*(self.unwrap(v) for v in x))
        return x

    def call(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """One torch function, method or operator on stand-ins."""
        if _modes() != self.modes:
            self.note(Refusal("gradient or inference modes change inside the network"))
        try:
            with paused():
                out = mapping.call(
                    self.importer, func, [self.unwrap(a) for a in args], {k: self.unwrap(v) for k, v in kwargs.items()}
                )
        except Refusal as e:
            self.refuse(e)
        if isinstance(out, Ref):
            # In-place calls return their argument, and the network may test that with `is`.
            for a in args[:1]:
                if type(a) is TracedTensor and a.ref is out:
                    return a
        return self.wrap(out)

    # --- modules ------------------------------------------------------------------------------------------------

    def call_module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        """A submodule's call: its Python code runs on stand-ins."""
        name = self.names.get(id(module))
        if name is None:
            self.refuse(Refusal(f"a {type(module).__name__} that is not part of the network is called"))
        if hooked(module):
            self.refuse(Refusal(f"{name or 'the network'} carries hooks"))
        if "parametrizations" in module._modules:
            self.refuse(Refusal(f"{name or 'the network'} carries parametrizations"))
        before, self.importer.origin = self.importer.origin, name
        try:
            return original(module, *args, **kwargs)
        finally:
            self.importer.origin = before

    def attribute(self, original: Callable[..., Any], module: nn.Module, name: str) -> Any:
        """A parameter or buffer read by the network's code becomes a stand-in."""
        value = original(module, name)
        if isinstance(value, torch.Tensor) and type(value) is not TracedTensor and id(value) in self.importer.params:
            try:
                return TracedTensor.make(self, self.importer.param(value), isinstance(value, nn.Parameter))
            except Refusal as e:
                self.refuse(e)
        return value

    @contextmanager
    def _patched(self) -> Iterator[None]:
        me, outer = threading.get_ident(), self
        call, getattribute = nn.Module.__call__, nn.Module.__getattr__

        def traced_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != me or is_paused():
                return call(module, *args, **kwargs)
            return outer.call_module(call, module, args, kwargs)

        def traced_getattr(module: nn.Module, name: str) -> Any:
            if threading.get_ident() != me or is_paused():
                return getattribute(module, name)
            return outer.attribute(getattribute, module, name)

        def made(function: Any) -> Any:
            @functools.wraps(function)
            def traced_factory(*args: Any, **kwargs: Any) -> Any:
                if threading.get_ident() != me or is_paused():
                    return function(*args, **kwargs)
                return outer.call(function, args, kwargs)

            return traced_factory

        apply = torch.autograd.Function.apply

        def traced_apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == me and not is_paused():
                outer.importer.own_backward = outer.importer.own_backward or f"{cls.__name__} has a backward of its own"
            return apply.__func__(cls, *args, **kwargs)

        update = nn.RNNBase._update_flat_weights

        def real_weights(module: nn.RNNBase) -> None:
            # It compares the module's weights with those it has listed: stand-ins would look like new ones.
            with paused():
                update(module)

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(nn.RNNBase, "_update_flat_weights", real_weights))
            stack.enter_context(mock.patch.object(torch.autograd.Function, "apply", classmethod(traced_apply)))
            stack.enter_context(mock.patch.object(nn.Module, "__call__", traced_call))
            stack.enter_context(mock.patch.object(nn.Module, "__getattr__", traced_getattr))
            for name in _FACTORIES:
                stack.enter_context(mock.patch.object(torch, name, made(getattr(torch, name))))
            yield

    # --- the trace ----------------------------------------------------------------------------------------------

    def run(self, forward: Callable[..., Any], args: Any, kwargs: Any, unchanged: Callable[[], bool]) -> Any:
        """What ``forward`` returns, with `Ref`s for tensors and dims for sizes.

        Args:
            unchanged: whether the modules' own state is still what it was before.

        Raises:
            Refusal: the trace is not accepted.
        """
        for name, module in self.root.named_modules():
            if module is not self.root and hooked(module):
                raise Refusal(f"{name} carries hooks")
            if "parametrizations" in module._modules:
                raise Refusal(f"{name or 'the network'} carries parametrizations")
            if isinstance(module, torch.jit.ScriptModule):
                raise Refusal(f"{name} is compiled by TorchScript")
        random_state, kept = _random_state(), Kept(self.root)
        try:
            with ExitStack() as stack:
                stack.enter_context(_tracing)
                stack.enter_context(_Watch(self))
                stack.enter_context(self._patched())
                out = forward(*tree_map(self.wrap, args), **tree_map(self.wrap, kwargs))
        except Exception as e:
            if self.refusals:
                raise self.refusals[0] from (None if e is self.refusals[0] else e)
            if isinstance(e, Refusal):
                raise
            raise Refusal(f"tracing stopped with {type(e).__name__}: {(str(e).splitlines() or [''])[0]}") from e
        finally:
            # Whatever becomes of the trace, it must not have happened: the real run counts and draws for itself.
            drawn = not _same_state(random_state, _random_state())
            if drawn:
                _restore_state(random_state)
            mutated = not unchanged()
            if mutated:
                kept.restore()
        if self.refusals:
            raise self.refusals[0]
        if drawn:
            raise Refusal("random numbers were drawn (Python's, numpy's or torch's generator moved)")
        if mutated:
            raise Refusal("the network changes its own attributes while it runs")
        if _modes() != self.modes or _autocast_state() != self.autocast:
            raise Refusal("the network leaves gradient or autocast modes changed")
        return self._unwrap_output(out)

    def _unwrap_output(self, out: Any) -> Any:
        return tree_map(self._leaf, out)

    def _leaf(self, x: Any) -> Any:
        if type(x) is TracedTensor:
            return x.ref
        if type(x) is TracedInt:
            return x.dim
        if isinstance(x, torch.Tensor):
            return self.importer.param(x)
        if type(x) is TracedSize:
            return Shape(self._leaf(v) for v in x)
        return x


def _modes() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
    )


def _autocast_state() -> tuple[Any, ...]:
    return tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda"))


def _random_state() -> tuple[Any, ...]:
    with paused():
        return random.getstate(), np.random.get_state(legacy=True), torch.get_rng_state()


def _same_state(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    with paused():
        same_numpy = all(np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True))
        return a[0] == b[0] and same_numpy and bool(torch.equal(a[2], b[2]))


def _restore_state(state: tuple[Any, ...]) -> None:
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


__all__ = ["NeedMutable", "Tracer", "hooked"]
