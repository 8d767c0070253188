"""What became of a network, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnaccel_core.api import Machine


@dataclass(frozen=True)
class GroupReport:
    """Layers that run as one.

    Attributes:
        layers: the user's layer paths; ops: operators in order; limit: one of `LIMITS`.
        chosen: what runs them, and why it was offered; others: candidates that lost, each with the reason.
        estimated, measured: seconds; None where there is no estimate (host) or the group was not timed.
        bytes: read and written by the group as a whole; launches: kernels and library calls.
    """

    layers: tuple[str, ...]
    ops: tuple[str, ...]
    limit: str
    chosen: str
    others: tuple[str, ...]
    estimated: float | None
    measured: float | None
    bytes: int
    launches: int


@dataclass(frozen=True)
class SegmentReport:
    """A compiled part at one binding of its symbols. ``arena``, ``results`` and ``prepared`` are bytes.

    ``slices``: sizes of the slices that the batch runs in, where it runs in several; ``groups`` are then those of the first.
    """

    name: str
    sizes: Mapping[str, int]
    strict: bool
    groups: tuple[GroupReport, ...]
    arena: int
    results: int
    prepared: int
    slices: tuple[int, ...] = ()

    @property
    def estimated(self) -> float:
        """Seconds of all groups, as estimated."""
        return sum(g.estimated or 0.0 for g in self.groups)

    @property
    def measured(self) -> float | None:
        """Seconds of all groups in the timed runs; None when not timed."""
        times = [g.measured for g in self.groups]
        return None if not times or None in times else sum(t for t in times if t is not None)

    @property
    def bytes(self) -> int:
        share = sum(self.slices) / self.slices[0] if self.slices else 1
        return int(share * sum(g.bytes for g in self.groups))

    @property
    def launches(self) -> int:
        return sum(g.launches for g in self.groups) * max(1, len(self.slices))


@dataclass(frozen=True)
class ProgramReport:
    """A captured program. ``foreign`` pairs the layer path of each part left to the framework with the reason.

    ``prepared``: bytes of derived and packed parameters held for all sizes.
    """

    captured: str
    segments: tuple[SegmentReport, ...]
    foreign: tuple[tuple[str, str], ...]
    prepared: int


@dataclass(frozen=True)
class Explanation:
    """What became of a network; ``print`` it. ``seconds``: median time of a whole call; None when none was made."""

    name: str
    device: str
    machine: Machine
    notes: tuple[str, ...]
    programs: tuple[ProgramReport, ...]
    seconds: float | None = None

    def total(self) -> str:
        """All segments in one line; "" when there is none."""
        segments = [s for p in self.programs for s in p.segments]
        if not segments:
            return ""
        peak = max(s.arena + s.results for s in segments) + sum(p.prepared for p in self.programs)
        launches, moved = sum(s.launches for s in segments), sum(s.bytes for s in segments)
        whole = "" if self.seconds is None else f", {seconds_text(self.seconds)} a call as a whole"
        memory = f"peak memory {bytes_text(peak)} beside the network's own"
        return f"in all: {launches} launches, {bytes_text(moved)} moved, {memory}{whole}"

    def heading(self) -> str:
        """What runs where."""
        m = self.machine
        return f"{self.name} on {self.device} ({m.name}, {m.isa}, {m.cores} cores)"

    def html(self) -> str:
        """A page of its own, without scripts or anything to load."""
        from nnaccel_core.driver.report_html import page

        return page(self)

    def text(self) -> str:
        """For people, some 130 columns wide."""
        lines = [self.heading(), *self.notes]
        if not self.programs:
            lines.append("nothing is compiled yet: call the network, or give explain() its inputs")
        for program in self.programs:
            lines += ["", f"captured: {program.captured or 'by the frontend'}"]
            lines += [f"left to the framework: {origin or 'a call'}: {reason}" for origin, reason in program.foreign]
            for segment in program.segments:
                lines += _segment_lines(segment)
            lines.append(f"derived and packed parameters: {bytes_text(program.prepared)}")
        if self.total():
            lines += ["", self.total()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()


def segment_heading(s: SegmentReport) -> str:
    """A segment in one line."""
    sizes = ", ".join(f"{k}={v}" for k, v in s.sizes.items())
    measured = "" if s.measured is None else f", {seconds_text(s.measured)} measured"
    if s.slices:
        sizes += f" in slices of {', '.join(map(str, s.slices))} (times and groups of the first)"
    return (
        f"{s.name}{f' at {sizes}' if sizes else ''}{' (for NaN or infinity)' if s.strict else ''}: {len(s.groups)} groups, "
        f"{s.launches} launches, {seconds_text(s.estimated)} estimated{measured}, {bytes_text(s.bytes)} moved; "
        f"arena {bytes_text(s.arena)}, results {bytes_text(s.results)}, parameters {bytes_text(s.prepared)}"
    )


def _segment_lines(s: SegmentReport) -> list[str]:
    lines = [
        segment_heading(s),
        f"  {'estimated':>10} {'measured':>10} {'moved':>10}  {'limit':7}  layers [operators]",
    ]
    for g in s.groups:
        times = [("-" if t is None else seconds_text(t)) for t in (g.estimated, g.measured)]
        what = f"{', '.join(g.layers)} [{' + '.join(g.ops)}]"
        lines.append(f"  {times[0]:>10} {times[1]:>10} {bytes_text(g.bytes):>10}  {g.limit:7}  {what}")
        more = f", {g.launches} launches" if g.launches > 1 else ""
        lines.append(f"{'':46}by {g.chosen}{more}")
        lines += [f"{'':46}not {other}" for other in g.others]
    return lines


def seconds_text(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def bytes_text(n: int) -> str:
    """Bytes for people."""
    return f"{n / 2**20:.2f} MiB" if n >= 1 << 17 else f"{n / 2**10:.1f} KiB"
