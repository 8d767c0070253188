"""The implementations that are compared: each is prepared once and then called on one fixed input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.errors import InputError
from nnaccel_frontend_torch.bench import steps
from nnaccel_frontend_torch.bench.nets import Network

Call = Callable[[], Any]


@dataclass(frozen=True)
class Job:
    """What one worker prepares."""

    network: Network
    batch: int
    x: Any
    threads: int
    onnx: Path | None
    dtype: str = "float32"
    train: bool = False
    #: the network that is called, once it is prepared
    called: list[Any] = field(default_factory=list)


def _called(job: Job, net: Any) -> Call:
    """What is timed: a prediction, or a training step."""
    job.called.append(net)
    return steps.step_of(net, job.x) if job.train else partial(net, job.x)


def _eager(job: Job) -> Call:
    return _called(job, job.network.module)


def _channels_last(job: Job) -> Call:
    import torch

    net = job.network.module.to(memory_format=torch.channels_last)
    return _called(replace(job, x=job.x.contiguous(memory_format=torch.channels_last)), net)


def _inductor(job: Job) -> Call:
    import torch

    return _called(job, torch.compile(job.network.module))


def _nnaccel(**options: Any) -> Callable[[Job], Call]:
    def prepare(job: Job) -> Call:
        import nnaccel_core

        return _called(job, nnaccel_core.optimize(job.network.module, device="cpu", **options))

    return prepare


def _need_onnx(job: Job) -> Path:
    if job.onnx is None:
        raise InputError(f"{job.network.name} could not be exported to ONNX")
    return job.onnx


def _onnxruntime(job: Job) -> Call:
    import onnxruntime as ort  # type: ignore[import-not-found,unused-ignore]

    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(_need_onnx(job)), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: job.x.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(job: Job) -> Call:
    import openvino as ov  # type: ignore[import-not-found,unused-ignore]

    core = ov.Core()
    model = core.read_model(str(_need_onnx(job)))
    config = {"INFERENCE_NUM_THREADS": job.threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    x = job.x.numpy()
    return lambda: request.infer([x], share_inputs=True)[0]


PEERS: dict[str, Callable[[Job], Call]] = {
    "eager": _eager,
    "channels_last": _channels_last,
    "inductor": _inductor,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "nnaccel": _nnaccel(),
    "nnaccel-layers": _nnaccel(dfp=False),
    "nnaccel-whole": _nnaccel(slicing=False),
    "nnaccel-layers-whole": _nnaccel(dfp=False, slicing=False),
    "nnaccel-remat": _nnaccel(remat="memory"),
    "nnaccel-tuned": _nnaccel(autotune=True),
}
#: These read the network from an exported file.
NEED_ONNX = frozenset({"onnxruntime", "openvino"})
#: These only predict.
PREDICT_ONLY = NEED_ONNX


def export_onnx(network: Network, batch: int, path: Path) -> None:
    """Write the network as ONNX for ``batch``."""
    import torch

    x = torch.zeros((batch, *network.sample_shape))
    with torch.no_grad():
        torch.onnx.export(network.module, (x,), str(path), dynamo=False, opset_version=17)


def reference(network: Network, x: Any) -> np.ndarray[Any, Any]:
    """The network's output in float64: the judge of everybody's error."""
    import copy

    import torch

    with torch.no_grad():
        out = copy.deepcopy(network.module).double()(x.double())
    return np.asarray(first_tensor(out))


def first_tensor(out: Any) -> Any:
    """The first tensor of a nested result, as numpy."""
    while isinstance(out, (tuple, list)):
        out = out[0]
    if isinstance(out, dict):
        return first_tensor(next(iter(out.values())))
    return out.detach().numpy() if hasattr(out, "detach") else np.asarray(out)


def relative_error(out: Any, judge: np.ndarray[Any, Any]) -> float:
    """Largest absolute difference over the largest absolute value of the judge."""
    got = np.asarray(first_tensor(out), np.float64)
    if got.shape != judge.shape or not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - judge).max() / max(np.abs(judge).max(), 1e-30))
