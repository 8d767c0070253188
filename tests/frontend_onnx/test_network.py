"""The object that `optimize` returns: calling, sizes, values that decide shapes, errors."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper
import onnx.reference
import pytest

from frontend_onnx.devices import has_x86, network
from nnaccel_core.errors import InputError, MismatchError, ShapeError

F, INT = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
DEVICES = ["reference", "interp", pytest.param("cpu", marks=pytest.mark.skipif(not has_x86(), reason="no x86 backend here"))]


def model(nodes, inputs, outputs, initializers=None, opset=20, ir=9):
    """A model from nodes, ``name: (element type, shape)`` and arrays."""
    infos = [[h.make_tensor_value_info(n, t, s) for n, (t, s) in d.items()] for d in (inputs, outputs)]
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (initializers or {}).items()]
    proto = h.make_model(h.make_graph(nodes, "net", *infos, tensors), opset_imports=[h.make_opsetid("", opset)])
    proto.ir_version = ir
    return proto


def mlp(batch="N"):
    rng = np.random.default_rng(0)
    w, b = rng.normal(size=(6, 4)).astype("f"), rng.normal(size=4).astype("f")
    nodes = [h.make_node("Gemm", ["x", "w", "b"], ["t"]), h.make_node("Relu", ["t"], ["y"], name="act")]
    return model(nodes, {"x": (F, [batch, 6])}, {"y": (F, [batch, 4])}, {"w": w, "b": b}), w, b


@pytest.mark.parametrize("device", DEVICES)
def test_call_and_run(device):
    proto, w, b = mlp()
    net = network(proto, device)
    x = np.random.default_rng(1).normal(size=(3, 6)).astype("f")
    want = np.maximum(x @ w + b, 0)
    for got in (net(x), net(x=x), net.run(None, {"x": x})[0], net.run(["y"], {"x": x})[0]):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert [(a.name, a.shape, a.type) for a in net.inputs] == [("x", ("N", 6), "tensor(float)")]
    assert [a.name for a in net.outputs] == ["y"]


def test_bytes_path_and_proto_are_the_same_network(tmp_path):
    proto, _, _ = mlp()
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    x = np.ones((2, 6), "f")
    results = [network(source)(x) for source in (proto, path, str(path), path.read_bytes())]
    assert all(np.array_equal(results[0], r) for r in results)


def test_results_are_new_aligned_arrays():
    proto, _, _ = mlp()
    net = network(proto)
    x = np.ones((2, 6), "f")
    first = net(x)
    kept = first.copy()
    second = net(x * 3)
    assert np.array_equal(first, kept) and not np.shares_memory(first, second)
    assert first.ctypes.data % 64 == 0 and first.flags.writeable


def test_an_input_or_a_constant_as_an_output_is_copied():
    nodes = [h.make_node("Identity", ["x"], ["y"]), h.make_node("Identity", ["c"], ["z"])]
    proto = model(nodes, {"x": (F, [2])}, {"y": (F, [2]), "z": (F, [2])}, {"c": np.ones(2, "f")})
    net = network(proto)
    x = np.zeros(2, "f")
    y, z = net(x)
    y[:], z[:] = 5, 7
    assert x.max() == 0 and net(x)[1].max() == 1


def test_one_program_serves_all_batches():
    net = network(mlp()[0])
    for n in (1, 2, 5, 3):
        assert net(np.ones((n, 6), "f")).shape == (n, 4)
    assert len(net.session.programs()) == 1


def test_a_batch_that_the_file_fixes_at_1_can_vary():
    proto, w, b = mlp(1)
    net = network(proto)
    x = np.random.default_rng(2).normal(size=(4, 6)).astype("f")
    np.testing.assert_allclose(net(x), np.maximum(x @ w + b, 0), rtol=1e-5, atol=1e-5)
    assert len(net(x[:1])) == 1


def test_samples_that_a_layer_mixes_run_one_by_one():
    """Softmax over the batch axis is 1 for each sample alone: at batch 3 as well."""
    proto = model([h.make_node("Softmax", ["x"], ["y"], axis=0)], {"x": (F, [1, 4])}, {"y": (F, [1, 4])})
    net = network(proto)
    assert np.array_equal(net(np.random.default_rng(0).normal(size=(3, 4)).astype("f")), np.ones((3, 4), "f"))
    assert any("one by one" in note for note in net.notes())


def test_strided_arguments_and_lists():
    net = network(mlp()[0])
    x = np.random.default_rng(3).normal(size=(6, 5)).astype("f").T
    assert np.array_equal(net(x), net(np.ascontiguousarray(x)))
    assert net([[1, 2, 3, 4, 5, 6]]).shape == (1, 4)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones((2, 6))}, "float64"),
        ({"x": np.ones((2, 7), "f")}, r"\[2, 7\]"),
        ({"x": np.ones(6, "f")}, r"shape \[6\]"),
        ({}, "needs the input 'x'"),
        ({"x": np.ones((2, 6), "f"), "q": np.ones(1)}, "no input 'q'"),
    ],
)
def test_wrong_calls(feeds, message):
    with pytest.raises(InputError, match=message):
        network(mlp()[0]).run(None, feeds)


def test_unknown_output_and_input_given_twice():
    net = network(mlp()[0])
    x = np.ones((1, 6), "f")
    with pytest.raises(InputError, match="no output 'nope'"):
        net.run(["nope"], {"x": x})
    with pytest.raises(InputError, match="twice"):
        net(x, x=x)


def test_shape_arithmetic_stays_symbolic():
    """Shape -> Gather -> Concat -> Reshape: one program for all sizes, no node left to onnx."""
    nodes = [
        h.make_node("Shape", ["x"], ["s"]),
        h.make_node("Gather", ["s", "zero"], ["n"]),
        h.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        h.make_node("Concat", ["n1", "rest"], ["t"], axis=0),
        h.make_node("Reshape", ["x", "t"], ["y"]),
    ]
    constants = {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1])}
    proto = model(nodes, {"x": (F, ["N", 3, 4])}, {"y": (F, ["N", 12])}, constants)
    net = network(proto)
    for n in (2, 5):
        x = np.random.default_rng(n).normal(size=(n, 3, 4)).astype("f")
        assert np.array_equal(net(x), x.reshape(n, 12))
    assert len(net.session.programs()) == 1 and not list(net.notes())


def test_values_of_inputs_that_decide_shapes():
    proto = model([h.make_node("Reshape", ["x", "s"], ["y"])], {"x": (F, [6]), "s": (INT, ["k"])}, {"y": (F, None)})
    net = network(proto)
    x = np.arange(6, dtype="f")
    assert net(x, np.array([2, 3])).shape == (2, 3) and net(x, np.array([3, 2, 1])).shape == (3, 2, 1)
    assert net(x, np.array([2, 3])).shape == (2, 3)
    assert any("'s'" in note for note in net.notes())


def test_shapes_that_depend_on_data():
    """NonZero runs in onnx; what follows is compiled with its result's size left open."""
    nodes = [h.make_node("NonZero", ["x"], ["i"]), h.make_node("Cast", ["i"], ["f"], to=F), h.make_node("Sqrt", ["f"], ["y"])]
    net = network(model(nodes, {"x": (F, [6])}, {"y": (F, [1, "k"])}))
    for x in (np.array([1, 0, 2, 0, 0, 3], "f"), np.ones(6, "f"), np.zeros(6, "f")):
        np.testing.assert_allclose(net(x), np.sqrt(np.nonzero(x)[0].astype("f"))[None], rtol=1e-6)
    assert any("NonZero" in note for note in net.notes())


