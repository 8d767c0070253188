"""The second way of capture: Dynamo's graphs through the same importer. Also the backend of ``torch.compile``."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from nnaccel_core.errors import UnsupportedError
from nnaccel_core.ir import Dim, TensorType, sym
from nnaccel_core.ops.registry import collect_guards
from nnaccel_frontend_torch import mapping
from nnaccel_frontend_torch.alias import Ref
from nnaccel_frontend_torch.autocast import left_to_torch, lower_dtype
from nnaccel_frontend_torch.capture import Record, finish, network_tensors
from nnaccel_frontend_torch.dtypes import TO_IR, dense_layout
from nnaccel_frontend_torch.guards import Guard
from nnaccel_frontend_torch.importer import Importer, Param
from nnaccel_frontend_torch.place import at, device_of
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal
from nnaccel_frontend_torch.training import on_tape
from nnaccel_frontend_torch.verified import verified

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Session
    from nnaccel_frontend_torch.call import State

_SWITCHES = (torch._C._set_grad_enabled,)


def compiled_by_dynamo(state: State) -> Callable[..., Any]:
    """The user's network compiled by Dynamo with this package's backend."""

    user = state.user

    def forward(*args: Any, **kwargs: Any) -> Any:
        return user.forward(*args, **kwargs)

    def backend(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        return DynamoGraph(module, inputs, state.session, state.reasons, state)

    # Dynamo counts recompilations per code object and stops at a few: each network needs a code object of its own.
    code = forward.__code__.replace(co_name=f"forward_of_{type(user).__name__}")
    own = types.FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)
    compiled: Callable[..., Any] = torch.compile(own, backend=backend, dynamic=None)

    def counted(*args: Any, **kwargs: Any) -> Any:
        before = state.graph_runs
        out = compiled(*args, **kwargs)
        if state.graph_runs == before:
            state.reasons["Dynamo ran the network without any graph"] += 1
        return out

    return counted


def nnaccel(module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    """``torch.compile(net, backend="nnaccel")``, for prediction and training."""
    from collections import Counter

    from nnaccel_core.driver.optimize import backend_for
    from nnaccel_core.driver.session import Session
    from nnaccel_core.hooks import manager
    from nnaccel_core.options import Options

    manager.load_ops()
    backend = backend_for("cpu")
    return DynamoGraph(module, inputs, Session(backend, manager.bridge_for("torch", backend.device), Options()), Counter())


class DynamoGraph:
    """One graph of Dynamo's: imported at its first call for each set of layouts.

    Parameters come as inputs; those that are ``nn.Parameter`` or buffers by Dynamo's own account are taken as the
    network's parameters and watched.
    """

    def __init__(
        self, module: fx.GraphModule, inputs: Sequence[Any], session: Session, reasons: Any, state: State | None = None
    ) -> None:
        self.state = state
        self.module = module
        self.session = session
        self._home = device_of(session.bridge.home or session.device)
        self.reasons = reasons
        self.placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        self.switches = any(n.target in _SWITCHES for n in module.graph.nodes)
        self.static = [_is_static(n, x) for n, x in zip(self.placeholders, inputs, strict=True)]
        self._entries: dict[Any, Any] = {}
        self._guard: Guard | None = None
        self._owned: list[torch.Tensor] = []

    def __call__(self, *args: Any) -> Any:
        """Run on Dynamo's inputs: tensors, and integers for symbolic sizes."""
        if self.state is not None:
            self.state.graph_runs += 1
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        reason = self._own_reason(tensors)
        if reason is not None:
            self.reasons[reason] += 1
            return self.module(*args)
        owned = [x for x, static in zip(args, self.static, strict=True) if static]
        self._watch(owned)
        free = [x for x, static in zip(args, self.static, strict=True) if isinstance(x, torch.Tensor) and not static]
        grad = _needs_grad(tensors)
        dense: list[torch.Tensor] = []
        layouts = []
        for t in free:
            layout = None if t.is_neg() else dense_layout(t.shape, t.stride())
            dense.append(t if layout is not None else t.resolve_neg().contiguous() if grad else self.session.bridge.dense(t))
            layouts.append(layout or tuple(range(t.dim())))
        key = (lower_dtype(self._home.type), *((t.dtype, layout, t.dim()) for t, layout in zip(free, layouts, strict=True)))
        entry = self._entries.get(key)
        if entry is None:
            with at(self._home):
                entry = self._entries[key] = self._import(args, layouts, grad)
        if isinstance(entry, str):
            self.reasons[entry] += 1
            return self.module(*args)
        record, compiled = entry
        if self.state is not None:
            self.state.compiled_calls += 1
        if record.outputs.writes and len({t.untyped_storage()._cdata for t in free}) < len(free):
            self.reasons["arguments share memory and the network writes one of them"] += 1
            return self.module(*args)
        extra = [get() for _, get in record.extra_inputs]

        env = self._env(args)
        with at(self._home):
            extra += [noise.draw(env) for noise in record.noise]

        def run() -> Any:
            results = compiled([*dense, *extra], on_tape if grad else None) if compiled is not None else []
            return record.outputs.build(results, [*free, *extra], env)

        if grad:
            try:
                return run()
            except UnsupportedError as e:
                reason = self._entries[key] = f"not trained: {e}"
                self.reasons[reason] += 1
                return self.module(*args)
        if compiled is not None and compiled.to_verify and not record.noise:
            written = [*free, *extra] if record.outputs.writes else []
            return verified(compiled, [*dense, *extra], written, run, lambda: self.module(*args))
        return run()

    def _own_reason(self, tensors: Sequence[torch.Tensor]) -> str | None:
        if self.switches and _needs_grad(tensors):
            return "gradients are switched off in part of the graph"
        reason = left_to_torch(self.session.backend, self._home.type)
        if reason is not None:
            return reason
        for t in tensors:
            if (
                type(t) not in (torch.Tensor, nn.Parameter)
                or t.device != self._home
                or t.layout is not torch.strided
                or t.dtype not in TO_IR
            ):
                return f"an argument is a {type(t).__name__} of {t.dtype} on {t.device}"
        return None

    def _watch(self, owned: list[torch.Tensor]) -> None:
        same = len(owned) == len(self._owned) and all(a is b for a, b in zip(owned, self._owned, strict=True))
        if self._guard is None or not same:
            if self._guard is not None:
                self._entries = {}
            self._owned = owned
            self._guard = Guard(None, owned)
        elif self._guard.check():
            if not self._guard.same_shapes():
                self._entries = {}
                self._guard = Guard(None, owned)
                return
            self._guard.resample()
            for entry in self._entries.values():
                if not isinstance(entry, str) and entry[1] is not None:
                    entry[1].refresh()

    def _env(self, args: Sequence[Any]) -> dict[str, int]:
        env: dict[str, int] = {}
        for node, x in zip(self.placeholders, args, strict=True):
            if isinstance(x, int):
                env[_symbol_name(node)] = x
            elif isinstance(x, torch.Tensor):
                for d, n in zip(_example(node).shape if _example(node) is not None else (), x.shape, strict=False):
                    name = _bare_symbol(d)
                    if name is not None:
                        env[name] = n
        return env

    def _import(self, args: Sequence[Any], layouts: Sequence[tuple[int, ...]], grad: bool) -> Any:
        """``(record, compiled)``, or the reason why torch runs this graph."""
        mutable: list[str] = []
        from nnaccel_frontend_torch.importer import NeedMutable

        while True:
            try:
                record = self._record(args, layouts, mutable)
                break
            except NeedMutable as e:
                if e.name in mutable:
                    return f"not compiled: {e}"
                mutable += [e.name, *(n for n in self._buffers(args) if n not in (*mutable, e.name))]
            except Refusal as e:
                return f"not compiled: {e}"
        try:
            if not record.captured.program.outputs:
                return record, None
            from nnaccel_frontend_torch.call import _numbers

            signature = dataclasses.replace(record.signature, grad=grad)
            compiled = self.session.compiled(next(_numbers), signature, lambda: record.captured)
            if record.lowers:
                compiled.to_verify = 0  # torch's own result is no judge: it rounds more often
            if self.state is not None:
                self.state.dynamo_programs.append(record.captured.reason)
        except UnsupportedError as e:
            return f"not compiled: {e}"
        return record, compiled

    def _buffers(self, args: Sequence[Any]) -> list[str]:
        """Names of the buffers among the arguments: where one is written, others may be."""
        names = {key: name for key, (name, _) in network_tensors(self.state.user).items()} if self.state is not None else {}
        static = [(n, x) for n, x, s in zip(self.placeholders, args, self.static, strict=True) if s]
        return [names.get(id(x), _clean(n)) for n, x in static if not isinstance(x, nn.Parameter)]

    def _record(self, args: Sequence[Any], layouts: Sequence[tuple[int, ...]], mutable: Sequence[str]) -> Record:
        params: dict[int, Param] = {}
        names = {key: name for key, (name, _) in network_tensors(self.state.user).items()} if self.state is not None else {}
        for node, x, static in zip(self.placeholders, args, self.static, strict=True):
            if static:
                params[id(x)] = (names.get(id(x), _clean(node)), _always(x))
        for name, x in [*self.module.named_parameters(), *self.module.named_buffers()]:
            params.setdefault(id(x), (name, _always(x)))
        b = Importer(params, mutable)
        b.widened = self.session.backend.widened
        values: dict[fx.Node, Any] = {}
        input_types: list[TensorType] = []
        with collect_guards() as guards:
            it = iter(layouts)
            for node, x, static in zip(self.placeholders, args, self.static, strict=True):
                if static:
                    continue
                if isinstance(x, torch.Tensor):
                    input_types.append(TensorType(_dims(_example(node), x), TO_IR[x.dtype], next(it)))
                    values[node] = b.add_input(input_types[-1], _clean(node))
                elif isinstance(x, int) and not isinstance(x, bool):
                    values[node] = sym(_symbol_name(node))
                else:
                    values[node] = x
            b.add_mutable()
            for node, x, static in zip(self.placeholders, args, self.static, strict=True):
                if static:
                    values[node] = b.param(x)
            returned = _walk(self.module, b, values)
        env = self._env(args)
        from nnaccel_core.ir import evaluate

        if any(evaluate(x, env) != evaluate(y, env) for x, y in guards):
            raise Refusal("the sizes of this call contradict the graph")
        kept = [g for g in guards if g[0] != g[1]]
        if kept:
            # Dynamo guards its own symbols; equalities that it has not fixed are ours to refuse.
            raise Refusal(f"sizes that must be equal: {kept}")
        tensors = [x for x, static in zip(args, self.static, strict=True) if isinstance(x, torch.Tensor) and not static]
        try:
            return finish(b, returned, input_types, None, [], tensors, "captured by Dynamo")
        except NeedStatic as e:
            raise Refusal(str(e)) from e


