"""Plots: what they draw, what they say beside it, and that nobody's text gets out of its place."""

from __future__ import annotations

import itertools
import math
import re

import lxml.etree
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.api.pages.charts import Chart, Mark, Series, histogram, lanes, lines, stacked_durations

EVIL = "\"'><script>alert(1)</script>\u202e&"

finite = st.floats(-1e6, 1e6, allow_nan=False)


def drawn(chart: Chart) -> lxml.etree._Element:
    """The parsed picture, which must be well-formed, titled, and without a style of its own."""
    root = lxml.etree.fromstring(str(chart.svg))
    assert root.get("role") == "img"
    title, description = root.get("aria-labelledby").split()
    assert root[0].tag == "title"
    assert root[0].get("id") == title
    assert root[1].tag == "desc"
    assert root[1].get("id") == description
    assert not root.xpath("//@style | //style | //script | //@*[starts-with(name(), 'on')]")
    width, height = (float(number) for number in root.get("viewBox").split()[2:])
    for name, limit in (("x", width), ("x1", width), ("cx", width), ("y", height), ("y1", height), ("cy", height)):
        for value in root.xpath(f"//@{name}"):
            assert -1 <= float(value) <= limit + 1, (name, value)
    return root


@example([0.0, 5e-324])
@example([1.0, 1.0 + 2**-52])
@given(st.lists(finite | st.just(-math.inf), min_size=1, max_size=60))
def test_every_finite_value_falls_into_one_bin(values: list[float]) -> None:
    chart = histogram("Scores", values, axis="score")
    known = [value for value in values if math.isfinite(value)]
    if not known:
        assert chart.rows == ()
        assert "No submissions with a score" in chart.description
        return
    drawn(chart)
    assert sum(int(row[2]) for row in chart.rows) == len(known)
    assert f"{len(known)} submissions" in chart.description
    left_out = len(values) - len(known)
    assert (f"{left_out} without a score" in chart.description) == bool(left_out)


def test_a_histogram_draws_bars_as_high_as_their_counts() -> None:
    root = drawn(histogram("Scores", [0.0, 0.0, 0.0, 1.0], axis="score"))
    first, last = root.xpath("//rect")
    assert float(first.get("height")) == pytest.approx(3 * float(last.get("height")), rel=0.01)
    assert first[0].text.endswith(": 3")


@given(
    st.lists(
        st.tuples(finite, finite | st.just(math.nan) | st.just(-math.inf)),
        min_size=1, max_size=20, unique_by=lambda point: point[0],
    )
)  # fmt: skip
def test_a_line_has_a_point_wherever_there_is_a_value(points: list[tuple[float, float]]) -> None:
    points.sort()
    chart = lines("Score", [Series("a", tuple(points))], axis="time", y_axis="score")
    known = [y for _, y in points if math.isfinite(y)]
    if not known:
        assert chart.rows == ()
        return
    root = drawn(chart)
    path = root.xpath("//path/@d")[0]
    assert path.count("M") + path.count("L") == len(known)
    assert len(chart.rows) == len(points)


def test_a_gap_breaks_the_line() -> None:
    chart = lines("Score", [Series("a", ((0, 1.0), (1, math.nan), (2, 1.0), (3, 2.0)))], axis="day", y_axis="score")
    path = drawn(chart).xpath("//path/@d")[0]
    assert (path.count("M"), path.count("L")) == (2, 1)


def test_series_differ_by_shape_and_dash_and_are_named() -> None:
    series = [Series(f"miner {number}", ((0, float(number)), (1, float(number)))) for number in range(8)]
    chart = lines("Score", series, axis="day", y_axis="score", rules={"baseline": 3.5})
    root = drawn(chart)
    assert len({path.get("class") for path in root.xpath("//path")}) == 6
    shapes = {
        (mark.tag, (mark.get("points") or "").count(","), mark.get("class"))
        for mark in root.xpath("//*[@class]/title/..")
    }
    assert len({(tag, corners) for tag, corners, _ in shapes}) >= 4
    names = [text.text for text in root.xpath("//text")]
    assert {*(f"miner {number}" for number in range(6)), "baseline"} <= set(names)
    assert "2 more are in the table" in chart.description
    assert len(chart.rows) == 16


