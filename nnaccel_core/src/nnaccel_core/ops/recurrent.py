"""Recurrent layers over sequences of any length. What inputs add to the gates is a product in front of them, over all steps.

The gates' order and formulas are ONNX's (operators LSTM, GRU, RNN), with sigmoid and tanh.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nnaccel_core.errors import ShapeError
from nnaccel_core.ir import TensorType
from nnaccel_core.ops.elementwise import sigmoid
from nnaccel_core.ops.registry import Array, Attrs, OpDef, Sample, register, require_equal

Step = Callable[[Array, list[Array], Sequence[Array], Attrs], None]


def _infer(gates: int, states: int) -> Callable[[Sequence[TensorType], Attrs], Sequence[TensorType]]:
    """``x`` (T, N, gates * H), ``r`` (gates * H, H), then the states (N, H): y (T, N, H), and the last states."""

    def infer(types: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        x, r = types[:2]
        if x.rank != 3 or r.rank != 2:
            raise ShapeError(f"needs x (T, N, {gates} * H) and r ({gates} * H, H), not {x} and {r}")
        hidden = r.shape[1]
        require_equal(r.shape[0], hidden * gates, f"rows of {r}, which has {gates} gates")
        require_equal(x.shape[2], hidden * gates, f"the last axis of {x} against {gates} gates of {r}")
        for state in types[2 : 2 + states]:
            if state.rank != 2:
                raise ShapeError(f"a state of type {state}, which is not (N, H)")
            require_equal(state.shape[0], x.shape[1], f"rows of the state {state} against the batch of {x}")
            require_equal(state.shape[1], hidden, f"columns of the state {state} against {r}")
        one = TensorType((x.shape[1], hidden), x.dtype)
        return (TensorType((x.shape[0], x.shape[1], hidden), x.dtype), *[one] * states)

    return infer


def _lstm(x: Array, state: list[Array], rest: Sequence[Array], attrs: Attrs) -> None:
    i, o, f, new = np.split(x + state[0] @ rest[0].T, 4, axis=-1)
    state[1] = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(new)
    state[0] = sigmoid(o) * np.tanh(state[1])


def _gru(x: Array, state: list[Array], rest: Sequence[Array], attrs: Attrs) -> None:
    (h,), r, hidden = state, rest[0], state[0].shape[-1]
    z, reset = np.split(sigmoid(x[:, : 2 * hidden] + h @ r[: 2 * hidden].T), 2, axis=-1)
    if len(rest) > 1:  # the reset gate works on the product, bias included
        new = reset * (h @ r[2 * hidden :].T + rest[1])
    else:
        new = (reset * h) @ r[2 * hidden :].T
    state[0] = (1 - z) * np.tanh(x[:, 2 * hidden :] + new) + z * h


def _rnn(x: Array, state: list[Array], rest: Sequence[Array], attrs: Attrs) -> None:
    total = x + state[0] @ rest[0].T
    state[0] = np.maximum(total, 0) if attrs.get("activation", "tanh") == "relu" else np.tanh(total)


def _ref(step: Step, states: int) -> Callable[[Sequence[Array], Attrs], Sequence[Array]]:
    def ref(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
        dtype = xs[0].dtype
        wide = [a.astype(np.float32) if dtype == np.float16 else a for a in xs]
        x, r, state, more = wide[0], wide[1], list(wide[2 : 2 + states]), wide[2 + states :]
        y = np.empty((*x.shape[:2], r.shape[1]), dtype)
        for t in reversed(range(len(x))) if attrs["reverse"] else range(len(x)):
            step(x[t], state, (r, *more), attrs)
            y[t] = state[0]
        return (y, *(s.astype(dtype) for s in state))

    return ref


def _samples(gates: int, states: int, biased: bool = False, **attrs: str) -> Callable[[], Iterable[Sample]]:
    def samples() -> Iterable[Sample]:
        rng = np.random.default_rng(41)
        for steps, batch, hidden, reverse in ((5, 2, 3, False), (4, 1, 24, True), (3, 9, 17, False), (1, 2, 16, False)):
            shapes = [(steps, batch, gates * hidden), (gates * hidden, hidden), *[(batch, hidden)] * states]
            shapes += [(hidden,)] * biased
            yield Sample(tuple(rng.normal(size=s).astype(np.float32) for s in shapes), {"reverse": reverse, **attrs}, 1e-5)

    return samples


for name, step, gates, states, samples in (
    ("lstm", _lstm, 4, 2, _samples(4, 2)),
    ("gru", _gru, 3, 1, lambda: [*_samples(3, 1)(), *_samples(3, 1, True)()]),
    ("rnn", _rnn, 1, 1, lambda: [*_samples(1, 1)(), *_samples(1, 1, activation="relu")()]),
):
    register(OpDef(name, _infer(gates, states), _ref(step, states), limit="params", host=True, samples=samples))
