"""LSTM, GRU and RNN: over a few steps as the products and element-wise operators that each step takes.

A network grows with each step that is written out: long sequences, and those whose length is open, are one operator each
(`nnaccel_core.ops.recurrent`), behind the product of all inputs. That has no gradient: in training these stay with onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nnaccel_core.ir import Dim, Value
from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.mapping import Call, Result, maps, needs_float
from nnaccel_frontend_onnx.mapping.shapes import cut

#: Steps that are written out.
UNROLL = 32
_ACTIVATIONS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}


@dataclass
class _Direction:
    """One direction's part of the operands.

    Attributes:
        w: (gates * hidden, input); r: (gates * hidden, hidden); wb, rb: (gates * hidden,) or None.
        h: the state (batch, hidden); c: the cell, of LSTM only; p: peepholes (3 * hidden,) or None.
        f: activations in the operator's order, as operators of the IR.
    """

    n: Call
    hidden: int
    w: Value
    r: Value
    wb: Value | None
    rb: Value | None
    h: Value
    c: Value | None
    p: Value | None
    f: Sequence[str]

    def gate(self, x: Value, k: int) -> Value:
        """Part ``k`` of the last axis."""
        return cut(self.n, x, x.type.rank - 1, k * self.hidden, (k + 1) * self.hidden)

    def times(self, x: Value, weights: Value, bias: Value | None) -> Value:
        """``x`` times the transpose of ``weights``, plus ``bias``."""
        return self.n.emit("matmul", x, weights, *([] if bias is None else [bias]), transpose_b=True)


Step = Callable[[_Direction, Value], None]


def _lstm(d: _Direction, x: Value) -> None:
    """``x`` is (batch, 4 * hidden): the inputs' part of the gates i, o, f, c."""
    e, c = d.n.emit, d.c
    assert c is not None
    gates = e("add", x, d.times(d.h, d.r, None))
    i, o, f, new = (d.gate(gates, k) for k in range(4))
    if d.p is not None:
        i, f = (e("add", g, e("mul", d.gate(d.p, k), c)) for g, k in ((i, 0), (f, 2)))
    kept = e("mul", e(d.f[0], f), c)
    d.c = e("add", kept, e("mul", e(d.f[0], i), e(d.f[1], new)))
    if d.p is not None:
        o = e("add", o, e("mul", d.gate(d.p, 1), d.c))
    d.h = e("mul", e(d.f[0], o), e(d.f[2], d.c))


def _gru(d: _Direction, x: Value) -> None:
    """``x`` is (batch, 3 * hidden): the inputs' part of the gates z, r, h, with their biases."""
    e = d.n.emit
    late = bool(d.n.attr("linear_before_reset", 0))
    if late:
        past = d.times(d.h, d.r, d.rb)
        z, r = (e(d.f[0], e("add", d.gate(x, k), d.gate(past, k))) for k in (0, 1))
        new = e("mul", r, d.gate(past, 2))
    else:
        rows = cut(d.n, d.r, 0, 0, 2 * d.hidden)
        past = d.times(d.h, rows, None if d.rb is None else cut(d.n, d.rb, 0, 0, 2 * d.hidden))
        z, r = (e(d.f[0], e("add", d.gate(x, k), d.gate(past, k))) for k in (0, 1))
        rows = cut(d.n, d.r, 0, 2 * d.hidden, 3 * d.hidden)
        new = d.times(e("mul", r, d.h), rows, None if d.rb is None else d.gate(d.rb, 2))
    new = e(d.f[1], e("add", d.gate(x, 2), new))
    d.h = e("add", new, e("mul", z, e("sub", d.h, new)))


def _rnn(d: _Direction, x: Value) -> None:
    d.h = d.n.emit(d.f[0], d.n.emit("add", x, d.times(d.h, d.r, None)))


