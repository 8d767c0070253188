"""Training steps of torchvision's networks on a GPU: forward, cross entropy, backward, a step of plain gradient descent.

    python benchmarks/gpu_train.py OUT [--nets resnet50 ...] [--batches 128] [--peers ...] [--autocast bfloat16]

Milliseconds of a step by CUDA events, sides taking turns in blocks, all in one process for each network and batch. float32 means
TF32 for everybody. The gradients of the first step are compared with float64. Writes gpu_train.jsonl and a table.

    python benchmarks/gpu_train.py OUT --alone --nets resnet18 --batches 2    a few steps of nnaccel, each compared with float64
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import turns

#: The networks of the GPU training rows.
NETS = (
    "alexnet", "densenet121", "inception_v3", "mobilenet_v2", "resnet18", "resnet50", "squeezenet1_1", "vgg16", "vgg16_bn",
)  # fmt: skip
PEERS = ("eager", "last", "inductor")
BLOCKS, CALLS, ALONE = 4, 10, 5


def make(name: str) -> Any:
    """The network of torchvision in training mode, dropout off: its numbers differ from side to side."""
    import torch
    import torchvision

    torch.manual_seed(0)
    kwargs = {"init_weights": True, "aux_logits": False} if name == "inception_v3" else {}
    net = getattr(torchvision.models, name)(weights=None, **kwargs).train()
    for m in net.modules():
        if isinstance(m, torch.nn.Dropout):
            m.p = 0.0
    return net


class Side:
    """One way to train: a network, what runs its forward pass, and how its input lies."""

    def __init__(self, name: str, net: Any, last: bool, autocast: str) -> None:
        import torch

        import nnaccel

        self.net = net.to(memory_format=torch.channels_last) if last and name != "eager" else net
        self.last, self.autocast = last, autocast
        self.run = self.net
        if name == "nnaccel":
            self.net = self.run = nnaccel.optimize(net, device="cuda")
        elif name == "inductor":
            self.run = torch.compile(self.net)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 1e-4)

    def loss(self, x: Any, t: Any) -> Any:
        import torch

        kind = getattr(torch, self.autocast) if self.autocast else None
        mode = torch.autocast("cuda", kind) if kind is not None else contextlib.nullcontext()
        with mode:
            return torch.nn.functional.cross_entropy(self.run(x), t)

    def gradients(self, x: Any, t: Any) -> list[Any]:
        self.optimizer.zero_grad()
        self.loss(x, t).backward()
        found = [p.grad.detach().clone() for p in self.net.parameters()]
        self.optimizer.zero_grad()
        return found

    def step(self, x: Any, t: Any) -> None:
        loss = self.loss(x, t)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def error(found: list[Any], judge: list[Any]) -> float:
    """Relative error of all gradients in the 2-norm, each tensor weighed by its own size."""
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, judge, strict=True) if float(b.norm()) > 1e-10]
    return float((sum(e * e for e in errors) / len(errors)) ** 0.5)


def alone(name: str, batch: int, autocast: str) -> None:
    """A few steps of nnaccel, each waited for and compared with float64; ends the process with an error where they differ by much
    more than PyTorch's own gradients do."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    net, x = make(name).cuda(), torch.randn(batch, 3, 224, 224, device="cuda")
    t = torch.randint(0, 1000, (batch,), device="cuda")
    judge_net = copy.deepcopy(net).double()
    torch.nn.functional.cross_entropy(judge_net(x.double()), t).backward()
    judge = [p.grad.clone() for p in judge_net.parameters()]
    own = error(Side("eager", copy.deepcopy(net), False, autocast).gradients(x, t), judge)
    side = Side("nnaccel", net, False, autocast)
    for step in range(ALONE):
        off = error(side.gradients(x, t), judge)  # the optimizer takes no step, so the gradients stay
        torch.cuda.synchronize()
        print(f"{name} {batch} step {step + 1}: gradients differ from float64 by {off:.1e}, eager's by {own:.1e}", flush=True)
        if not off < 2 * own + 1e-3:
            raise SystemExit(f"{name} {batch}: wrong gradients in step {step + 1}")
    print(side.net.nnaccel_report(), flush=True)


