"""Passes over what was imported, before the core's own: what is particular to graphs of TensorFlow."""

from __future__ import annotations

from collections.abc import Callable

from nnaccel_core.ir import Graph
from nnaccel_core.passes.fold import fold_bias
from nnaccel_frontend_tf.passes.normalization import find_batch_norm
from nnaccel_frontend_tf.passes.pads import fold_pads
from nnaccel_frontend_tf.passes.transposes import sink_transposes

#: Run in this order on each segment.
PASSES: tuple[tuple[str, Callable[[Graph], Graph]], ...] = (
    ("find_batch_norm", find_batch_norm),
    ("sink_transposes", sink_transposes),
    ("fold_pads", fold_pads),
    # Before the core's own passes, which fold batch normalization first: biases in front of it are common in Keras.
    ("fold_bias", fold_bias),
)
