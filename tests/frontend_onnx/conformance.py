"""ONNX's own conformance tests (node, simple, PyTorch-converted, PyTorch-operator) on nnaccel, and their table by operator.

python tests/frontend_onnx/conformance.py --device interp --only conv,pool --seconds 60
python tests/frontend_onnx/conformance.py --device cpu --together --json cpu.json      # reference, interp: without --together
python tests/frontend_onnx/conformance.py --table tests/frontend_onnx/operators.md reference.json interp.json cpu.json

A test ends as *compiled* (nnaccel's operators alone), *partly* (some nodes ran on onnx's reference evaluator) or *failed*.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.reference
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from frontend_onnx.devices import network
from frontend_onnx.judge import in_double

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_HEAD = """# ONNX's conformance tests by operator
Written by `tests/frontend_onnx/conformance.py` (its first lines say how). *Compiled*: by nnaccel's operators alone. *Partly*:
right, with some nodes on onnx's own reference evaluator (`explain` says which and why).

"""
_DEVICES = {"reference": "the operators' references", "interp": "the loop IR's interpreter", "cpu": "x86"}
#: Results of these are random draws.
RANDOM = ("bernoulli", "random_", "multinomial")


@dataclass(frozen=True)
class Outcome:
    """How one test ended."""

    name: str
    operator: str
    ending: str
    why: str
    seconds: float


def cases(kinds: tuple[str, ...] = KINDS) -> list[Any]:
    """All tests of these kinds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [t for kind in kinds for t in load_model_tests(kind=kind)]


def model_of(case: Any) -> onnx.ModelProto:
    """The model of a test."""
    return case.model if case.model is not None else onnx.load(str(Path(case.model_dir) / "model.onnx"))


