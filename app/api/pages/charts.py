"""Plots as inline SVG, made on the server: pure functions from numbers to markup.

Each returns a :class:`Chart`, which ``ui.figure`` of ``macros.html`` prints with the table of its numbers. Nothing is
said by colour alone: series differ in shape or dash and are named beside their marks. Colours come from the style
sheet's classes, for the pages' security policy allows no inline style; every text goes through MarkupSafe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

from app.api.pages.wording import duration, number, shortened
from app.untrusted import visible

_WIDTH: Final = 720
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 16
_SERIES: Final = 6
_BINS: Final = 24
_ENTRANTS: Final = 60
_LANES: Final = 24

# Steps of a time axis (s): up to a quarter of a year, in which a store keeps its history many times over.
_TIME_STEPS: Final = (
    1, 5, 15, 30, 60, 300, 900, 1800, 3600, 10_800, 21_600, 43_200, *(86_400 * days for days in (1, 2, 5, 10, 30, 90)),
)  # fmt: skip

Text = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Chart:
    """A plot: what it shows, its picture, and its numbers as a table for who cannot see it.

    Without ``rows`` there is nothing to draw, and ``description`` says so.
    """

    title: str
    description: str
    svg: Markup
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of a plot: ``(x, y)`` points, x ascending; instants as POSIX seconds."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark in a grid of lanes: its lane and column, its size in 0..1, and what it says."""

    lane: str
    column: str
    size: float
    text: str
    shape: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """One entrant of a leaderboard: its name, its score, and the reports that the score is made of."""

    name: str
    score: float
    reports: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """A bar of a timeline: its lane, its kind, and from when to when (POSIX seconds)."""

    lane: str
    kind: str
    began: float
    ended: float
    text: str


