"""One implementation of one network in a process of its own, driven over pipes (`nnaccel_core.workers`)."""

from __future__ import annotations

import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.workers import serve, timed_block


def _serve(requests: Any, answer: Any) -> None:
    import torch

    from nnaccel_frontend_torch.bench import memory, nets, peers, steps

    prelude = os.environ.get("NNACCEL_BENCH_PRELUDE")
    if prelude:
        exec(compile(Path(prelude).read_text(), prelude, "exec"), {"__name__": "nnaccel_bench_prelude"})
    job: peers.Job | None = None
    call: peers.Call | None = None
    with torch.no_grad():
        for line in requests:
            request = json.loads(line)
            verb = request["verb"]
            if verb == "stop":
                return
            try:
                if verb == "prepare":
                    torch.set_num_threads(request["threads"])
                    network = nets.load(request["net"])
                    train = bool(request.get("train"))
                    if train:
                        steps.prepare(network.module)
                    x = nets.sample(network, request["batch"])
                    onnx = Path(request["onnx"]) if request.get("onnx") else None
                    job = peers.Job(network, request["batch"], x, request["threads"], onnx, train=train)
                    answer({"ok": True})
                elif verb == "reference":
                    assert job is not None
                    np.save(request["judge"], (steps if job.train else peers).reference(job.network, job.x))
                    answer({"ok": True})
                elif verb == "export":
                    assert job is not None
                    peers.export_onnx(job.network, job.batch, Path(request["path"]))
                    answer({"ok": True})
                elif verb == "first_call":
                    assert job is not None
                    started = time.perf_counter()
                    call = peers.PEERS[request["impl"]](job)
                    out = call()
                    seconds = time.perf_counter() - started
                    judge = np.load(request["judge"])
                    if job.train:
                        error = steps.relative_error(steps.gradients(job.network.module), judge)
                    else:
                        error = peers.relative_error(out, judge)
                    answer({"ok": True, "first_call_s": seconds, "max_rel_err": error})
                elif verb == "time":
                    assert call is not None
                    answer({"ok": True, "ms": timed_block(call, request["calls"], request["untimed"])})
                elif verb == "memory":
                    assert job is not None and call is not None
                    answer({"ok": True, **memory.measure(job, call)})
            except Exception as e:
                traceback.print_exc()
                answer({"ok": False, "error": f"{type(e).__name__}: {e}"})


def main() -> None:
    """Entry of ``python -m nnaccel_frontend_torch.bench.worker ANSWER_FD``."""
    serve(_serve)


if __name__ == "__main__":
    main()