def _walk(module: fx.GraphModule, b: Importer, values: dict[fx.Node, Any]) -> Any:
    """Import every node of the graph; returns what it returns."""

    with contextlib.ExitStack() as entered:
        return _nodes(module, b, values, entered)


def _nodes(module: fx.GraphModule, b: Importer, values: dict[fx.Node, Any], entered: contextlib.ExitStack) -> Any:
    def arg(x: Any) -> Any:
        return fx.node.map_arg(x, lambda n: values[n])

    for node in module.graph.nodes:
        b.origin = _origin(node)
        if node.op == "placeholder":
            continue
        if node.target is torch.amp.autocast_mode._enter_autocast:
            values[node] = entered.enter_context(contextlib.ExitStack())
            values[node].enter_context(torch.autocast(*node.args))
            continue
        if node.target is torch.amp.autocast_mode._exit_autocast:
            values[node.args[0]].close()
            continue
        if node.op == "output":
            return arg(node.args[0])
        if node.op == "get_attr":
            found: Any = module
            for part in str(node.target).split("."):
                found = getattr(found, part)
            values[node] = b.param(found) if isinstance(found, torch.Tensor) else found
        elif node.op == "call_module":
            raise Refusal(f"Dynamo kept the module {node.target} as a call")
        elif node.target in _SWITCHES:  # such a graph runs without gradients only
            values[node] = None
        else:
            values[node] = mapping.call(b, node.target, arg(node.args), arg(node.kwargs))
    raise Refusal("a graph without an output")