def test_an_initializer_can_be_fed():
    proto, w, b = mlp()
    proto.graph.input.append(h.make_tensor_value_info("b", F, [4]))
    net = network(proto)
    x = np.ones((1, 6), "f")
    np.testing.assert_allclose(net(x), np.maximum(x @ w + b, 0), rtol=1e-5)
    np.testing.assert_allclose(net(x, b=b + 1), np.maximum(x @ w + b + 1, 0), rtol=1e-5)


@pytest.mark.parametrize("version", [1, 7, 9, 12, 13, 17])
def test_softmax_of_every_operator_set(version):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("f")
    kind = (F, [2, 3, 4])
    net = network(model([h.make_node("Softmax", ["x"], ["y"], axis=1)], {"x": kind}, {"y": kind}, opset=version, ir=3))
    axes = (1,) if version >= 13 else (1, 2)
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    np.testing.assert_allclose(net(x), e / e.sum(axis=axes, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("attrs", [{}, {"auto_pad": "SAME_UPPER", "dilations": [2]}, {"strides": [2], "pads": [2, 1]}])
def test_convolutions_along_one_axis(attrs):
    rng = np.random.default_rng(0)
    values = {"w": rng.normal(size=(6, 2, 3)).astype("f"), "b": rng.normal(size=6).astype("f")}
    node = h.make_node("Conv", ["x", "w", "b"], ["y"], group=2, **attrs)
    proto = model([node], {"x": (F, ["N", 4, 9])}, {"y": (F, None)}, values)
    x = rng.normal(size=(2, 4, 9)).astype("f")
    (want,) = onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})
    net = network(proto)
    np.testing.assert_allclose(net(x), want, rtol=1e-4, atol=1e-5)
    assert not list(net.notes())


