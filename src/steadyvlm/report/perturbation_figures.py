"""Curves of the divergence ratio over severity, one line per arm, the clean samples at the left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from steadyvlm.report.measures import Measure
from steadyvlm.report.scales import Scale
from steadyvlm.report.svg import line, px, text, tick
from steadyvlm.report.text import one_line

_LEFT, _TOP, _BOTTOM = 46.0, 14.0, 46.0
_TONES = 6
"""Line styles that can be told apart; further arms begin again."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One arm: its ratio on clean samples, undefined if not asked, and at severities 1, 2, and so on."""

    name: str
    clean: Measure
    points: tuple[Measure, ...]


def curves(lines: Sequence[Curve], *, width: int, height: int) -> Markup:
    """Return the figure, or "" when no arm has two severities."""
    drawn = [item for item in lines if len(item.points) > 1]
    if not drawn:
        return Markup("")
    right = 150.0 if width > 500 else 96.0
    measures = [point for item in drawn for point in (item.clean, *item.points) if point.defined]
    severities = max(len(item.points) for item in drawn)
    x = Scale(0.0, float(severities), _LEFT + 14, width - right)
    y = Scale(0.0, max(0.02, 1.06 * max(point.high for point in measures)), height - _BOTTOM, _TOP)
    parts = [_frame(x, y, severities, any(item.clean.defined for item in drawn), width - right)]
    spread = 3.0
    ends = []
    for number, item in enumerate(drawn):
        tone = f"tone t{number % _TONES}"
        shift = spread * (number - (len(drawn) - 1) / 2)
        places = [(x(0.0) + shift, item.clean)] if item.clean.defined else []
        places += [(x(float(level)) + shift, point) for level, point in enumerate(item.points, start=1)]
        path = " ".join(f"{px(across)},{px(y(point.value))}" for across, point in places)
        parts.append(Markup('<polyline class="{}" points="{}"/>').format(tone, path))
        for across, point in places:
            parts.append(line(f"whisker {tone}", across, y(point.low), across, y(point.high)))
            parts.append(
                Markup('<g><title>{}</title><circle class="dot {}" cx="{}" cy="{}" r="3.5"/></g>').format(
                    f"{one_line(item.name, 60)}: {point.text} % {point.interval}, {point.of}",
                    tone,
                    px(across),
                    px(y(point.value)),
                )
            )
        ends.append((y(item.points[-1].value), number, item.name))
    parts += _captions(ends, x.stop + 14, height, 22 if width > 500 else 13)
    about = "Share of answers that changed against the original, over severity, one line for each run."
    return Markup(
        '<svg class="scatter curves" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, width, height, about, Markup("").join(parts))


def _captions(ends: list[tuple[float, int, str]], left: float, height: int, letters: int) -> list[Markup]:
    """Names at the ends of the lines, pushed apart where lines end close together."""
    gap, place = 15.0, _TOP
    most = height - _BOTTOM - gap * (len(ends) - 1)
    parts = []
    for up, number, name in sorted(ends):
        place = max(place, min(up, most))
        most += gap
        parts.append(text(f"label tone t{number % _TONES}", left, place + 4, one_line(name, letters), "start"))
        place += gap
    return parts


def _frame(x: Scale, y: Scale, severities: int, clean: bool, stop: float) -> Markup:
    parts = []
    for value in y.ticks(spacing=32):
        parts.append(line("grid", _LEFT, y(value), stop + 8, y(value)))
        parts.append(text("tick", _LEFT - 6, y(value) + 4, tick(value), "end"))
    for level in range(0 if clean else 1, severities + 1):
        parts.append(text("tick", x(float(level)), y.start + 17, str(level) if level else "clean", "middle"))
    parts.append(text("title", (x.start + x.stop) / 2, y.start + 37, "severity", "middle"))
    parts.append(
        Markup('<text class="title" transform="translate(12 {}) rotate(-90)" text-anchor="middle">{}</text>').format(
            px((y.start + y.stop) / 2), "answers changed, %"
        )
    )
    return Markup("").join(parts)
