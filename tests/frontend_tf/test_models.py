"""Keras models, modules, functions and SavedModels: the same object as before, compiled."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

import nnaccel  # noqa: E402
from frontend_tf.devices import has_x86, optimized  # noqa: E402

L = keras.layers
RNG = np.random.default_rng(1)
IMAGES = RNG.normal(size=(6, 12, 12, 3)).astype("f")
LABELS = np.arange(6) % 4


def functional():
    x = given = keras.Input((12, 12, 3))
    x = L.Conv2D(8, 3, strides=2, padding="same", name="first")(x)
    x = L.BatchNormalization(momentum=0.7)(x)
    x = L.ReLU(6.0)(x)
    y = L.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    y = L.Activation("swish")(L.BatchNormalization(epsilon=0.01)(y))
    x = L.Add()([x, L.Conv2D(8, 1)(y)])
    s = L.Dense(8, activation="sigmoid")(L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x)))
    x = L.MaxPooling2D(3, 2, padding="same")(L.Multiply()([x, s]))
    x = L.Dropout(0.3)(L.Flatten()(x))
    return keras.Model(given, L.Dense(4, activation="softmax")(x))


def sequential():
    return keras.Sequential(
        [keras.Input((12, 12, 3)), L.Conv2D(8, 3, activation="relu"), L.AveragePooling2D(2), L.Flatten(), L.Dense(4, "softmax")]
    )


@keras.saving.register_keras_serializable("nnaccel-tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = L.Conv2D(8, 3, padding="same")
        self.norm = L.BatchNormalization()
        self.up = L.UpSampling2D(2, interpolation="bilinear")
        self.dense = L.Dense(4, activation="softmax")

    def call(self, x):
        x = self.up(tf.nn.relu(self.norm(self.conv(x))))
        return self.dense(tf.reduce_mean(x, [1, 2]))


def perceptron():
    given = keras.Input((12, 12, 3))
    x = L.LayerNormalization()(L.Reshape((12, 36))(given))
    x = x + L.MultiHeadAttention(2, 8)(x, x)
    return keras.Model(given, L.Dense(4, activation="softmax")(L.GlobalAveragePooling1D()(L.Dense(16, "gelu")(x))))


NETS = {"functional": functional, "sequential": sequential, "subclassed": Subclassed, "attention": perceptron}


def made(name):
    keras.utils.set_random_seed(5)
    model = NETS[name]()
    model(IMAGES)
    for v in model.variables:
        if "moving" in v.path or "gamma" in v.path:
            v.assign(RNG.uniform(0.5, 1.5, v.shape))
    return model


def again(model, values):
    for v, value in zip(model.variables, values, strict=True):
        v.assign(value)


def seeds(model):
    """Dropout draws by a counter, which a call moves on."""
    return [layer.seed_generator.state for layer in model._flatten_layers() if hasattr(layer, "seed_generator")]


def compiled_alone(model):
    report = model.nnaccel_report()
    return report["compiled_calls"] > 0 and not report["own_calls"]


@pytest.mark.parametrize("name", NETS)
def test_prediction(name):
    model = made(name)
    fast = optimized(model)
    assert type(fast).__mro__[2] is type(model) and fast.layers is not None
    np.testing.assert_allclose(fast(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fast(IMAGES[:2]), model(IMAGES[:2]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fast.predict(IMAGES, verbose=0, batch_size=4), model(IMAGES), rtol=1e-5, atol=1e-6)
    inside = tf.function(lambda x: fast(x, training=False) * 2)
    np.testing.assert_allclose(inside(IMAGES), 2 * model(IMAGES), rtol=1e-5, atol=1e-6)
    report = fast.nnaccel_report()
    assert compiled_alone(fast) and all(p == "traced by TensorFlow" for p in report["programs"]), report


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_gradients(name, training):
    model = made(name)
    fast = optimized(model)
    values, states = [v.numpy() for v in model.variables], [s.numpy() for s in seeds(model)]
    found = []
    for net in (model, fast):
        again(model, values)
        for s, v in zip(seeds(model), states, strict=True):
            s.assign(v)
        x = tf.constant(IMAGES)
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(LABELS, net(x, training=training)))
        grads = tape.gradient(loss, [x, *model.trainable_variables])
        found.append((loss, grads, [v.numpy() for v in model.non_trainable_variables]))
    (loss, grads, state), (loss2, grads2, state2) = found
    np.testing.assert_allclose(loss2, loss, rtol=1e-5)
    largest = max(float(tf.norm(g)) for g in grads)
    for v, a, b in zip(["x", *(v.path for v in model.trainable_variables)], grads, grads2, strict=True):
        assert float(tf.norm(a - b)) < 1e-4 * max(float(tf.norm(a)), 1e-2 * largest), v
    for a, b in zip(state, state2, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6)
    assert compiled_alone(fast), fast.nnaccel_report()


def test_fit_follows_the_same_way_and_weights_are_shared(tmp_path):
    histories = []
    for wrap in (lambda m: m, optimized):
        model = made("sequential")
        net = wrap(model)
        net.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
        seen = []
        callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs, seen=seen: seen.append(epoch))
        history = net.fit(IMAGES, LABELS, epochs=4, batch_size=3, shuffle=False, verbose=0, callbacks=[callback])
        assert seen == [0, 1, 2, 3]
        histories.append(history.history["loss"] + net.evaluate(IMAGES, LABELS, verbose=0))
        np.testing.assert_allclose(net.predict(IMAGES, verbose=0), model(IMAGES), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(histories[1], histories[0], rtol=1e-4)
    assert compiled_alone(net)
    net.save_weights(tmp_path / "w.weights.h5")
    other = optimized(made("sequential"))
    assert not np.allclose(other(IMAGES), net(IMAGES))
    other.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_allclose(other(IMAGES), net(IMAGES), rtol=1e-5, atol=1e-6)


def test_variables_are_live(native):
    """Written in any way, eagerly and inside functions; a program in use keeps its values while it runs."""
    model = made("sequential")
    fast = optimized(model)
    kernel = model.layers[0].kernel.value
    fast(IMAGES)

    @tf.function
    def write():
        kernel.assign_add(tf.ones_like(kernel) * 0.1)

    for change in (write, lambda: kernel.assign(kernel * 2.0), lambda: kernel.assign_sub(kernel * 0.3), write, write):
        change()
        np.testing.assert_allclose(fast(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    compiled = next(iter(fast._nnaccel.session.programs().values()))
    (segment,) = compiled.segments.values()
    before = segment.prepared.generation
    fast(IMAGES)
    assert segment.prepared.generation == before, "nothing is derived again while nothing changed"


def test_tensors_are_not_copied(native):
    """Compiled code reads TensorFlow's memory, also that of variables, and TensorFlow takes over what it wrote."""
    scale = tf.Variable(RNG.normal(size=64).astype("f"))
    fast = optimized(tf.function(lambda x: tf.nn.relu(x) * scale, autograph=False))
    x = tf.constant(RNG.normal(size=(64, 64)).astype("f"))
    fast(x)
    seen = []
    (entry,) = fast._nnaccel._entries.values()
    (segment,) = entry.compiled.segments.values()
    (built,) = segment._built.values()
    run = built.executable.run

    def watched(inputs, prepared, outputs, threads, stream):
        seen.append((*inputs, *prepared, *outputs))
        return run(inputs, prepared, outputs, threads, stream)

    built.executable.run = watched
    y = fast(x)
    assert seen == [(memory_of(x), memory_of(scale.read_value()), memory_of(y))]