def histogram(
    title: str,
    values: Sequence[float],
    *,
    axis: str,
    what: str = "submissions",
    winner: tuple[str, float] | None = None,
) -> Chart:
    """How values are distributed, in up to 24 equal bins; what is not finite is left out and counted in the text.

    ``winner``: its name and its value, which is marked.
    """
    finite = sorted(value for value in values if math.isfinite(value))
    missing = len(values) - len(finite)
    left_out = f" {missing} without a score are not drawn." if missing else ""
    if not finite:
        return _empty(title, f"No {what} with a score.{left_out}")
    low, high = finite[0], finite[-1]
    bins = min(_BINS, max(5, math.ceil(math.sqrt(len(finite))) * 2))
    if low + (high - low) / bins == low:
        # equal, or too close for floating point to tell their bins apart
        room = max(0.5, abs(low) / 1e6)
        low, high = low - room, high + room
    width = (high - low) / bins
    counts = [0] * bins
    for value in finite:
        counts[min(bins - 1, int((value - low) / width))] += 1
    middle = finite[len(finite) // 2] if len(finite) % 2 else sum(finite[len(finite) // 2 - 1 :][:2]) / 2
    description = (
        f"{len(finite)} {what}: from {number(finite[0])} to {number(finite[-1])}, median {number(middle)}.{left_out}"
    )
    marked = winner if winner is not None and math.isfinite(winner[1]) else None
    if marked is not None:
        description += f" The winner, {marked[0]}, has {number(marked[1])}."
    frame = _Frame(240, (low, high), (0.0, float(max(counts))))
    parts = [frame.y_axis(_whole), frame.x_axis(_number_text(low, high), axis)]
    for index, count in enumerate(counts):
        left, right = frame.x(low + index * width), frame.x(low + (index + 1) * width)
        if count:
            parts.append(
                Markup('<rect class="f1 mark" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    _at(left),
                    _at(frame.y(count)),
                    _at(max(right - left, 1)),
                    _at(frame.bottom - frame.y(count)),
                    f"{number(low + index * width)} to {number(low + (index + 1) * width)}: {count}",
                )
            )
    at = frame.x(middle)
    parts.append(
        Markup('<line class="rule" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{3}" y="{4}">median</text>').format(
            _at(at), _TOP, frame.bottom, _at(min(at, _WIDTH - 60)), _TOP - 2
        )
    )
    if marked is not None:
        at = frame.x(min(max(marked[1], low), high))
        parts.append(_shape(3, at, _TOP + 4, 5, f"winner {marked[0]}: {number(marked[1])}"))
        parts.append(
            Markup(
                '<line class="trace l2" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/><text x="{3}" y="{4}">winner {5}</text>'
            ).format(
                _at(at), _TOP + 4, frame.bottom + 22, _at(min(at, _WIDTH - 260)), frame.bottom + 34, visible(marked[0])
            )
        )
    rows = tuple(
        (number(low + index * width), number(low + (index + 1) * width), str(count))
        for index, count in enumerate(counts)
    )
    return Chart(title, description, _svg(title, description, frame.height, parts), ("from", "to", what), rows)


def lines(
    title: str,
    series: Sequence[Series],
    *,
    axis: str,
    y_axis: str,
    times: bool = False,
    y_range: tuple[float, float] | None = None,
    rules: Mapping[str, float] | None = None,
) -> Chart:
    """Values over epochs or time (``times``: x are POSIX seconds). Up to six series are drawn; all are in the table.

    ``rules`` are named horizontal lines, such as a baseline. A point that is not finite breaks its line.
    """
    drawn = series[:_SERIES]
    found = [point for one in drawn for point in one.points if math.isfinite(point[1])]
    if not found:
        return _empty(title, "Nothing to draw yet.")
    heights = [y for _, y in found] + list((rules or {}).values())
    x_range = _widened(min(x for x, _ in found), max(x for x, _ in found), 0.0)
    frame = _Frame(260, x_range, y_range or _widened(min(heights), max(heights), 0.05), right=130)
    x_text = _time_text(*x_range) if times else _text_of([x for x, _ in found], x_range)
    parts = [
        frame.y_axis(_text_of(heights, frame.y_range)),
        frame.x_axis(x_text, axis, _time_ticks(*x_range) if times else None),
    ]
    names: list[tuple[float, str, int]] = []
    for name, height in (rules or {}).items():
        parts.append(
            Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, frame.right, _at(frame.y(height)), _at(frame.y(height))
            )
        )
        names.append((frame.y(height), name, 0))
    for index, one in enumerate(drawn, 1):
        path, pen_down = [], False
        for x, y in one.points:
            if not math.isfinite(y):
                pen_down = False
                continue
            path.append(f"{'L' if pen_down else 'M'}{_at(frame.x(x))} {_at(frame.y(y))}")
            pen_down = True
            if len(one.points) <= 60:
                parts.append(_shape(index - 1, frame.x(x), frame.y(y), 3.5, f"{one.name}: {x_text(x)}, {number(y)}"))
        parts.append(Markup('<path class="trace l{}" d="{}"/>').format(index, " ".join(path)))
        last = next((y for _, y in reversed(one.points) if math.isfinite(y)), None)
        if last is not None:
            names.append((frame.y(last), one.name, index))
    parts.extend(_names(names, frame))
    more = f" {len(series) - len(drawn)} more are in the table." if len(series) > len(drawn) else ""
    description = "; ".join(f"{one.name}: {_course(one)}" for one in drawn) + "." + more
    rows = tuple(
        (visible(one.name), _moment(x) if times else f"{x:g}", number(y, 6)) for one in series for x, y in one.points
    )
    return Chart(title, description, _svg(title, description, frame.height, parts), ("series", axis, y_axis), rows)


