"""Networks of keras.applications: nnaccel against tf.function, XLA (jit_compile=True) and ONNX Runtime (through tf2onnx).

Run at the repository's root, where tensorflow-cpu, nnaccel-frontend-tf and a backend are installed (ONNX Runtime and tf2onnx if
they are to be compared):

    python -m benchmarks.tf_nets --batch 1,16 --json benchmarks/results/cpu-tensorflow.jsonl
    python -m benchmarks.tf_nets --train --batch 16 --peers tf.function,xla --json benchmarks/results/cpu-tensorflow.jsonl

Each implementation has a process of its own with the same random weights and input; results are compared first, then calls are
timed in turns, with a pause before each turn. A call is a `tf.function` of the whole network, or of a whole training step
(forward pass, loss, gradients, SGD), called with a tensor, up to its result as a numpy array.

Predictions are compared with tf.function's. Training steps are judged by the same steps in float64, since networks magnify
rounding (a ReLU passes a gradient or not): on each of three batches of images, from the same weights and with a learning rate
of 1, so that what a step changes are gradients. The error is the relative one of what changes, in the 2-norm, root of the mean
square over variables (running statistics too); of the three the median counts, which may be 4 times tf.function's. Dropout
drops the same everywhere: by the Philox generator, in single precision.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnaccel_core.errors import NnaccelError
from nnaccel_core.workers import PAUSE_S, Worker, serve, summary, timed_block

NETS = ("MobileNetV2", "ResNet50", "EfficientNetB0", "DenseNet121")
OURS = "nnaccel"
JUDGE = "tf.function"
#: Judges training, and is not timed.
EXACT = "float64"
#: Predictions further than this from TensorFlow's, relative to the largest, are wrong: nothing is timed then.
WRONG = 1e-2
#: Times of TensorFlow's own error against float64 that a training step may have; what is as near as this is right anyway.
FACTOR, NEAR = 4, 1e-5
Call = Callable[[], Any]


# --- in a worker ----------------------------------------------------------------------------------------------------


def network(name: str, side: int) -> Any:
    """A network with random weights, the same in every process; batch normalization as trained networks have it."""
    import keras

    keras.utils.set_random_seed(3)
    model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    rng = np.random.default_rng(0)
    for v in model.variables:
        if "gamma" in v.path or "moving_variance" in v.path:
            v.assign(rng.uniform(0.5, 1.5, v.shape))
        elif "moving_mean" in v.path or "beta" in v.path:
            v.assign(rng.normal(size=v.shape) * 0.1)
    return model


def _predicting(impl: str, model: Any, images: Any) -> Call:
    import tensorflow as tf

    if impl == "onnxruntime":
        return _onnxruntime(model, images)
    if impl == OURS:
        import nnaccel

        model = nnaccel.optimize(model)
    function = tf.function(lambda x: model(x, training=False), autograph=False, jit_compile=impl == "xla")
    concrete = function.get_concrete_function(images)
    return lambda: concrete(images).numpy()


def _onnxruntime(model: Any, images: Any) -> Call:
    import keras
    import onnxruntime as ort
    import tensorflow as tf
    import tf2onnx

    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):  # tf2onnx takes tensors from outside of the graph for inputs
            layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    spec = [tf.TensorSpec(images.shape, images.dtype, name="x")]
    proto, _ = tf2onnx.convert.from_function(function, input_signature=spec, opset=18)
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, given)[0]


def _in_double(model: Any, name: str, side: int) -> Any:
    """The same network in double precision, whose dropout drops what single precision would."""
    import keras
    import tensorflow as tf

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    twin = network(name, side)
    for to, of in zip(twin.variables, model.variables, strict=True):
        to.assign(of.numpy().astype(to.dtype))
    single = tf.nn.experimental.stateless_dropout

    def dropout(x: Any, rate: Any, seed: Any, **more: Any) -> Any:
        return x * tf.cast(single(tf.ones(tf.shape(x)), rate, seed, **more), x.dtype)

    tf.nn.experimental.stateless_dropout = dropout
    return twin


def _training(impl: str, model: Any, images: Any) -> tuple[Call, Callable[[Any], list[np.ndarray[Any, Any]]]]:
    """A step on ``images``; what one with a learning rate of 1 on other images changes, from the weights as they are now."""
    import keras
    import tensorflow as tf

    if impl == OURS:
        import nnaccel

        model = nnaccel.optimize(model)
    labels = tf.range(images.shape[0])
    optimizer = keras.optimizers.SGD(1e-3)
    optimizer.build(model.trainable_variables)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))
        return loss

    function = tf.function(step, autograph=False, jit_compile=impl == "xla")

    def changes(x: Any) -> list[np.ndarray[Any, Any]]:
        values = [v.numpy() for v in model.variables]
        optimizer.learning_rate = 1.0
        found = [function(tf.cast(x, model.compute_dtype), labels).numpy()]
        optimizer.learning_rate = 1e-3
        for v, value in zip(model.variables, values, strict=True):
            if v.dtype.startswith("float"):
                found.append(v.numpy() - value)
            v.assign(value)
        return found

    return lambda: function(images, labels).numpy(), changes


def _first_call(request: Mapping[str, Any]) -> tuple[Call, dict[str, Any]]:
    """What is to be timed, and how long its first call took; its results are in a file then, or their error told."""
    import tensorflow as tf

    threads = int(request["threads"])
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    side, batch, impl = int(request["side"]), int(request["batch"]), request["impl"]
    if request["train"]:  # XLA would choose another generator
        tf.nn.experimental.stateless_dropout = functools.partial(tf.nn.experimental.stateless_dropout, rng_alg="philox")
    model = network(request["net"], side)
    rng = np.random.default_rng(1)
    images = [tf.constant(rng.normal(size=(batch, side, side, 3)).astype("f")) for _ in range(3 if request["train"] else 1)]
    results = Path(request["results"])
    started = time.perf_counter()
    if not request["train"]:
        call = _predicting(impl, model, images[0])
        found = call()
        seconds = time.perf_counter() - started
        np.save(results / f"{impl}.npy", found)
        return call, {"first_call_s": seconds}
    call, changes = _training(impl, _in_double(model, request["net"], side) if impl == EXACT else model, images[0])
    errors = []
    for k, x in enumerate(images):
        changed = changes(x)
        seconds = time.perf_counter() - started if not k else seconds
        if impl == EXACT:
            np.savez(results / f"{k}.npz", *changed)
        else:
            with np.load(results / f"{k}.npz") as judge:
                errors.append(_error(changed, list(judge.values())))
    return call, {"first_call_s": seconds, **({"errors": errors} if errors else {})}


def _error(found: Sequence[np.ndarray[Any, Any]], judge: Sequence[np.ndarray[Any, Any]]) -> float:
    """Of what a step changes; without gradients that are zero but for rounding (of a bias in front of a normalization)."""
    pairs = [(a, b, float(np.linalg.norm(b))) for a, b in zip(found, judge, strict=True)]
    return float(np.sqrt(np.mean([np.square(np.linalg.norm(a - b) / norm) for a, b, norm in pairs if norm > 1e-10])))


def _serve(requests: Any, answer: Callable[[dict[str, Any]], None]) -> None:
    call: Call | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["verb"] == "first_call":
                call, told = _first_call(request)
                answer({"ok": True, **told})
            else:
                assert call is not None
                answer({"ok": True, "ms": timed_block(call, request["calls"], request["untimed"])})
        except Exception as e:
            traceback.print_exc()
            answer({"ok": False, "error": f"{type(e).__name__}: {e}"[:300]})


# --- in the parent --------------------------------------------------------------------------------------------------


def measure(net: str, batch: int, impls: Sequence[str], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Records of all implementations of one network at one batch size; one that fails has an ``error``.

    Raises:
        NnaccelError: TensorFlow itself failed.
    """
    base = {"net": net, "batch": batch, "side": args.side, "mode": "train" if args.train else "predict", "threads": args.threads}
    records: dict[str, dict[str, Any]] = {}
    workers: dict[str, Worker] = {}
    with tempfile.TemporaryDirectory(prefix="nnaccel-bench-") as folder:
        log = args.log or Path(folder) / "workers.log"
        try:
            shared = {key: base[key] for key in ("net", "batch", "side", "threads")}
            request = {**shared, "train": args.train, "results": folder}
            if args.train:
                with Worker("benchmarks.tf_nets", args.threads, log) as worker:
                    worker.ask("first_call", impl=EXACT, **request)
            for impl in impls:
                record = records[impl] = {**base, "impl": impl}
                try:
                    worker = workers[impl] = Worker("benchmarks.tf_nets", args.threads, log)
                    record.update(worker.ask("first_call", impl=impl, **request))
                    (_judge_step if args.train else _judge_prediction)(record, records[JUDGE], Path(folder))
                except NnaccelError as e:
                    if impl == JUDGE:
                        raise
                    record["error"] = str(e)
                record.pop("ok", None)
            time_in_turns(workers, {impl: r for impl, r in records.items() if "error" not in r}, args.calls)
        finally:
            for worker in workers.values():
                worker.__exit__(None, None, None)
    return list(records.values())


