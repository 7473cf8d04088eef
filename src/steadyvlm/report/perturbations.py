"""Under perturbation: does an accelerated model stray further from the original when its input is noisy?

Every number is about the same samples on both sides. Beside each ratio stands the paired difference to the clean
answers of the same questions, since two ratios over different questions cannot be subtracted. Where a substitute was
used for a missing model or file, the cell is marked and enters no average.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadyvlm.report.data import CONTROL, ReportData
from steadyvlm.report.measures import UNDEFINED, Measure, of_difference, of_rate
from steadyvlm.report.perturbation_figures import Curve, curves
from steadyvlm.report.published_states import StateTable, state_tables
from steadyvlm.report.text import count, percent
from steadyvlm.stability import Kind, State, UnderPerturbation

SEVERITIES = 5
FEW = 10
"""A level with fewer samples is drawn as uncertain."""
MODALITIES = {"image": "Pictures", "text": "Prompts"}


@dataclass(frozen=True, slots=True)
class StateCell:
    """One arm under one set of perturbations; `defined` is False where it was not asked."""

    changed: Measure
    more_changed: Measure
    broken: Measure
    more_broken: Measure
    n: int
    substitute: bool = False

    @property
    def defined(self) -> bool:
        """Whether there is a number."""
        return self.changed.defined


@dataclass(frozen=True, slots=True)
class StateRow:
    """One line of the table of states.

    Attributes:
        name: as shown.
        kind: "clean", "modality" or "group".
        n: samples of the arm that was asked most.
        score: of the original on them, in percent.
        statuses: in words; "" for the clean samples.
        cells: one per arm.
    """

    name: str
    kind: str
    n: int
    score: str
    statuses: str
    cells: tuple[StateCell, ...]


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One level of one arm in the heat map; `span` is 5 for a perturbation without severities."""

    text: str
    value: float
    title: str
    few: bool
    substitute: bool
    span: int = 1


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One perturbation: no-ops in percent, then the cells of every arm, severity by severity."""

    label: str
    group: str
    noop: str
    cells: tuple[tuple[HeatCell, ...], ...]


def perturbation_context(data: ReportData) -> dict[str, Any]:
    """Return what the section's template reads; its `states` are empty without perturbations."""
    if not data.perturbed:
        return {"perturbed": None}
    arms = dict(sorted(data.perturbed.items(), key=lambda item: item[0] == CONTROL))  # the noise floor comes last
    return {
        "perturbed": {
            "arms": list(arms),
            "severities": list(range(1, SEVERITIES + 1)),
            "sentences": sentences(arms),
            "states": state_rows(arms),
            "heat": [(MODALITIES[name], heat_rows(arms, name)) for name in MODALITIES if _asked(arms, name)],
            "figures": _figures(arms),
            "tables": _tables(data),
        }
    }


def sentences(arms: Mapping[str, UnderPerturbation]) -> list[str]:
    """Return, for each accelerated arm and modality, what perturbation adds, in words."""
    found = []
    for arm, under in arms.items():
        for name, state in under.modalities.items():
            if arm == CONTROL or not state.more_changed.defined or state.substitute:
                continue
            more = of_difference(state.more_changed)
            word = "more" if state.more_changed.value >= 0 else "fewer"
            sure = state.more_changed.low > 0 or state.more_changed.high < 0
            inputs = "pictures" if name == "image" else "prompts"
            found.append(
                f"{arm}: with changed {inputs}, {percent(abs(state.more_changed.value))} points {word} answers differ "
                f"from the original’s than without {more.interval}"
                + ("." if sure else "; the interval includes no difference.")
            )
    return found


def state_rows(arms: Mapping[str, UnderPerturbation]) -> tuple[StateRow, ...]:
    """Return the clean state, then each modality followed by its families."""
    rows = []
    if any(under.clean.n for under in arms.values()):
        rows.append(_row("none (clean)", "clean", [under.clean for under in arms.values()]))
    for modality, word in MODALITIES.items():
        if not _asked(arms, modality):
            continue
        whole = [under.modalities.get(modality) for under in arms.values()]
        rows.append(_row(f"all {word.lower()}", "modality", whole))
        for group in _keys(under.groups for under in arms.values()):
            if group.startswith(f"{modality}/"):
                found = [under.groups.get(group) for under in arms.values()]
                rows.append(_row(group.partition("/")[2], "group", found))
    return tuple(rows)