def one(name: str, batch: int, names: list[str], autocast: str, profile: bool, out: Path) -> None:
    """Measure one network at one batch size and append the results."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    size = 299 if name == "inception_v3" else 224
    generator = torch.Generator("cuda").manual_seed(1)
    x = torch.randn(batch, 3, size, size, device="cuda", generator=generator)
    t = torch.randint(0, 1000, (batch,), device="cuda", generator=generator)
    net = make(name).cuda()
    with turns.by_itself():
        judge_net = copy.deepcopy(net).double()
        torch.nn.functional.cross_entropy(judge_net(x.double()), t).backward()
        judge = [p.grad.clone() for p in judge_net.parameters()]
        del judge_net
    sides, errors, ready, peak = {}, {}, {}, {}
    for n in names:
        if n == "nnaccel":
            turns.wait()
        started = time.perf_counter()
        last = n in ("last", "inductor")
        with contextlib.nullcontext() if n in ("inductor", "nnaccel") else turns.by_itself():
            side = sides[n] = Side(n, copy.deepcopy(net), last, autocast)
            errors[n] = error(side.gradients(x, t), judge)
            given = x.to(memory_format=torch.channels_last) if last else x
            for _ in range(3):
                side.step(given, t)
            torch.cuda.synchronize()
        ready[n] = time.perf_counter() - started
        print(f"  {n}: ready after {ready[n]:.1f} s, error {errors[n]:.1e}", flush=True)
    measured: dict[str, list[float]] = {n: [] for n in names}
    for _ in range(BLOCKS):
        for n, side in sides.items():
            given = x.to(memory_format=torch.channels_last) if side.last else x
            for _ in range(2):
                side.step(given, t)
            events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(CALLS)]
            torch.cuda.synchronize()
            for begin, end in events:
                begin.record()
                side.step(given, t)
                end.record()
            torch.cuda.synchronize()
            measured[n] += [begin.elapsed_time(end) for begin, end in events]
    from nnaccel_core.driver.optimize import backend_for

    host = {n: hosted(side, x.to(memory_format=torch.channels_last) if side.last else x, t) for n, side in sides.items()}
    for n, side in sides.items():
        side.optimizer.zero_grad()
        side.net.eval()  # nnaccel gives back the memory that it holds for the next step: the step measured takes it again
        side.net.train()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        side.step(x, t)
        torch.cuda.synchronize()
        peak[n] = torch.cuda.max_memory_allocated() - before
        if n == "nnaccel":
            peak[n] += backend_for("cuda").scratch.nbytes
        side.optimizer.zero_grad()
    with (out / "gpu_train.jsonl").open("a") as f:
        for n in names:
            row = {
                "net": name, "batch": batch, "dtype": autocast or "float32", "side": n, "ms": statistics.median(measured[n]),
                "all_ms": measured[n], "host_ms": host[n], "error": errors[n], "ready_s": ready[n],
                "peak_bytes": peak[n], "calls": len(measured[n]),
                "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
            }  # fmt: skip
            if n == "nnaccel":
                row |= {"scratch_bytes": backend_for("cuda").scratch.nbytes}
            f.write(json.dumps(row) + "\n")
    print(name, batch, {n: round(statistics.median(m), 2) for n, m in measured.items()}, flush=True)
    if "nnaccel" in sides:
        report = sides["nnaccel"].net.nnaccel_report()
        print("   ", {k: report[k] for k in ("compiled_calls", "own_calls") if k in report}, flush=True)
        if profile:
            text = profiled(sides["nnaccel"], lambda s: s.step(x, t))
            (out / f"train_profile_{name}_{batch}.txt").write_text(text)


def hosted(side: Side, x: Any, t: Any) -> float:
    """Milliseconds until a step has been enqueued on an idle device, by the clock."""
    import torch

    seen = []
    for _ in range(CALLS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        side.step(x, t)
        seen.append((time.perf_counter() - started) * 1e3)
    return statistics.median(seen)


def prewarm(name: str, batch: int, autocast: str) -> None:
    """Compile ``name`` with Inductor, for its disk cache."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    size = 299 if name == "inception_v3" else 224
    x, t = torch.randn(batch, 3, size, size, device="cuda"), torch.randint(0, 1000, (batch,), device="cuda")
    side = Side("inductor", make(name).cuda(), True, autocast)
    side.gradients(x, t)  # as `one` calls it first
    side.step(x.to(memory_format=torch.channels_last), t)
    torch.cuda.synchronize()


