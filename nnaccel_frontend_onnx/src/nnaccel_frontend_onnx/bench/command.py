"""The command line of ``nnaccel bench --onnx``."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nnaccel_core.errors import InputError, NnaccelError
from nnaccel_frontend_onnx.bench import runner
from nnaccel_frontend_onnx.bench.runner import Record
from nnaccel_frontend_onnx.bench.worker import PEERS
from nnaccel_frontend_onnx.feeds import add_input, add_sizes, made_up, read_feeds, sizes_given
from nnaccel_frontend_onnx.loading import load

OURS = "nnaccel"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--onnx", type=Path, action="append", required=True, metavar="FILE", help="a network; may be repeated")
    add_input(parser)
    add_sizes(parser)
    parser.add_argument("--peers", default="onnxruntime,openvino", help=f"of {', '.join(PEERS)}; '' for none")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every implementation")
    parser.add_argument("--calls", type=int, default=24, help="timed calls of every implementation; 0 only compares results")
    parser.add_argument("--json", type=Path, help="write one JSON record per line here (appended to an existing file's records)")
    parser.add_argument("--log", type=Path, help="keep what the workers print here")


def run(args: argparse.Namespace) -> int:
    """Run the benchmark; returns the exit code (1 when ours failed or gave wrong results).

    Raises:
        NnaccelError: a model, an input or an option is at fault.
    """
    from nnaccel_frontend_onnx.arguments import argument

    impls = [p.strip() for p in args.peers.split(",") if p.strip()]
    unknown = [i for i in impls if i not in PEERS]
    if unknown:
        raise InputError(f"--peers: unknown {', '.join(unknown)}; known: {', '.join(PEERS)}")
    if args.batch < 1 or args.threads < 1 or args.calls < 0:
        raise InputError("--batch and --threads are at least 1, --calls at least 0")
    if OURS not in impls:
        impls.append(OURS)
    judge = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "reference"
    settings = runner.Settings(args.threads, args.calls, log=args.log)
    records = runner.read_records(args.json) if args.json and args.json.exists() else []
    new: list[Record] = []

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    for path in args.onnx:
        model = load(path)
        inputs = [argument(v) for v in model.inputs]
        feeds = read_feeds(inputs, model.name, args.input) if args.input else made_up(inputs, args.batch, sizes_given(args.size))
        found = runner.run_case(path, feeds, impls, judge, settings, say)
        say("")
        shown = [f"{r.impl} {'failed' if r.error else f'{r.ms:.2f} ms' if r.ms else 'agrees'}" for r in found]
        print(f"{path.stem}: {', '.join(shown)}", flush=True)
        new += found
        if args.json:
            about = {(r.net, r.batch, r.impl) for r in new}
            records = [r for r in records if (r.net, r.batch, r.impl) not in about] + new
            runner.write_records(records, args.json)
    print(table(new))
    return 1 if any(r.error for r in new if r.impl.startswith(OURS)) else 0


def table(records: Sequence[Record]) -> str:
    """A row a network, milliseconds of every implementation, our speed-up over the best peer; geometric means over each peer."""
    impls = list(dict.fromkeys(r.impl for r in records))
    peers = [i for i in impls if not i.startswith(OURS)]
    cases: dict[tuple[str, int], dict[str, Record]] = {}
    for r in records:
        cases.setdefault((r.net, r.batch), {})[r.impl] = r
    head = ["net", "batch", *(f"{i} ms" for i in impls), "over best peer", "error"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ratios: dict[str, list[float]] = {p: [] for p in peers}
    for (net, batch), row in cases.items():
        ours = row[OURS]
        times = {p: row[p].ms for p in peers if p in row and row[p].ms}
        over = {p: ms / ours.ms for p, ms in times.items() if ms and ours.ms}
        for p, ratio in over.items():
            ratios[p].append(ratio)
        shown = ["failed" if row[i].error else f"{row[i].ms:.2f}" if row[i].ms else "-" for i in impls]
        best = f"{min(over.values()):.2f}" if over else "-"
        error = "-" if ours.max_rel_err is None else f"{ours.max_rel_err:.1e} of {ours.judge}"
        lines.append("| " + " | ".join([net, str(batch), *shown, best, error]) + " |")
    for p, found in ratios.items():
        if found:
            mean = math.exp(sum(map(math.log, found)) / len(found))
            lines.append(f"\nover {p}: geometric mean {mean:.2f}, least {min(found):.2f}")
    lines += [f"\nfailed: {r.impl} on {r.net}: {' '.join(r.error.split())[:300]}" for r in records if r.error]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """``nnaccel bench --onnx FILE``; returns the exit status (0 success, 1 ours failed, 2 wrong usage or input)."""
    parser = argparse.ArgumentParser(prog="nnaccel bench", description="time ONNX networks against ONNX Runtime and OpenVINO")
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except NnaccelError as e:
        print(f"nnaccel bench: {e}", file=sys.stderr)
        return 2