def scores_against(title: str, entrants: Sequence[Scored], *, baseline: float | None) -> Chart:
    """Each entrant's score as a mark, the range of its reports as a line, in the order given, and the baseline.

    Squares lie above the baseline, discs do not. The first 60 are drawn; all are in the table.
    """
    drawn = [one for one in entrants if math.isfinite(one.score)][:_ENTRANTS]
    if not drawn:
        return _empty(title, "No model has a score yet.")
    heights = [value for one in drawn for value in (one.score, *one.reports) if math.isfinite(value)]
    if baseline is not None:
        heights.append(baseline)
    frame = _Frame(260, (0.0, float(len(drawn))), _widened(min(heights), max(heights), 0.05), right=130)
    parts = [frame.y_axis(_number_text(*frame.y_range))]
    if baseline is not None:
        parts.append(
            Markup('<line class="rule" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>').format(
                _LEFT, frame.right, _at(frame.y(baseline))
            )
        )
        parts.extend(_names([(frame.y(baseline), f"baseline {number(baseline)}", 0)], frame))
    every = max(1, math.ceil(len(drawn) * 52 / (frame.right - _LEFT)))
    for index, one in enumerate(drawn):
        x, above = frame.x(index + 0.5), baseline is not None and one.score > baseline
        reported = [value for value in one.reports if math.isfinite(value)]
        text = f"{one.name}: {number(one.score)}"
        if reported:
            low, high = min(reported), max(reported)
            text += f", reported {number(low)} to {number(high)}"
            parts.append(
                Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
                    _at(x), _at(frame.y(low)), _at(frame.y(high))
                )
            )
        parts.append(_shape(1 if above else 0, x, frame.y(one.score), 4.5, text))
        if index % every == 0:
            parts.append(
                Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                    _at(x), frame.bottom + 16, _short(one.name, 8)
                )
            )
    parts.append(
        Markup(
            '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            '<text class="axis-name" x="{}" y="{}" text-anchor="end">best first</text>'
        ).format(_LEFT, frame.right, frame.bottom, frame.bottom, frame.right, frame.bottom + 34)
    )
    count = sum(baseline is not None and one.score > baseline for one in drawn)
    against = f"{count} above the baseline {number(baseline)} (squares)" if baseline is not None else "no baseline"
    more = f" {len(entrants) - len(drawn)} more are in the table." if len(entrants) > len(drawn) else ""
    description = f"{len(drawn)} models, best {number(drawn[0].score)}, {against}; lines show what was reported.{more}"
    rows = tuple(
        (
            visible(one.name),
            number(one.score, 6),
            number(min(one.reports, default=None), 6),
            number(max(one.reports, default=None), 6),
        )
        for one in entrants
    )
    columns = ("model", "score", "lowest report", "highest report")
    return Chart(title, description, _svg(title, description, frame.height, parts), columns, rows)


def lanes(title: str, marks: Sequence[Mark], *, axis: str, lane_axis: str, kinds: Sequence[str] = ()) -> Chart:
    """Marks in a grid: one lane per name (a UID), one column per epoch; size says how much, shape which kind.

    Lanes and columns come in the order in which they first appear; ``kinds`` names the shapes for the legend.
    """
    if not marks:
        return _empty(title, "Nothing to draw yet.")
    names = list(dict.fromkeys(mark.lane for mark in marks))
    columns = list(dict.fromkeys(mark.column for mark in marks))
    lane_height, top = 24, 28 if kinds else _TOP
    bottom = top + lane_height * len(names)
    left = 84
    step = (_WIDTH - left - _RIGHT) / len(columns)
    x_of = {column: left + (index + 0.5) * step for index, column in enumerate(columns)}
    y_of = {name: top + (index + 0.5) * lane_height for index, name in enumerate(names)}
    parts: list[Markup] = []
    for index, kind in enumerate(kinds):
        x = left + 8 + index * 150
        parts.append(_shape(index, x, 12, 5.5, kind))
        parts.append(Markup('<text x="{}" y="16">{}</text>').format(x + 12, visible(kind)))
    for name in names:
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                left, _WIDTH - _RIGHT, _at(y_of[name]), _at(y_of[name])
            )
        )
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 8, _at(y_of[name] + 4), _short(name, 12)
            )
        )
    every = max(1, math.ceil(len(columns) * 52 / (_WIDTH - left - _RIGHT)))
    for column in columns[::-1][::every][::-1]:
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                _at(x_of[column]), bottom + 16, _short(column, 12)
            )
        )
    parts.append(
        Markup('<text class="axis-name" x="{}" y="{}" text-anchor="end">{}</text>').format(
            _WIDTH - _RIGHT, bottom + 34, visible(axis)
        )
    )
    shared: dict[tuple[str, str], int] = {}
    for mark in marks:
        key = (mark.lane, mark.column)
        nudge = shared.get(key, 0)
        shared[key] = nudge + 1
        radius = 2.5 + 6.5 * math.sqrt(min(max(mark.size, 0.0), 1.0))
        parts.append(
            _shape(mark.shape, x_of[mark.column] + nudge * min(9, step / 3), y_of[mark.lane], radius, mark.text)
        )
    description = f"{len(marks)} marks in {len(columns)} columns ({axis}) and {len(names)} lanes ({lane_axis})."
    rows = tuple((visible(mark.column), visible(mark.lane), visible(mark.text)) for mark in marks)
    return Chart(
        title, description, _svg(title, description, bottom + 40, parts), (axis, lane_axis, "what it says"), rows
    )