def data_of(case: Any, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    """Its inputs and the results they should give."""
    if case.data_sets is not None:
        for inputs, outputs in case.data_sets:
            yield [_value(x) for x in inputs], [_value(x) for x in outputs]
        return
    for folder in sorted(Path(case.model_dir).glob("test_data_set_*")):
        yield _read(folder, "input", model.graph.input), _read(folder, "output", model.graph.output)


def _value(x: Any) -> Any:
    if isinstance(x, onnx.TensorProto):
        return onnx.numpy_helper.to_array(x)
    if isinstance(x, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(x)
    if isinstance(x, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(x)
    return x


def _read(folder: Path, what: str, infos: Any) -> list[Any]:
    out = []
    for k in range(len(list(folder.glob(f"{what}_*.pb")))):
        kind = infos[k].type.WhichOneof("value")
        proto = {"sequence_type": onnx.SequenceProto, "optional_type": onnx.OptionalProto}.get(kind, onnx.TensorProto)()
        proto.ParseFromString((folder / f"{what}_{k}.pb").read_bytes())
        out.append(_value(proto))
    return out


def compare(wanted: Any, got: Any, rtol: float, atol: float) -> None:
    """Fail unless ``got`` is ``wanted``, which may be a list of a sequence, or None of an optional type."""
    if wanted is None or got is None:
        assert wanted is got, f"{got!r} instead of {wanted!r}"
    elif isinstance(wanted, (list, tuple)):
        assert isinstance(got, (list, tuple)) and len(wanted) == len(got), f"{got!r} instead of {wanted!r}"
        for a, b in zip(wanted, got, strict=True):
            compare(a, b, rtol, atol)
    else:
        Runner.assert_similar_outputs([wanted], [got], rtol, atol)


def run_case(case: Any, device: str) -> Outcome:
    """Run one test."""
    started = time.perf_counter()
    operator = "?"
    try:
        model = model_of(case)
        operator = model.graph.node[0].op_type if case.kind == "node" and model.graph.node else case.kind
        net = network(model, device)
        for inputs, wanted in data_of(case, model):
            feeds = dict(zip([a.name for a in net.inputs], inputs, strict=False))
            with np.errstate(all="ignore"):
                got = net.run(None, feeds)
            if any(word in case.name for word in RANDOM):
                continue
            try:
                compare(wanted, got, case.rtol, case.atol)
            except AssertionError:
                if device != "reference" or not nearer(model, feeds, wanted, got):
                    raise
        foreign = [n for n in net.notes() if n.startswith("in onnx: ") and "its body is a network" not in n]
    except Exception as e:
        text = " ".join(f"{type(e).__name__}: {e}".split())
        return Outcome(case.name, operator, "failed", text[:400], time.perf_counter() - started)
    ending = "partly" if foreign else "compiled"
    return Outcome(case.name, operator, ending, "; ".join(foreign), time.perf_counter() - started)


def nearer(model: onnx.ModelProto, feeds: dict[str, Any], wanted: list[Any], got: list[Any]) -> bool:
    """Whether float16 results are at least as near to those of float64 as the ones that a test expects.

    These are rounded after each step of an operator's definition; the core's references of whole operators round less often, and
    some tests allow less than these roundings come to. Devices have to keep to what the tests allow.
    """
    if not any(isinstance(w, np.ndarray) and w.dtype == np.float16 for w in wanted):
        return False
    wide = {n: v.astype(np.float64) if v.dtype == np.float16 else v for n, v in feeds.items()}
    double = onnx.ModelProto()
    double.CopyFrom(model)
    in_double(double.graph, onnx.TensorProto.FLOAT16)
    truth = onnx.reference.ReferenceEvaluator(double).run(None, wide)

    def error(found: Any, true: Any) -> float:
        return float(np.abs(found.astype(np.float64) - true).max(initial=0.0))

    if any(g.shape != w.shape or g.dtype != w.dtype for g, w in zip(got, wanted, strict=True)):
        return False
    return all(error(g, t) <= error(w, t) for g, w, t in zip(got, wanted, truth, strict=True))


class _Missing(BaseException):
    """A network needs kernels that are not compiled yet."""


def run_together(chosen: list[Any], device: str) -> list[Outcome]:
    """Run these tests on x86 and compile the kernels that they need together, in a few runs of the compiler instead of one
    for each test: that is most of their time. A test is put off where kernels are missing and tried again when they are there,
    once for each segment that it consists of."""
    from nnaccel_backend_x86.toolchain import KernelCompiler
    from nnaccel_core.errors import NnaccelError

    compile_now = KernelCompiler._compile
    missing: dict[str, Any] = {}
    compilers: list[tuple[Any, ...]] = []

    def put_off(self: KernelCompiler, printer: Any, compiler: Any, kernels: dict[str, Any]) -> None:
        missing.update(kernels)
        compilers.append((self, printer, compiler))
        raise _Missing

    outcomes: dict[str, Outcome] = {}
    waiting = chosen
    while waiting:
        later = []
        KernelCompiler._compile = put_off  # type: ignore[method-assign]
        try:
            for case in waiting:
                try:
                    outcomes[case.name] = run_case(case, device)
                except _Missing:
                    later.append(case)
        finally:
            KernelCompiler._compile = compile_now  # type: ignore[method-assign]
        try:
            if later:
                compile_now(*compilers[0], missing)
        except NnaccelError:  # what does not compile fails its own test
            outcomes.update((case.name, run_case(case, device)) for case in later)
            later = []
        missing.clear()
        waiting = later
    return [outcomes[case.name] for case in chosen]


def table(found: dict[str, list[Outcome]]) -> str:
    """Markdown tables of the outcomes on each device: totals, and the last device's by operator."""
    endings = ("compiled", "partly", "failed")
    lines = ["| on | compiled | partly | failed | of |", "| --- | --- | --- | --- | --- |"]
    for device, outcomes in found.items():
        total = collections.Counter(o.ending for o in outcomes)
        lines.append(f"| {_DEVICES.get(device, device)} | {' | '.join(str(total[e]) for e in endings)} | {len(outcomes)} |")
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for o in outcomes:
        rows[o.operator][o.ending] += 1
    lines += ["", "| operator | compiled | partly | failed |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(str(rows[name][e] or '') for e in endings)} |" for name in sorted(rows)]
    return _HEAD + "\n".join(lines) + "\n"


def write(path: str, device: str, outcomes: list[Outcome]) -> None:
    """Keep outcomes for `read` and `table`."""
    Path(path).write_text(json.dumps([device, [vars(o) for o in outcomes]]))


def read(paths: list[str]) -> dict[str, list[Outcome]]:
    """Outcomes that `write` kept, by device; those of several parts of the tests together."""
    found: dict[str, list[Outcome]] = collections.defaultdict(list)
    for path in paths:
        device, outcomes = json.loads(Path(path).read_text())
        found[device] += [Outcome(**o) for o in outcomes]
    return found


def main() -> int:
    """Run the tests, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="parts of tests' names, separated by commas")
    parser.add_argument("--every", type=int, default=1, help="run every n-th test")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this long")
    parser.add_argument("--together", action="store_true", help="on x86: compile the kernels of all tests together")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first tests")
    parser.add_argument("--table", default="", help="write the table to this file, from the files given, and run nothing")
    parser.add_argument("files", nargs="*", help="of --json, for --table")
    parser.add_argument("--reasons", action="store_true", help="print why nodes were left to onnx's reference evaluator")
    parser.add_argument("--json", default="", help="file to write all outcomes to")
    options = parser.parse_args()
    if options.table:
        Path(options.table).write_text(table(read(options.files)))
        return 0
    words = [w for w in options.only.split(",") if w]
    chosen = [c for c in cases() if not words or any(w in c.name for w in words)]
    chosen = chosen[options.skip :: options.every]
    started = time.perf_counter()
    outcomes = run_together(chosen, options.device) if options.together else []
    for case in () if options.together else chosen:
        if options.seconds and time.perf_counter() - started > options.seconds:
            print(f"stopped after {len(outcomes)} of {len(chosen)} tests")
            break
        outcomes.append(run_case(case, options.device))
    for o in outcomes:
        if o.ending == "failed":
            print(f"FAILED {o.name}: {o.why}", flush=True)
    for o in sorted(outcomes, key=lambda o: -o.seconds)[:5]:
        print(f"{o.seconds:6.1f} s {o.name}")
    count = collections.Counter(o.ending for o in outcomes)
    print(f"{options.device}: {len(outcomes)} tests in {time.perf_counter() - started:.0f} s: {dict(count)}")
    if options.reasons:
        why = collections.Counter(part.split(": ", 2)[-1] for o in outcomes if o.ending == "partly" for part in o.why.split("; "))
        print("\n".join(f"{times:5d} {reason}" for reason, times in why.most_common()))
    if options.json:
        write(options.json, options.device, outcomes)
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