def heat_rows(arms: Mapping[str, UnderPerturbation], modality: str) -> tuple[HeatRow, ...]:
    """Return one row per perturbation of a modality, in the suite's order."""
    kinds = {kind.name: kind for under in arms.values() for kind in under.kinds if kind.modality == modality}
    return tuple(_heat_row(kind, arms) for kind in kinds.values())


def statuses_text(statuses: Mapping[str, int]) -> str:
    """Return statuses in words.

    >>> statuses_text({"applied": 90, "noop": 10})
    '90 applied, 10 no-op (10.0 %)'
    """
    total = sum(statuses.values())
    words = {"noop": "no-op"}
    parts = []
    for status, number in statuses.items():
        share = f" ({percent(number / total)} %)" if status != "applied" else ""
        parts.append(f"{number:,} {words.get(status, status)}{share}")
    return ", ".join(parts)


def _asked(arms: Mapping[str, UnderPerturbation], modality: str) -> bool:
    return any(modality in under.modalities for under in arms.values())


def _keys(tables: Iterable[Mapping[str, State]]) -> list[str]:
    return list(dict.fromkeys(name for table in tables for name in table))


def _row(name: str, kind: str, states: Sequence[State | None]) -> StateRow:
    known = [state for state in states if state is not None]
    largest = max(known, key=lambda state: sum(state.statuses.values()) or state.n)
    return StateRow(
        name=name,
        kind=kind,
        n=largest.n,
        score=percent(largest.score_original),
        statuses=statuses_text(largest.statuses),
        cells=tuple(map(_cell, states)),
    )


def _cell(state: State | None) -> StateCell:
    if state is None or not state.n:
        return StateCell(UNDEFINED, UNDEFINED, UNDEFINED, UNDEFINED, 0)
    return StateCell(
        changed=of_rate(state.divergence_ratio),
        more_changed=of_difference(state.more_changed),
        broken=of_rate(state.negative_divergence_ratio),
        more_broken=of_difference(state.more_broken),
        n=state.n,
        substitute=state.substitute,
    )


def _heat_row(kind: Kind, arms: Mapping[str, UnderPerturbation]) -> HeatRow:
    shares = [state.noop_share for under in arms.values() if (state := under.perturbations.get(kind.name))]
    known = [share for share in shares if math.isfinite(share)]
    cells = []
    for arm, under in arms.items():
        span = SEVERITIES if kind.levels == 1 else 1
        levels = range(1, kind.levels + 1)
        cells.append(tuple(_heat_cell(arm, under.levels.get(f"{kind.name}@{level}"), span) for level in levels))
    return HeatRow(kind.label, kind.group, percent(known[0]) if known else "", tuple(cells))


def _heat_cell(arm: str, state: State | None, span: int) -> HeatCell:
    if state is None or not state.n:
        said = "not asked" if state is None else f"not asked: {statuses_text(state.statuses)}"
        return HeatCell("–", float("nan"), f"{arm}: {said}", False, False, span)
    changed, broken = of_rate(state.divergence_ratio), of_rate(state.negative_divergence_ratio)
    title = (
        f"{arm}, {state.name}: changed {changed.text} % {changed.interval}, {changed.of}; right → wrong {broken.text} %"
        f" {broken.interval}; {statuses_text(state.statuses)}"
    )
    if state.failed:
        title += f"; {count(state.failed, 'sample')} without an answer"
    text = f"{100 * changed.value:.0f}"
    return HeatCell(text, changed.value, title, state.n < FEW, state.substitute, span)


def _figures(arms: Mapping[str, UnderPerturbation]) -> list[dict[str, Any]]:
    """Curves over severity, one figure per modality; perturbations without severities are not in them."""
    found = []
    for modality, word in MODALITIES.items():
        lines = [
            Curve(
                name=arm,
                clean=of_rate(under.clean.divergence_ratio) if under.clean.n else UNDEFINED,
                points=tuple(
                    of_rate(state.divergence_ratio)
                    for level in range(1, SEVERITIES + 1)
                    if (state := under.severities.get(f"{modality}@{level}")) and state.n and not state.substitute
                ),
            )
            for arm, under in arms.items()
        ]
        wide, narrow = (curves(lines, width=width, height=height) for width, height in ((620, 340), (360, 320)))
        if wide:
            found.append({"name": word, "wide": wide, "narrow": narrow})
    return found


def _tables(data: ReportData) -> tuple[StateTable, ...]:
    recipes = {arm.name: arm.recipe for arm in data.accelerated}
    return state_tables({arm: (recipes[arm], under) for arm, under in data.perturbed.items() if arm in recipes})
