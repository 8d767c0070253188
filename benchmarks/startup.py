"""First calls and per-call costs: cold, with kernels cached, at a second batch size, and beyond the kernels.

    python benchmarks/startup.py [--json FILE]

Each first call is made in a process of its own, with a private kernel cache; imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

FIRST_CALL = """
import json, sys, time
from pathlib import Path
prelude = {prelude!r}
if prelude:
    exec(compile(Path(prelude).read_text(), prelude, "exec"), {{"__name__": "prelude"}})
import torch
import nnaccel_core
from nnaccel_core.cache import DiskCache
from nnaccel_frontend_torch.bench import nets
network = nets.load({net!r})
x, y = nets.sample(network, 1), nets.sample(network, 3)
def kernels():
    return sorted(str(p) for p in Path({cache!r}).rglob("library/*/*") if p.is_file())
def timed(f, v):
    started = time.perf_counter()
    f(v)
    return time.perf_counter() - started
with torch.no_grad():
    started = time.perf_counter()
    fast = nnaccel_core.optimize(network.module)
    optimize_s = time.perf_counter() - started
    first = optimize_s + timed(fast, x)
    before = kernels()
    second_batch = timed(fast, y)
    again = min(timed(fast, y) for _ in range(5))
    print(json.dumps({{"first_call_s": first, "second_batch_ms": second_batch * 1e3, "second_batch_again_ms": again * 1e3,
                       "kernels_compiled_for_second_batch": len(set(kernels()) - set(before))}}))
"""

OVERHEAD = """
import json, statistics, time
import torch, nnaccel_core
from nnaccel_frontend_torch.bench import nets
network = nets.load({net!r})
x = nets.sample(network, 1)
fast = nnaccel_core.optimize(network.module)
with torch.no_grad():
    fast(x)
    compiled = next(iter(fast._nnaccel.session.programs().values()))
    segment = next(iter(compiled.segments.values()))
    (built,) = segment._built.values()
    bridge = compiled.bridge
    result = bridge.allocate(built.output_types[0])
    prepared = segment.built(built.env).prepared.addresses
    addresses, outs = [bridge.address(x)], [bridge.address(result)]
    def kernels():
        built.executable.run(addresses, prepared, outs, bridge.threads(), 0)
    def block(f, n=2000):
        f(); f()
        times = []
        for _ in range(n):
            started = time.perf_counter()
            f()
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1e6
    whole = [block(lambda: fast(x)) for _ in range(5)]
    inner = [block(kernels) for _ in range(5)]
    eager = [block(lambda: network.module(x)) for _ in range(5)]
    medians = [statistics.median(times) for times in (whole, inner, eager)]
    print(json.dumps(dict(zip(("call_us", "executable_us", "eager_us"), medians))))
"""


def run(code: str, cache: str) -> dict[str, float]:
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    env = dict(os.environ, NNACCEL_CACHE_DIR=cache, PYTHONPATH=path)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks.nets:efficientnet_lite0,resnet18")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    prelude = os.environ.get("NNACCEL_BENCH_PRELUDE", "")
    rows = []
    for net in args.nets.split(","):
        cold, warm = [], []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory(prefix="nnaccel-cold-") as cache:
                code = FIRST_CALL.format(net=net, cache=cache, prelude=prelude)
                cold.append(run(code, cache))
                warm.append(run(code, cache))
        for kind, runs in (("cold", cold), ("cached", warm)):
            rows.append({"net": net, "kind": kind, **{k: statistics.median(r[k] for r in runs) for k in runs[0]}})
            print(json.dumps(rows[-1]), flush=True)
    for net in ("benchmarks.nets:one_layer", "benchmarks.nets:many_parameters"):
        with tempfile.TemporaryDirectory(prefix="nnaccel-cold-") as cache:
            rows.append({"net": net, "kind": "overhead", **run(OVERHEAD.format(net=net), cache)})
        print(json.dumps(rows[-1]), flush=True)
    if args.json:
        args.json.write_text("".join(json.dumps(r) + "\n" for r in rows))


if __name__ == "__main__":
    main()
