"""Each mapped operation against TensorFlow, results and gradients, on the operators' references."""

from __future__ import annotations

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from frontend_tf.devices import optimized  # noqa: E402

RNG = np.random.default_rng(0)


def draw(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(np.float32)


IMAGE = draw(2, 9, 8, 4)
KERNEL = tf.constant(draw(3, 3, 4, 6))
DEEP = tf.constant(draw(3, 2, 4, 2))
MATRIX = draw(3, 5)
BIAS = tf.constant(draw(4))
POSITIVE = draw(3, 5, low=0.2)


def conv(stride, padding, dilation=1, kernel=KERNEL):
    return lambda x: tf.nn.conv2d(x, kernel, stride, padding, dilations=dilation)


def fused(training: bool):
    scale, offset, mean, var = (tf.constant(draw(4, low=0.5)) for _ in range(4))

    def run(x):
        given = () if training else (mean, var)
        results = tf.compat.v1.nn.fused_batch_norm(x, scale, offset, *given, epsilon=0.01, is_training=training)
        return results if training else results[0]

    return run


def moments(x):
    mean, var = tf.nn.moments(x, [0, 1, 2])
    return tf.nn.batch_normalization(x, mean, var, BIAS, tf.abs(BIAS) + 0.5, 1e-3), mean, var


def old_resize(name: str, **how):
    return lambda x: getattr(tf.raw_ops, name)(images=x, size=[5, 13], **how)


#: name: (function, inputs, whether gradients are compared)
CASES = {
    "conv_valid": (conv(1, "VALID"), [IMAGE], True),
    "conv_same": (conv(1, "SAME"), [IMAGE], True),
    "conv_same_stride2": (conv(2, "SAME"), [IMAGE], True),
    "conv_same_stride3": (conv(3, "SAME"), [IMAGE], True),
    "conv_dilated": (conv(1, "SAME", 2), [IMAGE], False),  # TensorFlow has no gradient of it on CPUs
    "conv_explicit": (conv(2, [[0, 0], [1, 2], [0, 1], [0, 0]]), [IMAGE], True),
    "conv_grouped": (conv(1, "SAME", 1, tf.constant(draw(3, 3, 2, 6))), [IMAGE], False),
    "conv1d": (lambda x: tf.nn.conv1d(x, tf.constant(RNG.normal(size=(3, 4, 5)).astype("f")), 2, "SAME"), [draw(2, 9, 4)], True),
    "conv3d": (lambda x: tf.nn.conv3d(x, KERNEL[None], [1, 1, 2, 2, 1], "SAME"), [IMAGE[:, None]], True),
    "depthwise": (lambda x: tf.nn.depthwise_conv2d(x, DEEP, [1, 1, 1, 1], "SAME"), [IMAGE], True),
    "depthwise_stride": (lambda x: tf.nn.depthwise_conv2d(x, DEEP, [1, 2, 2, 1], "SAME"), [IMAGE], True),
    "depthwise_dilated": (lambda x: tf.nn.depthwise_conv2d(x, DEEP, [1] * 4, "SAME", dilations=[2, 2]), [IMAGE[:, :8]], False),
    "separable": (lambda x: tf.nn.separable_conv2d(x, DEEP, tf.ones([1, 1, 8, 3]), [1, 1, 1, 1], "VALID"), [IMAGE], True),
    "transposed_same": (lambda x: tf.nn.conv2d_transpose(x, KERNEL, [2, 17, 16, 4], 2, "SAME"), [draw(2, 9, 8, 6)], True),
    "transposed_valid": (lambda x: tf.nn.conv2d_transpose(x, KERNEL, [2, 20, 17, 4], 2, "VALID"), [draw(2, 9, 8, 6)], True),
    "bias_add": (lambda x: tf.nn.bias_add(x, BIAS), [IMAGE], True),
    "matmul": (lambda a, b: tf.matmul(a, b, transpose_b=True), [MATRIX, draw(4, 5)], True),
    "batch_matmul": (lambda a, b: tf.matmul(a, b, adjoint_a=True), [draw(2, 3, 4, 5), draw(3, 4, 6)], True),
    "einsum": (lambda a, b: tf.einsum("abc,cde->abde", a, b), [draw(2, 3, 4), draw(4, 5, 6)], True),
    "einsum_ellipsis": (lambda a, b: tf.einsum("...ij,...jk->...ik", a, b), [draw(2, 3, 4), draw(2, 4, 5)], True),
    "einsum_attention": (lambda a, b: tf.einsum("aecd,abcd->acbe", a, b), [draw(2, 3, 4, 5), draw(2, 6, 4, 5)], True),
    "max_pool_same": (lambda x: tf.nn.max_pool2d(x, 3, 2, "SAME"), [IMAGE], True),
    "max_pool_valid": (lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"), [IMAGE], True),
    "max_pool1d": (lambda x: tf.nn.max_pool1d(x, 3, 2, "SAME"), [draw(2, 9, 4)], True),
    "avg_pool_same": (lambda x: tf.nn.avg_pool2d(x, 3, 2, "SAME"), [IMAGE], True),
    "avg_pool3d": (lambda x: tf.nn.avg_pool3d(x, 2, 1, "SAME"), [IMAGE[:, None]], True),
    "batch_norm": (fused(False), [IMAGE], True),
    "batch_norm_training": (fused(True), [IMAGE], True),
    "moments": (moments, [IMAGE], True),
    "moments_of_rows": (lambda x: tf.nn.batch_normalization(x, *tf.nn.moments(x, [0]), None, None, 1e-3), [draw(7, 4)], True),
    "lrn": (lambda x: tf.nn.lrn(x, 2, bias=1.5, alpha=0.3, beta=0.7), [IMAGE], True),
    **{name: (getattr(tf.nn, name), [MATRIX], True) for name in ("relu", "relu6", "elu", "selu", "softplus", "softsign", "silu")},
    "relu6_wide": (tf.nn.relu6, [MATRIX * 5], True),
    "leaky_relu": (lambda x: tf.nn.leaky_relu(x, 0.3), [MATRIX], True),
    "gelu": (tf.nn.gelu, [MATRIX], True),
    "gelu_tanh": (lambda x: tf.nn.gelu(x, approximate=True), [MATRIX], True),
    "softmax": (tf.nn.softmax, [MATRIX], True),
    "softmax_axis": (lambda x: tf.nn.softmax(x, 1), [IMAGE], True),
    "log_softmax": (tf.nn.log_softmax, [MATRIX], True),
    **{
        name: (getattr(tf, name), [MATRIX], True)
        for name in ("exp", "tanh", "sigmoid", "sin", "cos", "abs", "square", "negative", "sinh", "cosh", "tan")
    },
    **{
        name: (getattr(tf.math, name), [POSITIVE], True)
        for name in ("log", "log1p", "sqrt", "rsqrt", "reciprocal", "erf", "expm1")
    },
    **{
        name: (getattr(tf.math, name), [MATRIX], False)
        for name in ("floor", "ceil", "round", "sign", "is_nan", "is_inf", "is_finite")
    },
    "erfc": (tf.math.erfc, [MATRIX], True),
    **{
        name: (getattr(tf.math, name), [MATRIX, POSITIVE], True)
        for name in (
            "add", "subtract", "multiply", "divide", "maximum", "minimum", "squared_difference", "divide_no_nan", "floormod",
        )
    },
    **{
        name: (getattr(tf.math, name), [MATRIX, POSITIVE], False)
        for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "floordiv")
    },
    "divide_by_nothing": (lambda a: tf.math.divide_no_nan(a, tf.nn.relu(a)), [MATRIX], False),
    "pow": (tf.pow, [POSITIVE, MATRIX], True),
    "pow_constant": (lambda x: x**2 + x**3 + tf.abs(x) ** 0.5, [MATRIX], True),
    "add_n": (lambda a, b: tf.add_n([a, b, a]), [MATRIX, POSITIVE], True),
    "integers": (lambda a: a // 3 + a % 4 - a * a, [np.arange(-6, 6, dtype=np.int32)], False),
    "logic": (lambda x: tf.logical_and(x > 0, tf.logical_not(x > 1)) | (x < -1), [MATRIX], False),
    "where": (lambda a, b: tf.where(a > 0, a, b), [MATRIX, POSITIVE], True),
    "where_row": (lambda a, b: tf.where(a > 0, 1.0, b[:, :1]), [MATRIX, POSITIVE], True),
    "clip": (lambda x: tf.clip_by_value(x, -0.5, 1.0), [MATRIX], True),
    "clip_to_tensors": (lambda x, y: tf.clip_by_value(x, -y, y), [MATRIX, POSITIVE], False),
    "cast": (lambda x: (tf.cast(x * 50, tf.int32), tf.cast(x, tf.float64), tf.cast(x, tf.bool)), [MATRIX], False),
    "like": (lambda x: tf.zeros_like(x) + tf.ones_like(x) * 3 + x, [MATRIX], True),
    "mean": (lambda x: tf.reduce_mean(x, [1, 2]), [IMAGE], True),
    "mean_keep": (lambda x: tf.reduce_mean(x, [1, 2], keepdims=True), [IMAGE], True),
    "sum": (lambda x: tf.reduce_sum(x, -1), [IMAGE], True),
    "max": (lambda x: tf.reduce_max(x, [1]), [IMAGE], True),
    "min": (lambda x: tf.reduce_min(x), [IMAGE], True),
    "prod": (lambda x: tf.reduce_prod(x, 1), [MATRIX], False),
    "truth": (lambda x: (tf.reduce_all(x > -1, 1), tf.reduce_any(x > 1, 0)), [MATRIX], False),
    "arg": (lambda x: (tf.argmax(x, 1), tf.argmin(x, 2, output_type=tf.int32)), [IMAGE], False),
    "l2_loss": (tf.nn.l2_loss, [MATRIX], True),
    "l2_normalize": (lambda x: tf.math.l2_normalize(x, -1), [MATRIX], True),
    "reshape": (lambda x: tf.reshape(x, [tf.shape(x)[0], -1, 2]), [IMAGE], True),
    "transpose": (lambda x: tf.transpose(x, [0, 3, 1, 2]), [IMAGE], True),
    "squeeze": (lambda x: tf.squeeze(x[:, :1], [1]), [IMAGE], True),
    "expand": (lambda x: tf.expand_dims(x, -2), [MATRIX], True),
    "concat": (lambda a, b: tf.concat([a, b, a], -1), [MATRIX, POSITIVE], True),
    "stack": (lambda a, b: tf.stack([a, b], 1), [MATRIX, POSITIVE], True),
    "unstack": (lambda x: tf.add_n(tf.unstack(x, axis=-1)), [IMAGE], True),
    "split": (lambda x: tf.split(x, 2, -1)[1] + tf.split(x, [1, 2, 1], -1)[1], [IMAGE], True),
    "slice": (lambda x: tf.slice(x, [0, 1, 2, 0], [-1, 3, 4, 2]), [IMAGE], True),
    "index": (lambda x: x[:, 1:-1, ::2, 1], [IMAGE], True),
    "index_new": (lambda x: x[..., None, 1:3], [IMAGE], True),
    "index_back": (lambda x: x[:, ::-2, -3:], [IMAGE], True),
    "pad": (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], constant_values=0.5), [IMAGE], True),
    "pad_reflect": (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], "REFLECT"), [IMAGE], True),
    "pad_symmetric": (lambda x: tf.pad(x, [[0, 0], [1, 2], [0, 1], [0, 0]], "SYMMETRIC"), [IMAGE], True),
    "tile": (lambda x: tf.tile(x, [1, 3]), [MATRIX], True),
    "broadcast": (lambda x: tf.broadcast_to(x[:, None], [3, 4, 5]), [MATRIX], True),
    "fill": (lambda x: tf.fill([tf.shape(x)[0], 2], 3.0) + x[:, :2], [MATRIX], True),
    "range": (lambda x: x + tf.cast(tf.range(tf.shape(x)[1]), tf.float32), [MATRIX], True),
    "size_as_number": (lambda x: x / tf.cast(tf.shape(x)[0], tf.float32), [MATRIX], True),
    "depth_to_space": (lambda x: tf.nn.depth_to_space(x, 2), [IMAGE], True),
    "space_to_depth": (lambda x: tf.nn.space_to_depth(x, 2), [IMAGE[:, :8]], True),
    "space_to_batch": (lambda x: tf.batch_to_space(tf.space_to_batch(x, [2, 2], [[0, 1], [0, 0]]) * 2.0, [2, 2], [[0, 1], [0, 0]]), [IMAGE], True),  # noqa: E501
    "gather": (lambda x: tf.gather(x, [2, 0, 2], axis=1), [IMAGE], False),
    "gather_one": (lambda x: tf.gather(x, 1, axis=2), [IMAGE], True),
    "gather_nd": (lambda x: tf.gather_nd(x, [[0, 1], [2, 4]]), [MATRIX], False),
    "one_hot": (lambda i: tf.one_hot(i, 6, 2.0, -1.0), [np.array([1, 5, 0, 7], np.int32)], False),
    "reverse": (lambda x: tf.reverse(x, [1, 3]), [IMAGE], True),
    "cumsum": (lambda x: tf.cumsum(x, 1, exclusive=True, reverse=True), [MATRIX], False),
    "top_k": (lambda x: tuple(tf.math.top_k(x, 2)), [MATRIX], False),
    "stop_gradient": (lambda x: x * tf.stop_gradient(x), [MATRIX], True),
    "resize_bilinear": (lambda x: tf.image.resize(x, [5, 13]), [IMAGE], True),
    "resize_bilinear_old": (old_resize("ResizeBilinear", half_pixel_centers=False), [IMAGE], False),
    "resize_bilinear_corners": (old_resize("ResizeBilinear", align_corners=True), [IMAGE], False),
    "resize_nearest": (lambda x: tf.image.resize(x, [5, 13], "nearest"), [IMAGE], False),
    "resize_nearest_whole": (lambda x: tf.image.resize(x, [18, 24], "nearest"), [IMAGE], True),
    "resize_nearest_old": (old_resize("ResizeNearestNeighbor"), [IMAGE], False),
    "resize_nearest_corners": (old_resize("ResizeNearestNeighbor", align_corners=True), [IMAGE], False),
    "resize_bicubic": (lambda x: tf.image.resize(x, [5, 13], "bicubic"), [IMAGE], False),
    "resize_bicubic_old": (old_resize("ResizeBicubic"), [IMAGE], False),
}


