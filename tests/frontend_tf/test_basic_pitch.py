"""A SavedModel with trained weights: Spotify's basic-pitch (Bittner et al. 2022) writes down a melody as TensorFlow does.

Of that package only the folder of the model is read: pip install --no-deps basic-pitch
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

import nnaccel  # noqa: E402
from frontend_tf.devices import has_x86, optimized  # noqa: E402
from nnaccel_frontend_tf.function import load  # noqa: E402

#: What the network takes: about two seconds of sound, and what it tells: 88 piano keys from A0 (MIDI 21) on, 86 times a second.
RATE, SAMPLES, LOWEST = 22050, 43844, 21
#: MIDI numbers, half a second each.
MELODIES = ((60, 64, 67), (69, 62, 76))


def folder() -> Path:
    found = importlib.util.find_spec("basic_pitch")
    if found is None or not found.submodule_search_locations:
        pytest.skip("basic-pitch is not installed (pip install --no-deps basic-pitch)")
    return Path(found.submodule_search_locations[0]) / "saved_models" / "icassp_2022" / "nmp"


def sound(melody) -> np.ndarray:
    """Each note with six harmonics that die away, one after the other."""
    length = RATE // 2
    t = np.arange(length) / RATE
    out = np.zeros(SAMPLES)
    for k, midi in enumerate(melody):
        pitch = 440.0 * 2 ** ((midi - 69) / 12)
        tone = sum(np.sin(2 * np.pi * h * pitch * t) * 0.6**h for h in range(1, 7))
        out[2000 + k * length :][:length] = tone * np.exp(-3 * t) * np.minimum(1, t / 0.01) * 0.4
    return out.astype("f")[:, None]


def notes(posterior) -> list[tuple[int, int, int]]:
    """(key, first frame, last frame) of each run of six frames or more in which a key is more likely pressed than not."""
    found = []
    for key, likely in enumerate((np.asarray(posterior) > 0.5).T):
        edges = np.flatnonzero(np.diff(np.concatenate(([False], likely, [False])).astype(int)))
        found += [(key + LOWEST, int(a), int(b) - 1) for a, b in edges.reshape(-1, 2) if b - a >= 6]
    return sorted(found, key=lambda n: n[1])


def write_out(graph, node):
    """Arithmetic in place of a batch normalization of predictions, which TensorFlow has none of in double precision."""
    assert not node.attr["is_training"].b and node.attr["data_format"].s == b"NHWC"
    x, scale, shift, mean, variance = node.input
    kind, name = node.attr["T"], node.name
    epsilon = graph.node.add(name=f"{name}/epsilon", op="Const")
    epsilon.attr["dtype"].CopyFrom(kind)
    epsilon.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(node.attr["epsilon"].f))
    node.Clear()
    for op, into, *of in (
        ("AddV2", f"{name}/sum", variance, epsilon.name),
        ("Rsqrt", f"{name}/root", f"{name}/sum"),
        ("Mul", f"{name}/scale", f"{name}/root", scale),
        ("Sub", f"{name}/centered", x, mean),
        ("Mul", f"{name}/scaled", f"{name}/centered", f"{name}/scale"),
        ("AddV2", name, f"{name}/scaled", shift),
    ):
        made = node if into == name else graph.node.add()
        made.name, made.op = into, op
        made.input.extend(of)
        made.attr["T"].type = tf.float32.as_datatype_enum


def in_float64(function):
    """The graph of a signature with every number of single precision in double: what TensorFlow's own error is measured by."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function)
    graph = frozen.graph.as_graph_def()
    assert not graph.library.function, "functions would keep single precision"
    for node in list(graph.node):
        if node.op == "FusedBatchNormV3":
            write_out(graph, node)
    single, double = tf.float32.as_datatype_enum, tf.float64.as_datatype_enum
    for node in list(graph.node):
        if node.op == "ReadVariableOp":
            cast = graph.node.add(name=node.name, op="Cast", input=[f"{node.name}/single"])
            cast.attr["SrcT"].type, cast.attr["DstT"].type = single, double
            node.name = cast.input[0]
        if node.op in ("ReadVariableOp", "VarHandleOp"):
            continue
        for attr in node.attr.values():
            if attr.type == single:
                attr.type = double
            if attr.HasField("list"):
                attr.list.type[:] = [double if t == single else t for t in attr.list.type]
            if attr.HasField("tensor") and attr.tensor.dtype == single:
                attr.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(attr.tensor).astype("f8")))
    (given,), results = frozen.inputs, [t.name for t in frozen.outputs]

    @tf.function(autograph=False)
    def run(x):
        return tf.import_graph_def(graph, {given.name: x}, results)

    return lambda x: dict(zip(sorted(function.structured_outputs), run(tf.cast(x, tf.float64)), strict=True))


@pytest.mark.parametrize("device", ["references", "cpu"])
def test_the_same_notes(device):
    path = folder()
    if device == "cpu" and not has_x86():
        pytest.skip("the x86 backend is not installed or can't run here")
    own = load(str(path))
    fast = nnaccel.optimize(str(path)) if device == "cpu" else optimized(str(path))
    exact = in_float64(own.signatures["serving_default"])
    batch = tf.constant(np.stack([sound(m) for m in MELODIES]))
    for given in (batch, batch[1:]):
        wanted = own.signatures["serving_default"](given)
        got = fast.signatures["serving_default"](given)
        assert set(got) == set(wanted)
        judge = exact(given)
        assert set(judge) == set(wanted)
        for name, right in judge.items():
            theirs, ours = (np.abs(found[name].numpy() - right.numpy()).max() for found in (wanted, got))
            assert theirs < 1e-2, "the network in double precision is another one"
            assert ours <= max(4 * theirs, 1e-6), (name, ours, theirs)
        key = next(k for k in wanted if wanted[k].shape[-1] == 88 and notes(wanted[k][0]))
        for k in range(len(given)):
            assert notes(got[key][k]) == notes(wanted[key][k])
    heard = [{n for n, _, _ in notes(got_k)} for got_k in fast.signatures["serving_default"](batch)[key]]
    assert heard == [set(m) for m in MELODIES]
    report = next(iter(fast.signatures.values())).nnaccel_report()
    assert not report["own_calls"] and report["compiled_calls"] == 3, report
