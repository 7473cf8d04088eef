"""What came out of a study: the answers of every arm, ready to be compared.

Nothing is compared here. `StudyResult.paired` hands out the two sides of a comparison: an arm that was asked fewer
questions (its `limit`) is set beside exactly those answers of the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steadyvlm.errors import StoreError
from steadyvlm.perturb.manifest import Manifest as Perturbations
from steadyvlm.records import Prediction, Provenance
from steadyvlm.study.inside import InsideStore
from steadyvlm.study.plan import CONTROL, ORIGINAL, Study
from steadyvlm.study.store import CellStatus, ResultStore, count_failures


@dataclass(frozen=True, slots=True)
class Times:
    """Where the seconds of one run went.

    Attributes:
        wall_s: from the first sample read to the last cell written.
        setup_s: loading the model and applying recipes.
        model_s: inside the model: preprocessing, prefill, decoding.
    """

    wall_s: float
    setup_s: float
    model_s: float

    @property
    def harness_s(self) -> float:
        """Everything else: reading, hashing and decoding samples, grading, storing."""
        return max(0.0, self.wall_s - self.setup_s - self.model_s)

    @property
    def harness_share(self) -> float:
        """`harness_s` as a fraction of the whole."""
        return self.harness_s / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class StudyResult:
    """The answers of every complete arm.

    Attributes:
        study: what was asked.
        folder: where the answers are kept.
        original: answers of the original.
        control: answers of the original run again; None without a control or while it is unfinished.
        arms: answers by recipe name, complete arms only, in the order of the study.
        recipes: canonical text of each arm's recipe, original and control included.
        about: what the store knows of each cell, by arm: provenance, weights, decoding, times.
        inside: inner disruption by arm, as `study.inside` keeps it; empty when it was not measured.
        perturbations: what became of every perturbed input; None when none was asked.
        incomplete: samples done and asked of every arm that is not complete.
        times: where the time of this run went; None when the result was only read.
    """

    study: Study
    folder: Path
    original: tuple[Prediction, ...]
    control: tuple[Prediction, ...] | None
    arms: Mapping[str, tuple[Prediction, ...]]
    recipes: Mapping[str, str]
    about: Mapping[str, tuple[Mapping[str, Any], ...]]
    inside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    perturbations: Perturbations | None = None
    incomplete: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    times: Times | None = None

    @property
    def provenance(self) -> dict[str, tuple[Provenance, ...]]:
        """The circumstances each arm ran under; more than one if it was resumed elsewhere."""
        found: dict[str, tuple[Provenance, ...]] = {}
        for arm, cells in self.about.items():
            rows = [Provenance(**row) for cell in cells for row in cell["provenance"]]
            found[arm] = tuple(row for index, row in enumerate(rows) if row not in rows[:index])
        return found

    @property
    def failures(self) -> dict[str, int]:
        """Samples of each complete arm that have a failure instead of an answer."""
        control = {} if self.control is None else {CONTROL: self.control}
        sides = {ORIGINAL: self.original, **control, **self.arms}
        return {arm: count_failures(predictions) for arm, predictions in sides.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know before trusting a comparison: arms that ran under other circumstances."""
        notes = [f"{arm} is unfinished: {done} of {total} samples." for arm, (done, total) in self.incomplete.items()]
        notes += [f"{arm}: {count} samples failed." for arm, count in self.failures.items() if count]
        return (*notes, *_differences(self.provenance))

    def clean(self) -> StudyResult:
        """Return the answers to unchanged inputs only; the result itself if there are no others, or only others."""
        if not any(row.perturbation for row in self.original) or all(row.perturbation for row in self.original):
            return self
        return replace(
            self,
            original=_clean(self.original),
            control=None if self.control is None else _clean(self.control),
            arms={arm: _clean(rows) for arm, rows in self.arms.items()},
        )

    def paired(self, arm: str) -> tuple[list[Prediction], list[Prediction]]:
        """Return (original, accelerated) answers to the questions that `arm` was asked; `arm` may be "control".

        Raises:
            StoreError: if the arm does not exist or is not complete.
        """
        sides = {**self.arms, **({} if self.control is None else {CONTROL: self.control})}
        if arm not in sides:
            state = "is unfinished" if arm in self.incomplete else "does not exist"
            raise StoreError(f"arm '{arm}' of study '{self.study.name}' {state}. Complete: {', '.join(sides)}.")
        asked = {prediction.key for prediction in sides[arm]}
        return [prediction for prediction in self.original if prediction.key in asked], list(sides[arm])

    def control_of(self, arm: str) -> list[Prediction] | None:
        """Return the control's answers to the questions that `arm` was asked; None if it has none of them."""
        asked = {prediction.key for prediction in self.paired(arm)[1]}
        return [prediction for prediction in self.control or () if prediction.key in asked] or None


def read_result(folder: str | Path) -> StudyResult:
    """Return what a study has answered so far; needs neither the model nor torch.

    Raises:
        StoreError: if there is no study, it is damaged, or not even the original is complete.
    """
    store = ResultStore(folder)
    manifest = store.manifest()
    states: dict[str, list[CellStatus]] = {}
    for status in store.status():
        states.setdefault(status.entry.arm, []).append(status)
    incomplete = {
        arm: (sum(cell.done for cell in cells), sum(cell.entry.samples for cell in cells))
        for arm, cells in states.items()
        if not all(cell.complete for cell in cells)
    }
    if ORIGINAL in incomplete:
        done, total = incomplete[ORIGINAL]
        raise StoreError(
            f"the original in {folder} is unfinished ({done} of {total} samples), so nothing can be compared yet; "
            "complete it with `steadyvlm run`."
        )
    complete = {arm: tuple(store.arm(arm)) for arm in states if arm not in incomplete}
    perturbations = store.perturbations() if manifest.study.get("perturbations") else None
    if perturbations is not None:
        for arm, rows in complete.items():
            perturbations.check(rows, arm)
    return StudyResult(
        study=Study.from_mapping(manifest.study, str(store.folder)),
        folder=store.folder,
        original=complete[ORIGINAL],
        control=complete.get(CONTROL),
        arms={arm: rows for arm, rows in complete.items() if arm not in (ORIGINAL, CONTROL)},
        recipes={arm: cells[0].entry.recipe for arm, cells in states.items()},
        about={arm: tuple(store.about(cell.entry.key) for cell in states[arm]) for arm in complete},
        inside={arm: found for arm, found in InsideStore(store.folder).measured().items() if arm in states},
        perturbations=perturbations,
        incomplete=incomplete,
    )


def _clean(rows: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    return tuple(row for row in rows if not row.perturbation)


def _differences(provenance: Mapping[str, tuple[Provenance, ...]]) -> list[str]:
    notes = []
    for name in ("device", "dtype", "attention"):
        values = {arm: sorted({getattr(row, name) for row in rows}) for arm, rows in provenance.items()}
        if len({value for found in values.values() for value in found}) > 1:
            shown = "; ".join(f"{arm}: {', '.join(found)}" for arm, found in values.items())
            notes.append(f"not all arms ran on the same {name} ({shown}).")
    versions = [set(row.versions.items()) for rows in provenance.values() for row in rows]
    changed = sorted({name for one in versions for other in versions for name, _ in one - other})
    if changed:
        notes.append(f"not all arms ran with the same versions of {', '.join(changed)}.")
    return notes
