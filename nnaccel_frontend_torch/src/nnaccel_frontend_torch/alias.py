"""Torch's tensors alias; the IR's values do not.

A `Storage` holds the current value of a piece of memory, a `Ref` is one tensor on it.

In-place writes rebind the storage's value; every view of it re-derives its own value when it is next read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nnaccel_core.ir import Dim, Env, TensorType, Value, evaluate
from nnaccel_frontend_torch.refusal import Refusal

if TYPE_CHECKING:
    from nnaccel_frontend_torch.importer import Importer

Replay = Callable[[Any, Env], Any]


@dataclass(eq=False)
class Storage:
    """Memory that one or more tensors share.

    Attributes:
        value: what it holds now, in the shape of the tensor that owns it.
        owner: ``"input"`` (with ``index``), ``"param"`` (with ``name``), or ``"temp"``.
        version: counts writes.
        unclear: a reshape of it may or may not have been a copy, so that a write can't be followed.
    """

    value: Value
    owner: str = "temp"
    index: int = -1
    name: str = ""
    version: int = 0
    unclear: bool = False


@dataclass(frozen=True)
class Step:
    """One view operation.

    Attributes:
        op, attrs: the IR op that derives the view's value from the value it views.
        replay: the same view made by torch from a tensor, given the values of the dimension symbols.
        write: ``(importer, viewed value, new view value) -> new viewed value``; None refuses writes.
    """

    op: str
    attrs: dict[str, Any]
    replay: Replay
    write: Callable[[Importer, Value, Value], Value] | None


@dataclass(eq=False)
class Ref:
    """One tensor of the user's program: a chain of views over a storage."""

    storage: Storage
    steps: tuple[Step, ...] = ()
    values: list[Value] = field(default_factory=list)
    seen: int = -1

    def read(self, b: Importer) -> Value:
        """The tensor's current value."""
        if not self.steps:
            return self.storage.value
        if self.seen != self.storage.version:
            value = self.storage.value
            self.values = [value]
            for step in self.steps:
                value = b.emit(step.op, [value], **step.attrs)
                self.values.append(value)
            self.seen = self.storage.version
        return self.values[-1]

    @property
    def type(self) -> TensorType:
        """The tensor's type (its shape and dtype never change by writes)."""
        return (self.values[-1] if self.steps else self.storage.value).type

    def view(self, b: Importer, step: Step) -> Ref:
        """A view of this tensor."""
        base = self.read(b)
        out = b.emit(step.op, [base], **step.attrs)
        chain = self.values if self.steps else [base]
        return Ref(self.storage, (*self.steps, step), [*chain, out], self.storage.version)

    def write(self, b: Importer, new: Value) -> None:
        """Overwrite this tensor with ``new`` (of its own shape and dtype).

        Raises:
            Refusal: the write can't be followed through the views.
        """
        s = self.storage
        if s.unclear:
            raise Refusal("an in-place write to memory of which a reshape may or may not be a copy")
        if self.steps:
            self.read(b)
            for step, viewed in zip(reversed(self.steps), reversed(self.values[:-1]), strict=True):
                if step.write is None:
                    raise Refusal(f"an in-place write through a view made by {step.op}")
                new = step.write(b, viewed, new)
        # Memory keeps its layout; the written value's layout is chosen later.
        s.value = new
        s.version += 1
        if s.owner != "temp":
            b.written(s)


def _inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    out = [0] * len(perm)
    for i, p in enumerate(perm):
        out[p] = i
    return tuple(out)


def reshape_step(shape: tuple[Dim, ...]) -> Step:
    """The same elements under another shape."""

    def write(b: Importer, viewed: Value, new: Value) -> Value:
        return b.emit("reshape", [new], shape=viewed.shape)

    return Step("reshape", {"shape": shape}, lambda t, env: t.reshape([evaluate(d, env) for d in shape]), write)


def transpose_step(perm: tuple[int, ...]) -> Step:
    """Axes in another order."""

    def write(b: Importer, viewed: Value, new: Value) -> Value:
        return b.emit("transpose", [new], perm=_inverse(perm))

    return Step("transpose", {"perm": perm}, lambda t, env: t.permute(perm), write)


def detach_step() -> Step:
    """The same tensor off the tape."""
    return Step("stop_gradient", {}, lambda t, env: t.detach(), lambda b, viewed, new: new)


def slice_step(starts: tuple[int, ...], ends: tuple[Dim, ...], steps: tuple[int, ...]) -> Step:
    """A strided part of every axis."""
    attrs = {"starts": starts, "ends": ends, "steps": steps}

    def write(b: Importer, viewed: Value, new: Value) -> Value:
        return b.emit("slice_update", [viewed, new], **attrs)

    def replay(t: Any, env: Env) -> Any:
        return t[tuple(slice(s, evaluate(e, env), p) for s, e, p in zip(starts, ends, steps, strict=True))]

    return Step("slice", attrs, replay, write)


def expand_step(shape: tuple[Dim, ...]) -> Step:
    """Axes of extent 1 repeated without a copy."""
    return Step("expand", {"shape": shape}, lambda t, env: t.expand([evaluate(d, env) for d in shape]), None)
