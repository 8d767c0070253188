"""An `Explanation` as an HTML page: self-contained, without scripts."""

from __future__ import annotations

from html import escape

from nnaccel_core.driver.report import Explanation, GroupReport, SegmentReport, bytes_text, seconds_text, segment_heading

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; color: #222; background: #fff }
h1 { font-size: 1.4em } h2 { font-size: 1.1em; margin-top: 2em; font-weight: 600 }
table { border-collapse: collapse; width: 100% } th, td { padding: .25em .6em; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #999; font-weight: 600 } td { border-bottom: 1px solid #ddd }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.bar { height: .5em; background: #3572a5; margin-top: .4em } td.share { width: 9em }
.limit { border-radius: .6em; padding: 0 .6em; color: #fff; white-space: nowrap }
.compute { background: #9a3b3b } .params { background: #8a6d1d } .io { background: #2a6f4e } .any, .view { background: #666 }
code { font-size: .95em } details { color: #555 } summary { cursor: pointer } .foreign { color: #9a3b3b }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #1b1b1b } td { border-color: #444 } details { color: #aaa }
}
"""


def page(e: Explanation) -> str:
    """The whole page; opens in any browser, from a file."""
    parts = [f"<h1>{escape(e.heading())}</h1>", *(f"<p>{escape(note)}</p>" for note in e.notes)]
    if e.total():
        parts.append(f"<p><b>{escape(e.total())}</b></p>")
    if not e.programs:
        parts.append("<p>Nothing is compiled yet: call the network, or give explain() its inputs.</p>")
    for program in e.programs:
        parts.append(f"<p>captured: {escape(program.captured or 'by the frontend')}; ")
        parts.append(f"derived and packed parameters: {bytes_text(program.prepared)}</p>")
        for origin, reason in program.foreign:
            what = f"<code>{escape(origin or 'a call')}</code>: {escape(reason)}"
            parts.append(f'<p class="foreign">left to the framework: {what}</p>')
        parts += [_segment(s) for s in program.segments]
    title = escape(f"{e.name}: nnaccel")
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _segment(s: SegmentReport) -> str:
    times = [(g.estimated if s.measured is None else g.measured) or 0.0 for g in s.groups]
    longest = max(times, default=0.0) or 1.0
    rows = [_group(k, g, t / longest, t / (sum(times) or 1.0)) for k, (g, t) in enumerate(zip(s.groups, times, strict=True))]
    names = ("", "layers", "limit", "run by", "estimated", "measured", "share", "moved", "launches")
    right = {"estimated", "measured", "moved", "launches"}
    header = "".join(f"<th{' class=n' if n in right else ''}>{n}</th>" for n in names)
    return f"<h2>{escape(segment_heading(s))}</h2>\n<table><tr>{header}</tr>\n" + "\n".join(rows) + "\n</table>"


def _group(number: int, g: GroupReport, width: float, share: float) -> str:
    def seconds(t: float | None) -> str:
        return "" if t is None else seconds_text(t)

    lost = "".join(f"<li>{escape(other)}</li>" for other in g.others)
    others = f"<details><summary>not chosen: {len(g.others)}</summary><ul>{lost}</ul></details>" if lost else ""
    cells = (
        ("n", str(number)),
        ("", f"<code>{escape(', '.join(g.layers))}</code><br>{escape(' + '.join(g.ops))}"),
        ("", f'<span class="limit {escape(g.limit)}">{escape(g.limit)}</span>'),
        ("", escape(g.chosen) + others),
        ("n", seconds(g.estimated)),
        ("n", seconds(g.measured)),
        ("share", f'{100 * share:.1f} %<div class="bar" style="width:{100 * width:.0f}%"></div>'),
        ("n", bytes_text(g.bytes)),
        ("n", str(g.launches)),
    )
    return "<tr>" + "".join(f'<td class="{c}">{text}</td>' if c else f"<td>{text}</td>" for c, text in cells) + "</tr>"
