"""Variables that are read together: one operation, whose values and gradients are those of reading each."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from frontend_tf.devices import optimized  # noqa: E402
from nnaccel_frontend_tf.reads import READ, read  # noqa: E402


def kinds(graph):
    return [op.type for op in graph.get_operations()]


def test_many_variables_are_read_by_one_operation():
    variables = [tf.Variable(np.full((2, k), k, "f")) for k in range(1, 5)] + [tf.Variable(7)]
    function = tf.function(lambda: read(variables), autograph=False).get_concrete_function()
    assert kinds(function.graph).count(READ) == 1 and "ReadVariableOp" not in kinds(function.graph)
    assert [t.shape for t in function.graph.outputs] == [v.shape for v in variables]
    assert set(map(id, function.variables)) == set(map(id, variables))
    for _ in range(2):
        for found, v in zip(function(), variables, strict=True):
            np.testing.assert_array_equal(found, v)
        for v in variables:
            v.assign_add(tf.ones_like(v))


def test_reading_comes_before_what_is_assigned_after_it_and_after_what_was():
    a, b = tf.Variable([1.0]), tf.Variable([10.0])

    @tf.function(autograph=False)
    def both():
        first = read([a, b])
        a.assign([2.0])
        b.assign_add([5.0])
        return first, read([a, b])

    first, second = both()
    np.testing.assert_array_equal(np.concatenate(first), [1, 10])
    np.testing.assert_array_equal(np.concatenate(second), [2, 15])


@pytest.mark.parametrize("where", ["a tape inside", "a tape around", "tf.gradients"])
def test_gradients_reach_the_variables(where):
    a, b, c = tf.Variable([2.0, 3.0]), tf.Variable([4.0, 5.0]), tf.Variable([1.0], trainable=False)

    def product():
        x, y, z = read([a, b, c])
        return tf.reduce_sum(x * x * y) + z[0]

    def inside():
        with tf.GradientTape() as tape:
            found = product()
        return tape.gradient(found, [a, b])

    if where == "a tape inside":
        found = tf.function(inside, autograph=False)()
    elif where == "tf.gradients":
        found = tf.function(lambda: tf.gradients(product(), [a.handle, b.handle]), autograph=False)()
    else:
        function = tf.function(product, autograph=False)
        with tf.GradientTape() as tape:
            result = function()
        assert {id(v) for v in tape.watched_variables()} == {id(a), id(b)}
        found = tape.gradient(result, [a, b])
    np.testing.assert_allclose(found[0], [16, 30])
    np.testing.assert_allclose(found[1], [4, 9])


def test_variables_of_other_kinds_are_read_as_tensorflow_reads_them():
    """What a variable's class adds to reading is kept, on its own or beside others."""

    class Doubled(type(tf.Variable(1.0))):
        def _dense_var_to_tensor(self, *args, **kwargs):
            return 2 * super()._dense_var_to_tensor(*args, **kwargs)

    variables = [tf.Variable(1.0), Doubled(3.0), tf.Variable(5.0)]
    function = tf.function(lambda: read(variables), autograph=False).get_concrete_function()
    assert [float(t) for t in function()] == [1.0, 6.0, 5.0]
    assert kinds(function.graph).count(READ) == 1 and kinds(function.graph).count("ReadVariableOp") == 1


def test_an_optimized_network_reads_its_variables_at_once(native):
    weights = [tf.Variable(np.random.default_rng(k).normal(size=(4, 4)).astype("f")) for k in range(3)]

    def network(x):
        for w in weights:
            x = tf.nn.relu(tf.matmul(x, w))
        return x

    fast = optimized(tf.function(network, autograph=False))
    inside = tf.function(lambda x: fast(x), autograph=False)
    x = tf.ones((2, 4))
    assert kinds(inside.get_concrete_function(x).graph).count(READ) == 1
    for _ in range(2):
        np.testing.assert_allclose(inside(x), network(x), rtol=1e-5)
        weights[1].assign(-weights[1])