def test_results_stay_and_sizes_change(native):
    model = made("functional")
    fast = optimized(model)
    first = fast(IMAGES[:2])
    kept = first.numpy().copy()
    for count in (1, 5, 2, 6):
        np.testing.assert_allclose(fast(IMAGES[:count]), model(IMAGES[:count]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(first, kept)


def test_errors_while_it_runs_are_tensorflows(native, monkeypatch):
    fast = optimized(tf.function(lambda x: tf.nn.relu(x) * 3.0, autograph=False))
    x = tf.constant(RNG.normal(size=(4, 4)).astype("f"))
    fast(x)
    (entry,) = fast._nnaccel._entries.values()
    (segment,) = entry.compiled.segments.values()

    def broken(*given, **more):
        raise ValueError("this segment is broken")

    with monkeypatch.context() as m:
        m.setattr(segment, "run", broken)
        with pytest.raises(tf.errors.InvalidArgumentError, match="this segment is broken"):
            fast(x)
    np.testing.assert_allclose(fast(x), tf.nn.relu(x) * 3.0)


def test_a_function_outlives_the_optimized_network(native):
    """What a graph needs stays with the graph."""
    import gc


    def outer_of(model):
        fast = optimized(model)
        return tf.function(lambda x: fast(x) * 2.0, autograph=False).get_concrete_function(tf.TensorSpec(IMAGES.shape))

    model = made("sequential")
    outer = outer_of(model)
    gc.collect()
    wanted = model(IMAGES) * 2.0
    np.testing.assert_allclose(outer(tf.constant(IMAGES)), wanted, rtol=1e-5, atol=1e-6)


def test_without_a_compiler_it_says_so(monkeypatch):
    from nnaccel_frontend_tf import operation

    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(operation, "DiskCache", lambda: type("Empty", (), {"get": lambda *a: None})())
    with pytest.raises(operation.Unavailable, match="no-such-compiler"):
        operation.build()
    monkeypatch.setattr(operation._State, "operation", None)
    monkeypatch.setattr(operation._State, "why", None)
    fast = optimized(tf.function(lambda x: tf.nn.relu(x) * 3.0, autograph=False))
    np.testing.assert_allclose(fast(IMAGES), tf.nn.relu(IMAGES) * 3.0)
    assert any("numpy_function" in n and "no-such-compiler" in n for n in nnaccel.explain(fast).notes)


def memory_of(tensor) -> int:
    return np.frombuffer(memoryview(tensor), np.float32).__array_interface__["data"][0]


def test_function_keeps_its_signature():
    @tf.function
    def f(x, scale, *, more=None, names=("a", "b")):
        y = tf.nn.relu(x) * scale
        return {names[0]: y, names[1]: (y + (0.0 if more is None else more["m"]), None, 7)}

    fast = optimized(f)
    x = tf.constant(RNG.normal(size=(3, 4)).astype("f"))
    calls = [((x, 2.0), {}), ((x, tf.constant(3.0)), {"more": {"m": x}}), ((x,), {"scale": 2.0, "names": ("p", "q")})]
    for args, kwargs in calls:
        got, want = fast(*args, **kwargs), f(*args, **kwargs)
        tf.nest.assert_same_structure(got, want)
        for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(want), strict=True):
            np.testing.assert_allclose(a, b) if isinstance(b, tf.Tensor) else None
            assert isinstance(b, tf.Tensor) or a == b
    assert compiled_alone(fast)
    with pytest.raises(TypeError):
        fast(x)


def test_control_flow_stays_in_tensorflow_between_compiled_parts():
    @tf.function
    def f(x):
        x = tf.nn.relu(x) * 2.0
        if tf.reduce_sum(x) > 1.0:
            x = x * 3.0
        else:
            x = x - 1.0
        for _ in tf.range(3):
            x = x + tf.atan(x)
        return tf.nn.softmax(x)

    fast = optimized(f)
    for sign in (1.0, -1.0):
        x = tf.constant(np.abs(RNG.normal(size=(3, 4)).astype("f")) * sign)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            got, want = fast(x), f(x)
            a, b = tf.reduce_sum(got[:, 0]), tf.reduce_sum(want[:, 0])
        np.testing.assert_allclose(got, want, rtol=1e-5)
        np.testing.assert_allclose(tape.gradient(a, x), tape.gradient(b, x), rtol=1e-4, atol=1e-6)
    notes = "\n".join(nnaccel.explain(fast, x).notes)
    assert "If" in notes and "While" in notes and compiled_alone(fast)


def test_module_and_saved_model(tmp_path):
    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(RNG.normal(size=(3, 3, 3, 5)).astype("f"))
            self.scale = 3.0

        @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3])])
        def __call__(self, x):
            return tf.nn.relu(tf.nn.conv2d(x, self.w, 2, "SAME")) * self.scale

        @tf.function(input_signature=[tf.TensorSpec([None, 12, 12, 3], name="image")])
        def serve(self, image):
            return {"mean": tf.reduce_mean(self(image), [1, 2])}

    net = Net()
    fast = optimized(net)
    np.testing.assert_allclose(fast(IMAGES), net(IMAGES), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(fast.serve(IMAGES)["mean"], net.serve(IMAGES)["mean"], rtol=1e-5, atol=1e-5)
    assert fast.scale == 3.0 and fast.w is net.w and compiled_alone(fast) and compiled_alone(fast.serve)
    tf.saved_model.save(net, str(tmp_path / "net"), signatures={"serving_default": net.serve})
    loaded = optimized(str(tmp_path / "net"))
    np.testing.assert_allclose(loaded(IMAGES), net(IMAGES), rtol=1e-5, atol=1e-5)
    got = loaded.signatures["serving_default"](image=tf.constant(IMAGES))
    np.testing.assert_allclose(got["mean"], net.serve(IMAGES)["mean"], rtol=1e-5, atol=1e-5)
    assert compiled_alone(loaded) and compiled_alone(loaded.signatures["serving_default"])


def test_gradients_of_functions_that_were_traced_without_a_tape():
    """Whether a function's result will be differentiated is not known when it is traced."""
    model = made("sequential")
    fast = optimized(model)
    x = tf.constant(IMAGES)
    grads = []
    for net in (model, fast):
        inner = tf.function(lambda x, net=net: net(x, training=False))
        inner(x)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(inner(x)[:, 1])
        grads.append(tape.gradient(loss, model.trainable_variables))
    for a, b in zip(*grads, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    assert compiled_alone(fast)


@pytest.mark.slow
@pytest.mark.skipif(not has_x86(), reason="the x86 backend is not installed or can't run here")
@pytest.mark.parametrize("name", ["functional", "attention"])
def test_on_the_cpu(name):
    model = made(name)
    fast = nnaccel.optimize(model)
    np.testing.assert_allclose(fast(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-5)
    fast.compile("adam", "sparse_categorical_crossentropy")
    history = fast.fit(IMAGES, LABELS, epochs=6, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    np.testing.assert_allclose(fast.predict(IMAGES, verbose=0), model(IMAGES), rtol=1e-4, atol=1e-5)
    text = str(nnaccel.explain(fast, IMAGES))
    assert "conv" in text or "matmul" in text
    assert compiled_alone(fast)