def _needs_grad(tensors: Sequence[torch.Tensor]) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _is_static(node: fx.Node, x: Any) -> bool:
    """Whether an input is a parameter or buffer of the network, which Dynamo lifts to an input."""
    if not isinstance(x, torch.Tensor):
        return False
    if isinstance(x, nn.Parameter) or getattr(x, "_dynamo_static_input_type", None) is not None:
        return True
    arg = node.meta.get("grapharg")
    source = getattr(arg, "source", None) or getattr(node, "_dynamo_source", None)
    return source is not None and type(source).__name__ in ("UnspecializedParamBufferSource", "ParamBufferSource")


def _example(node: fx.Node) -> Any:
    return node.meta.get("example_value", node.meta.get("val"))


def _bare_symbol(d: Any) -> str | None:
    return str(d.node.expr) if isinstance(d, torch.SymInt) and d.node.expr.is_symbol else None


def _symbol_name(node: fx.Node) -> str:
    name = _bare_symbol(_example(node))
    if name is None:
        raise Refusal(f"an integer input that is no plain size: {node.name}")
    return name


def _dims(example: Any, x: torch.Tensor) -> tuple[Dim, ...]:
    if example is None:
        return tuple(x.shape)
    out: list[Dim] = []
    for d, n in zip(example.shape, x.shape, strict=True):
        if isinstance(d, int) or d.node.expr.is_number:
            out.append(n)
            continue
        name = _bare_symbol(d)
        if name is None:
            raise Refusal(f"an input of the computed size {d}")
        out.append(sym(name))
    return tuple(out)


def _always(t: torch.Tensor) -> Callable[[], torch.Tensor]:
    return lambda: t


def _clean(node: fx.Node) -> str:
    return node.name.removeprefix("l_").removesuffix("_")


def _origin(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path = re.findall(r"\w+", str(next(reversed(stack.values()))[0]))
    # L['user'].__dict__['_modules']['layer1'].0 is layer1.0
    return ".".join(p for p in path[2:] if p not in ("__dict__", "_modules"))


__all__ = ["DynamoGraph", "Ref", "compiled_by_dynamo", "nnaccel"]