def close(got, want, scale=1.0):
    for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.is_floating:
            largest = max(1.0, float(np.abs(np.nan_to_num(b)).max(initial=0)))
            np.testing.assert_allclose(a, b, rtol=2e-5 * scale, atol=4e-6 * largest * scale)
        else:
            np.testing.assert_array_equal(a, b)


def weights(r):
    """Another one for each element."""
    return tf.cos(tf.cast(tf.reshape(tf.range(tf.size(r)), r.shape), r.dtype))


@pytest.mark.parametrize("name", CASES)
def test_operation(name):
    function, inputs, differentiable = CASES[name]
    own = tf.function(function, autograph=False)
    fast = optimized(own)
    tensors = [tf.constant(x) for x in inputs]
    close(fast(*tensors), own(*tensors))
    report = fast.nnaccel_report()
    assert not report["own_calls"] and report["programs"] == ["traced by TensorFlow"], report
    if differentiable:
        grads = []
        for f in (own, fast):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                results = tf.nest.flatten(f(*tensors))
                loss = tf.add_n([tf.reduce_sum(r * weights(r)) for r in results])
            grads.append(tape.gradient(loss, tensors, unconnected_gradients="zero"))
        close(grads[1], grads[0], scale=10.0)
        assert not fast.nnaccel_report()["own_calls"]
