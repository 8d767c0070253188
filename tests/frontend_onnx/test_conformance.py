"""ONNX's conformance tests: all 2,024 on the operators' references, on the loop IR's interpreter and on the x86 backend."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from frontend_onnx import conformance
from frontend_onnx.conformance import cases, run_case
from frontend_onnx.devices import has_x86

#: Small tests of many kinds of operators, for devices that compile.
CHOSEN = (
    "test_relu", "test_basic_conv_with_padding", "test_maxpool_2d_same_upper", "test_averagepool_2d_ceil",
    "test_batchnorm_example", "test_gemm_default_vector_bias", "test_softmax_axis_1", "test_resize_upsample_scales_linear",
    "test_slice_neg_steps", "test_reduce_log_sum_exp_default_axes_keepdims_example", "test_clip_default_inbounds",
    "test_gather_2d_indices", "test_where_example", "test_layer_normalization_2d_axis1", "test_einsum_batch_matmul",
    "test_top_k", "test_scatternd_add", "test_quantizelinear", "test_lstm_with_initial_bias", "test_gru_seq_length",
    "test_simple_rnn_batchwise", "test_batchnorm_example_training_mode",
)  # fmt: skip


@functools.cache
def all_cases():
    return {c.name: c for c in cases()}


def outcomes(names, device):
    return [run_case(all_cases()[name], device) for name in names]


def start(device, file, *options):
    """A process that runs all tests on ``device`` and keeps their outcomes in ``file``."""
    command = [sys.executable, conformance.__file__, f"--device={device}", f"--json={file}", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check_all(process, file):
    told, _ = process.communicate()
    assert process.returncode in (0, 1), told
    (found,) = conformance.read([str(file)]).values()
    assert len(found) == 2024
    assert not [f"{o.name}: {o.why}" for o in found if o.ending == "failed"]
    assert sum(o.ending == "compiled" for o in found) >= 1400


def test_every_fortieth_on_the_references():
    found = outcomes(list(all_cases())[::40], "reference")
    assert not [f"{o.name}: {o.why}" for o in found if o.ending == "failed"]
    assert sum(o.ending == "compiled" for o in found) > 0.6 * len(found)


@pytest.mark.full
def test_all_on_the_references(tmp_path):
    check_all(start("reference", tmp_path / "reference.json"), tmp_path / "reference.json")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """A process for each device that runs all tests, at the same time: 200 CPU seconds on x86 where no kernel is in the cache,
    half of it the compiler, else 50; 60 on the interpreter."""
    folder = tmp_path_factory.mktemp("conformance")
    options = {"interp": (), "cpu": ("--together",)} if has_x86() else {"interp": ()}
    running = {device: (start(device, folder / device, *more), folder / device) for device, more in options.items()}
    yield running
    for process, _ in running.values():
        process.kill()
        process.wait()


@pytest.mark.slow
def test_all_on_the_interpreter(everything):
    check_all(*everything["interp"])


@pytest.mark.slow
@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_all_on_x86(everything):
    check_all(*everything["cpu"])


def test_chosen_on_the_interpreter():
    found = outcomes(CHOSEN, "interp")
    assert not [f"{o.name}: {o.why}" for o in found if o.ending != "compiled"]


@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_chosen_on_x86():
    found = outcomes(CHOSEN[::2], "cpu")
    assert not [f"{o.name}: {o.why}" for o in found if o.ending != "compiled"]


def test_the_backend_interface():
    import numpy as np
    import onnx.helper

    from nnaccel_frontend_onnx import backend

    assert not backend.supports_device("NONSENSE")
    if not has_x86():
        pytest.skip("no x86 backend here")
    assert backend.supports_device("CPU")
    x = np.array([[-1, 2]], np.float32)
    (y,) = backend.run_node(onnx.helper.make_node("Relu", ["x"], ["y"]), [x])
    assert np.array_equal(y, np.maximum(x, 0))
    model = all_cases()["test_relu"].model
    (data,) = all_cases()["test_relu"].data_sets
    outputs = backend.run_model(model, data[0])
    assert np.array_equal(outputs.y, data[1][0])
