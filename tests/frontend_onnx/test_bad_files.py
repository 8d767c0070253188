"""Files that are no valid models: an error of ours that names what is wrong, never a crash."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend_onnx.devices import network
from frontend_onnx.test_network import F, mlp, model
from nnaccel_core.errors import NnaccelError, UnsupportedError
from nnaccel_frontend_onnx.errors import ModelError
from nnaccel_frontend_onnx.loading import load

CNTK = Path(__file__).parent / "data" / "cntk-2.5.1-mnist.onnx"


@pytest.mark.parametrize("raw", [b"", b"\x00", b"no model", b"\xff" * 100, onnx.ModelProto(ir_version=8).SerializeToString()])
def test_no_model(raw):
    with pytest.raises(ModelError, match=r"no ONNX model|truncated"):
        load(raw)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_truncated(part):
    raw = CNTK.read_bytes()
    with pytest.raises(ModelError):
        load(raw[: int(len(raw) * part)])


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"nowhere\.onnx can't be read"):
        load(tmp_path / "nowhere.onnx")


def test_cycle():
    nodes = [h.make_node("Add", ["x", "b"], ["a"], name="one"), h.make_node("Relu", ["a"], ["b"], name="two")]
    with pytest.raises(ModelError, match="'one'.*'two'.*cycle"):
        load(model(nodes, {"x": (F, [2])}, {"b": (F, [2])}))


def test_wrong_order():
    nodes = [h.make_node("Relu", ["a"], ["y"], name="late"), h.make_node("Neg", ["x"], ["a"], name="early")]
    with pytest.raises(ModelError, match=r"'late'.*before.*'early'"):
        load(model(nodes, {"x": (F, [2])}, {"y": (F, [2])}))


def test_missing_initializer():
    nodes = [h.make_node("Add", ["x", "w"], ["y"], name="sum")]
    with pytest.raises(ModelError, match=r"'sum' \(Add\) reads 'w'"):
        load(model(nodes, {"x": (F, [2])}, {"y": (F, [2])}))


def test_output_that_nobody_makes():
    with pytest.raises(ModelError, match="'q' is made by no node"):
        load(model([h.make_node("Relu", ["x"], ["y"])], {"x": (F, [2])}, {"q": (F, [2])}))


def test_name_made_twice():
    nodes = [h.make_node("Relu", ["x"], ["y"]), h.make_node("Neg", ["x"], ["y"], name="again")]
    with pytest.raises(ModelError, match="'again'.*exists already"):
        load(model(nodes, {"x": (F, [2])}, {"y": (F, [2])}))


def test_wrong_types():
    """float + int64: refused where it is run, naming the node."""
    nodes = [h.make_node("Add", ["x", "c"], ["y"], name="mixed")]
    proto = model(nodes, {"x": (F, [2])}, {"y": (F, [2])}, {"c": np.array([1, 2])})
    with pytest.raises(NnaccelError, match="mixed"):
        network(proto)(np.ones(2, "f"))


def test_shapes_that_do_not_fit():
    nodes = [h.make_node("MatMul", ["x", "c"], ["y"], name="product")]
    proto = model(nodes, {"x": (F, [2, 3])}, {"y": (F, [2, 2])}, {"c": np.ones((4, 2), "f")})
    with pytest.raises(NnaccelError, match="product"):
        network(proto)(np.ones((2, 3), "f"))


def test_unknown_domain_and_operator():
    nodes = [h.make_node("FusedMagic", ["x"], ["y"], domain="com.example", name="magic")]
    proto = model(nodes, {"x": (F, [2])}, {"y": (F, [2])})
    proto.opset_import.append(h.make_opsetid("com.example", 1))
    with pytest.raises(UnsupportedError, match=r"'magic'.*com\.example"):
        load(proto)
    with pytest.raises(UnsupportedError, match=r"'odd'.*no such operator"):
        load(model([h.make_node("Rellu", ["x"], ["y"], name="odd")], {"x": (F, [2])}, {"y": (F, [2])}))


def test_operator_set_of_the_future():
    with pytest.raises(UnsupportedError, match="operator set 999"):
        load(model([h.make_node("Relu", ["x"], ["y"])], {"x": (F, [2])}, {"y": (F, [2])}, opset=999))


def test_missing_and_wrong_attributes():
    with pytest.raises(ModelError, match="kernel_shape"):
        load(model([h.make_node("MaxPool", ["x"], ["y"])], {"x": (F, [1, 1, 4, 4])}, {"y": (F, None)}))


def external(folder, location, **fields):
    """A model whose ``w`` lies in a file."""
    proto, w, _ = mlp()
    t = proto.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **fields}.items():
        t.external_data.add(key=key, value=str(value))
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    return path, w


def test_external_data(tmp_path):
    path, w = external(tmp_path, "w.bin", offset=8, length=96)
    (tmp_path / "w.bin").write_bytes(b"12345678" + w.tobytes() + b"rest")
    assert np.array_equal(load(path).initializers["w"], w)
    with pytest.raises(ModelError, match="path, not its bytes"):
        load(path.read_bytes())


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "inner/../../w.bin", "link.bin", ""])
def test_external_data_outside_of_the_folder(tmp_path, location):
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(b"x" * 96)
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    path, _ = external(folder, location)
    with pytest.raises(ModelError, match=r"'w'.*outside"):
        load(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"length": 1000}, "has 96"), ({"offset": -5}, "-5"), ({"offset": "x"}, "no numbers"), ({"length": 10}, "can't be read")],
)
def test_external_data_of_wrong_size(tmp_path, fields, message):
    (tmp_path / "w.bin").write_bytes(b"x" * 96)
    path, _ = external(tmp_path, "w.bin", **fields)
    with pytest.raises(ModelError, match=message):
        load(path)
    missing, _ = external(tmp_path, "none.bin")
    with pytest.raises(ModelError, match="does not exist"):
        load(missing)


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 31, 1 << 31, 1 << 31], [-1], [3, 3]])
def test_absurd_initializers(dims):
    proto, _, _ = mlp()
    del proto.graph.initializer[0].dims[:]
    proto.graph.initializer[0].dims.extend(dims)
    with pytest.raises(ModelError, match="'w'"):
        load(proto)


def test_absurd_results():
    """A tensor of 4 TB: an error, not the end of the machine."""
    nodes = [h.make_node("ConstantOfShape", ["s"], ["y"], name="huge")]
    proto = model(nodes, {"x": (F, [1])}, {"y": (F, None)}, {"s": np.array([1 << 20, 1 << 20])})
    with pytest.raises((NnaccelError, MemoryError)):
        network(proto)(np.ones(1, "f"))


def tiny() -> bytes:
    """A small model with most kinds of fields."""
    rng = np.random.default_rng(0)
    nodes = [
        h.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        h.make_node("Relu", ["c"], ["r"]),
        h.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        h.make_node("Reshape", ["p", "s"], ["f"]),
        h.make_node("Gemm", ["f", "m"], ["y"], transB=1),
    ]
    constants = {
        "w": rng.normal(size=(2, 1, 3, 3)).astype("f"), "s": np.array([-1, 8]), "m": rng.normal(size=(3, 8)).astype("f"),
    }  # fmt: skip
    return model(nodes, {"x": (F, ["N", 1, 6, 6])}, {"y": (F, ["N", 3])}, constants).SerializeToString()


RAW = tiny()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_bytes_give_a_result_or_an_error_of_ours(changes):
    raw = bytearray(RAW)
    for at, value in changes:
        raw[at] = value
    try:
        net = network(bytes(raw))
        if len(net.inputs) == 1 and net.inputs[0].shape is not None and len(net.inputs[0].shape) == 4:
            net(np.ones((1, 1, 6, 6), np.float32))
    except (NnaccelError, MemoryError):
        pass


#: Numbers that break things; of sizes between some GB and some TB, which a machine may or may not have, there is none.
NUMBERS = st.sampled_from([-(1 << 62), -7, -1, 0, 1, 2, 3, 5, 1 << 40, 1 << 62])
OPERATORS = ["Conv", "Relu", "MaxPool", "Reshape", "Gemm", "Softmax", "Concat", "Transpose", "LSTM", "BatchNormalization", "Pow"]


@st.composite
def damaged(draw) -> onnx.ModelProto:
    """The small model with one to three changes of what its fields say, so that it still looks like a model."""
    proto = onnx.ModelProto.FromString(RAW)
    graph = proto.graph
    names = ["", "x", "nothing", *(o for n in graph.node for o in n.output), *(t.name for t in graph.initializer)]
    for _ in range(draw(st.integers(1, 3))):
        node = graph.node[draw(st.integers(0, len(graph.node) - 1))]
        kind = draw(st.sampled_from(["attribute", "operator", "input", "output", "drop", "dims", "dtype", "version", "declared"]))
        t = graph.initializer[draw(st.integers(0, len(graph.initializer) - 1))]
        if kind == "attribute" and node.attribute:
            a = node.attribute[draw(st.integers(0, len(node.attribute) - 1))]
            if a.ints:
                a.ints[draw(st.integers(0, len(a.ints) - 1))] = draw(NUMBERS)
            a.i = draw(NUMBERS)
        elif kind == "operator":
            node.op_type = draw(st.sampled_from(OPERATORS))
        elif kind == "input":
            node.input[draw(st.integers(0, len(node.input) - 1))] = draw(st.sampled_from(names))
        elif kind == "output":
            node.output.append(draw(st.sampled_from(names)))
        elif kind == "drop" and len(graph.node) > 1:
            graph.node.remove(node)
        elif kind == "dims":
            t.dims[draw(st.integers(0, len(t.dims) - 1))] = draw(NUMBERS)
        elif kind == "dtype":
            t.data_type = draw(st.integers(0, 24))
        elif kind == "version":
            proto.opset_import[0].version = draw(st.integers(-1, 30))
        elif kind == "declared":
            d = graph.input[0].type.tensor_type.shape.dim
            d[draw(st.integers(0, len(d) - 1))].dim_value = draw(NUMBERS)
    return proto


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(damaged(), st.booleans())
def test_damaged_models_give_a_result_or_an_error_of_ours(proto, train):
    x = np.ones((1, 1, 6, 6), np.float32)
    try:
        net = network(proto, train=train)
        if not train:
            net(x)
        else:
            results = net.forward(x)
            results = results if isinstance(results, tuple) else (results,)
            net.backward([np.ones_like(r) if r.dtype == np.float32 else None for r in results])
            assert all(g.shape == net.parameters()[n].shape for n, g in net.gradients().items())
    except (NnaccelError, MemoryError):
        pass


def test_the_unchanged_bytes_run():
    assert network(RAW)(np.ones((2, 1, 6, 6), "f")).shape == (2, 3)


def test_initializers_are_read_only_and_aligned():
    arrays = load(RAW).initializers
    assert all(not a.flags.writeable and a.ctypes.data % 64 == 0 for a in arrays.values())
    assert onnx.numpy_helper.to_array(onnx.ModelProto.FromString(RAW).graph.initializer[1]).tolist() == arrays["s"].tolist()
