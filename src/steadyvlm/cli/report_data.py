"""From answers to what a report shows: a finished study, or two runs.

Pictures are not kept with the answers. They are loaded from the task again, and one is shown only if its bytes still
have the hash that was recorded when the question was asked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from steadyvlm.api import compare, compare_study, read_run, study_under_perturbation, study_variants
from steadyvlm.cli.report_arithmetic import study_arithmetic, study_disruption
from steadyvlm.errors import SteadyVLMError
from steadyvlm.records import AnswerKind, ImageRef, Prediction
from steadyvlm.report.data import CONTROL, ORIGINAL, ArmReport, ReportData
from steadyvlm.report.published import conventions
from steadyvlm.study.plan import Study, build_task
from steadyvlm.study.result import StudyResult
from steadyvlm.tasks.logs import load_log
from steadyvlm.tasks.sources import BytesImage, FileImage, read_bounded

Key = tuple[str, str, str]

_LONGEST_RECIPE = 200

DEFAULT_THRESHOLD = 0.5
"""The score from which an answer is right, where no task says otherwise."""


def study_report(result: StudyResult, *, correct_threshold: float | None = None) -> ReportData:
    """Compare every complete arm of a study with the original, and the original with its control.

    Raises:
        InvalidOption: when the tasks disagree about the threshold and none is given.
    """
    perturbed = study_under_perturbation(result, correct_threshold=correct_threshold)
    result = result.clean()
    comparisons = compare_study(result, correct_threshold=correct_threshold)
    written = {arm.name: arm.recipe for arm in result.study.arms}
    arms = [
        ArmReport(name, _shown(result.recipes[name], written[name]), found, result.arms[name])
        for name, found in comparisons.items()
    ]
    if result.control is not None:
        threshold = next((arm.comparison.correct_threshold for arm in arms), correct_threshold or DEFAULT_THRESHOLD)
        found = compare(*result.paired(CONTROL), correct_threshold=threshold)
        arms.insert(0, ArmReport(CONTROL, result.recipes[CONTROL], found, result.control))
    asked = len(result.original)
    fewer = [
        f"{arm.name} was asked {len(arm.predictions):,} of the {asked:,} questions, as the study says."
        for arm in arms
        if len(arm.predictions) < asked
    ]
    arithmetic, counted = study_arithmetic(result)
    disruption, correlation = study_disruption(result, comparisons)
    variants, contrasts = study_variants(result, correct_threshold=correct_threshold)
    return ReportData(
        title=result.study.name,
        model=result.study.model,
        arms=arms,
        original=result.original,
        notes=[*fewer, *counted, *result.notes],
        provenance={name: rows[0].to_json() for name, rows in result.provenance.items() if rows},
        image=PictureShelf(result.study),
        arithmetic=arithmetic,
        disruption=disruption,
        correlation=correlation,
        published=result.study.tables,
        perturbed=perturbed,
        variants=variants,
        contrasts=contrasts,
        conventions={name: study_arithmetic(result, name)[0] for name in conventions(result.study.tables)},
    )


def _shown(canonical: str, written: str) -> str:
    """Return a recipe as its reader knows it: all options spelled out, unless there are dozens."""
    return canonical if len(canonical) <= _LONGEST_RECIPE else written


def runs_report(
    original: Path,
    accelerated: Path,
    control: Path | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    kind: AnswerKind | None = None,
    common_only: bool = False,
) -> ReportData:
    """Compare two runs, each a log, a finished cell, or an arm of a study, with a third as noise floor.

    Args:
        original: the unaccelerated model's answers.
        accelerated: the accelerated model's answers.
        control: the original's answers from a second run.
        columns: for logs, role to column name.
        kind: for logs, how answers are read.
        common_only: compare the questions both hold instead of refusing.

    Raises:
        LogError: or StoreError, if answers cannot be read.
        PairingError: if they do not answer the same questions.
    """
    notes: list[str] = []

    def read(path: Path) -> Sequence[Prediction] | Path:
        if path.is_dir() or path.suffix == ".parquet" or not path.exists():
            return path
        log = load_log(path, columns=columns, kind=kind)
        notes.extend(f"{path.name}: {note}" for note in log.notes)
        return log.predictions

    before, after = read(original), read(accelerated)
    again = None if control is None else read(control)
    arms = []
    if again is not None:
        found = compare(before, again, common_only=common_only)
        arms.append(ArmReport(CONTROL, str(control), found, read_run(again)))
    name = accelerated.stem if accelerated.stem not in ("", ORIGINAL, CONTROL) else "accelerated"
    found = compare(before, after, again, common_only=common_only)
    arms.append(ArmReport(name, str(accelerated), found, read_run(after)))
    return ReportData(
        title=f"{original.name} and {accelerated.name}",
        model=original.name,
        arms=arms,
        original=read_run(before),
        notes=notes,
    )


class PictureShelf:
    """Finds the picture of a prediction in the tasks of its study; built when the first picture is wanted."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._pictures: Mapping[Key, ImageRef] | None = None

    def __call__(self, prediction: Prediction) -> bytes | None:
        """Return the encoded bytes of the first picture, or None if it is gone or not the one that was asked about."""
        if not prediction.image_sha256:
            return None
        if self._pictures is None:
            self._pictures = dict(self._read())
        picture = self._pictures.get(prediction.key)
        try:
            if picture is not None and picture.sha256() == prediction.image_sha256[0]:
                return _encoded(picture)
        except SteadyVLMError:  # it cannot be read any more
            pass
        return None

    def _read(self) -> Mapping[Key, ImageRef]:
        found: dict[Key, ImageRef] = {}
        for plan in self._study.tasks:
            try:
                samples = build_task(plan).samples()
            except SteadyVLMError:  # the data is no longer there: the report does without pictures
                continue
            found.update(((s.task, s.id, s.perturbation), s.images[0]) for s in samples if s.images)
        return found


def _encoded(picture: ImageRef) -> bytes:
    """Return the bytes a picture was stored as; one that is made when it is needed becomes a PNG."""
    if isinstance(picture, BytesImage):
        return picture.data
    if isinstance(picture, FileImage):
        return read_bounded(picture.path)
    buffer = io.BytesIO()
    picture.load().save(buffer, "PNG")
    return buffer.getvalue()
