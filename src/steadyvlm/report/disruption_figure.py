"""One SVG file about inner disruption: LID against consistency at the left, spectra per layer at the right.

Source: the left half follows Sun et al. 2025, arXiv 2503.06794v2, Figure 3.
Differs: points carry intervals; the curves show where in the model a method acts, which a sum over layers hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steadyvlm.report.inside_figures import disruption_scatter
from steadyvlm.report.measures import Measure
from steadyvlm.report.scales import Scale
from steadyvlm.report.svg import line, px, text
from steadyvlm.report.text import one_line

_HALF, _HEIGHT, _KEY = 520, 400, 18
_COLOURS = ("#1b1b1b", "#0b6fb8", "#c4511c", "#1f8a5b", "#8a4fbf", "#b0326a", "#7a6a00", "#4a7a8c")
_DASHES = ("", "6 3", "2 3")
_STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#555;font-size:12px}.label{fill:#1b1b1b;font-size:13px}"
    ".grid{stroke:#e2e2e2}.zero,.leader{stroke:#999}.whisker{stroke:#0b6fb8;stroke-width:1.5;opacity:.55}"
    ".dot{fill:#0b6fb8;stroke:#fff;stroke-width:1.5}.curve{fill:none;stroke-width:1.8}.head{fill:#1b1b1b;font-size:14px}"
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Mean participation ratio per layer of one run; the name is untrusted."""

    name: str
    ratios: Sequence[float]


def lid_figure(points: Sequence[tuple[str, Measure, Measure]], curves: Sequence[Curve], pearson: float) -> str:
    """Return a complete SVG document.

    Args:
        points: (name, LID, consistency) of each run; undefined ones and a single one are not drawn.
        curves: the original's first, then one per run.
        pearson: coefficient over the points; nan when there is none.
    """
    known = {number: point for number, point in enumerate(points, start=1) if point[1].defined and point[2].defined}
    height = _HEIGHT + 30 + _KEY * len(curves)
    scatter = disruption_scatter(known, width=_HALF, height=_HEIGHT)
    heading = "" if math.isnan(pearson) else f"Pearson r = {pearson:+.3f}, n = {len(known)} runs".replace("-", "−")
    parts = [
        Markup("<style>{}</style>").format(Markup(_STYLE)),
        Markup('<rect width="100%" height="100%" fill="#fff"/>'),
        text("head", 50, 20, heading or "LID and consistency", "start"),
        Markup('<g transform="translate(0 26)">{}</g>').format(scatter),
        text("head", _HALF + 50, 20, "participation ratio of each layer", "start"),
        Markup('<g transform="translate({} 26)">{}</g>').format(_HALF, _curves(curves)),
    ]
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}">{2}</svg>\n'
    ).format(2 * _HALF, height, Markup("").join(parts))


def _curves(curves: Sequence[Curve]) -> Markup:
    layers = len(curves[0].ratios)
    x = Scale(0.0, max(1.0, layers - 1.0), 50.0, _HALF - 14.0)
    y = Scale(0.0, max(max(curve.ratios) for curve in curves) * 1.06 or 1.0, _HEIGHT - 46.0, 14.0)
    parts = []
    for value in y.ticks(spacing=28):
        parts.append(line("grid", x.start, y(value), x.stop, y(value)))
        parts.append(text("tick", x.start - 7, y(value) + 4, f"{value:g}", "end"))
    step = max(1, math.ceil(layers / 16))
    parts += [text("tick", x(layer), y.start + 16, str(layer), "middle") for layer in range(0, layers, step)]
    parts.append(text("title", (x.start + x.stop) / 2, y.start + 37, "decoder layer", "middle"))
    for number, curve in enumerate(curves):
        style = _stroke(number)
        places = " ".join(f"{px(x(layer))},{px(y(ratio))}" for layer, ratio in enumerate(curve.ratios))
        below = _HEIGHT + 6 + _KEY * number
        parts.append(Markup('<polyline class="curve" points="{}" {}/>').format(places, style))
        parts.append(Markup('<line x1="50" x2="78" y1="{0}" y2="{0}" {1}/>').format(below, style))
        parts.append(
            text("key", 86, below + 4, f"{number} {one_line(curve.name, 64)}" if number else curve.name, "start")
        )
    return Markup("").join(parts)


def _stroke(number: int) -> Markup:
    """Return the stroke of a curve: colours first, then dashes, so that many runs stay apart."""
    colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return Markup('stroke="{}" stroke-dasharray="{}"').format(colour, dash or "none")