def _judge_prediction(record: dict[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Put the error of results into ``record``; raises `NnaccelError` where they are wrong."""
    found, wanted = (np.load(folder / f"{r['impl']}.npy") for r in (record, theirs))
    error = record["max_rel_err"] = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    if not error < WRONG:
        raise NnaccelError(f"its results differ from {JUDGE}'s by {error:.2g} of the largest")


def _judge_step(record: dict[str, Any], theirs: Mapping[str, Any], folder: Path) -> None:
    """Put the error of what a step changes into ``record``; raises `NnaccelError` where it is wrong."""
    error = record["step_err"] = statistics.median(record["errors"])
    if not error <= max(FACTOR * theirs["step_err"], NEAR):
        raise NnaccelError(f"what a step changes is {error:.2g} off float64, {JUDGE}'s {theirs['step_err']:.2g}")


def time_in_turns(workers: Mapping[str, Worker], records: Mapping[str, dict[str, Any]], calls: int) -> None:
    """Put the times into ``records``. Turns spread drift of the machine over everybody; untimed calls wake caches and pools."""
    times: dict[str, list[float]] = {impl: [] for impl in records}
    slowest = max(workers[impl].ask("time", calls=1, untimed=1)["ms"][0] for impl in records)
    turns, untimed = (5, 2) if slowest < 300 else (4, 1)
    for _ in range(turns):
        for impl, found in times.items():
            time.sleep(PAUSE_S)
            found += workers[impl].ask("time", calls=-(-calls // turns), untimed=untimed)["ms"]
    for impl, found in times.items():
        records[impl].update(summary(found))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A row a network and batch size; then geometric means over each peer."""
    impls = list(dict.fromkeys(r["impl"] for r in records))
    peers = [i for i in impls if i != OURS]
    head = ["net", "batch", *(f"{i} ms" for i in impls), *(f"over {p}" for p in peers), "error", "first call s"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ratios: dict[str, list[float]] = {p: [] for p in peers}
    best: list[float] = []
    for net, batch in dict.fromkeys((r["net"], r["batch"]) for r in records):
        row = {r["impl"]: r for r in records if (r["net"], r["batch"]) == (net, batch)}
        ours = row.get(OURS, {})
        over = {p: row[p]["ms"] / ours["ms"] for p in peers if "ms" in row.get(p, {}) and "ms" in ours}
        for p, ratio in over.items():
            ratios[p].append(ratio)
        if over:
            best.append(min(over.values()))
        times = [f"{row[i]['ms']:.3g}" if "ms" in row.get(i, {}) else "failed" if i in row else "-" for i in impls]
        first = " / ".join(f"{row[i]['first_call_s']:.1f}" if "first_call_s" in row.get(i, {}) else "-" for i in impls)
        error = f"{ours['max_rel_err']:.0e}" if "max_rel_err" in ours else "-"
        if "step_err" in ours:
            error = f"{ours['step_err']:.1e} ({JUDGE} {row[JUDGE]['step_err']:.1e})"
        shown = [f"{over[p]:.2f}" if p in over else "-" for p in peers]
        lines.append("| " + " | ".join([net, str(batch), *times, *shown, error, first]) + " |")
    for p, found in (*ratios.items(), ("the best of them", best)):
        if found:
            mean = math.exp(sum(map(math.log, found)) / len(found))
            lines.append(f"\nover {p}: geometric mean {mean:.2f}, least {min(found):.2f}")
    lines += [f"\nfailed: {r['impl']} on {r['net']}: {r['error']}" for r in records if "error" in r]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, append records; the exit status is 1 where ours failed or gave wrong results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tf_nets", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS), help="names in keras.applications")
    parser.add_argument("--batch", default="1,16", help="batch sizes")
    parser.add_argument("--peers", default="tf.function,xla,onnxruntime", help="of these; tf.function judges and always runs")
    parser.add_argument("--train", action="store_true", help="training steps")
    parser.add_argument("--side", type=int, default=224, help="height and width of the images")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every implementation")
    parser.add_argument("--calls", type=int, default=20, help="timed calls of every implementation")
    parser.add_argument("--json", type=Path, help="records, one JSON object per line; those of other cases in the file are kept")
    parser.add_argument("--log", type=Path, help="keep what the workers print here")
    args = parser.parse_args(argv)
    impls = list(dict.fromkeys([JUDGE, *(p for p in args.peers.split(",") if p), OURS]))
    new: list[dict[str, Any]] = []
    for net in args.nets.split(","):
        for batch in map(int, args.batch.split(",")):
            found = measure(net, batch, impls, args)
            shown = [f"{r['impl']} {r['ms']:.2f} ms" if "ms" in r else f"{r['impl']} failed" for r in found]
            print(f"{net} x {batch}: {', '.join(shown)}", flush=True)
            new += found
            if args.json:
                _write(found, args.json)
    print(table(new))
    return 1 if any("error" in r for r in new if r["impl"] == OURS) else 0


def _write(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    about = {(r["net"], r["batch"], r["impl"], r["mode"]) for r in records}
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    kept = [r for r in old if (r["net"], r["batch"], r["impl"], r["mode"]) not in about]
    path.write_text("".join(json.dumps(r) + "\n" for r in [*kept, *records]))


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].isdigit():  # a worker, with the number of its answer pipe
        serve(_serve)
    else:
        sys.exit(main())