@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_a_convolution_of_images_of_one_column_is_not_left_to_a_naive_kernel():
    """As TensorFlow's exporter writes those along one axis: a transposed sequence, kernels of 5 x 1."""
    import nnaccel

    nodes = [
        h.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]),
        h.make_node("Unsqueeze", ["t", "axis"], ["image"]),
        h.make_node("Conv", ["image", "w"], ["y"], kernel_shape=[5, 1]),
    ]
    values = {"w": np.random.default_rng(0).normal(size=(64, 32, 5, 1)).astype("f"), "axis": np.array([3])}
    proto = model(nodes, {"x": (F, ["N", 40, 32])}, {"y": (F, None)}, values)
    x = np.random.default_rng(1).normal(size=(2, 40, 32)).astype("f")
    net = network(proto, "cpu")
    np.testing.assert_allclose(net(x), network(proto)(x), rtol=1e-4, atol=1e-4)
    groups = [g for p in nnaccel.explain(net, x).programs for s in p.segments for g in s.groups if "conv" in g.ops]
    assert groups and not any(g.chosen.startswith("core") for g in groups)


@pytest.mark.parametrize("open_size", [-1, "?"])
def test_sizes_that_paddle_leaves_open(open_size):
    """Two axes of one name that means nothing may differ."""
    kind = (F, [open_size, 3, open_size, open_size])
    net = network(model([h.make_node("Relu", ["x"], ["y"])], {"x": kind}, {"y": kind}))
    assert net.inputs[0].shape == (None, 3, None, None)
    for shape in ((2, 3, 4, 5), (1, 3, 7, 2)):
        assert net(np.ones(shape, "f")).shape == shape
    assert len(net.session.programs()) == 1 and not list(net.notes())


def test_local_functions_are_inlined():
    body = [h.make_node("Mul", ["a", "a"], ["q"]), h.make_node("Add", ["q", "a"], ["r"])]
    function = h.make_function("mine", "Poly", ["a"], ["r"], body, [h.make_opsetid("", 20)])
    graph = h.make_graph(
        [h.make_node("Poly", ["x"], ["y"], domain="mine")], "net",
        [h.make_tensor_value_info("x", F, [3])], [h.make_tensor_value_info("y", F, [3])],
    )  # fmt: skip
    proto = h.make_model(graph, functions=[function], opset_imports=[h.make_opsetid("", 20), h.make_opsetid("mine", 1)])
    proto.ir_version = 9
    net = network(proto)
    x = np.array([1, 2, 3], "f")
    assert np.array_equal(net(x), x * x + x) and not list(net.notes())


def test_verify_compares_with_onnx():
    import nnaccel_frontend_onnx.network as n
    from nnaccel_core.driver.session import Session
    from nnaccel_core.options import Options

    proto, _, _ = mlp()
    net = network(proto)
    x = np.ones((1, 6), "f")
    verified = n.Network(net.model, Session(net.session.backend, net.session.bridge, Options(verify=True)))
    verified(x)
    (compiled,) = verified.session.programs().values()
    assert compiled.to_verify == 1
    damaged = onnx.ModelProto()
    damaged.CopyFrom(net.model.proto)
    damaged.graph.node[1].op_type = "Neg"
    object.__setattr__(verified.model, "proto", damaged)
    with pytest.raises(MismatchError):
        verified(x)


def test_threads():
    net = network(mlp()[0])
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("f")
    want, wrong = net(x), []

    def work():
        for k in range(1, 9):
            if not np.allclose(net(x[:k]), want[:k], rtol=1e-5, atol=1e-6):
                wrong.append(k)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_explain():
    import nnaccel

    net = nnaccel.optimize(mlp()[0].SerializeToString())
    text = str(nnaccel.explain(net, np.ones((2, 6), "f")))
    assert "act" in text and "net" in text


