"""How segments come into TensorFlow's graphs, for tests of both ways."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["native operation", "numpy_function"])
def native(request, monkeypatch):
    """Whether segments are the native operation, or a `tf.numpy_function`."""
    from nnaccel_frontend_tf import operation, runner, training

    if request.param == "numpy_function":
        for module in (runner, training):
            monkeypatch.setattr(module, "operation", lambda: None)
    elif operation.operation() is None:
        pytest.skip(operation.why_not())
    return request.param == "native operation"
