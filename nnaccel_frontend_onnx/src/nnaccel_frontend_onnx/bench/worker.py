"""One implementation of one network in a process of its own, driven over pipes (`nnaccel_core.workers`)."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnaccel_core.errors import InputError
from nnaccel_core.workers import serve, timed_block

#: Runs the network on the one input; gives the outputs in order.
Call = Callable[[], list[Any]]
Feeds = Mapping[str, np.ndarray[Any, Any]]


def _nnaccel(**options: Any) -> Callable[[str, Feeds, int], Call]:
    def prepare(model: str, feeds: Feeds, threads: int) -> Call:
        import nnaccel_core

        network = nnaccel_core.optimize(model, device="cpu", **options)
        return lambda: list(network.run(None, feeds))

    return prepare


def _onnxruntime(model: str, feeds: Feeds, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda: list(session.run(None, dict(feeds)))


def _openvino(model: str, feeds: Feeds, threads: int) -> Call:
    import openvino as ov

    core = ov.Core()
    network = core.read_model(model)
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    wanted = {i.any_name: list(feeds[i.any_name].shape) for i in network.inputs}
    if any(not i.partial_shape.compatible(ov.PartialShape(wanted[i.any_name])) for i in network.inputs):
        network.reshape(wanted)  # a batch other than the one that the file fixes
    request = core.compile_model(network, "CPU", config).create_infer_request()
    given = {name: feeds[name] for name in wanted}

    def call() -> list[Any]:
        found = request.infer(given, share_inputs=True)
        return [found[k] for k in range(len(found))]

    return call


def _reference(model: str, feeds: Feeds, threads: int) -> Call:
    import onnx.reference

    evaluator = onnx.reference.ReferenceEvaluator(model)
    return lambda: list(evaluator.run(None, dict(feeds)))


#: What is compared; ``reference``, onnx's own evaluator in numpy, judges results where ONNX Runtime is not installed.
PEERS: dict[str, Callable[[str, Feeds, int], Call]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "reference": _reference,
    "nnaccel": _nnaccel(),
    "nnaccel-layers": _nnaccel(dfp=False),
}


def _serve(requests: Any, answer: Callable[[dict[str, Any]], None]) -> None:
    call: Call | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["verb"] == "first_call":
                with np.load(request["feeds"]) as file:
                    feeds = {name: file[name] for name in file.files}
                started = time.perf_counter()
                call = PEERS[request["impl"]](request["model"], feeds, request["threads"])
                found = call()
                seconds = time.perf_counter() - started
                if not all(isinstance(r, np.ndarray) for r in found):
                    raise InputError("an output is no tensor; only networks whose outputs are all tensors are compared")
                np.savez(request["results"], **{str(k): r for k, r in enumerate(found)})
                answer({"ok": True, "first_call_s": seconds})
            else:
                assert call is not None
                answer({"ok": True, "ms": timed_block(call, request["calls"], request["untimed"])})
        except Exception as e:
            traceback.print_exc()
            answer({"ok": False, "error": f"{type(e).__name__}: {e}"})


def main() -> None:
    """Entry of ``python -m nnaccel_frontend_onnx.bench.worker ANSWER_FD``."""
    serve(_serve)


if __name__ == "__main__":
    main()