def test_accepting_a_model_does_not_import_onnx():
    import subprocess
    import sys

    code = (
        "import sys, nnaccel_frontend_onnx.plugin as p\n"
        "f = p.nnaccel_register_frontends()[0]\n"
        "assert f.accepts('a.onnx') and f.accepts(b'') and not f.accepts('a.pt') and not f.accepts(3)\n"
        "assert not {'onnx', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def body(nodes, inputs, outputs):
    infos = [[h.make_tensor_value_info(n, t, s) for n, (t, s) in d.items()] for d in (inputs, outputs)]
    return h.make_graph(nodes, "body", *infos)


@pytest.mark.parametrize("device", DEVICES)
def test_if_with_compiled_branches(device):
    then = body([h.make_node("Relu", ["x"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Mul", ["x", "c"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("If", ["flag"], ["r"], then_branch=then, else_branch=other), h.make_node("Neg", ["r"], ["y"])]
    flag = onnx.TensorProto.BOOL
    proto = model(nodes, {"x": (F, [3]), "flag": (flag, [])}, {"y": (F, [3])}, {"c": np.full(3, 2, "f")})
    net = network(proto, device)
    x = np.array([-1, 0, 2], "f")
    np.testing.assert_allclose(net(x, np.array(True)), -np.maximum(x, 0))
    np.testing.assert_allclose(net(x, np.array(False)), -x * 2)


def test_an_integer_that_decides_a_condition():
    """The branch is compiled in for a few values; many values leave the condition to each call. Results are the same."""
    then = body([h.make_node("Relu", ["x"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Mul", ["x", "c"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("Equal", ["rate", "wide"], ["flag"])]
    nodes.append(h.make_node("If", ["flag"], ["y"], name="choice", then_branch=then, else_branch=other))
    values = {"c": np.full(3, 2, "f"), "wide": np.array(16)}
    net = network(model(nodes, {"x": (F, [3]), "rate": (INT, [])}, {"y": (F, [3])}, values), "reference")
    x = np.array([-1, 0, 2], "f")

    def right(rate: int) -> bool:
        return np.array_equal(net(x, np.array(rate)), np.maximum(x, 0) if rate == 16 else 2 * x)

    assert all(right(r) for r in (16, 8, 16, 16, 8, 8, 3, 16))
    assert any("compiled for each value of input 'rate'" in n for n in net.notes())
    assert not any("body is a network" in n for n in net.notes())
    assert all(right(r) for r in (1, 2, 16, 4, 5, 16, 6, 16, 16, 7))
    assert any("takes many values" in n for n in net.notes()) and any("body is a network" in n for n in net.notes())


@pytest.mark.parametrize("device", DEVICES)
def test_loop_with_a_compiled_body(device):
    """Powers of x, collected, until the trip count."""
    nodes = [h.make_node("Mul", ["s", "x"], ["t"]), h.make_node("Identity", ["go"], ["on"])]
    nodes.append(h.make_node("Identity", ["t"], ["u"]))
    flag = onnx.TensorProto.BOOL
    boolean = (flag, [])
    inner = body(
        nodes, {"k": (INT, []), "go": boolean, "s": (F, [3])}, {"on": boolean, "t": (F, [3]), "u": (F, [3])},
    )  # fmt: skip
    loop = h.make_node("Loop", ["n", "", "one"], ["last", "all"], body=inner)
    proto = model([loop], {"x": (F, [3]), "n": (INT, [])}, {"last": (F, [3]), "all": (F, ["n", 3])}, {"one": np.ones(3, "f")})
    x = np.array([1, 2, -3], "f")
    net = network(proto, device)
    for n in (4, 2, 0):
        last, every = net(x, np.array(n))
        np.testing.assert_allclose(last, x**n)
        assert every.shape == (n, 3) and np.allclose(every, [x**k for k in range(1, n + 1)] if n else every)


def test_a_known_condition_leaves_one_branch():
    then = body([h.make_node("Relu", ["x"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Mul", ["x", "x"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other)]
    net = network(model(nodes, {"x": (F, [3])}, {"y": (F, [3])}, {"flag": np.array(False)}))
    x = np.array([-1, 0, 2], "f")
    assert np.array_equal(net(x), x * x) and not list(net.notes())


@pytest.mark.parametrize("device", DEVICES)
def test_integers_are_divided_towards_zero(device):
    proto = model([h.make_node("Div", ["a", "b"], ["y"])], {"a": (INT, ["N"]), "b": (INT, ["N"])}, {"y": (INT, ["N"])})
    a, b = (m.ravel() for m in np.meshgrid(np.array([-7, -6, -1, 0, 1, 6, 7]), np.array([-4, -3, -1, 1, 3, 4])))
    assert np.array_equal(network(proto, device)(a, b), np.trunc(a / b).astype(np.int64))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("at", [0, 2, -1, -3])
def test_one_place_of_an_axis_of_any_size(device, at):
    """It is a slice, not a gather; where the axis is too short, the call fails, and others go on."""
    nodes = [h.make_node("Relu", ["x"], ["r"]), h.make_node("Gather", ["r", "at"], ["y"], axis=1)]
    proto = model(nodes, {"x": (F, ["N", "L", 3])}, {"y": (F, ["N", 3])}, {"at": np.array(at)})
    net = network(proto, device)
    for length in (5, 3, 4):
        x = np.random.default_rng(length).normal(size=(2, length, 3)).astype("f")
        assert np.array_equal(net(x), np.maximum(x, 0)[:, at])
    ops = [n.op for p in net.session.programs().values() for s in p.segments.values() for n in s.main.nodes]
    assert "gather" not in ops and not list(net.notes())
    short = np.ones((2, 1, 3), "f")
    if at in (0, -1):
        assert np.array_equal(net(short), short[:, 0])
    else:
        with pytest.raises(ShapeError, match="gather"):
            net(short)
    assert np.array_equal(net(x), np.maximum(x, 0)[:, at])
