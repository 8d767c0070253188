"""One capture: the network's tensors by name, the attempts at tracing it, and the record that a call needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from nnaccel_core.api import Captured, Signature
from nnaccel_core.ir import Dim, TensorType, evaluate, sym
from nnaccel_core.ops.registry import collect_guards
from nnaccel_frontend_torch.dtypes import TO_IR
from nnaccel_frontend_torch.importer import Importer, NeedMutable, Noise, Param
from nnaccel_frontend_torch.outputs import Outputs
from nnaccel_frontend_torch.refusal import NeedStatic, Refusal
from nnaccel_frontend_torch.tracer import Tracer

#: The symbol that stands for the extent of axis 0 of the inputs.
BATCH = "N"


@dataclass
class Call:
    """One call of a network, flattened.

    Attributes:
        leaves: arguments in order; tensors are replaced by None.
        spec: how leaves become ``(args, kwargs)``.
        tensors: the tensor leaves; ``positions``: where they belong.
    """

    leaves: list[Any]
    spec: TreeSpec
    tensors: list[torch.Tensor]
    positions: list[int]


@dataclass
class Record:
    """A captured network and how to call it.

    Attributes:
        captured: the program; ``signature``: what it fits.
        outputs: builds the return value.
        extra_inputs: buffers that the network writes; they follow the call's tensors. ``noise``: what is drawn for each call
            follows these.
        own_backward: why gradients are torch's to take; "" where they are ours.
        batch: position of the tensor whose axis 0 gives the symbol, or None when all sizes are fixed.
        guards: dims that must be equal at a call.
        lowers: autocast was on in some of it.
    """

    captured: Captured
    signature: Signature
    outputs: Outputs
    extra_inputs: Sequence[Param]
    batch: int | None
    guards: Sequence[tuple[Dim, Dim]]
    noise: Sequence[Noise] = ()
    own_backward: str = ""
    lowers: bool = False

    def fits(self, sizes: int) -> bool:
        """Whether the guards hold for a batch of ``sizes``."""
        env = {BATCH: sizes}
        return all(evaluate(a, env) == evaluate(b, env) for a, b in self.guards)


def network_tensors(root: nn.Module) -> dict[int, Param]:
    """Identity of every tensor the network owns, to its name and a function that returns the live one.

    Parameters and buffers have their state_dict keys; tensors that are plain attributes have their attribute path.
    """
    found: dict[int, Param] = {}
    for path, module in root.named_modules():
        prefix = path + "." if path else ""
        for table in (module._parameters, module._buffers, module.__dict__):
            for name, value in table.items():
                if isinstance(value, torch.Tensor):
                    found.setdefault(id(value), (prefix + name, _getter(table, name)))
                elif table is module.__dict__ and isinstance(value, (list, tuple, dict)) and not name.startswith("_"):
                    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                        if isinstance(item, torch.Tensor):
                            found.setdefault(id(item), (f"{prefix}{name}.{key}", _getter(value, key)))
    return found


def _getter(table: Any, key: Any) -> Callable[[], Any]:
    return lambda: table[key]


def batch_position(tensors: Sequence[torch.Tensor]) -> int | None:
    """The first tensor with an axis 0, whose extent becomes the symbol; None when sizes of 1 and others mix."""
    sizes = {t.shape[0] for t in tensors if t.dim()}
    if not sizes or (1 in sizes and len(sizes) > 1):
        return None
    return next(k for k, t in enumerate(tensors) if t.dim())


def input_types(tensors: Sequence[torch.Tensor], layouts: Sequence[tuple[int, ...]], batch: int | None) -> list[TensorType]:
    """Types of the tensor arguments, with the batch symbol in every axis 0 that has its extent."""
    extent = tensors[batch].shape[0] if batch is not None else None
    out = []
    for t, layout in zip(tensors, layouts, strict=True):
        shape: list[Dim] = list(t.shape)
        if extent is not None and shape and shape[0] == extent:
            shape[0] = sym(BATCH)
        out.append(TensorType(tuple(shape), TO_IR[t.dtype], layout))
    return out


def trace(
    root: nn.Module, forward: Callable[..., Any], call: Call, layouts: Sequence[tuple[int, ...]], unchanged: Callable[[], bool],
    dynamic: bool = True, widened: Collection[str] = (),
) -> Record:  # fmt: skip
    """Capture by tracing: first with a symbolic batch, then with fixed sizes where the network needs them.

    Args:
        root: the network; ``forward``: what runs it without its own hooks.
        call: the arguments; ``layouts``: physical layouts of its tensors.
        unchanged: whether the modules' attributes are what they were before.
        dynamic: False fixes all sizes at once.
        widened: narrow float types that are computed in float32 under autocast.

    Raises:
        Refusal: the trace is not accepted; carries the reason.
    """
    params = network_tensors(root)
    names = {id(m): name for name, m in root.named_modules()}
    batch = batch_position(call.tensors) if dynamic else None
    mutable: list[str] = []
    notes: list[str] = []
    while True:
        try:
            return _attempt(root, forward, call, layouts, unchanged, params, names, batch, mutable, notes, widened)
        except NeedStatic as e:
            if batch is None:
                raise Refusal(str(e)) from e
            notes.append(f"fixed batch size: {e}")
            batch = None
        except NeedMutable as e:
            if e.name in mutable:
                raise Refusal(str(e)) from e
            mutable += [name for name in written_with(root, e.name) if name not in mutable]


def written_with(root: nn.Module, name: str) -> list[str]:
    """Buffers that are written where the buffer ``name`` is: those of all modules of its module's class and mode.

    One that is not written after all is merely an input.
    """
    owner = root.get_submodule(name.rpartition(".")[0])
    alike = [(path, m) for path, m in root.named_modules() if type(m) is type(owner) and m.training == owner.training]
    return [name, *(f"{path}.{key}" if path else key for path, m in alike for key in m._buffers)]


def _attempt(
    root: nn.Module, forward: Callable[..., Any], call: Call, layouts: Sequence[tuple[int, ...]], unchanged: Callable[[], bool],
    params: Mapping[int, Param], names: Mapping[int, str], batch: int | None, mutable: Sequence[str], notes: Sequence[str],
    widened: Collection[str],
) -> Record:  # fmt: skip
    b = Importer(params, mutable)
    b.widened = widened
    types = input_types(call.tensors, layouts, batch)
    with collect_guards() as guards:
        refs = [b.add_input(t, f"x{k}") for k, t in enumerate(types)]
        b.add_mutable()
        leaves = list(call.leaves)
        for position, ref in zip(call.positions, refs, strict=True):
            leaves[position] = ref
        args, kwargs = tree_unflatten(leaves, call.spec)
        tracer = Tracer(root, b, names, call.tensors[batch].shape[0] if batch is not None else 0)
        returned = tracer.run(forward, args, kwargs, unchanged)
        return finish(b, returned, types, batch, guards, call.tensors, "traced" + "".join(f"; {n}" for n in notes))


def finish(
    b: Importer, returned: Any, types: Sequence[TensorType], batch: int | None, guards: Sequence[tuple[Dim, Dim]],
    tensors: Sequence[torch.Tensor], how: str,
) -> Record:  # fmt: skip
    """The record of what the importer has seen.

    Raises:
        NeedStatic: a guard on the batch size does not hold even for this call.
    """
    outputs = Outputs(b, returned)
    kept = tuple(dict.fromkeys((x, y) for x, y in guards if x != y))
    program = b.program(outputs.results, kept)
    used = {v.name for s in program.segments() for v in s.graph.params}
    own = {name: get for name, (_, get, _) in b.param_values.items() if name in used}
    parameters = {name: _live(get) for name, get in own.items()}
    tracked = {name: get for name, get in own.items() if get().dtype.is_floating_point}
    if b.autocast is not None:
        how += f"; autocast to {TO_IR[b.autocast]}"
        if TO_IR[b.autocast] in b.widened:
            how += ", computed in float32: there are no fast products of it here"
    if b.foreign_reasons:
        how += f"; torch runs {len(b.foreign_reasons)} calls: " + "; ".join(dict.fromkeys(b.foreign_reasons))
    record = Record(
        Captured(program, parameters, how, tracked, frozenset(v.name for v in outputs.written), frozenset(b.outside)),
        Signature(tuple(types)), outputs, tuple(b.extra_inputs), batch, kept, tuple(b.noise), b.own_backward,
        b.autocast is not None,
    )  # fmt: skip
    if kept and (batch is None or not record.fits(tensors[batch].shape[0])):
        raise NeedStatic(f"sizes that must be equal: {', '.join(f'{x} == {y}' for x, y in kept)}")
    return record


def _live(get: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The parameter as it is now, dense: its own memory wherever that is possible."""
    from nnaccel_frontend_torch.dtypes import dense_layout

    def live() -> torch.Tensor:
        t = get().detach()
        return t if dense_layout(t.shape, t.stride()) is not None else t.contiguous()

    return live
