"""All of ``keras.applications``: results against float64, gradients against TensorFlow's.

Minutes; run with: pytest -m full tests/frontend_tf
"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import nnaccel  # noqa: E402
from frontend_tf.devices import has_x86  # noqa: E402

pytestmark = [pytest.mark.full, pytest.mark.skipif(not has_x86(), reason="the x86 backend is not installed or can't run here")]

NAMES = sorted(
    name for name, f in vars(keras.applications).items() if inspect.isfunction(f) and "weights" in inspect.signature(f).parameters
)
#: The smallest side that each family builds with, rounded up.
SIDES = {"Inception": 80, "Xception": 80, "NASNetLarge": 331, "NASNetMobile": 224, "MobileNet": 64}
TRAINED = [
    "MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50", "ResNet50V2", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0",
    "VGG16", "Xception",
]  # fmt: skip


def network(name: str):
    side = next((s for key, s in SIDES.items() if name.startswith(key) or key in name), 64)
    keras.utils.set_random_seed(3)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3), classes=10)
    rng = np.random.default_rng(0)
    for v in model.variables:  # what trained networks have, rather than ones and zeros
        if "gamma" in v.path or "moving_variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif "moving_mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(size=v.shape) * 0.1)
    return model, rng.normal(size=(15 if side < 200 else 6, side, side, 3)).astype("f")


def twin_in_float64(model):
    """The same network in double precision."""
    config = model.get_config()
    for layer in config["layers"]:
        policy = layer["config"].get("dtype")
        if isinstance(policy, dict):
            policy["config"]["name"] = "float64"
        elif policy is not None:
            layer["config"]["dtype"] = "float64"
    twin = type(model).from_config(config)
    twin.set_weights([w.astype("float64") for w in model.get_weights()])
    return twin


def called(model):
    """Predictions as one function: on their own, ConvNeXt's convolutions are compiled by XLA anew at each call, for minutes."""
    return tf.function(lambda x: model(x, training=False), autograph=False)


@pytest.mark.parametrize("name", NAMES)
def test_prediction(name):
    """One image tells little: where a softmax decides between two classes, rounding is magnified a thousandfold, TensorFlow's or
    ours as chance has it. Hence the mean over several."""
    model, images = network(name)
    exact = called(twin_in_float64(model))(tf.constant(images, tf.float64)).numpy()
    fast = nnaccel.optimize(model)
    for count in (1, 3):
        errors = []
        for net in (called(model), lambda x: fast(x, training=False)):
            parts = [net(tf.constant(images[k : k + count])).numpy() for k in range(0, len(images), count)]
            errors.append(np.mean(np.abs(np.concatenate(parts) - exact).max(axis=1) / np.abs(exact).max(axis=1)))
        theirs, ours = errors
        assert ours <= max(4 * theirs, 1e-6), (theirs, ours)
    report = fast.nnaccel_report()
    assert not report["own_calls"] and all(p == "traced by TensorFlow" for p in report["programs"]), report


def gradients(net, images, labels):
    """Of a loss in training mode, in float64, by variable."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, net(images, training=True)))
    return [g.numpy().astype("float64") for g in tape.gradient(loss, net.trainable_variables)]


def error(found, judge):
    """Relative error in the 2-norm, each variable weighed by its own size."""
    errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(found, judge, strict=True) if np.linalg.norm(b) > 1e-10]
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize("name", TRAINED)
def test_one_step_of_training(name):
    """Gradients jump where an activation is within rounding of a kink, on either side: hence several inputs of many images."""
    model, _ = network(name)
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0  # double precision draws other numbers
    twin, fast = twin_in_float64(model), nnaccel.optimize(model)
    values = [v.numpy() for v in model.weights]  # without the states of generators, which come in another order
    ours, theirs = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        images, labels = rng.normal(size=(16, *model.input_shape[1:])).astype("f"), rng.integers(0, 10, 16)
        judge = None
        for net, given, into in ((twin, images.astype("float64"), None), (model, images, theirs), (fast, images, ours)):
            for v, value in zip(net.weights, values, strict=True):
                v.assign(value.astype(v.dtype))
            found = gradients(net, given, labels)
            if into is None:
                judge = found
            else:
                into.append(error(found, judge))
    assert np.median(ours) <= 4 * np.median(theirs), (ours, theirs)
    assert not fast.nnaccel_report()["own_calls"]