def profiled(side: Side, step: Callable[[Side], None]) -> str:
    """What each step of the compiled passes takes, and how that compares with the estimate."""
    state = side.net._nnaccel.now()
    segments = [s for p in state.session.programs().values() for t in p._training.values() for s in t.segments()]
    built = [b for s in segments for b in s._built.values()]
    for b in built:
        b.executable.profiling = True
    step(side)
    lines = []
    for b in built:
        found = b.executable.profile()
        units = [u for u in b.selection.units if not u.is_view]
        if len(found) != len(units):
            continue
        state_of = getattr(b.executable, "graph_state", lambda: "")()
        total = sum(s for _, s in found) * 1e3
        lines.append(f"== {b.placed.plan.name} {b.env}: {total:.2f} ms in {len(found)} steps; {state_of}")
        rows = []
        for (_, seconds), u in zip(found, units, strict=True):
            ops = "+".join(n.op for n in u.nodes)
            why = u.candidate.reason if u.candidate is not None else "host"
            shape = ", ".join("x".join(map(str, v.shape)) for v in u.nodes[-1].outputs)
            rows.append((seconds, u.candidate.seconds if u.candidate else 0.0, u.origin, ops[:120], shape, why[:90]))
        rows.sort(reverse=True)
        lines += [f"{s * 1e6:9.1f} us (est. {e * 1e6:7.1f})  {o:28} {ops} [{shape}] {why}" for s, e, o, ops, shape, why in rows]
    for b in built:
        b.executable.profiling = False
    return "\n".join(lines) + "\n"


def table(out: Path) -> str:
    """The results as a table."""
    rows = [json.loads(line) for line in (out / "gpu_train.jsonl").read_text().splitlines()]
    head = ["net", "batch", "dtype", *PEERS, "nnaccel", "best peer / ours", "error, ours / eager's", "memory, ours / eager's"]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    ratios = []
    for key in dict.fromkeys((r["net"], r["batch"], r["dtype"]) for r in rows):
        mine = {r["side"]: r for r in rows if (r["net"], r["batch"], r["dtype"]) == key}
        peers = [mine[p]["ms"] for p in PEERS if p in mine]
        if "nnaccel" not in mine or not peers:
            continue
        ours = mine["nnaccel"]
        ratios.append(min(peers) / ours["ms"])
        cells = [f"{mine[p]['ms']:.2f}" if p in mine else "" for p in PEERS]
        time_of_ours, more = f"{ours['ms']:.2f}", ["", ""]
        if "eager" in mine:
            more = [f"{ours[k] / mine['eager'][k]:.2f}" for k in ("error", "peak_bytes")]
        lines.append("| " + " | ".join([*map(str, key), *cells, time_of_ours, f"{ratios[-1]:.2f}", *more]) + " |")
    if ratios:
        lines.append(f"\nGeometric mean {statistics.geometric_mean(ratios):.2f}, least {min(ratios):.2f}.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start one process for each network and batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--nets", nargs="*", default=list(NETS))
    parser.add_argument("--batches", nargs="*", type=int, default=[128])
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    parser.add_argument("--autocast", default="", choices=("", "bfloat16", "float16"))
    parser.add_argument("--profile", action="store_true", help="keep what each of nnaccel's steps takes")
    parser.add_argument("--one", action="store_true")
    parser.add_argument("--alone", action="store_true", help="a few steps of nnaccel only, compared with float64")
    parser.add_argument("--prewarm", type=int, default=0, metavar="N", help="fill Inductor's cache first, N networks at a time")
    parser.add_argument("--together", type=int, default=1, metavar="N", help="get N networks ready at once, then time one by one")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no further network after so many seconds")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.alone:
        for batch in given.batches:
            alone(given.nets[0], batch, given.autocast)
        return
    if given.one and given.prewarm:
        prewarm(given.nets[0], given.batches[0], given.autocast)
        return
    if given.one:
        one(given.nets[0], given.batches[0], [*given.peers, "nnaccel"], given.autocast, given.profile, given.out)
        return
    started = time.perf_counter()
    rows = [(n, b) for n in given.nets for b in given.batches]

    def command(name: str, batch: int) -> list[str]:
        found = [sys.executable, __file__, str(given.out), "--one", "--nets", name, "--batches", str(batch)]
        found += ["--peers", *given.peers]
        return found + (["--autocast", given.autocast] if given.autocast else [])

    if given.prewarm and "inductor" in given.peers:
        with ThreadPoolExecutor(given.prewarm) as pool:
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
            list(pool.map(lambda row: subprocess.run([*command(*row), "--prewarm", "1"], **quiet), rows))
        print(f"Inductor's cache is filled after {time.perf_counter() - started:.0f} s", flush=True)
    more = ["--profile"] if given.profile else []
    turns.run_rows(rows, lambda *row: [*command(*row), *more], given.together, started + given.seconds)
    if (given.out / "gpu_train.jsonl").exists():
        (given.out / "gpu_train.md").write_text(table(given.out))
        print(table(given.out))


if __name__ == "__main__":
    main()