def test_instants_are_written_as_dates() -> None:
    day = 86_400.0
    points = tuple((day * n, 0.5 + n / 100) for n in range(20))
    chart = lines("Reputation", [Series("a", points)], axis="day", y_axis="reputation", times=True)
    assert {"01-01", "01-06", "01-11", "01-16"} <= {text.text for text in drawn(chart).xpath("//text")}
    assert chart.rows[1][1] == "1970-01-02 00:00:00"


def test_lanes_keep_their_order_and_two_marks_in_one_place_apart() -> None:
    marks = [
        Mark("UID 3", "100", 0.4, "UID 3 won PSICHIC", 0),
        Mark("UID 3", "100", 0.4, "UID 3 won Boltz-2", 1),
        Mark("UID 7", "101", 1.0, "UID 7 won PSICHIC", 0),
    ]
    chart = lanes("Winners", marks, axis="epoch", lane_axis="winner", kinds=("PSICHIC", "Boltz-2"))
    root = drawn(chart)
    discs = {disc[0].text: disc for disc in root.xpath("//circle[@class='f1 mark']")}
    square = next(one for one in root.xpath("//polygon") if one[0].text == "UID 3 won Boltz-2")
    left = float(square.get("points").split(",")[0])
    assert left > float(discs["UID 3 won PSICHIC"].get("cx")) - 5
    assert float(discs["UID 7 won PSICHIC"].get("r")) > float(discs["UID 3 won PSICHIC"].get("r"))
    assert float(discs["UID 7 won PSICHIC"].get("cy")) > float(discs["UID 3 won PSICHIC"].get("cy"))
    assert chart.rows[0] == ("100", "UID 3", "UID 3 won PSICHIC")


def test_a_year_of_epochs_still_has_readable_labels() -> None:
    marks = [Mark(f"UID {n % 5}", str(18_000 + n), 0.5, "won") for n in range(400)]
    root = drawn(lanes("Winners", marks, axis="epoch", lane_axis="winner"))
    places = [float(text.get("x")) for text in root.xpath("//text[@text-anchor='middle']")]
    assert places == sorted(places)
    assert all(after - before >= 50 for before, after in itertools.pairwise(places))
    assert root.xpath("//text[.='18399']")


def test_durations_are_as_long_as_they_took() -> None:
    bars = [("100", {"open": 10.0, "examine": 30.0}), ("101", {"open": 80.0}), ("102", {})]
    chart = stacked_durations("Stages", bars, axis="epoch")
    root = drawn(chart)
    widths = {bar[0].text: float(bar.get("width")) for bar in root.xpath("//rect[title]")}
    assert widths["100, examine: 30 s"] == pytest.approx(3 * widths["100, open: 10 s"], rel=0.01)
    assert widths["101, open: 1 min 20 s"] == pytest.approx(8 * widths["100, open: 10 s"], rel=0.01)
    assert [row[0] for row in chart.rows] == ["100", "100", "101"]
    assert stacked_durations("Stages", [("1", {})], axis="epoch").rows == ()


@pytest.mark.parametrize(
    "chart",
    [
        histogram(EVIL, [1.0, 2.0], axis=EVIL, what=EVIL),
        lines(EVIL, [Series(EVIL, ((0, 1.0), (1, 2.0)))], axis=EVIL, y_axis=EVIL, rules={EVIL: 1.0}),
        lanes(EVIL, [Mark(EVIL, EVIL, 1.0, EVIL)], axis=EVIL, lane_axis=EVIL, kinds=(EVIL,)),
        stacked_durations(EVIL, [(EVIL, {EVIL: 1.0})], axis=EVIL),
    ],
)
def test_no_text_leaves_its_place(chart: Chart) -> None:
    root = drawn(chart)
    assert {element.tag for element in root.iter()} <= {
        "svg", "title", "desc", "text", "rect", "line", "path", "circle", "polygon",
    }  # fmt: skip
    assert "\u202e" not in str(chart.svg)


def test_epochs_and_ranks_are_written_as_whole_numbers() -> None:
    points = tuple((19_000.0 + epoch, 4.0) for epoch in range(20))
    picture = str(lines("ranks", [Series("PSICHIC", points)], axis="epoch", y_axis="rank").svg)
    written = re.findall(r'class="tick"[^>]*>([^<]*)<', picture)
    assert {"19000", "4"} <= set(written)
    assert not any("." in text for text in written)
