"""TensorFlow and PyTorch in one environment, and each without the other."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from frontend_tf.devices import has_x86

pytestmark = pytest.mark.skipif(not has_x86(), reason="the x86 backend is not installed or can't run here")

TENSORFLOW = """
import tensorflow as tf
weights = tf.Variable(tf.random.normal((5, 4)))
net = tf.function(lambda x: tf.nn.relu(x @ weights) + 1.0, autograph=False)
fast = nnaccel.optimize(net)
for rows in (3, 7):
    x = tf.random.normal((rows, 5))
    assert float(tf.reduce_max(tf.abs(fast(x) - net(x)))) < 1e-5
assert not fast.nnaccel_report()["own_calls"], fast.nnaccel_report()
"""
TORCH = """
import torch
net = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.ReLU()).eval()
fast = nnaccel.optimize(net)
with torch.no_grad():
    for rows in (3, 7):
        x = torch.randn(rows, 5)
        assert (fast(x) - net(x)).abs().max() < 1e-5
"""
HIDDEN = """
import importlib.machinery, sys
finder = importlib.machinery.PathFinder
def find(name, path=None, target=None, own=finder.find_spec):
    return None if name.partition(".")[0] in {names} else own(name, path, target)
finder.find_spec = staticmethod(find)
"""


def run(*parts: str, hidden: tuple[str, ...] = ()) -> None:
    """Run ``parts`` in a process for which what is ``hidden`` is not installed."""
    code = HIDDEN.format(names=hidden) + "import nnaccel\n" + "".join(parts)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


def need(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


def test_tensorflow_alone():
    need("tensorflow")
    run(TENSORFLOW, hidden=("torch", "onnx", "cupy"))


def test_torch_alone():
    need("torch")
    run(TORCH, hidden=("tensorflow", "keras", "onnx", "cupy"))


@pytest.mark.parametrize("order", [(TENSORFLOW, TORCH), (TORCH, TENSORFLOW)], ids=["tensorflow-torch", "torch-tensorflow"])
def test_both(order):
    need("tensorflow")
    need("torch")
    run(*order)
    run(*order[:1], f"assert {'torch' if order[0] is TENSORFLOW else 'tensorflow'!r} not in sys.modules\n")
