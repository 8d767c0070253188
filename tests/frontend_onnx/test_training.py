"""Training ONNX networks: gradients against finite differences, live parameters, saving, what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as h
import onnx.numpy_helper
import onnx.reference
import pytest

from frontend_onnx.devices import has_x86, network
from frontend_onnx.test_network import F, body, mlp, model
from nnaccel_core.errors import InputError, UnsupportedError
from nnaccel_frontend_onnx import saving

D, INT, BOOL = onnx.TensorProto.DOUBLE, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
DEVICES = ["reference", pytest.param("cpu", marks=pytest.mark.skipif(not has_x86(), reason="no x86 backend here"))]


def draw(*shape, seed=0, low=-1.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def check_gradients(net, feeds, watched=(), probes=6, eps=1e-5, rtol=1e-5):
    """The gradients of a random linear function of all outputs, at some places of every parameter, by central differences."""
    net.watch(*watched)
    results = net.forward(**feeds)
    results = results if isinstance(results, tuple) else (results,)
    weights = [draw(*r.shape, seed=9 + k).astype(r.dtype) for k, r in enumerate(results)]

    def loss(given):
        found = net.forward(**given)
        return sum((w * r).sum() for w, r in zip(weights, found if isinstance(found, tuple) else (found,), strict=True))

    of_inputs = net.backward(weights)
    found = {**net.gradients(), **of_inputs}
    assert set(of_inputs) == set(watched)
    rng = np.random.default_rng(3)
    for name, gradient in found.items():
        array = feeds[name] if name in of_inputs else net.parameters()[name]
        assert gradient.shape == array.shape and gradient.dtype == array.dtype
        for at in rng.integers(0, array.size, min(probes, array.size)):
            place = np.unravel_index(at, array.shape)
            before = array[place]
            sides = []
            for step in (eps, -eps):
                array[place] = before + step
                sides.append(loss(feeds))
            array[place] = before
            np.testing.assert_allclose(gradient[place], (sides[0] - sides[1]) / (2 * eps), rtol=rtol, atol=1e-7, err_msg=name)
    return found


def convolutional(batch="N"):
    """float64: convolution, normalization by fixed statistics, pooling, a classifier."""
    nodes = [
        h.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        h.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        h.make_node("Relu", ["n"], ["r"]),
        h.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        h.make_node("Flatten", ["p"], ["f"]),
        h.make_node("Gemm", ["f", "w2", "b2"], ["y"], transB=1),
    ]
    values = {"w1": draw(4, 2, 3, 3), "b1": draw(4, seed=1), "scale": draw(4, seed=2), "shift": draw(4, seed=3)}
    values |= {"mean": draw(4, seed=4), "var": draw(4, seed=5, low=0.5), "w2": draw(5, 16, seed=6), "b2": draw(5, seed=7)}
    return model(nodes, {"x": (D, [batch, 2, 4, 4])}, {"y": (D, [batch, 5])}, values)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_a_network(device):
    net = network(convolutional(), device, train=True)
    found = check_gradients(net, {"x": draw(3, 2, 4, 4, seed=8)}, watched=["x"])
    assert set(found) == {"w1", "b1", "scale", "shift", "w2", "b2", "x"}, "running statistics have no gradient"
    assert {"mean", "var"} <= set(net.parameters())


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_behind_views_and_scales(device):
    """Nothing is folded: Identity, Transpose, Reshape, Cast and DequantizeLinear of parameters stay live."""
    nodes = [
        h.make_node("Identity", ["w"], ["w1"]),
        h.make_node("Transpose", ["w1"], ["w2"], perm=[1, 0]),
        h.make_node("Reshape", ["w2", "shape"], ["w3"]),
        h.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        h.make_node("Cast", ["d"], ["d64"], to=D),
        h.make_node("MatMul", ["x", "w3"], ["a"]),
        h.make_node("MatMul", ["a", "d64"], ["y"]),
    ]
    values = {"w": draw(6, 2), "shape": np.array([4, 3]), "q": np.arange(-3, 3).reshape(3, 2).astype(np.int8)}
    values["s"] = np.array(0.25, np.float32)
    net = network(model(nodes, {"x": (D, ["N", 4])}, {"y": (D, ["N", 2])}, values), device, train=True)
    assert set(net.parameters()) == {"w", "s"}
    x = draw(2, 4, seed=1)
    check_gradients(net, {"x": x}, eps=1e-3, rtol=1e-3)
    before = net.forward(x)
    net.parameters()["s"][...] *= 2
    np.testing.assert_allclose(net.forward(x), 2 * before)
    net.parameters()["w"][...] *= 2
    np.testing.assert_allclose(net.forward(x), 4 * before)


@pytest.mark.parametrize("device", DEVICES)
def test_parameters_are_live_in_prediction_too(device):
    proto, w, b = mlp()
    net = network(proto, device, train=True)
    x = draw(3, 6).astype("f")
    for scale in (1, 3):
        net.parameters()["w"][...] = w * scale
        want = np.maximum(x @ (w * scale) + b, 0)
        for got in (net(x), net.forward(x), net.run(["y"], {"x": x})[0]):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_parameters_that_decide_how_operators_work():
    """The bounds of Clip and the exponent of Pow are read when compiled; a change compiles again."""
    nodes = [h.make_node("Clip", ["x", "low", "high"], ["c"]), h.make_node("Pow", ["c", "e"], ["p"])]
    nodes.append(h.make_node("Mul", ["p", "w"], ["y"]))
    values = {"low": np.float32(-1), "high": np.float32(2), "e": np.float32(2), "w": np.float32(3)}
    net = network(model(nodes, {"x": (F, [4])}, {"y": (F, [4])}, values), train=True)
    x = np.array([-2, 0, 1, 5], "f")
    assert np.array_equal(net.forward(x), [3, 0, 3, 12]) and np.array_equal(net(x), [3, 0, 3, 12])
    net.backward(np.ones(4, "f"))
    assert list(net.gradients()) == ["w"] and net.gradients()["w"] == 6
    net.parameters()["high"][...] = 1
    net.parameters()["e"][...] = 3
    assert np.array_equal(net.forward(x), [-3, 0, 3, 3]) and np.array_equal(net(x), [-3, 0, 3, 3])


def normalized(momentum=0.75):
    nodes = [
        h.make_node("MatMul", ["x", "w"], ["a"]),
        h.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "var"], ["y", "", ""],
                    training_mode=1, momentum=momentum, epsilon=1e-3),
    ]  # fmt: skip
    values = {"w": draw(3, 4), "scale": draw(4, seed=1), "shift": draw(4, seed=2), "mean": np.zeros(4), "var": np.ones(4)}
    return model(nodes, {"x": (D, ["N", 3])}, {"y": (D, ["N", 4])}, values), values


@pytest.mark.parametrize("device", DEVICES)
def test_batch_normalization_in_training(device):
    proto, values = normalized()
    net = network(proto, device, train=True)
    x = draw(6, 3, seed=3)
    a = x @ values["w"]
    want = (a - a.mean(0)) / np.sqrt(a.var(0) + 1e-3) * values["scale"] + values["shift"]
    np.testing.assert_allclose(net(x), want, rtol=1e-6, atol=1e-8)
    assert np.array_equal(net.parameters()["mean"], np.zeros(4)), "a prediction writes no statistics"
    np.testing.assert_allclose(net.forward(x), want, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(net.parameters()["mean"], 0.25 * a.mean(0))
    np.testing.assert_allclose(net.parameters()["var"], 0.75 + 0.25 * a.var(0))
    assert set(check_gradients(net, {"x": x}, rtol=1e-4)) == {"w", "scale", "shift"}


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_in_training(device):
    nodes = [h.make_node("Mul", ["x", "w"], ["a"]), h.make_node("Dropout", ["a", "ratio", "train"], ["d", "mask"])]
    nodes.append(h.make_node("Mul", ["d", "v"], ["y"]))
    values = {"w": np.full(8, 2, "f"), "v": np.ones(8, "f"), "ratio": np.float32(0.25), "train": np.array(True)}
    proto = model(nodes, {"x": (F, ["N", 8])}, {"y": (F, ["N", 8]), "mask": (BOOL, ["N", 8])}, values)
    net = network(proto, device, train=True)
    x = np.ones((50, 8), "f")
    net.random = np.random.default_rng(5)
    y, mask = net.forward(x)
    kept = np.random.default_rng(5).random(x.shape, np.float32) >= 0.25
    assert np.array_equal(mask, kept) and 0.6 < kept.mean() < 0.9
    np.testing.assert_allclose(y, 2 * kept / 0.75, rtol=1e-6)
    net.backward({"y": np.ones_like(y)})
    np.testing.assert_allclose(net.gradients()["w"], (kept / 0.75).sum(0), rtol=1e-5)
    np.testing.assert_allclose(net.gradients()["v"], y.sum(0), rtol=1e-5)
    assert not np.array_equal(net.forward(x)[1], mask), "factors are drawn anew"


def test_dropout_outside_of_training_is_the_identity():
    nodes = [h.make_node("Mul", ["x", "w"], ["a"]), h.make_node("Dropout", ["a", "ratio", "train"], ["y"])]
    values = {"w": np.float32(2), "ratio": np.float32(0.5), "train": np.array(False)}
    net = network(model(nodes, {"x": (F, [4])}, {"y": (F, [4])}, values), train=True)
    assert np.array_equal(net.forward(np.ones(4, "f")), np.full(4, 2))


@pytest.mark.parametrize("device", DEVICES)
def test_several_outputs_and_a_value_used_twice(device):
    """Both outputs read the product; one of them is left out, then the other."""
    nodes = [h.make_node("MatMul", ["x", "w"], ["a"]), h.make_node("Tanh", ["a"], ["t"])]
    nodes += [h.make_node("ArgMax", ["a"], ["k"], axis=1, keepdims=0), h.make_node("Mul", ["a", "a"], ["s"])]
    outputs = {"t": (D, ["N", 3]), "k": (INT, ["N"]), "s": (D, ["N", 3])}
    w = draw(4, 3)
    net = network(model(nodes, {"x": (D, ["N", 4])}, outputs, {"w": w}), device, train=True)
    x, g = draw(2, 4, seed=1), draw(2, 3, seed=2)
    a = x @ w
    for given in ({"t": g}, [g, None, None]):
        net.forward(x)
        net.backward(given)
        np.testing.assert_allclose(net.gradients()["w"], x.T @ (g * (1 - np.tanh(a) ** 2)), rtol=1e-6, atol=1e-9)
    net.forward(x)
    net.backward([g, None, g])
    np.testing.assert_allclose(net.gradients()["w"], x.T @ (g * (1 - np.tanh(a) ** 2) + 2 * g * a), rtol=1e-6, atol=1e-9)
    net.forward(x)
    with pytest.raises(InputError, match="'k' .* is of int64, and has no gradient"):
        net.backward({"k": np.zeros(2, np.int64)})
    net.backward({"s": g})  # the forward pass is still good


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_pass_beside_what_is_not_compiled(device):
    """NonZero cuts the network into segments; gradients cross between them where they are floating-point numbers."""
    nodes = [
        h.make_node("Mul", ["x", "w"], ["a"]),
        h.make_node("NonZero", ["a"], ["i"], name="where"),
        h.make_node("Cast", ["i"], ["f"], to=D),
        h.make_node("ReduceSum", ["f"], ["count"], keepdims=0),
        h.make_node("Mul", ["a", "v"], ["b"]),
        h.make_node("Mul", ["b", "count"], ["y"]),
    ]
    net = network(model(nodes, {"x": (D, [3])}, {"y": (D, [3])}, {"w": draw(3), "v": draw(3, seed=1)}), device, train=True)
    found = check_gradients(net, {"x": draw(3, seed=2)}, watched=["x"])
    assert set(found) == {"w", "v", "x"}


def test_an_input_that_is_an_output_and_one_without_influence():
    nodes = [h.make_node("Mul", ["x", "w"], ["y"]), h.make_node("Identity", ["x"], ["z"])]
    inputs = {"x": (F, [2]), "u": (F, [2])}
    proto = model([*nodes, h.make_node("Neg", ["u"], ["v"])], inputs, {k: (F, [2]) for k in "yzv"}, {"w": np.full(2, 3, "f")})
    net = network(proto, train=True)
    net.watch("x", "u")
    x, one = np.array([1, 2], "f"), np.ones(2, "f")
    _, z, _ = net.forward(x, one)
    z[:] = 0
    assert np.array_equal(x, [1, 2])
    found = net.backward({"y": one, "z": one * 5})
    assert np.array_equal(found["x"], [8, 8]) and np.array_equal(found["u"], [0, 0])


def test_a_parameter_that_is_listed_as_an_input():
    proto, _, b = mlp()
    proto.graph.input.append(h.make_tensor_value_info("b", F, [4]))
    net = network(proto, train=True)
    assert set(net.parameters()) == {"w", "b"} and [a.name for a in net.inputs] == ["x"]
    x = draw(2, 6).astype("f")
    net.forward(x)
    net.backward(np.ones((2, 4), "f"))
    assert set(net.gradients()) == {"w", "b"}
    net.forward(x, b=b + 1)
    net.backward(np.ones((2, 4), "f"))
    assert set(net.gradients()) == {"w"}, "what a call brings is no parameter"


def test_a_batch_that_the_file_fixes_at_1():
    net = network(convolutional(1), train=True)
    x = draw(4, 2, 4, 4, seed=8)
    together = net.forward(x)
    net.backward(np.ones((4, 5)))
    sums = net.gradients()
    parts = []
    for k in range(4):
        np.testing.assert_allclose(net.forward(x[k : k + 1]), together[k : k + 1], rtol=1e-9)
        net.backward(np.ones((1, 5)))
        parts.append(net.gradients())
    for name, total in sums.items():
        np.testing.assert_allclose(total, sum(p[name] for p in parts), rtol=1e-9, atol=1e-12)
    nodes = [h.make_node("Mul", ["x", "w"], ["a"]), h.make_node("Softmax", ["a"], ["y"], axis=0)]
    mixing = network(model(nodes, {"x": (F, [1, 4])}, {"y": (F, [1, 4])}, {"w": np.ones(4, "f")}), train=True)
    with pytest.raises(UnsupportedError, match="fixed at 1, and some layers mix samples"):
        mixing.forward(np.ones((3, 4), "f"))
    assert mixing.forward(np.ones((1, 4), "f")).shape == (1, 4)


# --- saving ---------------------------------------------------------------------------------------------------------


def test_save(tmp_path):
    proto, w, b = mlp()
    proto.graph.input.append(h.make_tensor_value_info("b", F, [4]))
    proto.graph.initializer[0].doc_string = "weights"
    net = network(proto, train=True)
    net.parameters()["w"][...] = w * 2
    path = tmp_path / "out.onnx"
    net.save(path)
    net.parameters()["w"][...] = w * 3
    net.save(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"], "nothing else is left behind"
    onnx.checker.check_model(onnx.load(path))
    x = draw(2, 6).astype("f")
    want = np.maximum(x @ (w * 3) + b, 0)
    np.testing.assert_allclose(onnx.reference.ReferenceEvaluator(str(path)).run(None, {"x": x})[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(network(path)(x), want, rtol=1e-5, atol=1e-5)
    assert onnx.load(path).graph.initializer[0].doc_string == "weights"
    with pytest.raises(InputError, match=r"nowhere.*folder that can be written"):
        net.save(tmp_path / "nowhere" / "out.onnx")


def test_parameters_too_large_for_one_file(tmp_path, monkeypatch):
    nodes = [h.make_node("MatMul", ["x", "w"], ["a"]), h.make_node("MatMul", ["a", "v"], ["y"])]
    w, v = draw(40, 50).astype("f"), draw(50, 60, seed=1).astype("f")
    net = network(model(nodes, {"x": (F, ["N", 40])}, {"y": (F, ["N", 60])}, {"w": w, "v": v}), train=True)
    monkeypatch.setattr(saving, "LARGEST", 1000)
    path = tmp_path / "large.onnx"
    net.save(path)
    net.parameters()["w"][...] = -w
    net.save(path)
    assert path.stat().st_size < 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["large.onnx", "large.onnx.0.data", "large.onnx.1.data"]
    x = draw(2, 40, seed=2).astype("f")
    again = network(path, train=True)
    np.testing.assert_allclose(again(x), x @ -w @ v, rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    again.save(tmp_path / "small.onnx")  # comes back inside
    np.testing.assert_allclose(network((tmp_path / "small.onnx").read_bytes())(x), x @ -w @ v, rtol=1e-4, atol=1e-4)


def test_sparse_initializers_become_dense(tmp_path):
    values = onnx.numpy_helper.from_array(np.array([2, 3], "f"), "w")
    indices = onnx.numpy_helper.from_array(np.array([0, 2]), "places")
    proto = model([h.make_node("Mul", ["x", "w"], ["y"])], {"x": (F, [4])}, {"y": (F, [4])})
    proto.graph.sparse_initializer.append(h.make_sparse_tensor(values, indices, [4]))
    net = network(proto, train=True)
    net.parameters()["w"][1] = 5
    net.save(tmp_path / "dense.onnx")
    assert np.array_equal(network(tmp_path / "dense.onnx")(np.ones(4, "f")), [2, 5, 3, 0])


@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_a_trained_network_can_be_optimized_again():
    import nnaccel

    proto, w, b = mlp()
    net = nnaccel.optimize(proto, train=True)
    net.parameters()["w"][...] = 0
    fast = nnaccel.optimize(net)
    net.parameters()["w"][...] = w
    x = np.ones((2, 6), "f")
    np.testing.assert_allclose(fast(x), np.broadcast_to(np.maximum(b, 0), (2, 4)), rtol=1e-6)
    np.testing.assert_allclose(net(x), np.maximum(x @ w + b, 0), rtol=1e-5)
    assert not hasattr(fast, "forward")


# --- what is refused ------------------------------------------------------------------------------------------------


def test_no_parameters():
    proto = model([h.make_node("Relu", ["x"], ["y"])], {"x": (F, [2])}, {"y": (F, [2])}, {"unused": np.array([1])})
    with pytest.raises(InputError, match="no parameters to train"):
        network(proto, train=True)


def test_wrong_order_of_calls():
    net = network(mlp()[0], train=True)
    with pytest.raises(InputError, match="no gradients yet"):
        net.gradients()
    with pytest.raises(InputError, match=r"needs a forward\(\) of its own before it"):
        net.backward(np.ones((1, 4), "f"))
    net.forward(np.ones((1, 6), "f"))
    net.backward(np.ones((1, 4), "f"))
    with pytest.raises(InputError, match=r"needs a forward\(\) of its own; the one before"):
        net.backward(np.ones((1, 4), "f"))


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (np.ones((1, 4), "f"), r"shape \[1, 4\]; the output's is \[2, 4\]"),
        (np.ones((2, 4)), r"dtype float64; the output's is float32: g\.astype"),
        ({"z": np.ones((2, 4), "f")}, "no output 'z'; it has y"),
        ([np.ones((2, 4), "f")] * 2, "has 1 outputs .*got 2"),
        ({}, "no output"),
        ([None], "no output"),
    ],
)
def test_wrong_gradients(grads, message):
    net = network(mlp()[0], train=True)
    net.forward(np.ones((2, 6), "f"))
    with pytest.raises(InputError, match=message):
        net.backward(grads)
    net.backward(np.ones((2, 4), "f"))


def test_wrong_inputs_to_watch():
    nodes = [h.make_node("Gather", ["w", "i"], ["y"])]
    net = network(model(nodes, {"i": (INT, ["N"])}, {"y": (F, ["N", 3])}, {"w": draw(5, 3).astype("f")}), train=True)
    with pytest.raises(InputError, match="no input 'q'; it has i"):
        net.watch("q")
    with pytest.raises(InputError, match=r"'i' .*tensor\(int64\), which has no gradient"):
        net.watch("i")
    net.forward(np.array([1, 1, 4]))
    net.backward(np.ones((3, 3), "f"))
    assert np.array_equal(net.gradients()["w"], np.repeat([[0], [2], [0], [0], [1]], 3, 1))


def test_outputs_that_depend_on_no_parameter_through_numbers():
    nodes = [h.make_node("Mul", ["x", "w"], ["a"]), h.make_node("ArgMax", ["a"], ["y"], axis=0, keepdims=0)]
    net = network(model(nodes, {"x": (F, [3])}, {"y": (INT, [])}, {"w": np.ones(3, "f")}), train=True)
    with pytest.raises(UnsupportedError, match="no output depends on them through floating-point"):
        net.forward(np.ones(3, "f"))


def test_an_operator_without_a_gradient_is_named():
    nodes = [h.make_node("Mul", ["x", "w"], ["a"]), h.make_node("Det", ["a"], ["y"], name="volume")]
    net = network(model(nodes, {"x": (F, [2, 3, 3])}, {"y": (F, [2])}, {"w": np.ones(3, "f")}), train=True)
    with pytest.raises(UnsupportedError, match=r"can't be trained: node 'volume' \(Det\) is not compiled"):
        net.forward(np.ones((2, 3, 3), "f"))


def test_control_flow_in_the_way_is_named():
    then = body([h.make_node("Relu", ["a"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Neg", ["a"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("Mul", ["x", "w"], ["a"])]
    nodes.append(h.make_node("Greater", ["s", "zero"], ["flag"]))
    nodes.append(h.make_node("If", ["flag"], ["r"], name="choice", then_branch=then, else_branch=other))
    nodes.append(h.make_node("Mul", ["r", "v"], ["y"]))
    values = {"w": np.full(3, 2, "f"), "v": np.full(3, 3, "f"), "zero": np.zeros((), "f")}
    inputs = {"x": (F, [3]), "s": (F, [])}
    net = network(model(nodes, inputs, {"y": (F, [3]), "a": (F, [3])}, values), train=True)
    x, one = np.array([-1, 0, 2], "f"), np.ones(3, "f")
    y, a = net.forward(x, np.array(1, "f"))
    assert np.array_equal(a, 2 * x) and np.array_equal(y, 3 * np.maximum(a, 0))
    with pytest.raises(UnsupportedError, match=r"'y' .*node 'choice' \(If\) is not compiled: its body is a network"):
        net.backward({"y": one})
    net.backward({"a": one})
    assert np.array_equal(net.gradients()["w"], x)


def test_a_body_reads_parameters_as_they_are():
    """The branch reads a parameter of the graph around it; it changes between calls."""
    then = body([h.make_node("Mul", ["x", "w"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Neg", ["x"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("If", ["flag"], ["r"], name="choice", then_branch=then, else_branch=other)]
    nodes.append(h.make_node("Mul", ["x", "v"], ["y"]))
    nodes.insert(0, h.make_node("Greater", ["s", "zero"], ["flag"]))
    inputs, outputs = {"x": (F, [3]), "s": (F, [])}, {"r": (F, [3]), "y": (F, [3])}
    values = {"w": np.full(3, 2, "f"), "v": np.ones(3, "f"), "zero": np.zeros((), "f")}
    net = network(model(nodes, inputs, outputs, values), train=True)
    x, flag = np.array([-1, 0, 2], "f"), np.array(1, "f")
    assert np.array_equal(net.forward(x, flag)[0], 2 * x)
    net.parameters()["w"][...] = 5
    assert np.array_equal(net.forward(x, flag)[0], 5 * x) and np.array_equal(net(x, flag)[0], 5 * x)
    with pytest.raises(UnsupportedError, match="choice"):
        net.backward({"r": x})


def test_a_branch_that_an_integer_input_chooses_is_trained():
    then = body([h.make_node("Mul", ["x", "w"], ["p"])], {}, {"p": (F, [3])})
    other = body([h.make_node("Mul", ["x", "v"], ["q"])], {}, {"q": (F, [3])})
    nodes = [h.make_node("Equal", ["rate", "wide"], ["flag"])]
    nodes.append(h.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other))
    values = {"w": np.full(3, 2, "f"), "v": np.ones(3, "f"), "wide": np.array(16)}
    proto = model(nodes, {"x": (F, [3]), "rate": (onnx.TensorProto.INT64, [])}, {"y": (F, [3])}, values)
    net = network(proto, train=True)
    x = np.array([-1, 0, 2], "f")
    for rate, name, other_name in ((16, "w", "v"), (8, "v", "w")):
        assert np.array_equal(net.forward(x, np.array(rate)), x * net.parameters()[name])
        net.backward(np.ones(3, "f"))
        found = net.gradients()
        assert np.array_equal(found[name], x) and not np.any(found.get(other_name, 0))
