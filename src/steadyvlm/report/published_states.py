"""The study's tables about perturbed inputs, in its layout, with what was measured here beside them.

Source: the instability study, Tables 3, 4, 11 and 12; numbers in `published/instability.json`, checked by a test
against the project's list of published numbers.
Differs: one unit. Tables 11 and 12 print drops, and Table 12 scores under perturbation, as fractions below headings
that say percent (AWQ on GQA, score 60.916, then 0.551); here all are percent, and the repaired cells are marked.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from steadyvlm.report.measures import of_difference, of_rate
from steadyvlm.report.text import DASH, percent
from steadyvlm.stability import State, UnderPerturbation

METRICS = {
    "dr": "DR, %",
    "ndr": "NDR, %",
    "score": "score, %",
    "drop": "score drop, points",
}
STATES = ("No pert.", "Vision pert.", "Text pert.")
QUANTIZED = re.compile(r"\b(rtn|llm_int8|awq|gptq|checkpoint)\b")
"""What marks a recipe as a quantisation; a recipe with both parts is compared with the quantisations."""

Measured = Mapping[str, tuple[str, UnderPerturbation]]
"""Arm -> (recipe, what was measured)."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A number as text; `repaired` if the paper prints it in another unit."""

    text: str
    title: str = ""
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One metric of one method: our three states, then the paper's, three for each benchmark."""

    metric: str
    ours: tuple[Cell, ...]
    published: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One model of the paper (or "measured here only"): methods with their lines."""

    model: str
    methods: tuple[tuple[str, tuple[Line, ...]], ...]


@dataclass(frozen=True, slots=True)
class StateTable:
    """One of the paper's tables."""

    id: str
    title: str
    source: str
    benchmarks: tuple[str, ...]
    blocks: tuple[Block, ...]
    repaired: bool


def state_tables(measured: Measured) -> tuple[StateTable, ...]:
    """Return Tables 3, 4, 11 and 12; those for which nothing was measured are left out."""
    return tuple(
        table for data in published_states() for table in [_table(data, measured)] if _of_kind(measured, data["kind"])
    )


@cache
def published_states() -> tuple[Mapping[str, Any], ...]:
    """Return the published tables as data."""
    text = files("steadyvlm.report.published").joinpath("instability.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["states"])


def _of_kind(measured: Measured, kind: str) -> dict[str, tuple[str, UnderPerturbation]]:
    wanted = kind == "quantisation"
    return {arm: item for arm, item in measured.items() if bool(QUANTIZED.search(item[0])) == wanted}


def _table(data: Mapping[str, Any], measured: Measured) -> StateTable:
    mine = _of_kind(measured, data["kind"])
    blocks = []
    named: set[str] = set()
    for block in data["blocks"]:
        methods: list[tuple[str, tuple[Line, ...]]] = []
        for row in block["rows"]:
            arms = [arm for arm, (recipe, _) in mine.items() if re.search(rf"\b{row['method']}\b", recipe)]
            named.update(arms)
            for arm in arms or [""]:
                under = mine[arm][1] if arm else None
                label = f"{row['label']} ({arm})" if arm else row["label"]
                methods.append((label, _lines(data["metrics"], row, under)))
        blocks.append(Block(block["model"], tuple(methods)))
    rest = tuple((arm, _lines(data["metrics"], None, under)) for arm, (_, under) in mine.items() if arm not in named)
    if rest:
        blocks.append(Block("measured here only", rest))
    repaired = any(
        fractions for block in data["blocks"] for row in block["rows"] for fractions in row["fractions"].values()
    )
    return StateTable(data["id"], data["title"], data["source"], tuple(data["benchmarks"]), tuple(blocks), repaired)


def _lines(metrics: list[str], row: Mapping[str, Any] | None, under: UnderPerturbation | None) -> tuple[Line, ...]:
    lines = []
    for metric in metrics:
        published = tuple(Cell("") for _ in range(2 * len(STATES)))
        if row is not None:
            published = tuple(
                Cell(_plain(value), repaired=place in row["fractions"][metric])
                for place, value in enumerate(row["values"][metric])
            )
        lines.append(Line(METRICS[metric], _ours(metric, under), published))
    return tuple(lines)


def _ours(metric: str, under: UnderPerturbation | None) -> tuple[Cell, ...]:
    if under is None:
        return tuple(Cell(DASH, "not measured") for _ in STATES)
    return tuple(_measured(metric, state) for state in (under.clean, *map(under.modalities.get, ("image", "text"))))


def _measured(metric: str, state: State | None) -> Cell:
    if state is None or not state.n:
        return Cell(DASH, "not asked")
    if state.substitute:
        return Cell(DASH, "only substitutes were available")
    if metric in ("dr", "ndr"):
        found = of_rate(state.divergence_ratio if metric == "dr" else state.negative_divergence_ratio)
        return Cell(f"{found.text} {found.interval}", found.title)
    change = of_difference(state.score_change)
    if metric == "score":
        return Cell(percent(state.score_accelerated), f"original {percent(state.score_original)}; n = {state.n:,}")
    return Cell(
        percent(-state.score_change.value, sign=True), f"change {change.text} {change.interval}; {change.title}"
    )


def _plain(value: float | None) -> str:
    return DASH if value is None or not math.isfinite(value) else f"{value:g}".replace("-", "−")
