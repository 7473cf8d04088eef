"""One SVG file about a calibration for joint pruning: what the layers do with a picture, and what follows from it.

Left, over the decoder layers: how concentrated the question's attention to the picture is, and how alike visual tokens
are. Right: what quantisation does to each layer, and how many visual tokens each layer processes. The candidate layers
are shaded in both.

Source: the left half follows Li et al. 2026, arXiv 2604.17320, Figures 3 and 5.
Differs: the band is the median plus and minus half the interquartile range; the right half shows the decision too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steadyvlm.report.scales import Scale
from steadyvlm.report.svg import line, px, text
from steadyvlm.report.text import one_line

_HALF, _HEIGHT = 520.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 20.0, 44.0, 46.0
_STYLE = (
    "text{font-family:system-ui,sans-serif;fill:#555;font-size:12px}.head{fill:#1b1b1b;font-size:14px}"
    ".grid{stroke:#e2e2e2}.range{fill:#f3ead8}.bar{fill:#c4511c;opacity:.75}"
    ".a{fill:none;stroke:#0b6fb8;stroke-width:2}.band{fill:#0b6fb8;opacity:.15}"
    ".b{fill:none;stroke:#1f8a5b;stroke-width:2;stroke-dasharray:6 3}.c{fill:none;stroke:#1b1b1b;stroke-width:2}"
    "text.ka{fill:#0b6fb8}text.kb{fill:#1f8a5b}text.kc{fill:#1b1b1b}text.kd{fill:#a3410f}"
)


@dataclass(frozen=True, slots=True)
class LayerNumbers:
    """One entry per decoder layer.

    Attributes:
        concentration: median share of the attention to the picture that the top tenth of its tokens gets.
        spread: its interquartile range.
        redundancy: median pairwise cosine similarity of visual tokens.
        sensitivity: relative error of the layer's output under quantisation; all zero when nothing is quantised.
        kept: share of the visual tokens the layer processes.
    """

    concentration: Sequence[float]
    spread: Sequence[float]
    redundancy: Sequence[float]
    sensitivity: Sequence[float]
    kept: Sequence[float]


def quota_profile_figure(title: str, layers: LayerNumbers, candidates: Sequence[int]) -> str:
    """Return a complete SVG document.

    Args:
        title: what was calibrated; untrusted.
        layers: what was measured and decided.
        candidates: layers that lose tokens, neighbours.
    """
    depth = len(layers.kept)
    x = Scale(-0.5, depth - 0.5, _LEFT, _HALF - _RIGHT)
    shade = _shade(x, candidates)
    parts = [
        Markup("<style>{}</style>").format(Markup(_STYLE)),
        Markup('<rect width="100%" height="100%" fill="#fff"/>'),
        text("head", _LEFT, 20, one_line(title, 120), "start"),
        Markup('<g transform="translate(0 26)">{}{}</g>').format(shade, _profile(layers, x)),
        Markup('<g transform="translate({} 26)">{}{}</g>').format(px(_HALF), shade, _decision(layers, x)),
    ]
    return Markup(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-label="{2}">{3}</svg>\n'
    ).format(px(2 * _HALF), px(_HEIGHT + 30), one_line(title, 120), Markup("").join(parts))


def _profile(layers: LayerNumbers, x: Scale) -> Markup:
    """Return concentration with its band, and redundancy."""
    lows = [middle - spread / 2 for middle, spread in zip(layers.concentration, layers.spread, strict=True)]
    highs = [middle + spread / 2 for middle, spread in zip(layers.concentration, layers.spread, strict=True)]
    every = [value for row in (lows, highs, layers.redundancy) for value in row if math.isfinite(value)]
    y = Scale(min(0.0, *every), max(1.0, *every), _HEIGHT - _BOTTOM, _TOP)
    band = [*enumerate(highs), *reversed(list(enumerate(lows)))]
    outline = " ".join(f"{px(x(layer))},{px(y(value))}" for layer, value in band)
    return (
        _axes(x, y, len(lows), lambda value: f"{value:g}")
        + Markup('<polygon class="band" points="{}"/>').format(outline)
        + _curve("a", x, y, layers.concentration)
        + _curve("b", x, y, layers.redundancy)
        + text("ka", _LEFT, 16, "attention concentration (top 10 %), median ± IQR / 2", "start")
        + text("kb", _LEFT, 33, "redundancy of visual tokens (median cosine)", "start")
    )


def _decision(layers: LayerNumbers, x: Scale) -> Markup:
    """Return sensitivity as bars against its own axis, and the share of tokens as steps."""
    y = Scale(0.0, 1.0, _HEIGHT - _BOTTOM, _TOP)
    finite = [value for value in layers.sensitivity if math.isfinite(value)]
    most = max([*finite, 0.0])
    width = 0.6 * (x.stop - x.start) / len(layers.kept)
    bars = []
    for layer, value in enumerate(layers.sensitivity):
        if most > 0 and math.isfinite(value):
            top = y(0.95 * value / most)
            bars.append(
                Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                    px(x(layer) - width / 2), px(top), px(width), px(y.start - top), f"layer {layer}: {value:.4f}"
                )
            )
    steps = " ".join(
        f"{px(x(layer + side))},{px(y(share))}" for layer, share in enumerate(layers.kept) for side in (-0.5, 0.5)
    )
    told = f"sensitivity to quantisation, highest {most:.3f}" if most > 0 else "nothing is quantised: no sensitivity"
    return (
        _axes(x, y, len(layers.kept), lambda value: f"{100 * value:g} %")
        + Markup("").join(bars)
        + Markup('<polyline class="c" points="{}"/>').format(steps)
        + text("kc", _LEFT, 16, "share of the visual tokens that each layer processes", "start")
        + text("kd", _LEFT, 33, told, "start")
    )


def _shade(x: Scale, candidates: Sequence[int]) -> Markup:
    left, right = x(candidates[0] - 0.5), x(candidates[-1] + 0.5)
    return Markup(
        '<rect class="range" x="{}" y="{}" width="{}" height="{}"><title>candidate layers</title></rect>'
    ).format(px(left), px(_TOP), px(right - left), px(_HEIGHT - _BOTTOM - _TOP))


def _curve(kind: str, x: Scale, y: Scale, values: Sequence[float]) -> Markup:
    places = " ".join(f"{px(x(layer))},{px(y(value))}" for layer, value in enumerate(values) if math.isfinite(value))
    return Markup('<polyline class="{}" points="{}"/>').format(kind, places)


def _axes(x: Scale, y: Scale, depth: int, label: Callable[[float], str]) -> Markup:
    parts = []
    for value in y.ticks(spacing=40):
        parts.append(line("grid", x.start, y(value), x.stop, y(value)))
        parts.append(text("tick", x.start - 7, y(value) + 4, label(value), "end"))
    step = max(1, math.ceil(depth / 16))
    parts += [text("tick", x(layer), y.start + 16, str(layer), "middle") for layer in range(0, depth, step)]
    parts.append(text("title", (x.start + x.stop) / 2, y.start + 37, "decoder layer", "middle"))
    return Markup("").join(parts)
