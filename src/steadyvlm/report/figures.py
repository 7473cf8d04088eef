"""Figures as inline SVG, written by hand: no plotting library, no fonts, no script, sharp at any size.

Colours come from the page's style sheet through classes, so that dark mode and print need no second figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steadyvlm.report.labels import Box, place_label
from steadyvlm.report.measures import Measure
from steadyvlm.report.scales import Scale, needs_root, padded
from steadyvlm.report.svg import line, px, text, tick
from steadyvlm.report.text import one_line

_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 14.0, 14.0, 46.0


@dataclass(frozen=True, slots=True)
class Point:
    """One run in the scatter: score change across, changed and broken answers up.

    Attributes:
        number: position in the table.
        name: of the run; untrusted.
        score: score change.
        changed: divergence ratio.
        broken: negative divergence ratio.
        href: where a click leads.
    """

    number: int
    name: str
    score: Measure
    changed: Measure
    broken: Measure
    href: str


def scatter(points: Sequence[Point], noise: Measure | None, *, width: int, height: int) -> Markup:
    """Return score change against changed and broken answers, or "" when nothing can be drawn.

    Args:
        points: the runs; undefined ones are left out.
        noise: share of answers that changed when the original was run again, drawn as a band.
        width: of the drawing in pixels; two widths serve wide and narrow screens.
        height: of the drawing in pixels.
    """
    points = [point for point in points if point.score.defined and point.changed.defined]
    if not points:
        return Markup("")
    floor = noise if noise is not None and noise.defined else None
    x, y = _axes(points, floor, width, height)
    parts = [_frame(x, y), _only_losses(x, y)]
    if floor is not None:
        parts.append(_band(floor, x, y))
    parts += [_marks(point, x, y) for point in points]
    parts += _labels(points, x, y, name_length=26 if width > 500 else 12)
    about = "Score change of each run against the share of answers that changed and that went from right to wrong."
    return Markup(
        '<svg class="scatter" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, height, about, Markup("").join(parts))


def column_axis(measures: Sequence[Measure]) -> Scale | None:
    """Return the axis that the interval marks of a column share, or None when there is nothing to draw."""
    known = [item for item in measures if item.defined]
    low, high = min([0.0, *(item.low for item in known)]), max([0.0, *(item.high for item in known)])
    return Scale(low, high, 3.0, 93.0, needs_root([item.value for item in known])) if high > low else None


def interval_mark(measure: Measure, scale: Scale | None, kind: str) -> Markup:
    """Return a dot with its whisker on an axis that marks 0, or "".

    Args:
        measure: what to draw.
        scale: axis of the column, from `column_axis`.
        kind: class that gives the colour: "dr", "ndr", "pfr" or "score".
    """
    if not measure.defined or scale is None:
        return Markup("")
    parts = [
        Markup('<line class="axis" x1="3" x2="93" y1="6" y2="6"/>'),
        Markup('<line class="zero" x1="{0}" x2="{0}" y1="1" y2="11"/>').format(px(scale(0))),
        Markup('<line class="whisker" x1="{}" x2="{}" y1="6" y2="6"/>').format(
            px(scale(measure.low)), px(scale(measure.high))
        ),
        Markup('<circle cx="{}" cy="6" r="3"/>').format(px(scale(measure.value))),
    ]
    return Markup('<svg class="mark {}" viewBox="0 0 96 12" aria-hidden="true">{}</svg>').format(
        kind, Markup("").join(parts)
    )


def steps(per_layer: Sequence[float], before: float) -> Markup:
    """Return the visual tokens per layer as a small step line under the level of the original, or ""."""
    top = max(before, *per_layer, 1.0) if per_layer else 0.0
    if not top:
        return Markup("")
    width = 92 / len(per_layer)
    path = f"M2 {px(15 - 13 * per_layer[0] / top)}"
    for layer, tokens in enumerate(per_layer):
        path += f"V{px(15 - 13 * tokens / top)}H{px(2 + width * (layer + 1))}"
    return Markup(
        '<svg class="steps" viewBox="0 0 96 16" aria-hidden="true"><path class="fill" d="{0}V15H2Z"/>'
        '<line class="axis" x1="2" x2="94" y1="{1}" y2="{1}"/><path class="line" d="{0}"/></svg>'
    ).format(path, px(15 - 13 * before / top))


def _axes(points: Sequence[Point], floor: Measure | None, width: int, height: int) -> tuple[Scale, Scale]:
    across = [value for p in points for value in (p.score.low, p.score.high)]
    up = [value for p in points for value in (p.changed.high, p.broken.high) if math.isfinite(value)]
    root = needs_root([p.score.value for p in points]) or needs_root([p.changed.value for p in points])
    low, high = padded(across)
    _, top = padded([*up, floor.high if floor else 0.0])
    return (
        Scale(low, high, _LEFT, width - _RIGHT, root),
        Scale(0.0, top, height - _BOTTOM, _TOP, root),
    )


def _frame(x: Scale, y: Scale) -> Markup:
    """Grid lines, ticks, axis titles."""
    parts = []
    for value in x.ticks(spacing=46):
        kind = "zero" if value == 0 else "grid"
        parts.append(line(kind, x(value), y.start, x(value), y.stop))
        parts.append(text("tick", x(value), y.start + 16, tick(value, sign=True), "middle"))
    for value in y.ticks(spacing=28):
        parts.append(line("zero" if value == 0 else "grid", x.start, y(value), x.stop, y(value)))
        parts.append(text("tick", x.start - 7, y(value) + 4, tick(value), "end"))
    wide = x.stop - x.start > 420
    note = " (square-root scale)" if x.root and wide else ""
    parts.append(
        text("title", (x.start + x.stop) / 2, y.start + 37, f"score change, percentage points{note}", "middle")
    )
    middle = (y.start + y.stop) / 2
    note = " (square-root scale)" if y.root and y.start - y.stop > 300 else ""
    parts.append(
        Markup('<text class="title" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            px(middle), f"answers, % of all{note}"
        )
    )
    return Markup("").join(parts)


def _only_losses(x: Scale, y: Scale) -> Markup:
    """The line right→wrong = score lost: points cannot lie below it, and what lies above it mended elsewhere."""
    if x.low >= 0:
        return Markup("")
    reach = min(-x.low, y.high)
    return line("losses", x(0), y(0), x(-reach), y(reach))


def _band(noise: Measure, x: Scale, y: Scale) -> Markup:
    top, bottom = y(noise.high), y(noise.low)
    return Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>{}').format(
        px(x.start),
        px(top),
        px(x.stop - x.start),
        px(max(1.5, bottom - top)),
        f"repeat-run noise: {noise.text} % {noise.interval} of answers changed with nothing accelerated",
        line("noise", x.start, y(noise.value), x.stop, y(noise.value)),
    )


def _marks(point: Point, x: Scale, y: Scale) -> Markup:
    across, up, broken = x(point.score.value), y(point.changed.value), y(point.broken.value)
    title = (
        f"{one_line(point.name, 60)}: score {point.score.text} points {point.score.interval}; "
        f"changed {point.changed.text} % {point.changed.interval}; "
        f"right to wrong {point.broken.text} % {point.broken.interval}"
    )
    d = f"M{px(across)} {px(broken - 5)}l5 5l-5 5l-5 -5Z"
    parts = [
        line("tie", across, up, across, broken),
        line("whisker dr", x(point.score.low), up, x(point.score.high), up),
        line("whisker dr", across, y(point.changed.low), across, y(point.changed.high)),
        line("whisker ndr", across, y(point.broken.low), across, y(point.broken.high)),
        Markup('<path class="dot ndr" d="{}"/>').format(d),
        Markup('<circle class="dot dr" cx="{}" cy="{}" r="5"/>').format(px(across), px(up)),
    ]
    return Markup('<a href="{}" class="point"><title>{}</title>{}</a>').format(
        point.href, title, Markup("").join(parts)
    )


def _labels(points: Sequence[Point], x: Scale, y: Scale, *, name_length: int) -> list[Markup]:
    """Names beside their dots, moved apart so that they cover neither each other nor the data."""
    taken = []
    for point in points:
        across, up, broken = x(point.score.value), y(point.changed.value), y(point.broken.value)
        taken += [Box.around(across, up, 6), Box.around(across, broken, 6)]
        taken.append(Box(across - 2, y(point.changed.high), across + 2, y(point.changed.low)))
        taken.append(Box(across - 2, y(point.broken.high), across + 2, y(point.broken.low)))
        taken.append(Box(x(point.score.low), up - 2, x(point.score.high), up + 2))
    bounds = Box(x.start, y.stop - 6, x.stop, y.start)
    parts = []
    for point in sorted(points, key=lambda item: -item.changed.value):
        name = one_line(point.name, 80)
        caption = f"{point.number} {name if len(name) <= name_length else name[: name_length - 1] + '…'}"
        anchor = (x(point.score.value), y(point.changed.value))
        box = place_label(anchor, 6.7 * len(caption) + 4, 15, taken, bounds)
        taken.append(box)
        if box.distance(*anchor) > 14:
            parts.append(line("leader", *anchor, *box.nearest(*anchor)))
        parts.append(text("label", box.left + 2, box.bottom - 4, caption, "start"))
    return parts
