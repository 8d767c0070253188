"""Operators that onnx itself defines by smaller ones, and branches whose condition is known."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import onnx

from nnaccel_frontend_onnx.loading import Model, subgraphs


def body_of(
    model: Model, node: onnx.NodeProto, types: Sequence[onnx.TypeProto | None], prefix: str
) -> list[onnx.NodeProto] | None:
    """The nodes that define ``node``, with its inputs, outputs and attributes put in; None where onnx defines it by none.

    Args:
        types: of the inputs (None where left out or not known); prefix: what names inside the body begin with.
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = model.versions.get(domain, 1)
    schema = onnx.defs.get_schema(node.op_type, version, domain)
    function = onnx.FunctionProto()
    fixed = [v for v in schema.function_opset_versions if v <= version]
    open_ = [v for v in schema.context_dependent_function_opset_versions if v <= version]
    if fixed:
        raw = schema.get_function_with_opset_version(max(fixed))
    elif open_ and all(t is not None for t in types):
        given = [t.SerializeToString() for t in types if t is not None]
        raw = schema.get_context_dependent_function_with_opset_version(max(open_), node.SerializeToString(), given)
    else:
        return None
    function.ParseFromString(raw)
    if not function.node or not all(_same_meaning(model, function, n) for n in function.node):
        return None
    names: dict[str, str] = {"": ""}
    for k, name in enumerate(function.input):
        names[name] = node.input[k] if k < len(node.input) else ""
    names.update(zip(function.output, node.output, strict=False))
    attributes = {a.name: a for a in function.attribute_proto} | {a.name: a for a in node.attribute}
    return [_placed(n, names, attributes, prefix) for n in function.node]


def _same_meaning(model: Model, function: onnx.FunctionProto, node: onnx.NodeProto) -> bool:
    """Whether a node of the body means the same in the model's operator set."""
    if any(True for _ in subgraphs(node)):
        return False
    theirs = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in function.opset_import}
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain not in theirs:
        return False
    mine = model.versions.get(domain, 0)
    try:
        a = onnx.defs.get_schema(node.op_type, theirs[domain], domain).since_version
        return bool(mine and a == onnx.defs.get_schema(node.op_type, mine, domain).since_version)
    except onnx.defs.SchemaError:
        return False


def _placed(
    node: onnx.NodeProto, names: dict[str, str], attributes: Mapping[str, onnx.AttributeProto], prefix: str
) -> onnx.NodeProto:
    new = onnx.NodeProto()
    new.CopyFrom(node)
    del new.input[:], new.output[:], new.attribute[:]
    new.name = f"{prefix}/{node.name or next((o for o in node.output if o), node.op_type)}"
    new.input.extend(names.setdefault(n, f"{prefix}/{n}") for n in node.input)
    new.output.extend(names.setdefault(n, f"{prefix}/{n}") for n in node.output)
    for a in node.attribute:
        if not a.ref_attr_name:
            new.attribute.append(a)
        elif a.ref_attr_name in attributes:
            given = copy.deepcopy(attributes[a.ref_attr_name])
            given.name = a.name
            new.attribute.append(given)
    return new
