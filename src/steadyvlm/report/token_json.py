"""Panels and stages as `templates/tokens.js` reads them: short, because a page holds thousands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from steadyvlm.report.token_map import Panel, Stage


def panels_json(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    """Return where every raster lies, as JSON types."""
    return [
        {
            "name": panel.name,
            "rows": panel.rows,
            "columns": panel.columns,
            "box": [round(edge, 5) for edge in panel.box],
        }
        for panel in panels
    ]


def stage_json(stage: Stage) -> dict[str, Any]:
    """Return what is left, as JSON types: per panel a mask of kept cells, and each merged cell with its count."""
    return {
        "layer": stage.layer,
        "caption": stage.caption,
        "beside": stage.beside,
        "merges": stage.merges,
        "cells": [
            {
                "kept": mask([state >= 0 for state in cells]),
                "merged": [value for cell, state in enumerate(cells) if state > 0 for value in (cell, state)],
            }
            for cells in stage.cells
        ],
    }


def mask(kept: Sequence[bool]) -> str:
    """Return a hexadecimal mask: bit i of digit d is cell 4 d + i.

    >>> mask([True, False, False, False, True, True])
    '13'
    """
    digits = [0] * math.ceil(len(kept) / 4)
    for cell, here in enumerate(kept):
        digits[cell // 4] |= here << (cell % 4)
    return "".join(f"{digit:x}" for digit in digits)
