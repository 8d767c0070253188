"""What can't be compiled runs in TensorFlow and says so; what can't be run says what to do."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import nnaccel  # noqa: E402
from frontend_tf.devices import has_x86, optimized  # noqa: E402
from nnaccel_core.errors import DeviceError, InputError, MismatchError, NnaccelError, PluginError, UnsupportedError  # noqa: E402

X = np.random.default_rng(2).normal(size=(3, 4)).astype("f")


def double(x):
    return tf.nn.relu(x) * 2.0


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (tf.ragged.constant([[1.0], [2.0, 3.0]]), r"got a RaggedTensor; .* x.to_tensor\(\)"),
        (tf.sparse.from_dense([[1.0, 0.0]]), r"got a SparseTensor; .* tf.sparse.to_dense"),
        (tf.constant(["a", "b"]), "tensor of strings; .* turn text into numbers"),
    ],
)
def test_tensors_that_are_not_dense_numbers(given, match):
    fast = optimized(tf.function(lambda x: x, autograph=False))
    with pytest.raises(InputError, match=match):
        fast(given)


def test_unknown_rank():
    fast = optimized(tf.function(double, autograph=False))
    outer = tf.function(lambda x: fast(x), autograph=False, input_signature=[tf.TensorSpec(None, tf.float32)])
    with pytest.raises(InputError, match="unknown rank.*set_shape"):
        outer(X)


def test_operations_without_mapping_are_named_with_their_layer():
    given = keras.Input((4,))
    x = keras.layers.Dense(5, activation="relu")(given)
    x = keras.layers.Lambda(lambda t: tf.math.lgamma(t + 1.5), name="odd")(x)
    model = keras.Model(given, keras.layers.Dense(2)(x))
    fast = optimized(model)
    np.testing.assert_allclose(fast(X), model(X), rtol=1e-5, atol=1e-6)
    notes = nnaccel.explain(fast).notes
    assert any("Lgamma at odd" in n and "no mapping" in n for n in notes), notes
    assert not fast.nnaccel_report()["own_calls"]


def test_sizes_beyond_the_batch_that_are_known_only_while_it_runs():
    """Inside a function of loose sizes, nothing can be compiled for them: TensorFlow runs it."""
    fast = optimized(tf.function(double, autograph=False))
    outer = tf.function(lambda x: fast(x), input_signature=[tf.TensorSpec([None, None], tf.float32)])
    np.testing.assert_allclose(outer(X), double(X))
    assert list(fast.nnaccel_report()["own_calls"]) == ["sizes that are known only while it runs"]


def test_network_that_adds_losses_runs_in_keras():
    given = keras.Input((4,))
    model = keras.Model(given, keras.layers.Dense(2, activity_regularizer="l2")(given))
    fast = optimized(model)
    np.testing.assert_allclose(fast(X), model(X), rtol=1e-6)
    assert len(fast.losses) == 1 and float(fast.losses[0]) > 0
    (reason,) = fast.nnaccel_report()["own_calls"]
    assert "adds losses" in reason and "dense" in reason


def test_custom_gradients_are_trained_in_tensorflow():
    @tf.custom_gradient
    def straight(x):
        return tf.round(x), lambda g: g * 3.0

    own = tf.function(lambda x: straight(x * 2.0) + 1.0, autograph=False)
    fast = optimized(own)
    x = tf.constant(X)
    np.testing.assert_allclose(fast(x), own(x))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(fast(x))
    np.testing.assert_allclose(tape.gradient(y, x), np.full_like(X, 6.0))
    assert any("custom_gradient" in r for r in fast.nnaccel_report()["own_calls"])
    later = tf.function(lambda x: fast(x))
    later(x)
    with pytest.raises(UnsupportedError, match="custom_gradient.*GradientTape around the call"), tf.GradientTape() as tape:
        tape.watch(x)
        y = later(x)
        tape.gradient(y, x)


def test_functions_that_xla_compiles_run_without_nnaccel():
    fast = optimized(tf.function(double, autograph=False))
    outer = tf.function(lambda x: fast(x), autograph=False, jit_compile=True)
    np.testing.assert_allclose(outer(X), double(X))
    assert any("XLA" in r for r in fast.nnaccel_report()["own_calls"])


def test_function_that_can_not_be_traced_is_run_as_it_is():
    class Odd(tf.Module):
        def __call__(self, x):
            return tf.nn.relu(x) * float(np.asarray(x).sum() > 0)  # looks at values

    odd = Odd()
    fast = optimized(odd)
    np.testing.assert_allclose(fast(tf.constant(X)), odd(X))
    (reason,) = fast.nnaccel_report()["own_calls"]
    assert "tracing it failed" in reason


def test_folders_without_a_saved_model(tmp_path):
    with pytest.raises(NnaccelError, match="no SavedModel .*tf.saved_model.save"):
        optimized(str(tmp_path))


def test_errors_of_the_network_itself_stay():
    fast = optimized(tf.function(lambda x: tf.matmul(x, tf.ones([7, 2])), autograph=False))
    with pytest.raises(ValueError, match="[Dd]imensions must be equal"):
        fast(tf.constant(X))


def test_verify_finds_a_wrong_capture(monkeypatch):
    from nnaccel_frontend_tf.mapping import _table

    right = optimized(tf.function(double, autograph=False), verify=True)
    for _ in range(3):
        right(tf.constant(X))
    monkeypatch.setitem(_table, "Relu", lambda n: n.emit("abs", n.x()))
    wrong = optimized(tf.function(double, autograph=False), verify=True)
    with pytest.raises(MismatchError, match="not the framework's"):
        wrong(tf.constant(X))


@pytest.mark.skipif(not has_x86(), reason="the x86 backend is not installed or can't run here")
def test_gpu_that_is_not_there():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises((DeviceError, PluginError), match="cuda"):
        nnaccel.optimize(tf.function(double), device="cuda")


def test_importing_brings_no_other_framework():
    code = (
        "import sys, nnaccel_frontend_tf.plugin\nassert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
        "import tensorflow as tf, nnaccel\nfrom nnaccel_core.hooks import manager\n"
        "print(type(manager.frontend_for(tf.Module())).__name__)\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "TensorFlowFrontend" in done.stdout, done.stderr[-2000:]
