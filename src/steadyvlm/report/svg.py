"""The few SVG elements all figures are made of; every text is escaped, every number is short."""

from __future__ import annotations

from markupsafe import Markup, escape

from steadyvlm.report.text import percent


def line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    """Return a line with a class."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *map(px, (x1, y1, x2, y2)))


def text(kind: str, x: float, y: float, content: str, anchor: str) -> Markup:
    """Return a text at (x, y); `anchor` is start, middle or end."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, px(x), px(y), anchor, escape(content)
    )


def tick(value: float, *, sign: bool = False) -> str:
    """Return a share as it stands at an axis."""
    return percent(value, sign=sign).removesuffix(".0")


def px(value: float) -> str:
    """Return pixels with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")
