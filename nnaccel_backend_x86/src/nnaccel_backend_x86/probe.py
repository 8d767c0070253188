"""What this processor is, from /proc and /sys alone."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from nnaccel_core.api import Machine

CPUINFO = Path("/proc/cpuinfo")
CPUS = Path("/sys/devices/system/cpu")

#: Instruction sets, best first: the flags they need, bytes of a vector, fp32 operations per cycle (two units;
#: multiply and add are two operations, fused or not).
ISAS = (
    ("avx512", frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}), 64, 64),
    ("avx2", frozenset({"avx2", "fma", "f16c", "bmi2"}), 32, 32),
    ("avx", frozenset({"avx"}), 32, 16),
    ("sse4", frozenset({"sse4_2"}), 16, 8),
)

#: Memory bandwidth of one core, and how many cores saturate a socket: a rough guess, since nothing says it without
#: a measurement. Only the ratio to `Machine.flops` matters, for choosing between candidates.
CORE_BANDWIDTH = 12e9
SATURATING_CORES = 8
#: Most of the last-level cache that a core can count on. A virtual machine of two cores sees all 260 MiB of its host's, in which
#: cores work that it does not see: 151 MB of weights, read over and over, came at the memory's speed there.
CORE_L3 = 16 << 20


def parse_size(text: str) -> int:
    """Bytes of a sysfs cache size such as ``512K``."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.strip())
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]] if found else 0


def caches(cpu: int) -> dict[str, int]:
    """Bytes of ``cpu``'s data caches by level: ``{"1": ..., "2": ..., "3": ...}``."""
    found: dict[str, int] = {}
    for index in sorted((CPUS / f"cpu{cpu}" / "cache").glob("index[0-9]*")):
        try:
            if (index / "type").read_text().strip() != "Instruction":
                found[(index / "level").read_text().strip()] = parse_size((index / "size").read_text())
        except OSError:
            continue
    return found


def clock(cpu: int, info: str) -> float:
    """Hz: the highest that the governor allows, else what /proc/cpuinfo says now, else 2.5 GHz."""
    try:
        return int((CPUS / f"cpu{cpu}" / "cpufreq" / "cpuinfo_max_freq").read_text()) * 1e3
    except (OSError, ValueError):
        found = re.search(r"^cpu MHz\s*:\s*([\d.]+)", info, re.MULTILINE)
        return float(found[1]) * 1e6 if found and float(found[1]) > 0 else 2.5e9


def physical_cores(cpus: set[int]) -> int:
    """Cores behind these hardware threads: siblings count once, since they share the arithmetic units."""
    seen: set[str] = set()
    for cpu in cpus:
        try:
            seen.add((CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            seen.add(str(cpu))
    return len(seen)


def probe() -> Machine | None:
    """This machine; None where the processor is no x86 with at least SSE 4.2, or the system is not Linux.

    ``cores`` follows the process's affinity. ``flops`` is clock times width times two fused multiply-add units, all
    physical cores; ``bandwidth`` is a guess (`CORE_BANDWIDTH`).
    """
    if platform.machine() not in ("x86_64", "AMD64") or not CPUINFO.exists():
        return None
    info = CPUINFO.read_text()
    flags_line = re.search(r"^flags\s*:\s*(.*)$", info, re.MULTILINE)
    flags = set(flags_line[1].split()) if flags_line else set()
    match = next(((name, width, rate) for name, need, width, rate in ISAS if need <= flags), None)
    if match is None:
        return None
    isa, width, rate = match
    cpus = os.sched_getaffinity(0)
    first = min(cpus)
    sizes = caches(first)
    cores = physical_cores(cpus)
    name_line = re.search(r"^model name\s*:\s*(.*)$", info, re.MULTILINE)
    return Machine(
        kind="x86",
        name=name_line[1].strip() if name_line else "x86",
        isa=isa,
        cores=cores,
        simd_bytes=width,
        l1=sizes.get("1") or 32 << 10,
        l2=sizes.get("2") or 512 << 10,
        l3=min(sizes.get("3") or 0, cores * CORE_L3),
        flops=cores * clock(first, info) * rate,
        bandwidth=CORE_BANDWIDTH * min(cores, SATURATING_CORES),
    )