def stacked_durations(title: str, bars: Sequence[tuple[str, Mapping[str, float]]], *, axis: str) -> Chart:
    """Horizontal bars of seconds per named part, one bar per row; each part's name and length stand in the bar."""
    kept = [(name, parts) for name, parts in bars if sum(parts.values()) > 0]
    if not kept:
        return _empty(title, "No stage has ended yet.")
    kinds = list(dict.fromkeys(part for _, parts in kept for part in parts))
    longest = max(sum(parts.values()) for _, parts in kept)
    left, bar_height, top = 84, 22, 28
    scale = (_WIDTH - left - 70) / longest
    pieces: list[Markup] = []
    x = float(left)
    for index, kind in enumerate(kinds):
        pieces.append(
            Markup('<rect class="f{} mark" x="{}" y="6" width="12" height="12"/><text x="{}" y="16">{}</text>').format(
                index % _SERIES + 1, _at(x), _at(x + 16), f"{index + 1} {visible(kind)}"
            )
        )
        x += 40 + 7 * len(kind)
    for row, (name, parts) in enumerate(kept):
        y, x = top + row * (bar_height + 6), float(left)
        pieces.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>').format(
                left - 8, y + 15, _short(name, 12)
            )
        )
        for kind, seconds in parts.items():
            width, which = seconds * scale, kinds.index(kind)
            if seconds <= 0:
                continue
            pieces.append(
                Markup('<rect class="f{} mark" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    which % _SERIES + 1,
                    _at(x),
                    y,
                    _at(max(width, 1)),
                    bar_height,
                    visible(f"{name}, {kind}: {duration(seconds)}"),
                )
            )
            x += width
        pieces.append(Markup('<text x="{}" y="{}">{}</text>').format(_at(x + 6), y + 15, duration(sum(parts.values()))))
    height = top + len(kept) * (bar_height + 6) + 4
    description = f"{axis}; longest {duration(longest)}. Parts in order: {', '.join(kinds)}."
    rows = tuple(
        (visible(name), visible(kind), duration(seconds)) for name, parts in kept for kind, seconds in parts.items()
    )
    return Chart(title, description, _svg(title, description, height, pieces), (axis, "part", "time"), rows)


