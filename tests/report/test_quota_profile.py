from __future__ import annotations

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest

from steadyvlm.report.quota_profile import LayerNumbers, quota_profile_figure

SVG = "{http://www.w3.org/2000/svg}"
LAYERS = LayerNumbers(
    concentration=[0.2, 0.25, 0.5, 0.6, 0.7, 0.6],
    spread=[0.1] * 6,
    redundancy=[0.1, 0.2, 0.2, 0.3, 0.5, 0.7],
    sensitivity=[0.02, 0.01, 0.04, 0.02, 0.01, 0.08],
    kept=[1, 1, 1, 0.6, 0.3, 0.3],
)


def drawn(layers: LayerNumbers = LAYERS, title: str = "pocket") -> ET.Element:
    return ET.fromstring(quota_profile_figure(title, layers, (2, 3)))


def points(root: ET.Element, kind: str) -> list[tuple[float, float]]:
    (found,) = root.findall(f".//{SVG}polyline[@class='{kind}']")
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in found.attrib["points"].split())]


def test_curves_bars_and_steps_show_the_numbers() -> None:
    root = drawn()
    concentration, redundancy, kept = (points(root, kind) for kind in "abc")
    ranked = sorted(range(6), key=lambda layer: LAYERS.concentration[layer])
    assert sorted(range(6), key=lambda layer: -concentration[layer][1]) == ranked
    assert len(redundancy) == 6
    assert len(kept) == 12
    assert len({y for _, y in kept}) == 3
    bars = [float(bar.attrib["height"]) for bar in root.findall(f".//{SVG}rect[@class='bar']")]
    assert bars[2] == pytest.approx(4 * bars[1], abs=0.3)
    assert max(bars) == bars[5]
    assert "highest 0.080" in "".join(root.itertext())


def test_the_candidate_layers_are_shaded_in_both_halves() -> None:
    shades = drawn().findall(f".//{SVG}rect[@class='range']")
    assert len(shades) == 2
    width = (520 - 20 - 50) / 6
    assert float(shades[0].attrib["x"]) == pytest.approx(50 + 2 * width, abs=0.1)
    assert float(shades[0].attrib["width"]) == pytest.approx(2 * width, abs=0.1)


def test_without_a_quantiser_there_are_no_bars_and_it_says_so() -> None:
    root = drawn(dataclasses.replace(LAYERS, sensitivity=[0.0] * 6))
    assert not root.findall(f".//{SVG}rect[@class='bar']")
    assert "nothing is quantised" in "".join(root.itertext())


def test_numbers_that_are_not_finite_leave_a_gap_and_negative_ones_widen_the_axis() -> None:
    odd = dataclasses.replace(
        LAYERS, sensitivity=[math.nan, *LAYERS.sensitivity[1:]], redundancy=[-0.3, math.nan, *[0.1] * 4]
    )
    root = drawn(odd)
    assert len(root.findall(f".//{SVG}rect[@class='bar']")) == 5
    assert len(points(root, "b")) == 5
    assert max(y for _, y in points(root, "b")) <= 330 - 46


def test_a_title_cannot_break_the_document() -> None:
    root = drawn(title='</svg><script>"\x00')
    assert root.attrib["aria-label"].startswith("</svg><script>")
