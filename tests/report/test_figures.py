from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from steadyvlm.report.figures import Point, column_axis, interval_mark, scatter, steps
from steadyvlm.report.labels import Box, place_label
from steadyvlm.report.measures import UNDEFINED, Measure
from steadyvlm.report.scales import Scale, needs_root, padded

HOSTILE = '<b x="1">&\'"'


def measure(value: float, half: float = 0.01) -> Measure:
    return Measure(f"{100 * value:.1f}", "[a, b]", "1 of 2", "title", value, value - half, value + half)


def point(number: int, change: float, changed: float, name: str = "") -> Point:
    return Point(number, name or f"run {number}", measure(change), measure(changed), measure(changed / 2), "#run=x")


def elements(svg: str, kind: str) -> list[ET.Element]:
    found = ET.fromstring(svg).iter()
    return [item for item in found if kind in item.get("class", "").split()]


def test_every_run_is_drawn_once_with_whiskers_and_a_label() -> None:
    points = [point(index, -0.01 * index, 0.02 * index) for index in range(1, 7)]
    svg = scatter(points, measure(0.005, 0.004), width=860, height=440)
    assert len(elements(svg, "point")) == 6
    assert len(elements(svg, "whisker")) == 18
    assert sorted(item.text or "" for item in elements(svg, "label")) == [f"{i} run {i}" for i in range(1, 7)]
    assert len(elements(svg, "band")) == 1


def test_more_change_is_higher_and_a_loss_is_left() -> None:
    svg = scatter([point(1, -0.02, 0.05), point(2, 0.01, 0.10)], None, width=860, height=440)
    low, high = [(float(d.get("cx", "")), float(d.get("cy", ""))) for d in elements(svg, "dr") if d.get("cx")]
    assert low[0] < high[0]
    assert low[1] > high[1]
    assert elements(svg, "band") == []


def test_the_line_of_pure_losses_passes_through_its_definition() -> None:
    svg = scatter([point(1, -0.10, 0.10)], None, width=860, height=440)
    line = elements(svg, "losses")[0]
    dot = next(item for item in elements(svg, "dr") if item.get("cx"))
    x1, y1, x2, y2 = (float(line.get(name, "")) for name in ("x1", "y1", "x2", "y2"))
    on_line = y1 + (float(dot.get("cx", "")) - x1) / (x2 - x1) * (y2 - y1)
    assert on_line == pytest.approx(float(dot.get("cy", "")), abs=0.2)


def test_nothing_to_draw_is_no_figure() -> None:
    assert scatter([], None, width=400, height=300) == ""
    assert scatter([replace(point(1, 0.0, 0.0), score=UNDEFINED)], None, width=400, height=300) == ""


@pytest.mark.parametrize("width", [360, 860])
def test_names_are_escaped_and_shortened(width: int) -> None:
    svg = scatter([point(1, 0.0, 0.1, HOSTILE * 9)], None, width=width, height=400)
    text = elements(svg, "label")[0].text or ""
    assert text.startswith('1 <b x="1">')
    assert text.endswith("…")
    assert "<b x" not in svg


def test_all_runs_unchanged_still_gives_a_figure() -> None:
    still = Measure("0.0", "[0, 0]", "0 of 9", "", 0.0, 0.0, 0.0)
    svg = scatter([Point(1, "same", still, still, still, "#")], None, width=860, height=440)
    assert len(elements(svg, "dot")) == 2


def test_one_extreme_run_bends_both_axes() -> None:
    points = [*(point(index, -0.01, 0.02) for index in range(1, 4)), point(4, -0.5, 0.6)]
    assert "square-root" in scatter(points, None, width=860, height=440)
    assert "square-root" not in scatter(points[:3], None, width=860, height=440)


def test_marks_share_the_axis_of_their_column() -> None:
    axis = column_axis([measure(0.1), measure(0.4), UNDEFINED])
    assert axis is not None
    assert axis.low == 0.0
    assert axis.high == pytest.approx(0.41)
    places = [
        float(circle.get("cx", "")) for value in (0.1, 0.4)
        for circle in ET.fromstring(interval_mark(measure(value), axis, "dr")).iter("circle")
    ]  # fmt: skip
    assert places == sorted(places)
    assert interval_mark(UNDEFINED, axis, "dr") == ""
    assert column_axis([UNDEFINED]) is None
    assert interval_mark(measure(0.1), None, "dr") == ""


def test_steps_follow_the_layers() -> None:
    svg = steps([144, 144, 72], 144)
    line = elements(svg, "line")[0].get("d", "")
    assert line == "M2 2V2H32.7V2H63.3V8.5H94"
    assert steps([], 0) == ""
    assert steps([0.0], 0) != ""


def test_scale_bends_by_the_square_root_with_sign() -> None:
    scale = Scale(-1.0, 1.0, 0.0, 100.0, root=True)
    assert [scale(value) for value in (-1.0, -0.25, 0.0, 0.25, 1.0, 9.0)] == [0.0, 25.0, 50.0, 75.0, 100.0, 100.0]


@pytest.mark.parametrize("scale", [Scale(-0.43, 0.07, 50, 800), Scale(-0.43, 0.07, 50, 800, root=True),
                                   Scale(0, 0.003, 400, 10), Scale(-1.0, 0.9, 0, 30)])  # fmt: skip
def test_ticks_are_apart_inside_and_hold_zero(scale: Scale) -> None:
    ticks = scale.ticks(spacing=40)
    assert 0.0 in ticks
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert all(abs(scale(a) - scale(b)) >= 39.9 for a, b in itertools.pairwise(ticks))


def test_root_axis_is_for_outliers_only() -> None:
    assert needs_root([-0.5, 0.01, 0.02, 0.02])
    assert not needs_root([0.5, 0.01])
    assert not needs_root([0.0, 0.0, float("nan")])


def test_limits_hold_zero_and_are_never_empty() -> None:
    assert padded([]) == (-0.005, 0.005)
    low, high = padded([0.2, 0.5])
    assert low == 0.0
    assert high > 0.5


def test_labels_keep_clear_of_each_other_and_the_frame() -> None:
    bounds, taken = Box(0, 0, 300, 200), [Box.around(150, 100, 6)]
    for _ in range(6):
        box = place_label((150, 100), 60, 14, taken, bounds)
        assert box.inside(bounds)
        assert all(box.overlap(other) == 0 for other in taken)
        taken.append(box)


def test_a_label_that_fits_nowhere_is_pushed_inside_from_the_right() -> None:
    box = place_label((95, 50), 80, 300, [], Box(0, 0, 100, 100))
    assert (box.left, box.right) == (20, 100)
    assert box.distance(100, box.top) == 0
    assert Box(0, 0, 3, 4).distance(6, 8) == 5.0
