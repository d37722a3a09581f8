"""Charts as SVG that stands in a page: series of points in, markup out. Colours are the page's, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from loadgen.report.axes import Axis

WIDTH, HEIGHT = 560, 290
WIDE, HIGH = 1160, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 12, 12, 46


@dataclass(frozen=True, slots=True)
class Line:
    """`colour` is a number of the page's palette. A point without a value (NaN) leaves a gap."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dashed: bool = False
    filled: bool = False
    tips: Sequence[str] = ()  # what the page tells about each point


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that should not be passed."""

    value: float
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`words` describes it to those who do not see it."""

    title: str
    across: Axis
    up: Axis
    lines: Sequence[Line]
    across_title: str
    up_title: str
    words: str
    limits: Sequence[Limit] = ()
    wide: bool = False

    @property
    def width(self) -> int:
        return WIDE if self.wide else WIDTH

    @property
    def height(self) -> int:
        return HIGH if self.wide else HEIGHT


def draw(chart: Chart, name: str) -> Markup:
    """`name` is unique in the page."""
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d" id="{}">').format(
            chart.width, chart.height, name, name, name
        ),
        Markup('<title id="{}-t">{}</title><desc id="{}-d">{}</desc>').format(name, chart.title, name, chart.words),
        _grid(chart),
        *(_limit(chart, each) for each in chart.limits if chart.up.low <= each.value <= chart.up.high),
        *(_line(chart, each) for each in chart.lines),
        Markup("</svg>"),
    ]
    return Markup("").join(parts)


def _grid(chart: Chart) -> Markup:
    parts = []
    bottom, right = chart.height - _BOTTOM, chart.width - _RIGHT
    for value, words in chart.up.ticks:
        y = _y(chart, value)
        parts.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(_LEFT, y, right))
        parts.append(_tick(_LEFT - 7, y + 4, "end", words))
    for value, words in chart.across.ticks:
        x = _x(chart, value)
        parts.append(Markup('<path class="mark" d="M{:.1f} {}v5"/>').format(x, bottom))
        parts.append(_tick(x, bottom + 18, "middle", words))
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(_LEFT, bottom, right))
    parts.append(
        Markup('<text class="axis-title" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            (_LEFT + right) / 2, chart.height - 5, chart.across_title
        )
    )
    return Markup("").join(parts)


def _tick(x: float, y: float, anchor: str, words: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def _limit(chart: Chart, limit: Limit) -> Markup:
    y = _y(chart, limit.value)
    return Markup(
        '<path class="limit" d="M{} {:.1f}H{}"/><text class="limit-words" x="{}" y="{:.1f}">{}</text>'
    ).format(_LEFT, y, chart.width - _RIGHT, _LEFT + 6, y - 5, limit.words)


def _line(chart: Chart, line: Line) -> Markup:
    """The page's script reads the places of the points from the path: one command each, in the order of the tips."""
    path, tips, gap = [], [], True
    for (x, y), tip in zip(line.points, line.tips or [""] * len(line.points), strict=True):
        if not (math.isfinite(x) and math.isfinite(y)):
            gap = True
            continue
        path.append(f"{'M' if gap else 'L'}{_x(chart, x):.1f} {_y(chart, y):.1f}")
        tips.append(tip.replace("|", "/"))
        gap = False
    if not path:
        return Markup("")
    kind = " dashed" if line.dashed else " filled" if line.filled else ""
    told = Markup(' data-tips="{}"').format("|".join(tips)) if line.tips else ""
    dot = Markup("")
    if len(path) == 1:
        dot = Markup('<circle class="dot" cx="{}" cy="{}" r="3"/>').format(*path[0][1:].split())
    return Markup('<g class="line c{}{}" data-name="{}"{}><path d="{}"/>{}</g>').format(
        line.colour, kind, line.name, told, "".join(path), dot
    )


def _x(chart: Chart, value: float) -> float:
    return _LEFT + (chart.width - _LEFT - _RIGHT) * min(max(chart.across.place(value), 0.0), 1.0)


def _y(chart: Chart, value: float) -> float:
    return chart.height - _BOTTOM - (chart.height - _TOP - _BOTTOM) * min(max(chart.up.place(value), 0.0), 1.0)


def bullet(value: float, low: float, high: float, limit: float, *, upper: bool, words: str) -> Markup:
    """An SLO's value with its interval against the limit, small enough for a table's cell."""
    ends = [each for each in (value, low, limit) if math.isfinite(each)]
    ends += [high] if math.isfinite(high) and high < 4 * max(abs(value), abs(limit), 1e-12) else []
    least, most = min(0.0, *ends), max(ends)
    span = (most - least) * 1.12 or 1.0

    def place(each: float) -> float:
        return 120 * min(max((each - least) / span, 0.0), 1.0) if math.isfinite(each) else 120.0

    at, first, last, edge = map(place, (value, low, high, limit))
    good_from, good_to = (0.0, edge) if upper else (edge, 120.0)
    return Markup(
        '<svg class="bullet" viewBox="0 0 120 16" role="img" aria-label="{}">'
        '<rect class="room" x="0" y="5" width="120" height="6" rx="3"/>'
        '<rect class="good" x="{:.1f}" y="5" width="{:.1f}" height="6"/>'
        '<path class="whisker" d="M{:.1f} 8H{:.1f}"/><circle class="point" cx="{:.1f}" cy="8" r="3.4"/>'
        '<path class="edge" d="M{:.1f} 1v14"/></svg>'
    ).format(words, good_from, good_to - good_from, first, max(last, first), at, edge)


def bar(share: float, words: str) -> Markup:
    """A share as a bar."""
    return Markup(
        '<svg class="bar" viewBox="0 0 120 10" role="img" aria-label="{}">'
        '<rect class="room" width="120" height="10" rx="2"/>'
        '<rect class="part" width="{:.1f}" height="10" rx="2"/></svg>'
    ).format(words, 120 * min(max(share, 0.0), 1.0))
