"""Figures of what happens inside a model: disruption per layer, and disruption against consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from steadyvlm.report.labels import Box, place_label
from steadyvlm.report.measures import Measure
from steadyvlm.report.scales import Scale
from steadyvlm.report.svg import line, px, text, tick
from steadyvlm.report.text import one_line

_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 14.0, 14.0, 46.0


def small_bars(values: Sequence[float], highest: float) -> Markup:
    """Return a value per layer as a row of small bars up to `highest`, or ""."""
    if not values or highest <= 0:
        return Markup("")
    width = 92 / len(values)
    bars = Markup("").join(
        Markup('<rect x="{}" y="{}" width="{}" height="{}"/>').format(
            px(2 + width * layer), px(15 - 13 * value / highest), px(max(0.6, width - 0.6)), px(13 * value / highest)
        )
        for layer, value in enumerate(values)
    )
    return Markup('<svg class="bars" viewBox="0 0 96 16" aria-hidden="true">{}</svg>').format(bars)


def disruption_scatter(points: Mapping[int, tuple[str, Measure, Measure]], *, width: int, height: int) -> Markup:
    """Return inner disruption (across) against consistency (up) of each run, or "" for fewer than two.

    Args:
        points: number -> (name, LID, consistency), all defined.
        width: in pixels.
        height: in pixels.
    """
    if len(points) < 2:
        return Markup("")
    top = max(lid.high for _, lid, _ in points.values()) * 1.06 or 1.0
    least = min(same.low for _, _, same in points.values())
    x = Scale(0.0, top, _LEFT, width - _RIGHT)
    y = Scale(max(0.0, least - 0.04), 1.0, height - _BOTTOM, _TOP)
    parts = [_frame(x, y)]
    taken = [Box.around(x(lid.value), y(same.value), 6) for _, lid, same in points.values()]
    bounds = Box(x.start, y.stop - 6, x.stop, y.start)
    for number, (name, lid, same) in points.items():
        parts.append(_mark(name, lid, same, x, y))
        anchor = (x(lid.value), y(same.value))
        caption = f"{number} {one_line(name, 24 if width > 500 else 12)}"
        box = place_label(anchor, 6.7 * len(caption) + 4, 15, taken, bounds)
        taken.append(box)
        if box.distance(*anchor) > 14:
            parts.append(line("leader", *anchor, *box.nearest(*anchor)))
        parts.append(text("label", box.left + 2, box.bottom - 4, caption, "start"))
    about = "Layer-wise inner disruption of each run against the share of answers that stayed the same."
    return Markup(
        '<svg class="scatter" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, height, about, Markup("").join(parts))


def _frame(x: Scale, y: Scale) -> Markup:
    parts = []
    for value in x.ticks(spacing=60):
        parts.append(line("grid", x(value), y.start, x(value), y.stop))
        parts.append(text("tick", x(value), y.start + 16, f"{value:g}", "middle"))
    for value in y.ticks(spacing=28):
        parts.append(line("grid", x.start, y(value), x.stop, y(value)))
        parts.append(text("tick", x.start - 7, y(value) + 4, tick(value), "end"))
    parts.append(text("title", (x.start + x.stop) / 2, y.start + 37, "layer-wise inner disruption (LID)", "middle"))
    parts.append(
        Markup('<text class="title" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            px((y.start + y.stop) / 2), "consistency, % of answers"
        )
    )
    return Markup("").join(parts)


def _mark(name: str, lid: Measure, same: Measure, x: Scale, y: Scale) -> Markup:
    across, up = x(lid.value), y(same.value)
    title = f"{one_line(name, 60)}: LID {lid.text} {lid.interval}; consistency {same.text} % {same.interval}"
    return (
        line("whisker dr", x(lid.low), up, x(lid.high), up)
        + line("whisker dr", across, y(same.low), across, y(same.high))
        + Markup('<g><title>{}</title><circle class="dot dr" cx="{}" cy="{}" r="5"/></g>').format(
            title, px(across), px(up)
        )
    )
