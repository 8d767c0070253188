"""What happens at each call of an optimized network: may it run compiled, with which program, are its weights current."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules import module as nn_module
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils._pytree import tree_flatten

from nnaccel_core.driver.quiet import no_collections
from nnaccel_core.errors import UnsupportedError
from nnaccel_frontend_torch.autocast import left_to_torch, lower_dtype
from nnaccel_frontend_torch.capture import BATCH, Call, Record, trace
from nnaccel_frontend_torch.dtypes import TO_IR, dense_layout
from nnaccel_frontend_torch.guards import STATE_CHANGED, Guard
from nnaccel_frontend_torch.place import at, device_of
from nnaccel_frontend_torch.refusal import Refusal
from nnaccel_frontend_torch.released import Releasing
from nnaccel_frontend_torch.training import on_tape
from nnaccel_frontend_torch.verified import verified, verified_with_gradients

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled, Session
    from nnaccel_core.driver.training import Record as Tape

_KEYABLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, torch.memory_format)
#: After so many changes of module state the network is one that changes itself, and goes to Dynamo.
_MAX_RECAPTURES = 16
_MAX_SHORTCUTS = 512
_numbers = itertools.count()
_states: weakref.WeakSet[State] = weakref.WeakSet()
_tensor_types = (torch.Tensor, nn.Parameter)
_get_tracing_state = torch._C._get_tracing_state
_function_stack = torch._C._len_torch_function_stack
_dispatch_stack = torch._C._len_torch_dispatch_stack
_functorch = torch._C._functorch.peek_interpreter_stack
_autocast = getattr(torch._C, "_is_any_autocast_enabled", None) or (lambda: torch.is_autocast_enabled("cpu"))
_grad_enabled = torch.is_grad_enabled
_default_dtype = torch.get_default_dtype


def flatten(args: Sequence[Any], kwargs: dict[str, Any]) -> Call:
    """One call's arguments as leaves, with its tensors apart.

    Raises:
        Refusal: an argument is neither a tensor nor a plain number, string or None, in nested plain containers.
    """
    leaves, spec = tree_flatten((tuple(args), kwargs))
    tensors: list[torch.Tensor] = []
    positions: list[int] = []
    for k, x in enumerate(leaves):
        if type(x) in _tensor_types:
            tensors.append(x)
            positions.append(k)
            leaves[k] = None
        elif not isinstance(x, _KEYABLE) or isinstance(x, torch.Tensor):
            raise Refusal(f"an argument is a {type(x).__module__}.{type(x).__qualname__}")
    return Call(leaves, spec, tensors, positions)


class Entry:
    """One captured program and what a call of it needs."""

    __slots__ = ("compiled", "extra", "record", "single")

    def __init__(self, record: Record, compiled: Compiled | None) -> None:
        self.record = record
        self.compiled = compiled
        self.extra = [get for _, get in record.extra_inputs]
        self.single = record.outputs.single and not self.extra and not record.noise


class State:
    """What an optimized network knows beyond the user's own: its programs, its guard, and why it ran itself.

    Args:
        user: the user's network; ``session``: where programs are compiled.
        training: the mode of the network that this is the state of; `now` gives that of the mode it is in.
    """

    def __init__(self, user: nn.Module, session: Session, training: bool = False) -> None:
        self.user = user
        self.session = session
        #: where the network and its arguments are
        self.home = device_of(session.bridge.home or session.device)
        self._index: int | None = self.home.index
        self._precision = session.bridge.precision
        self.reasons: Counter[str] = Counter()
        self.captures = 0
        self.recaptures = 0
        self.refreshes = 0
        self.compiled_calls = 0
        self.graph_runs = 0
        self.dynamo_programs: list[str] = []
        self.dirty = False
        self.refused: str | None = None
        self.trace_refusal = ""
        self._lock = threading.RLock()
        self._entries: dict[Any, Entry | str] = {}
        self._shortcuts: dict[Any, Entry] = {}
        self._guard: Guard | None = None
        self._check: Callable[[], int] = lambda: STATE_CHANGED
        self._params: list[torch.Tensor] = []
        self._mutable: set[int] = set()
        self._dynamo: Callable[..., Any] | None = None
        #: why gradients are torch's own, once a layer turned out to have none of ours
        self._untrainable = ""
        self._training = training
        self._twin: State | None = None
        #: parameters whose memory was given back; of both modes
        self.releasing = Releasing(user, session)
        _states.add(self)

    def now(self) -> State:
        """The state of the mode that the network is in: evaluation and training keep programs of their own."""
        if bool(self.user.training) is self._training:
            return self
        if self._twin is None:
            with self._lock:
                if self._twin is None:
                    session = type(self.session)(self.session.backend, self.session.bridge, self.session.options)
                    twin = State(self.user, session, not self._training)
                    twin._twin, twin.releasing, self._twin = self, self.releasing, twin
        return self._twin

    # --- the call -----------------------------------------------------------------------------------------------

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the network: compiled where that gives what the user's own forward would, else that forward."""
        if self._index is not None and torch.cuda.current_device() != self._index:
            with torch.cuda.device(self._index):
                return self.run(args, kwargs)
        if self.user.training is not self._training and bool(self.user.training) is not self._training:
            return self.now().run(args, kwargs)
        reason = self._environment()
        if reason is not None:
            return self._own(reason, args, kwargs)
        if kwargs or len(args) != 1:
            return self._general(args, kwargs)
        x = args[0]
        if type(x) is not torch.Tensor or x.requires_grad or not x.is_contiguous() or x.device != self.home or x.is_neg():
            return self._general(args, kwargs)
        # The common call: one plain row-major tensor of a shape that was seen before.
        lower = lower_dtype(self.home.type) if _autocast() else None
        entry = self._shortcuts.get((x.dtype, x.shape, _default_dtype(), self._precision(), lower))
        if entry is None or _grad_enabled() or self.dirty or self._check():
            return self._general(args, kwargs)
        self.compiled_calls += 1
        if entry.single:
            return entry.compiled((x,))[0]  # type: ignore[misc]
        return self._finish(entry, [x])

    def _environment(self) -> str | None:
        """Why nothing compiled may run now, whatever the arguments."""
        if self.refused is not None:
            return self.refused
        if _get_tracing_state() is not None:
            return "torch.jit is tracing"
        if _function_stack() and not _only_default_device():
            return "a torch function mode is active"
        if _dispatch_stack():
            return "a torch dispatch mode is active"
        if _functorch() is not None:
            return "a functorch transform is active"
        if nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks:
            return "global module hooks are registered"
        if torch.autograd.forward_ad._current_level >= 0:
            return "forward-mode differentiation is active"
        return None

    def _general(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            call = flatten(args, kwargs)
        except Refusal as e:
            return self._own(str(e), args, kwargs)
        for t in call.tensors:
            if t.device != self.home:
                return self._own(
                    f"an argument is on {t.device}, the network was optimized for {self.session.device}", args, kwargs
                )
            if t.layout is not torch.strided:
                return self._own(f"an argument is a tensor of layout {t.layout}", args, kwargs)
            if t.dtype not in TO_IR:
                return self._own(f"an argument has dtype {t.dtype}", args, kwargs)
            if not t.numel():
                return self._own("an argument has no elements", args, kwargs)
        if _autocast():
            reason = left_to_torch(self.session.backend, self.home.type)
            if reason is not None:
                return self._own(reason, args, kwargs)
        grad = _grad_enabled() and self._needs_grad(call.tensors)
        if grad and self._untrainable:
            return self._own(self._untrainable, args, kwargs)
        with self._lock:
            if grad:
                self.releasing.refuse("gradients are taken", "call the network under torch.no_grad()")
            self._settle()
            if self._dynamo is not None:
                if self.session.options.release_parameters:
                    self.release_parameters()
                return self._dynamo(*args, **kwargs)
            tensors, layouts = self._dense(call.tensors)
            try:
                entry = self._entry(call, tensors, layouts, grad)
            except Refusal as e:
                self.releasing.refuse(f"such a call is not traced ({e})")
                return self._try_dynamo(str(e), args, kwargs)
            except UnsupportedError as e:
                self.refused = f"not compiled: {e}"
                return self._own(self.refused, args, kwargs)
        if entry.record.outputs.writes and _overlap(call.tensors):
            return self._own("arguments share memory and the network writes one of them", args, kwargs)
        if grad:
            if entry.record.own_backward:
                return self._own(entry.record.own_backward, args, kwargs)
            try:
                out = self._trained(entry, tensors, call, args, kwargs)
            except UnsupportedError as e:
                self._untrainable = f"not trained: {e}"
                return self._own(self._untrainable, args, kwargs)
            self.compiled_calls += 1
            return out
        if entry.compiled is not None and entry.compiled.to_verify and not (self._training or entry.record.noise):
            self.compiled_calls += 1
            inputs = [*tensors, *(get() for get in entry.extra)]
            return verified(
                entry.compiled, inputs, [*call.tensors, *inputs[len(tensors) :]] if entry.record.outputs.writes else [],
                lambda: self._finish(entry, tensors, call.tensors), lambda: self.user.forward(*args, **kwargs),
            )  # fmt: skip
        plain = not (self._training or kwargs) and len(args) == 1 and bool(tensors) and tensors[0] is args[0]
        if plain and layouts[0] == tuple(range(args[0].dim())):
            if len(self._shortcuts) >= _MAX_SHORTCUTS:
                self._shortcuts = {}
            key = (args[0].dtype, args[0].shape, _default_dtype(), self._precision(), lower_dtype(self.home.type))
            self._shortcuts[key] = entry
        self.compiled_calls += 1
        result = self._finish(entry, tensors, call.tensors)
        if self.session.options.release_parameters:
            self.release_parameters()
        return result

    def _trained(
        self, entry: Entry, tensors: list[torch.Tensor], call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """A call with gradients; the first ones are compared with torch's where that is asked for."""

        def run() -> Any:
            return self._finish(entry, tensors, call.tensors, on_tape)

        if entry.compiled is None or not entry.compiled.to_verify:
            return run()
        extra = [get() for get in entry.extra]
        wanted = {name: p for name, p in self.user.named_parameters() if p.requires_grad}
        wanted |= {f"argument {k}": t for k, t in enumerate(call.tensors) if t.requires_grad}
        copies = {name: b.detach().clone() for name, b in self.user.named_buffers()}
        return verified_with_gradients(
            entry.compiled, [*tensors, *extra], [t for k, t in enumerate(call.tensors) if k in entry.record.outputs.places], run,
            lambda: torch.func.functional_call(self.user, copies, args, kwargs), wanted,
            [(b, copies[name]) for name, b in self.user.named_buffers()],
        )  # fmt: skip

    def _finish(
        self, entry: Entry, tensors: list[torch.Tensor], given: list[torch.Tensor] | None = None, tape: Tape | None = None
    ) -> Any:
        """The call's result; ``tape`` puts it on torch's tape (`training.on_tape`)."""
        captured = entry.record
        env = {BATCH: tensors[captured.batch].shape[0]} if captured.batch is not None else {}
        extra = [get() for get in entry.extra]
        if captured.noise:
            with at(self.home):
                extra += [noise.draw(env) for noise in captured.noise]
        results = entry.compiled([*tensors, *extra], tape) if entry.compiled is not None else []
        return captured.outputs.build(results, [*(given or tensors), *extra], env)

    def _own(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The user's own forward; counted with its reason."""
        self.reasons[reason] += 1
        try:
            return self.user.forward(*args, **kwargs)
        finally:
            if self._training:
                # Running statistics move without a version change.
                self.refresh()

    # --- live parameters and module state -----------------------------------------------------------------------

    def _settle(self) -> None:
        """Bring programs and prepared weights in line with the network as it is now."""
        if self.releasing.tensors:
            # What was derived from released parameters can't be derived again, so it must not be dropped either.
            if self._training:
                self.releasing.refuse("the network is in training mode", "call net.eval()")
            status = self._check()
            if status or self.dirty:
                assert self._guard is not None
                self.releasing.refuse(f"{self._guard.what_changed() if status else 'parameters'} changed since")
            return
        if self._guard is None:
            self._watch()
            return
        if self._dynamo is not None:
            # Dynamo guards the modules itself; its graphs check their own weights.
            self.dirty = False
            return
        status = self._check()
        if status == STATE_CHANGED:
            self.recaptures += 1
            changed = self._guard.what_changed()
            self._forget()
            self._watch()
            if self.recaptures >= _MAX_RECAPTURES:
                self._to_dynamo(f"{changed} change between calls")
        elif status or self.dirty:
            self.dirty = False
            if self._guard.same_shapes():
                self._guard.resample()
            else:
                self._forget()
                self._watch()
            self.refreshes += 1
            self.session.refresh()

    def _forget(self) -> None:
        self._entries = {}
        self._shortcuts = {}
        self.session.forget()

    def _watch(self) -> None:
        gone = self.releasing.tensors
        self._guard = Guard(self.user, skip=self._mutable | gone.keys())
        self._check = self._guard.check
        self._params = [p for p in self.user.parameters() if id(p) not in gone]
        self.dirty = False

    def _needs_grad(self, tensors: Sequence[torch.Tensor]) -> bool:
        # The list is renewed when module state changes; a replaced parameter is one.
        if self._guard is None or self._guard.state_changed():
            params: Sequence[torch.Tensor] = [p for p in self.user.parameters() if id(p) not in self.releasing.tensors]
        else:
            params = self._params
        return any(t.requires_grad for t in tensors) or any(p.requires_grad for p in params)

    def refresh(self) -> None:
        """Drop everything derived from the weights, whatever the guards say."""
        self.releasing.refuse("what was derived from parameters is dropped")
        self.dirty = True
        if self._twin is not None:
            self._twin.dirty = True

    def release(self) -> None:
        """Leave memory that waits for the next training step to torch."""
        for state in (self, self._twin):
            if state is not None:
                state.session.release()

    def release_parameters(self) -> int:
        """Give back the memory of parameters that all programs read in derived forms only; returns how many bytes."""
        if self._training or self._dynamo is not None:
            self.releasing.keep("it is in training mode; call net.eval()" if self._training else "only Dynamo captures it")
            return 0
        if self._guard is None or self.session.released.derived == self.releasing.seen:
            return 0
        with self._lock:
            self._settle()  # what was derived from values that changed since is dropped, and its originals stay
            freed = self.releasing.run()
            if freed:
                self._watch()
        return freed

    # --- programs -----------------------------------------------------------------------------------------------

    def _dense(self, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[tuple[int, ...]]]:
        dense: list[torch.Tensor] = []
        layouts: list[tuple[int, ...]] = []
        for t in tensors:
            layout = None if t.is_neg() else dense_layout(t.shape, t.stride())
            if layout is None:
                t = t.resolve_neg().contiguous() if t.requires_grad else self.session.bridge.dense(t)
                layout = tuple(range(t.dim()))
            dense.append(t)
            layouts.append(layout)
        return dense, layouts

    def _entry(
        self, call: Call, tensors: Sequence[torch.Tensor], layouts: Sequence[tuple[int, ...]], grad: bool = False
    ) -> Entry:
        """The program for a call, captured if need be; a program for any batch size before one for this only.

        Raises:
            Refusal: the trace is refused.
        """
        first = next((t.shape[0] for t in tensors if t.dim()), None)
        parts = tuple(
            (
                t.dtype,
                layout,
                t.dim(),
                (t.shape[0] == first, None if t.shape[0] == first else t.shape[0]) if t.dim() else (),
                t.shape[1:],
            )
            for t, layout in zip(tensors, layouts, strict=True)
        )
        fixed = (
            call.spec, tuple((type(x), x) for x in call.leaves), parts, torch.get_default_dtype(), self._precision(),
            lower_dtype(self.home.type),
        )  # fmt: skip
        any_size = (fixed, first == 1 and any(t.dim() and t.shape[0] != 1 for t in tensors))
        this_size = (fixed, tuple(t.shape for t in tensors))
        found = self._entries.get(any_size)
        if isinstance(found, Entry):
            batch = found.record.batch
            if batch is None or found.record.fits(tensors[batch].shape[0]):
                return found
            found = "its guards do not hold"
        exact = self._entries.get(this_size)
        if isinstance(exact, Entry):
            return exact
        entry = self._capture(call, tensors, layouts, dynamic=found is None, grad=grad)
        if entry.record.batch is not None:
            self._entries[any_size] = entry
        else:
            self._entries.setdefault(any_size, entry.record.captured.reason)
            self._entries[this_size] = entry
        return entry

    @no_collections()
    def _capture(
        self, call: Call, tensors: Sequence[torch.Tensor], layouts: Sequence[tuple[int, ...]], dynamic: bool, grad: bool
    ) -> Entry:
        guard = self._guard
        assert guard is not None
        dense = Call(call.leaves, call.spec, list(tensors), call.positions)
        with at(self.home):
            widened = self.session.backend.widened
            captured = trace(self.user, self.user.forward, dense, layouts, lambda: not guard.state_changed(), dynamic, widened)
        self.captures += 1
        compiled = self._compile(captured, grad)
        if captured.extra_inputs:
            self._mutable |= {id(get()) for _, get in captured.extra_inputs}
            self._watch()
        return Entry(captured, compiled)

    def _compile(self, captured: Record, grad: bool) -> Compiled | None:
        if not captured.captured.program.outputs:
            return None
        extra = (lower_dtype(self.home.type),)
        signature = dataclasses.replace(captured.signature, training=self._training, grad=grad, extra=extra)
        compiled = self.session.compiled(next(_numbers), signature, lambda: captured.captured)
        if captured.lowers:
            compiled.to_verify = 0  # torch's own result is no judge: it rounds more often
        return compiled

    def _to_dynamo(self, reason: str) -> None:
        from nnaccel_frontend_torch.dynamo import compiled_by_dynamo

        self._forget()
        self.trace_refusal = reason
        self._dynamo = compiled_by_dynamo(self)

    def _try_dynamo(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Go over to Dynamo if that runs this call; a call that is an error in itself decides nothing."""
        from nnaccel_frontend_torch.dynamo import compiled_by_dynamo

        compiled = compiled_by_dynamo(self)
        try:
            result = compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchRuntimeError:
            # An operator refused the call's shapes or dtypes: the network itself says so better.
            return self._own(f"Dynamo could not run it, nor the trace: {reason}", args, kwargs)
        self._entries, self._shortcuts = {}, {}
        self.trace_refusal, self._dynamo = reason, compiled
        return result

    def report(self) -> dict[str, Any]:
        """How calls ran in both modes; see `nnaccel_report`."""
        both = [self] if self._twin is None else [self, self._twin]
        entries = [e for s in both for e in s._entries.values() if isinstance(e, Entry)]
        return {
            "compiled_calls": sum(s.compiled_calls for s in both),
            "own_calls": dict(sum((s.reasons for s in both), Counter())),
            "captures": sum(s.captures for s in both),
            "recaptures": sum(s.recaptures for s in both),
            "refreshes": sum(s.refreshes for s in both),
            "programs": [e.record.captured.reason for e in entries] + [p for s in both for p in s.dynamo_programs],
            "released_bytes": self.releasing.nbytes,
            "trace_refused": next((s.trace_refusal for s in both if s.trace_refusal), ""),
        }


def _only_default_device() -> bool:
    """Whether the active function modes are only default devices, on which results do not depend."""
    from torch.overrides import _get_current_function_mode_stack
    from torch.utils._device import DeviceContext

    return all(isinstance(m, DeviceContext) for m in _get_current_function_mode_stack())


def _overlap(tensors: Sequence[torch.Tensor]) -> bool:
    storages = [t.untyped_storage()._cdata for t in tensors]
    return len(set(storages)) < len(storages)


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Fused optimizers write parameters without a version change: mark every network that owns one of them."""
    states = list(_states)
    if not states:
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for state in states:
        if not stepped.isdisjoint(map(id, state._params)):
            state.dirty = True


register_optimizer_step_post_hook(_after_step)
