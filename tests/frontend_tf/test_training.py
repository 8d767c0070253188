"""Training steps inside TensorFlow's graphs: what the forward pass keeps, and variables that change between any two calls."""

from __future__ import annotations

import gc

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

from frontend_tf.devices import optimized  # noqa: E402

L = keras.layers
RNG = np.random.default_rng(1)
IMAGES = RNG.normal(size=(6, 8, 8, 3)).astype("f")


def network():
    keras.utils.set_random_seed(5)
    first, second = L.Conv2D(8, 3, activation="relu"), L.Conv2D(8, 3, activation="swish")
    return keras.Sequential([keras.Input((8, 8, 3)), first, L.BatchNormalization(), second, L.Flatten(), L.Dense(3)])


def step_of(net, variables, rate=0.05):
    """A training step as one function; gives the loss."""

    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(net(x, training=True) - 1.0))
        for v, g in zip(variables, tape.gradient(loss, variables), strict=True):
            v.assign_sub(rate * g)
        return loss

    return step


def held():
    """How much is kept for gradients now."""
    from nnaccel_frontend_tf import operation

    gc.collect()
    found = operation.operation()
    found.let_go()
    return len(operation._kept)


def test_steps_go_the_same_way(native):
    losses = []
    for wrap in (lambda m: m, optimized):
        model = network()
        step = step_of(wrap(model), model.trainable_variables)
        losses.append([float(step(IMAGES)) for _ in range(5)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert losses[0][-1] < 0.9 * losses[0][0]


def test_nothing_is_kept_longer_than_its_tape(native):
    if not native:
        pytest.skip("TensorFlow's own tensors")
    model = network()
    fast = optimized(model)
    step = step_of(fast, model.trainable_variables)
    before = held()
    for _ in range(4):
        step(IMAGES)
        assert held() == before
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fast(IMAGES, training=True))
    assert held() == before + 1
    tape.gradient(loss, model.trainable_variables)
    del tape
    assert held() == before
    # Two passes at a time, the memory of each its own; a tape that is asked twice.
    with tf.GradientTape(persistent=True) as tape:
        first, second = (tf.reduce_sum(fast(x, training=False) ** 2) for x in (IMAGES, 2 * IMAGES))
    with tf.GradientTape(persistent=True) as own:
        wanted = [tf.reduce_sum(model(x, training=False) ** 2) for x in (IMAGES, 2 * IMAGES)]
    assert held() == before + 2
    for loss, want in ((second, wanted[1]), (first, wanted[0]), (second, wanted[1])):
        pairs = zip(tape.gradient(loss, model.trainable_variables), own.gradient(want, model.trainable_variables), strict=True)
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(tf.abs(b))))
    del tape
    assert held() == before


def test_memory_of_a_step_is_used_again(native):
    """Fresh memory costs a page fault every few kilobytes; and a prediction gives back what waits for the next step."""
    if not native:
        pytest.skip("TensorFlow's own tensors")
    model = network()
    fast = optimized(model)
    step = step_of(fast, model.trainable_variables)
    entry, seen = None, []
    for _ in range(3):
        step(IMAGES)
        (entry,) = fast._nnaccel._entries.values()
        (node,) = entry.runner.nodes.values()
        (passes,) = node.passes.values()
        held()
        ((_, tensors),) = passes.segment._blocks._waiting
        seen.append([t.ctypes.data for t in tensors])
    assert seen[0] == seen[1] == seen[2] and seen[0]
    fast(IMAGES, training=True)
    assert not passes.segment._blocks._waiting


def test_variables_that_are_not_trained_are_live(native):
    """Also where they change between two steps."""
    model = network()
    fast = optimized(model)
    model.layers[0].trainable = False
    trained = model.trainable_variables
    fast_step = step_of(fast, trained, 0.0)
    own_step = step_of(model, trained, 0.0)
    for scale in (1.0, 2.0, -0.5):
        model.layers[0].kernel.assign(model.layers[0].kernel * scale)
        statistics = [v.numpy() for v in model.layers[1].non_trainable_variables]
        want = float(own_step(IMAGES))
        for v, value in zip(model.layers[1].non_trainable_variables, statistics, strict=True):
            v.assign(value)
        np.testing.assert_allclose(float(fast_step(IMAGES)), want, rtol=1e-4)
        np.testing.assert_allclose(fast(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    assert not fast.nnaccel_report()["own_calls"]


def test_second_derivatives_are_refused(native):
    fast = optimized(tf.function(lambda x: tf.nn.sigmoid(x) * 3.0, autograph=False))
    x = tf.constant(IMAGES)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = fast(x)
        grad = inner.gradient(y, x)
    np.testing.assert_allclose(grad, 3.0 * tf.nn.sigmoid(x) * (1 - tf.nn.sigmoid(x)), rtol=1e-4, atol=1e-6)
    with pytest.raises(tf.errors.UnimplementedError, match="second derivatives"):
        outer.gradient(grad, x)


def test_gradients_in_loops_of_tensorflow(native):
    """What a pass keeps waits in TensorFlow's lists until the loop goes backwards."""
    model = network()
    fast = optimized(model)
    found = []
    for net in (model, fast):

        @tf.function
        def total(x, net=net):
            out = 0.0
            for k in tf.range(3):
                out += tf.reduce_sum(net(x * tf.cast(k + 1, tf.float32), training=False) ** 2)
            return out

        with tf.GradientTape() as tape:
            loss = total(IMAGES)
        found.append(tape.gradient(loss, model.trainable_variables))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-3, atol=1e-4 * float(tf.reduce_max(tf.abs(a))))
