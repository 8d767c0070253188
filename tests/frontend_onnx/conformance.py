"""ONNX's own conformance tests (node, simple, PyTorch-converted, PyTorch-operator) on nnaccel, and their table by operator.

python tests/frontend_onnx/conformance.py --device reference --table tests/frontend_onnx/operators.md
python tests/frontend_onnx/conformance.py --device cpu --only conv,pool --seconds 60

A test ends as *compiled* (nnaccel's operators alone), *partly* (some nodes ran on onnx's reference evaluator) or *failed*.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
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
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from frontend_onnx.devices import network

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
_HEAD = """# ONNX's conformance tests by operator
Written by `python tests/frontend_onnx/conformance.py --device reference --table tests/frontend_onnx/operators.md`. *Compiled*: by
nnaccel's operators alone. *Partly*: right, with some nodes on onnx's own reference evaluator (`explain` says which and why).

"""
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


class _Collected(BaseException):
    """A network asked for its kernels."""


def compile_together(chosen: list[Any], device: str) -> int:
    """Compile the kernels that the first segments of these tests need in a few runs of the compiler, instead of one for each
    test: that is most of their time. Returns how many kernels there are."""
    from nnaccel_backend_x86.toolchain import KernelCompiler

    load, found, compilers = KernelCompiler.load, [], []

    def record(self: KernelCompiler, kernels: Any) -> Any:
        if not kernels:
            return load(self, kernels)
        found.extend(kernels)
        compilers.append(self)
        raise _Collected

    KernelCompiler.load = record  # type: ignore[method-assign]
    try:
        for case in chosen:
            with contextlib.suppress(_Collected, Exception):
                net = network(model_of(case), device)
                inputs, _ = next(data_of(case, model_of(case)))
                with np.errstate(all="ignore"):
                    net.run(None, dict(zip([a.name for a in net.inputs], inputs, strict=False)))
    finally:
        KernelCompiler.load = load  # type: ignore[method-assign]
    for k in range(0, len(found), 200):
        with contextlib.suppress(Exception):  # one that does not compile fails its own test
            compilers[0].load(found[k : k + 200])
    return len(found)


def run_case(case: Any, device: str) -> Outcome:
    """Run one test."""
    started = time.perf_counter()
    operator = "?"
    try:
        model = model_of(case)
        operator = model.graph.node[0].op_type if case.kind == "node" and model.graph.node else case.kind
        net = network(model, device)
        for inputs, wanted in data_of(case, model):
            names = [a.name for a in net.inputs]
            with np.errstate(all="ignore"):
                got = net.run(None, dict(zip(names, inputs, strict=False)))
            if not any(word in case.name for word in RANDOM):
                compare(wanted, got, case.rtol, case.atol)
        foreign = [n for n in net.notes() if n.startswith("in onnx: ") and "its body is a network" not in n]
    except Exception as e:
        text = " ".join(f"{type(e).__name__}: {e}".split())
        return Outcome(case.name, operator, "failed", text[:400], time.perf_counter() - started)
    ending = "partly" if foreign else "compiled"
    return Outcome(case.name, operator, ending, "; ".join(foreign), time.perf_counter() - started)


def table(outcomes: list[Outcome]) -> str:
    """A Markdown table by operator."""
    rows: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for o in outcomes:
        rows[o.operator][o.ending] += 1
    endings = ("compiled", "partly", "failed")
    total = collections.Counter(o.ending for o in outcomes)
    lines = ["| operator | compiled | partly | failed |", "| --- | --- | --- | --- |"]
    lines += [f"| {name} | {' | '.join(str(rows[name][e] or '') for e in endings)} |" for name in sorted(rows)]
    return _HEAD + "\n".join([*lines, f"| **all** | {' | '.join(str(total[e]) for e in endings)} |"]) + "\n"


def main() -> int:
    """Run the tests and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="parts of tests' names, separated by commas")
    parser.add_argument("--every", type=int, default=1, help="run every n-th test")
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after this long")
    parser.add_argument("--together", action="store_true", help="on x86: compile the kernels of all tests together first")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first tests")
    parser.add_argument("--table", default="", help="file to write the table to")
    parser.add_argument("--reasons", action="store_true", help="print why nodes were left to onnx's reference evaluator")
    options = parser.parse_args()
    words = [w for w in options.only.split(",") if w]
    chosen = [c for c in cases() if not words or any(w in c.name for w in words)][options.skip :: options.every]
    started = time.perf_counter()
    if options.together:
        kernels = compile_together(chosen, options.device)
        print(f"{kernels} kernels compiled together in {time.perf_counter() - started:.0f} s", flush=True)
    outcomes = []
    for case in chosen:
        if options.seconds and time.perf_counter() - started > options.seconds:
            print(f"stopped after {len(outcomes)} of {len(chosen)} tests")
            break
        outcomes.append(run_case(case, options.device))
        if outcomes[-1].ending == "failed":
            print(f"FAILED {outcomes[-1].name}: {outcomes[-1].why}", flush=True)
    for o in sorted(outcomes, key=lambda o: -o.seconds)[:5]:
        print(f"{o.seconds:6.1f} s {o.name}")
    count = collections.Counter(o.ending for o in outcomes)
    print(f"{options.device}: {len(outcomes)} tests in {time.perf_counter() - started:.0f} s: {dict(count)}")
    if options.reasons:
        why = collections.Counter(part.split(": ", 2)[-1] for o in outcomes if o.ending == "partly" for part in o.why.split("; "))
        print("\n".join(f"{times:5d} {reason}" for reason, times in why.most_common()))
    if options.table:
        Path(options.table).write_text(table(outcomes))
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
