"""From answers to what a report shows: a finished study, or two logs.

Pictures are not kept with the answers. They are loaded from the task again, and one is shown only if its bytes still
have the hash that was recorded when the question was asked.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadyvlm.api import compare_study
from steadyvlm.errors import SteadyVLMError
from steadyvlm.records import ImageRef, Prediction
from steadyvlm.report.data import CONTROL, ORIGINAL, ArmReport, ReportData
from steadyvlm.seeding import bytes_hash
from steadyvlm.stability import compare as compare_runs
from steadyvlm.study.plan import Study, build_task
from steadyvlm.study.result import StudyResult

Key = tuple[str, str, str]

DEFAULT_THRESHOLD = 0.5
"""The score from which an answer is right, where no task says otherwise."""


def study_report(result: StudyResult, *, correct_threshold: float | None = None) -> ReportData:
    """Compare every complete arm of a study with the original, and the original with its control.

    Raises:
        InvalidOption: when the tasks disagree about the threshold and none is given.
    """
    comparisons = compare_study(result, correct_threshold=correct_threshold)
    arms = [ArmReport(name, result.recipes[name], found, result.arms[name]) for name, found in comparisons.items()]
    if result.control is not None:
        threshold = next((arm.comparison.correct_threshold for arm in arms), correct_threshold or DEFAULT_THRESHOLD)
        found = compare_runs(*result.paired(CONTROL), correct_threshold=threshold)
        arms.insert(0, ArmReport(CONTROL, result.recipes[CONTROL], found, result.control))
    asked = len(result.original)
    fewer = [
        f"{arm.name} was asked {len(arm.predictions):,} of the {asked:,} questions, as the study says."
        for arm in arms
        if len(arm.predictions) < asked
    ]
    return ReportData(
        title=result.study.name,
        model=result.study.model,
        arms=arms,
        original=result.original,
        notes=[*fewer, *result.notes],
        provenance={name: rows[0].to_json() for name, rows in result.provenance.items() if rows},
        image=PictureShelf(result.study),
    )


def log_report(original: Path, accelerated: Path, control: Path | None = None) -> ReportData:
    """Compare two logs, with a third as noise floor.

    Raises:
        LogError: if a log cannot be read.
        PairingError: if they do not answer the same questions.
    """
    from steadyvlm.tasks.logs import load_log

    logs = {"original": load_log(original), "accelerated": load_log(accelerated)}
    if control is not None:
        logs[CONTROL] = load_log(control)
    before, after = logs["original"].predictions, logs["accelerated"].predictions
    again = logs[CONTROL].predictions if control is not None else None
    arms = []
    if again is not None:
        arms.append(ArmReport(CONTROL, str(control), compare_runs(before, again), again))
    name = accelerated.stem if accelerated.stem not in ("", ORIGINAL, CONTROL) else "accelerated"
    arms.append(ArmReport(name, str(accelerated), compare_runs(before, after, control=again), after))
    return ReportData(
        title=f"{original.name} and {accelerated.name}",
        model=original.name,
        arms=arms,
        original=before,
        notes=[f"{name}: {note}" for name, log in logs.items() for note in log.notes],
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
        data = None if picture is None else _encoded(picture)
        return data if data is not None and bytes_hash(data) == prediction.image_sha256[0] else None

    def _read(self) -> Mapping[Key, ImageRef]:
        found: dict[Key, ImageRef] = {}
        for plan in self._study.tasks:
            try:
                samples = build_task(plan).samples()
            except SteadyVLMError:  # the data is no longer there: the report does without pictures
                continue
            found.update(((s.task, s.id, s.perturbation), s.images[0]) for s in samples if s.images)
        return found


def _encoded(picture: Any) -> bytes | None:
    """Return the bytes a picture was stored as; a picture of another kind is encoded anew."""
    from steadyvlm.tasks.sources import BytesImage, FileImage, read_bounded

    try:
        if isinstance(picture, BytesImage):
            return picture.data
        if isinstance(picture, FileImage):
            return read_bounded(picture.path)
        buffer = io.BytesIO()
        picture.load().save(buffer, "PNG")
        return buffer.getvalue()
    except SteadyVLMError:
        return None
