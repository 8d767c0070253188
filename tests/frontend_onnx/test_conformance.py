"""ONNX's conformance tests: all 2,024 on the operators' references, on the loop IR's interpreter and on the x86 backend."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest

from frontend_onnx import conformance
from frontend_onnx.conformance import cases, run_case
from frontend_onnx.devices import has_x86

#: These take the interpreter 22 minutes (68 million multiplications) and one each (pools of 220,000 and a million elements):
#: `make test-slow` runs them.
LONG = ("test_operator_conv", "test_MaxPool1d_stride_padding_dilation", "test_MaxPool2d_stride_padding_dilation")
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


def run_all(device, folder, parts, *options):
    """Outcomes of all tests, run in as many processes."""
    files = [str(folder / f"{k}.json") for k in range(parts)]
    commands = [
        [sys.executable, conformance.__file__, f"--device={device}", f"--json={f}", f"--skip={k}", f"--every={parts}", *options]
        for k, f in enumerate(files)
    ]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    told = [p.communicate()[0] for p in running]
    assert all(p.returncode in (0, 1) for p in running), "".join(told)
    return conformance.read(files)[device]


def check_all(found, count):
    assert len(found) == count
    assert not [f"{o.name}: {o.why}" for o in found if o.ending == "failed"]
    assert sum(o.ending == "compiled" for o in found) >= 1400


def test_every_fortieth_on_the_references():
    found = outcomes([n for n in list(all_cases())[::40] if n not in LONG], "reference")
    assert not [f"{o.name}: {o.why}" for o in found if o.ending == "failed"]
    assert sum(o.ending == "compiled" for o in found) > 0.6 * len(found)


@pytest.mark.full
def test_all_on_the_references(tmp_path):
    check_all(run_all("reference", tmp_path, 1), 2024)


@pytest.mark.slow
def test_all_on_the_interpreter(tmp_path):
    check_all(run_all("interp", tmp_path, 2, f"--leave={','.join(LONG)}"), 2024 - len(LONG))


@pytest.mark.full
@pytest.mark.parametrize("name", LONG)
def test_long_ones_on_the_interpreter(name):
    (found,) = outcomes([name], "interp")
    assert found.ending == "compiled", found.why


@pytest.mark.slow
@pytest.mark.skipif(not has_x86(), reason="no x86 backend here")
def test_all_on_x86(tmp_path):
    """200 CPU seconds where no kernel is in the cache, half of it the compiler, else 50."""
    check_all(run_all("cpu", tmp_path, 1, "--together"), 2024)


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