def timeline(title: str, spans: Sequence[Span], *, lane_axis: str) -> Chart:
    """A Gantt chart: one lane per name, time from left to right, colour and number per kind.

    Spans of one lane and kind that lie closer together than the eye can see are one, in the table too.
    """
    if not spans:
        return _empty(title, "Nothing has been worked on yet.")
    names = list(dict.fromkeys(span.lane for span in spans))
    kinds = list(dict.fromkeys(span.kind for span in spans))
    begin, end = _widened(min(one.began for one in spans), max(one.ended for one in spans), 0.0)
    left, lane_height, top = 150, 22, 28
    bottom = top + lane_height * min(len(names), _LANES)
    scale = (_WIDTH - left - _RIGHT) / (end - begin)
    parts: list[Markup] = []
    x = float(left)
    for index, kind in enumerate(kinds):
        parts.append(
            Markup('<rect class="f{} mark" x="{}" y="6" width="12" height="12"/><text x="{}" y="16">{}</text>').format(
                index % _SERIES + 1, _at(x), _at(x + 16), visible(kind)
            )
        )
        x += 34 + 7 * len(kind)
    merged = {name: _merged([one for one in spans if one.lane == name], 1 / scale) for name in names}
    for row, name in enumerate(names[:_LANES]):
        y = top + row * lane_height
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(
                left,
                _WIDTH - _RIGHT,
                y + lane_height,
                y + lane_height,
                left - 8,
                y + 15,
                visible(shortened(name, 13, 8)),
            )
        )
        for span in merged[name]:
            parts.append(
                Markup('<rect class="f{} mark" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    kinds.index(span.kind) % _SERIES + 1,
                    _at(left + (span.began - begin) * scale),
                    y + 3,
                    _at(max((span.ended - span.began) * scale, 1.5)),
                    lane_height - 6,
                    visible(f"{name}, {span.text}: {duration(span.ended - span.began)}"),
                )
            )
    text = _time_text(begin, end)
    for tick in _time_ticks(begin, end):
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                _at(left + (tick - begin) * scale), bottom + 16, text(tick)
            )
        )
    more = f" {len(names) - _LANES} more are in the table." if len(names) > _LANES else ""
    description = f"{duration(end - begin)} in {len(names)} lanes ({lane_axis}): {', '.join(kinds)}.{more}"
    rows = tuple(
        (visible(one.lane), visible(one.text), _moment(one.began), duration(one.ended - one.began))
        for found in merged.values()
        for one in found
    )
    columns = (lane_axis, "what", "begun (UTC)", "time")
    return Chart(title, description, _svg(title, description, bottom + 24, parts), columns, rows)


def _merged(spans: Sequence[Span], gap: float) -> list[Span]:
    found: list[Span] = []
    count = 1
    for one in spans:
        last = found[-1] if found else None
        if last is not None and last.kind == one.kind and one.began - last.ended <= gap:
            count += 1
            found[-1] = Span(
                last.lane, last.kind, last.began, max(last.ended, one.ended), f"{count} parts of {one.kind}"
            )
        else:
            count = 1
            found.append(one)
    return found


