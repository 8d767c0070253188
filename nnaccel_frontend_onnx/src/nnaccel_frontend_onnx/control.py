"""If, Loop and Scan: Python drives them, their bodies are networks of their own, compiled like any other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.helper

from nnaccel_frontend_onnx.errors import Unmapped
from nnaccel_frontend_onnx.foreign import Run, names_read
from nnaccel_frontend_onnx.items import Array
from nnaccel_frontend_onnx.loading import Model, outer_names, tensor_array, where

if TYPE_CHECKING:
    from nnaccel_frontend_onnx.network import Network

#: Makes a network of a body for the device that the whole runs on.
Make = Callable[[Model], "Network"]


class Body:
    """A subgraph as a function of its own inputs and of the values around it."""

    def __init__(
        self,
        model: Model,
        node: onnx.NodeProto,
        graph: onnx.GraphProto,
        known: Mapping[str, Array],
        types: Mapping[str, Any],
        make: Make,
    ) -> None:
        self.inputs = [v.name for v in graph.input]
        self.outer = [n for n in outer_names(graph) if n not in known]
        infos = list(graph.input)
        for name in self.outer:
            info = onnx.helper.make_empty_tensor_value_info(name)
            if types.get(name) is None:
                raise Unmapped(f"the type of {name!r}, which its body reads, is not known")
            info.type.CopyFrom(types[name])
            infos.append(info)
        constants = {n: a for n, a in known.items() if n in outer_names(graph)}
        for t in graph.initializer:
            constants[t.name] = tensor_array(t, None, f"{where(node)}: initializer {t.name!r}")
        proto = onnx.ModelProto()
        proto.CopyFrom(model.proto)
        proto.graph.CopyFrom(graph)
        del proto.graph.input[:], proto.graph.initializer[:]
        proto.graph.input.extend(infos)
        proto.graph.name = f"{model.name}.{node.name or node.output[0]}.{graph.name}"
        kinds = {**{n: t for n, t in types.items() if t is not None}, **{v.name: v.type for v in infos}}
        kinds.update((v.name, v.type) for v in (*graph.value_info, *graph.output))
        own = tuple(v for v in infos if v.name not in constants)
        self.network = make(Model(proto, proto.graph.name, constants, own, (), tuple(graph.output), kinds, model.versions))

    def __call__(self, given: Sequence[Any], around: Mapping[str, Any]) -> list[Any]:
        feeds = dict(zip(self.inputs, given, strict=True))
        feeds.update((n, around[n]) for n in self.outer)
        return self.network.run(None, feeds)


def control_flow(model: Model, node: onnx.NodeProto, known: Mapping[str, Array], types: Mapping[str, Any], make: Make) -> Run:
    """``node`` as a function of the values of `names_read`, in that order.

    Args:
        known: values among them that are constant; types: of the others, where known.

    Raises:
        Unmapped: a body that can't be made a network.
    """
    names = names_read(node)
    graphs = {a.name: a.g for a in node.attribute if a.HasField("g")}
    bodies = {k: Body(model, node, g, known, types, make) for k, g in graphs.items()}
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if not a.HasField("g")}

    def run(*values: Any) -> list[Any]:
        around = dict(zip(names, values, strict=True))
        operands = [around[n] if n else None for n in node.input]
        if node.op_type == "If":
            found = bodies["then_branch" if np.asarray(operands[0]).reshape(-1)[0] else "else_branch"]([], around)
        elif node.op_type == "Loop":
            found = _loop(bodies["body"], operands, around, [v.type for v in graphs["body"].output])
        elif model.versions.get("", 1) >= 9:
            found = _scan(bodies["body"], operands, attrs, around)
        else:
            found = _scan_batches(bodies["body"], operands, attrs, around)
        return [r for name, r in zip(node.output, found, strict=False) if name]

    return run


def _loop(body: Body, operands: list[Any], around: Mapping[str, Any], kinds: Sequence[onnx.TypeProto]) -> list[Any]:
    trips = None if operands[0] is None else int(np.asarray(operands[0]).reshape(-1)[0])
    running = operands[1] is None or bool(np.asarray(operands[1]).reshape(-1)[0])
    carried = list(operands[2:])
    collected: list[list[Any]] = [[] for _ in range(len(kinds) - 1 - len(carried))]
    done = 0
    while running and (trips is None or done < trips):
        condition, *results = body([np.asarray(done, np.int64), np.asarray(True), *carried], around)
        carried, new = results[: len(carried)], results[len(carried) :]
        for column, value in zip(collected, new, strict=True):
            column.append(value)
        running = bool(np.asarray(condition).reshape(-1)[0])
        done += 1
    out = [np.stack(c) if c else _empty(k) for c, k in zip(collected, kinds[1 + len(carried) :], strict=True)]
    return [*carried, *out]


def _empty(kind: onnx.TypeProto) -> Array:
    t = kind.tensor_type
    shape = [d.dim_value for d in t.shape.dim]
    return np.empty((0, *shape), onnx.helper.tensor_dtype_to_np_dtype(t.elem_type))


def _scan(body: Body, operands: list[Any], attrs: Mapping[str, Any], around: Mapping[str, Any]) -> list[Any]:
    count = int(attrs["num_scan_inputs"])
    carried, scanned = list(operands[: len(operands) - count]), operands[len(operands) - count :]
    turned = attrs.get("scan_input_directions") or [0] * count
    axes = attrs.get("scan_input_axes") or [0] * count
    slices = [np.moveaxis(x, a, 0)[:: -1 if d else 1] for x, a, d in zip(scanned, axes, turned, strict=True)]
    columns: list[list[Any]] = []
    for k in range(len(slices[0])):
        results = body([*carried, *(s[k] for s in slices)], around)
        carried, new = results[: len(carried)], results[len(carried) :]
        columns = columns or [[] for _ in new]
        for column, value in zip(columns, new, strict=True):
            column.append(value)
    back = attrs.get("scan_output_directions") or [0] * len(columns)
    places = attrs.get("scan_output_axes") or [0] * len(columns)
    stacked = [np.stack(c[:: -1 if d else 1]) for c, d in zip(columns, back, strict=True)]
    return [*carried, *(np.moveaxis(s, 0, a) for s, a in zip(stacked, places, strict=True))]


def _scan_batches(body: Body, operands: list[Any], attrs: Mapping[str, Any], around: Mapping[str, Any]) -> list[Any]:
    """Scan of operator set 8: each sample by itself, as long as the first operand says, results filled up with zeros."""
    lengths, *rest = operands
    count = int(attrs["num_scan_inputs"])
    inner = {"num_scan_inputs": count, "scan_input_directions": attrs.get("directions") or [0] * count}
    samples, states = len(rest[0]), len(rest) - count
    longest = rest[states].shape[1]
    results = []
    for k in range(samples):
        length = longest if lengths is None else int(lengths[k])
        given = [x[k] for x in rest[:states]] + [x[k][:length] for x in rest[states:]]
        done = _scan(body, given, inner, around)
        filled = [np.pad(y, [(0, longest - length)] + [(0, 0)] * (y.ndim - 1)) for y in done[states:]]
        results.append([*done[:states], *filled])
    return [np.stack(parts) for parts in zip(*results, strict=True)]
