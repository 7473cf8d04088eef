"""Numbers and untrusted words as people should see them.

Questions, answers, options and names come from data sets, models and other people's files. Jinja and JSON escape them
for the page; this file makes them *honest*: invisible control characters, which can reorder, hide or erase text on a
screen or drive a terminal, are shown as visible symbols.
"""

from __future__ import annotations

import math
import re

MINUS = "−"
DASH = "–"

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_ASCII = str.maketrans({MINUS: "-", DASH: "-", "→": ">", "≈": "~", "·": "-", "…": "...", "×": "x", "±": "+/-"})


def visible(text: str, limit: int | None = None) -> str:
    r"""Return `text` with every character that a reader could not see made visible, cut after `limit` characters.

    >>> visible("a\x00b\u202ec")
    'a␀b⟨U+202E⟩c'
    """
    cut = text if limit is None or len(text) <= limit else text[:limit]
    shown = _CONTROLS.sub(_symbol, cut.replace("\r\n", "\n"))
    return shown if cut is text else f"{shown}… ({len(text):,} characters)"


def one_line(text: str, limit: int = 200) -> str:
    """Return `visible(text)` with runs of white space as one blank, cut after `limit` characters."""
    return visible(" ".join(text.split()), limit)


def label(name: str) -> str:
    """Return a run's, family's or task's name as it is written everywhere in a report, links included."""
    return one_line(name, 120)


def ascii_only(text: str) -> str:
    """Return `text` for a screen that knows nothing but ASCII.

    >>> ascii_only("right → wrong −0.3")
    'right > wrong -0.3'
    """
    return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")


def unbroken(sentence: str) -> str:
    """Return a sentence in which no line may end between a number and its "%"."""
    return sentence.replace(" %", "\u00a0%")


def percent(share: float, *, sign: bool = False) -> str:
    """Return a share in percent, without the sign "%"; a dash when undefined.

    >>> percent(0.058), percent(-0.003, sign=True), percent(0.0004), percent(float("nan"))
    ('5.8', '−0.3', '0.04', '–')
    """
    if not math.isfinite(share):
        return DASH
    value = 100 * share
    digits = 1 if value == 0 or abs(value) >= 0.05 else 2
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    zero = not any(digit in text for digit in "123456789")
    return text.lstrip("+-") if zero else text.replace("-", MINUS)


def interval(low: float, high: float, *, sign: bool = False) -> str:
    """Return the limits of an interval of shares in percent.

    >>> interval(-0.011, 0.004, sign=True)
    '[−1.1, +0.4]'
    """
    return f"[{percent(low, sign=sign)}, {percent(high, sign=sign)}]"


def count(value: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> count(1, "answer"), count(1200, "answer")
    ('1 answer', '1,200 answers')
    """
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}"


def number(value: float) -> str:
    """Return a mean count: one decimal only where there is something to see.

    >>> number(144.0), number(96.04), number(float("nan"))
    ('144', '96.0', '–')
    """
    if not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def _symbol(match: re.Match[str]) -> str:
    code = ord(match.group())
    if 0xD800 <= code <= 0xDFFF:
        return "�"
    if code < 0x20:
        return chr(0x2400 + code)
    return f"⟨U+{code:04X}⟩"