class _Frame:
    """The plotting area: where a number falls, and its axes."""

    def __init__(
        self, height: int, x_range: tuple[float, float], y_range: tuple[float, float], right: int = _RIGHT
    ) -> None:
        self.height = height
        self.bottom = height - 42
        self.right = _WIDTH - right
        self.x_range, self.y_range = x_range, y_range

    def x(self, value: float) -> float:
        low, high = self.x_range
        return _LEFT + (value - low) / (high - low) * (self.right - _LEFT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.bottom - (value - low) / (high - low) * (self.bottom - _TOP)

    def y_axis(self, text: Text) -> Markup:
        parts = [
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(
                _LEFT, self.right, _at(self.y(tick)), _at(self.y(tick)), _LEFT - 6, _at(self.y(tick) + 4), text(tick)
            )
            for tick in _ticks(*self.y_range, 5)
        ]
        return Markup("").join(parts)

    def x_axis(self, text: Text, name: str, ticks: Sequence[float] | None = None) -> Markup:
        parts = [
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                _at(self.x(tick)), self.bottom + 16, text(tick)
            )
            for tick in (_ticks(*self.x_range, 6) if ticks is None else ticks)
        ]
        parts.append(
            Markup(
                '<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="axis-name" x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(_LEFT, self.right, self.bottom, self.bottom, self.right, self.bottom + 34, visible(name))
        )
        return Markup("").join(parts)


def _svg(title: str, description: str, height: float, parts: Sequence[Markup]) -> Markup:
    # names of elements: two plots of one title do not stand on one page
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    return Markup(
        '<svg class="plot" role="img" viewBox="0 0 {} {}" aria-labelledby="{}-title {}-desc">'
        '<title id="{}-title">{}</title><desc id="{}-desc">{}</desc>{}</svg>'
    ).format(_WIDTH, height, name, name, name, visible(title), name, visible(description), Markup("").join(parts))


def _shape(index: int, x: float, y: float, radius: float, text: str) -> Markup:
    """A mark by its number: disc, square, triangle, diamond, cross, ring."""
    r = radius
    which = index % _SERIES
    points = {
        1: ((-r, -r), (r, -r), (r, r), (-r, r)),
        2: ((0, -r * 1.2), (r * 1.1, r), (-r * 1.1, r)),
        3: ((0, -r * 1.3), (r * 1.3, 0), (0, r * 1.3), (-r * 1.3, 0)),
        4: tuple((a * r, b * r) for a, b in _CROSS),
        5: ((-r, -r * 0.4), (r, -r * 0.4), (r, r * 0.4), (-r, r * 0.4)),
    }.get(which)
    if points is None:
        drawn = Markup('cx="{}" cy="{}" r="{}"').format(_at(x), _at(y), _at(r))
        return Markup('<circle class="f{} mark" {}><title>{}</title></circle>').format(which + 1, drawn, visible(text))
    corners = " ".join(f"{_at(x + a)},{_at(y + b)}" for a, b in points)
    return Markup('<polygon class="f{} mark" points="{}"><title>{}</title></polygon>').format(
        which + 1, corners, visible(text)
    )


_CROSS: Final = (
    *((-0.35, -1.2), (0.35, -1.2), (0.35, -0.35), (1.2, -0.35), (1.2, 0.35), (0.35, 0.35)),
    *((0.35, 1.2), (-0.35, 1.2), (-0.35, 0.35), (-1.2, 0.35), (-1.2, -0.35), (-0.35, -0.35)),
)


def _names(names: Sequence[tuple[float, str, int]], frame: _Frame) -> list[Markup]:
    """The series' names at the right, pushed apart where they would overlap."""
    parts, free = [], float(_TOP)
    for wanted, name, index in sorted(names):
        y = max(wanted + 4, free)
        free = y + 15
        if index:
            parts.append(_shape(index - 1, frame.right + 12, y - 4, 4, name))
        parts.append(Markup('<text x="{}" y="{}">{}</text>').format(frame.right + 22, _at(y), _short(name, 15)))
    return parts


def _empty(title: str, description: str) -> Chart:
    return Chart(title, description, Markup(""), (), ())


def _course(series: Series) -> str:
    values = [y for _, y in series.points if math.isfinite(y)]
    return f"from {number(values[0])} to {number(values[-1])}" if values else "no values"


def _at(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _short(text: str, most: int) -> str:
    text = visible(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    if low == high:
        half = max(abs(low) * 0.05, 0.5)
        return low - half, high + half
    return low - (high - low) * share, high + (high - low) * share


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers between two bounds, about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, first + about * 3) if index * step <= high + step * 1e-6]


def _time_ticks(low: float, high: float) -> list[float]:
    """Full seconds, minutes, hours or days between two instants, about six."""
    step = next((step for step in _TIME_STEPS if step >= (high - low) / 6), _TIME_STEPS[-1])
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number_text(low: float, high: float) -> Text:
    places = max(0, 1 - math.floor(math.log10((high - low) / 5)))
    return lambda value: f"{value:.{min(places, 6)}f}" if places else f"{value:.0f}"


def _text_of(values: Sequence[float], bounds: tuple[float, float]) -> Text:
    """How an axis is written: there is nothing between two epochs, or between two ranks."""
    return _whole if all(value == round(value) for value in values) else _number_text(*bounds)


def _whole(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 1e-6 else ""


def _time_text(low: float, high: float) -> Text:
    shape = "%m-%d" if high - low > 3 * 86_400 else "%m-%d %H:%M" if high - low > 3_600 else "%H:%M:%S"
    return lambda value: datetime.fromtimestamp(value, UTC).strftime(shape)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
