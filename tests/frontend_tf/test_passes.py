"""What the graph passes of this frontend make of Keras's layers."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from frontend_tf.devices import optimized  # noqa: E402

L = keras.layers
RNG = np.random.default_rng(4)


def compiled(layers, shape=(10, 9, 4)):
    """An optimized model of ``layers``, checked, and the operators that it runs beside views."""
    keras.utils.set_random_seed(6)
    model = keras.Sequential([keras.Input(shape), *layers])
    for v in model.variables:
        if "moving" in v.path or "gamma" in v.path:
            v.assign(RNG.uniform(0.5, 1.5, v.shape))
    images = RNG.normal(size=(2, *shape)).astype("f")
    fast = optimized(model)
    np.testing.assert_allclose(fast(images), model(images), rtol=1e-4, atol=1e-5)
    (program,) = [c for c in fast._nnaccel.session.programs().values() if c.segments]
    (segment,) = program.segments.values()
    return [n.op for n in segment.main.nodes if n.op not in ("transpose", "reshape", "constant")], segment


@pytest.mark.parametrize("axis", [-1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalization_goes_into_the_convolution(axis, bias):
    """Keras writes scales as vectors or as (1, 1, 1, C), by how the axis was given."""
    ops, _ = compiled([L.Conv2D(5, 3, use_bias=bias), L.BatchNormalization(axis=axis), L.ReLU()])
    assert ops == ["conv", "relu"]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("layer", [L.Conv2D(5, 3, strides=2), L.DepthwiseConv2D(3, strides=2)])
def test_zero_padding_goes_into_the_convolution(first, layer):
    layers = [L.ZeroPadding2D(((1, 2), (0, 1))), type(layer).from_config(layer.get_config())]
    ops, segment = compiled(layers if first else [L.Conv2D(4, 1), *layers])
    assert ops == (["conv"] if first else ["conv", "conv"])
    (last,) = [n for n in segment.main.nodes if n.op == "conv"][-1:]
    assert last.attrs["padding"] == ((1, 2), (0, 1))


def test_padding_that_others_read_stays():
    given = keras.Input((6, 6, 4))
    padded = L.ZeroPadding2D(1)(given)
    model = keras.Model(given, [L.Conv2D(5, 3)(padded), padded])
    images = RNG.normal(size=(2, 6, 6, 4)).astype("f")
    fast = optimized(model)
    for got, wanted in zip(fast(images), model(images), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_padding_with_another_value_stays():
    kernel = tf.constant(RNG.normal(size=(3, 3, 4, 5)).astype("f"))
    around = [[0, 0], [1, 1], [1, 1], [0, 0]]
    own = tf.function(lambda x: tf.nn.conv2d(tf.pad(x, around, constant_values=1.5), kernel, 1, "VALID"), autograph=False)
    images = tf.constant(RNG.normal(size=(2, 6, 6, 4)).astype("f"))
    np.testing.assert_allclose(optimized(own)(images), own(images), rtol=1e-4, atol=1e-5)


def test_weights_are_brought_into_the_order_that_kernels_expect():
    """TensorFlow's are (height, width, in, out): once, among what is derived from parameters."""
    _, segment = compiled([L.Conv2D(5, 3)])
    (conv,) = [n for n in segment.main.nodes if n.op == "conv"]
    weights = conv.inputs[1]
    assert weights.type.layout == (0, 1, 2, 3) and weights in segment.main.params
