"""LSTM over whole sequences by a kernel of our own: ``native/recurrent.cpp``.

The recurrent weights, packed, are read again at each step: they stay in the second-level cache where they fit. A step depends
on the one before, so that only samples run side by side.
"""

from __future__ import annotations

from collections.abc import Collection

from nnaccel_backend_x86 import costs
from nnaccel_backend_x86.builtin import BuiltinCall
from nnaccel_backend_x86.convolution import PANEL, panels_pack
from nnaccel_backend_x86.onednn import sizes
from nnaccel_backend_x86.products import SUM_CHUNK
from nnaccel_backend_x86.scope import Scope
from nnaccel_core.ir import Node, identity
from nnaccel_core.select.candidate import Candidate

#: Samples for which weights are read once and multiplied as often as registers allow.
ROWS = 6


def recurrences(scope: Scope, only: Collection[frozenset[Node]] | None = None) -> list[Candidate]:
    """A candidate for each LSTM with parameters for weights; ``only``: sets of nodes that are wanted, instead of all."""
    found = []
    for node in scope.nodes(("lstm",), only):
        types = [scope.static(v) for v in (*node.inputs, *node.outputs)]
        if node.inputs[1] not in scope.params or any(t.layout != identity(t.rank) for t in types):
            continue
        steps, batch, hidden = sizes(types[4])
        blocks = min(scope.machine.cores, -(-batch // ROWS))
        columns = -(-4 * hidden // PANEL) * PANEL
        dims = (steps, batch, hidden, int(node.attrs["reverse"]), blocks, SUM_CHUNK)
        found.append(
            Candidate(
                nodes=(node,),
                inputs=node.inputs,
                outputs=node.outputs,
                seconds=costs.lstm_seconds(scope.machine, steps, batch, hidden, blocks),
                reason=f"own LSTM of {steps} steps, {blocks} tasks",
                impl=BuiltinCall("lstm", dims, blocks, 4 * columns * -(-batch // blocks)),
                proposer="x86",
                strided_in=(False,) * 4,
                strided_out=(False,) * 3,
                packs=(panels_pack(node.inputs[1], (4 * hidden, hidden, 1, 0)),),
            )
        )
    return found
