"""Records as a table, summary ratios, and plots."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nnaccel_core.errors import InputError
from nnaccel_frontend_torch.bench.runner import Record

OURS = "nnaccel"


def by_case(records: Sequence[Record]) -> dict[tuple[str, int], dict[str, Record]]:
    """Records by (net, batch), then implementation."""
    cases: dict[tuple[str, int], dict[str, Record]] = {}
    for r in records:
        cases.setdefault((r.net, r.batch), {})[r.impl] = r
    return cases


def speedups(records: Sequence[Record], peer: str) -> dict[tuple[str, int], float]:
    """``peer``'s time over ours, where both ran."""
    out = {}
    for case, impls in by_case(records).items():
        ours, theirs = impls.get(OURS), impls.get(peer)
        if ours and theirs and ours.ms and theirs.ms:
            out[case] = theirs.ms / ours.ms
    return out


@dataclass(frozen=True)
class Ratio:
    """A speed-up: the median of runs, and the least and largest of them."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}" + (f" [{self.low:.2f}, {self.high:.2f}]" if self.low < self.high else "")


def over_best(records: Sequence[Record]) -> dict[tuple[str, int], Ratio]:
    """The time of each case's fastest peer over ours, run by run."""
    out = {}
    for case, impls in by_case(records).items():
        ours = impls.get(OURS)
        peers = [r for i, r in impls.items() if not i.startswith(OURS) and r.ms]
        if not ours or not ours.ms or not peers:
            continue
        runs = len(ours.run_ms)
        if runs and all(len(p.run_ms) == runs for p in peers):
            ratios = [min(p.run_ms[k] for p in peers) / ours.run_ms[k] for k in range(runs)]
            out[case] = Ratio(statistics.median(ratios), min(ratios), max(ratios))
        else:
            ratio = min(p.ms for p in peers if p.ms) / ours.ms
            out[case] = Ratio(ratio, ratio, ratio)
    return out


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def markdown(records: Sequence[Record]) -> str:
    """A table: a row a case, milliseconds of every implementation, our speed-up over eager and over the best peer."""
    impls = list(dict.fromkeys(r.impl for r in records))
    peers = [i for i in impls if not i.startswith(OURS)]
    head = ["net", "batch", *(f"{i} ms" for i in impls), "over eager", "over best peer", "error / eager's"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    best = over_best(records)
    for (net, batch), row in by_case(records).items():
        cells = [net, str(batch)]
        for impl in impls:
            r = row.get(impl)
            cells.append("failed" if r and r.error else f"{r.ms:.2f}" if r and r.ms else "-")
        ours, eager = row.get(OURS), row.get("eager")
        cells.append(f"{eager.ms / ours.ms:.2f}" if ours and eager and ours.ms and eager.ms else "-")
        cells.append(str(best.get((net, batch), "-")))
        has_error = ours and eager and ours.max_rel_err is not None and eager.max_rel_err
        cells.append(f"{ours.max_rel_err / eager.max_rel_err:.2f}" if has_error else "-")  # type: ignore[union-attr,operator]
        lines.append("| " + " | ".join(cells) + " |")
    for peer in peers:
        ratios = speedups(records, peer)
        if ratios:
            worst = min(ratios, key=lambda c: ratios[c])
            lines.append(
                f"\nover {peer}: geometric mean {geometric_mean(list(ratios.values())):.2f}, "
                f"least {ratios[worst]:.2f} ({worst[0]}, batch {worst[1]})"
            )
    for batch in sorted({b for _, b in best}):
        ratios = {c: r.value for c, r in best.items() if c[1] == batch}
        worst = min(ratios, key=lambda c: ratios[c])
        mean = geometric_mean(list(ratios.values()))
        lines.append(f"\nover the best peer, batch {batch}: geometric mean {mean:.2f}, least {best[worst]} ({worst[0]})")
    failed = [r for r in records if r.error]
    lines += [f"\nfailed: {r.impl} on {r.net} batch {r.batch}: {r.error}" for r in failed]
    return "\n".join(lines) + "\n"


def memory_table(records: Sequence[Record]) -> str:
    """A row a case: intermediates at the peak in MiB, ours over eager's, and derived weights over parameters."""
    impls = list(dict.fromkeys(r.impl for r in records if r.peak_bytes))
    head = ["net", "batch", *(f"{i} MiB" for i in impls), "peak / eager's", "derived / parameters"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for (net, batch), row in by_case(records).items():
        peaks = [row[i].peak_bytes if i in row else None for i in impls]
        cells = [net, str(batch), *(f"{p / 2**20:.1f}" if p else "-" for p in peaks)]
        ours, eager = row.get(OURS), row.get("eager")
        both = ours and eager and ours.peak_bytes and eager.peak_bytes
        cells.append(f"{ours.peak_bytes / eager.peak_bytes:.2f}" if both else "-")  # type: ignore[union-attr,operator]
        cells.append(f"{(ours.prepared_bytes or 0) / ours.parameter_bytes:.2f}" if ours and ours.parameter_bytes else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(records: Sequence[Record], path: Path) -> None:
    """Execution times and speed-ups per network, a panel per batch size; the suffix chooses the file type.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as e:
        raise InputError("--plot needs matplotlib; run: pip install matplotlib") from e
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = by_case(records)
    batches = sorted({b for _, b in cases})
    impls = list(dict.fromkeys(r.impl for r in records))
    figure, axes = plt.subplots(len(batches), 2, figsize=(16, 4.2 * len(batches)), squeeze=False)
    for row, batch in zip(axes, batches, strict=True):
        nets = [n for n, b in cases if b == batch]
        width = 0.8 / len(impls)
        for k, impl in enumerate(impls):
            ms = [getattr(cases[n, batch].get(impl), "ms", None) or math.nan for n in nets]
            at = [i + (k - len(impls) / 2 + 0.5) * width for i in range(len(nets))]
            row[0].bar(at, ms, width, label=impl)
            if impl != OURS:
                ours = [getattr(cases[n, batch].get(OURS), "ms", None) or math.nan for n in nets]
                row[1].bar(at, [a / b for a, b in zip(ms, ours, strict=True)], width, label=f"over {impl}", color=f"C{k}")
        row[0].set_yscale("log")
        row[0].set_ylabel("ms per call")
        row[1].axhline(1.0, color="black", linewidth=0.8)
        row[1].set_ylabel("speed-up of nnaccel")
        for ax, what in zip(row, ("execution time", "speed-up"), strict=True):
            ax.set_title(f"{what}, batch {batch}")
            ax.set_xticks(range(len(nets)), nets, rotation=45, ha="right", fontsize=8)
            ax.legend(fontsize=7)
            ax.grid(axis="y", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_memory(records: Sequence[Record], path: Path) -> None:
    """Peak memory per network, a bar an implementation: parameters with what is derived from them, and intermediates on top."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = {c: row for c, row in by_case(records).items() if any(r.peak_bytes for r in row.values())}
    order = ("eager", "nnaccel-layers-whole", "nnaccel-whole", "nnaccel-layers", "nnaccel")
    impls = [i for i in order if any(i in row for row in cases.values())]
    figure, ax = plt.subplots(figsize=(max(8, 1.1 * len(cases)), 5))
    width = 0.8 / max(1, len(impls))
    for k, impl in enumerate(impls):
        rows = [row.get(impl) for row in cases.values()]
        fixed = [((r.parameter_bytes or 0) + (r.prepared_bytes or 0)) / 2**20 if r else 0.0 for r in rows]
        moving = [(r.peak_bytes or 0) / 2**20 if r else 0.0 for r in rows]
        at = [i + (k - len(impls) / 2 + 0.5) * width for i in range(len(rows))]
        ax.bar(at, fixed, width, color=f"C{k}", alpha=0.4)
        ax.bar(at, moving, width, bottom=fixed, color=f"C{k}", label=impl)
    ax.set_ylabel("MiB at the peak (pale: parameters)")
    ax.set_xticks(range(len(cases)), [f"{n}\nbatch {b}" for n, b in cases], rotation=45, ha="right", fontsize=8)
    ax.grid(axis="y", alpha=0.3)
    ax.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
