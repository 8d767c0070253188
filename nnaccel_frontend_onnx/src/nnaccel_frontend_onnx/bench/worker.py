"""One implementation of one network in a process of its own, driven over pipes.

The parent sends a line of JSON per request on standard input and reads one per answer on the worker's answer pipe; whatever the
libraries print goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnaccel_core.errors import InputError

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


def timed_block(call: Call, calls: int, untimed: int) -> list[float]:
    """Milliseconds of each of ``calls`` calls, after ``untimed`` ones that wake caches and thread pools."""
    for _ in range(untimed):
        call()
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        call()
        times.append((time.perf_counter() - started) * 1e3)
    return times


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
    with os.fdopen(int(sys.argv[1]), "w") as out, contextlib.redirect_stdout(sys.stderr):

        def answer(message: dict[str, Any]) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        _serve(sys.stdin, answer)


if __name__ == "__main__":
    main()