def _recurrent(n: Call, step: Step, gates: int, defaults: Sequence[str]) -> Result:
    x = needs_float(n.x(0))
    batch_first = bool(n.attr("layout", 0))
    if batch_first:
        x = n.transpose(x, (1, 0, 2))
    steps, batch, width = x.shape
    few = isinstance(steps, int) and 0 < steps <= UNROLL
    if not few and n.c.mode.live:
        raise Unmapped(f"a sequence of {steps} steps; up to {UNROLL} are written out for training")
    if n.has(4) or "clip" in n.attrs or n.attr("input_forget", 0):
        raise Unmapped("sequence_lens, clip, or input_forget")
    r_all = n.x(2)
    count, hidden = n.c.static(r_all.shape[0]), n.c.static(r_all.shape[2])
    reverse = n.attr("direction", "forward")
    if count != (2 if reverse == "bidirectional" else 1):
        raise Unmapped(f"direction {reverse!r} with weights for {count}")
    chosen = n.attr("activations") or tuple(defaults) * count
    names = [a.decode() if isinstance(a, bytes) else str(a) for a in chosen]
    if len(names) != len(defaults) * count or not set(names) <= set(_ACTIVATIONS):
        raise Unmapped(f"activations {names}")
    ends: list[_Direction] = []
    sequences: list[Value] = []
    for k in range(count):
        d = _direction(n, k, gates * hidden, hidden, batch)
        d.f = [_ACTIVATIONS[a] for a in names[k * len(defaults) : (k + 1) * len(defaults)]]
        bias = d.wb if few and step is _gru else _added(n, d, few)
        inputs = d.times(n.reshape(x, (steps * batch, width)), d.w, bias)
        inputs = n.reshape(inputs, (steps, batch, gates * hidden))
        outs: list[Value] = []
        backwards = reverse == "reverse" or k == 1
        if not few:
            sequences.append(n.reshape(_long(n, d, inputs, backwards), (steps, 1, batch, hidden)))
            ends.append(d)
            continue
        for t in reversed(range(steps)) if backwards else range(steps):
            step(d, n.reshape(cut(n, inputs, 0, t, t + 1), (batch, gates * hidden)))
            outs.append(n.reshape(d.h, (1, 1, batch, hidden)))
        sequences.append(_joined(n, outs[::-1] if backwards else outs, 0))
        ends.append(d)
    y = _joined(n, sequences, 1)
    last = [_joined(n, [n.reshape(d.h, (1, batch, hidden)) for d in ends], 0)]
    cells = [d.c for d in ends if d.c is not None]
    if cells:
        last.append(_joined(n, [n.reshape(c, (1, batch, hidden)) for c in cells], 0))
    if batch_first:
        y, last = n.transpose(y, (2, 0, 1, 3)), [n.transpose(v, (1, 0, 2)) for v in last]
    return [y, *last]


def _added(n: Call, d: _Direction, few: bool) -> Value | None:
    """The biases that do not depend on the state: both, but for what GRU's reset gate scales with ``linear_before_reset``."""
    if d.wb is None or d.rb is None:
        return d.wb
    late = n.node.op_type == "GRU" and n.attr("linear_before_reset", 0)
    if few or not late:
        return n.emit("add", d.wb, d.rb)
    gates = cut(n, d.rb, 0, 0, 2 * d.hidden), n.emit("expand", n.number(0, d.rb), shape=(d.hidden,))
    return n.emit("add", d.wb, n.emit("concat", *gates, axis=0))


def _long(n: Call, d: _Direction, inputs: Value, backwards: bool) -> Value:
    """All steps of one direction as one operator; ``d`` then holds the last states.

    Raises:
        Unmapped: the operator lacks what this node does.
    """
    kind, given = n.node.op_type, list(d.f)
    if d.p is not None or given not in {"LSTM": [["sigmoid", "tanh", "tanh"]], "GRU": [["sigmoid", "tanh"]]}.get(
        kind, [["tanh"], ["relu"]]
    ):
        raise Unmapped(f"peepholes, or activations {given}, over more than {UNROLL} steps")
    operands, attrs = [inputs, d.r, d.h], {"reverse": backwards}
    if d.c is not None:
        operands.append(d.c)
    if kind == "GRU" and n.attr("linear_before_reset", 0):
        zero = n.emit("expand", n.number(0, d.r), shape=(d.hidden,))
        operands.append(zero if d.rb is None else d.gate(d.rb, 2))
    y, d.h, *cell = n.c.emit_many(kind.lower(), operands, **attrs, **({"activation": given[0]} if kind == "RNN" else {}))
    d.c = cell[0] if cell else None
    return y


def _direction(n: Call, k: int, rows: int, hidden: int, batch: Dim) -> _Direction:
    def part(operand: int, first: int = 0, size: int | None = None) -> Value | None:
        if not n.has(operand):
            return None
        whole = n.x(operand)
        one = n.reshape(cut(n, whole, 0, k, k + 1), whole.shape[1:])
        return one if size is None else cut(n, one, 0, first, first + size)

    w, r = part(1), part(2)
    assert w is not None and r is not None, "W and R are not optional"

    def state(operand: int) -> Value:
        if not n.has(operand):
            return n.emit("expand", n.number(0, w), shape=(batch, hidden))
        given = n.x(operand)
        if n.attr("layout", 0):
            given = n.transpose(given, (1, 0, 2))
        return n.reshape(cut(n, given, 0, k, k + 1), given.shape[1:])

    lstm = n.node.op_type == "LSTM"
    biases = part(3, 0, rows), part(3, rows, rows)
    return _Direction(n, hidden, w, r, *biases, state(5), state(6) if lstm else None, part(7) if lstm else None, ())


def _joined(n: Call, parts: Sequence[Value], axis: int) -> Value:
    return parts[0] if len(parts) == 1 else n.emit("concat", *parts, axis=axis)


@maps("LSTM")
def lstm(n: Call) -> Result:
    return _recurrent(n, _lstm, 4, ("Sigmoid", "Tanh", "Tanh"))


@maps("GRU")
def gru(n: Call) -> Result:
    return _recurrent(n, _gru, 3, ("Sigmoid", "Tanh"))


@maps("RNN")
def rnn(n: Call) -> Result:
    return _recurrent(n, _rnn, 1, ("Tanh",))
