"""Two runs in, one `Comparison` out: what changed, what broke, how much of it is noise, and how sure each number is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steadyvlm.errors import InvalidOption
from steadyvlm.records import Prediction
from steadyvlm.stability.caveats import caveats_of
from steadyvlm.stability.pairing import Pairing, by_key, check_pairs, check_questions, pair
from steadyvlm.stability.prediction_file import Run, predictions_of
from steadyvlm.stability.summary import Flip, Slice
from steadyvlm.stability.table import FailedSample, build_table, failed_samples

COMPARISON_VERSION = 1
NO_FAMILY = "(no family)"


@dataclass(frozen=True)
class Comparison(Slice):
    """An accelerated run against the original: every number of `Slice`, its parts, and the samples behind it.

    Attributes:
        correct_threshold: a score at or above it counts as right.
        alpha: intervals have confidence 1 - alpha.
        seed: seed of the bootstrap.
        by_task: the same numbers per task.
        by_family: the same numbers per family; the key is "task/family" where two tasks share a family's name.
        flips: every sample whose answer or format is not the same, ordered by key.
        failed: samples without an answer on one side, ordered by key.
        left_out: questions held by the original only, by the accelerated run only; (0, 0) unless asked for.
        caveats: what a reader must know first, as sentences.
    """

    correct_threshold: float
    alpha: float
    seed: int
    by_task: Mapping[str, Slice] = field(repr=False)
    by_family: Mapping[str, Slice] = field(repr=False)
    flips: tuple[Flip, ...] = field(repr=False)
    failed: tuple[FailedSample, ...] = field(repr=False)
    left_out: tuple[int, int]
    caveats: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return JSON types: every number with its n, denominator, interval and method; nan becomes null."""
        row = super().to_json()
        row["by_task"] = {name: item.to_json() for name, item in self.by_task.items()}
        row["by_family"] = {name: item.to_json() for name, item in self.by_family.items()}
        return {"version": COMPARISON_VERSION, **row}


def compare(
    original: Run,
    accelerated: Run,
    *,
    control: Run | None = None,
    further_controls: Sequence[Run] = (),
    correct_threshold: float = 0.5,
    alpha: float = 0.05,
    seed: int = 0,
    common_only: bool = False,
) -> Comparison:
    """Compare an accelerated run with the original, sample by sample.

    Args:
        original: predictions of the unaccelerated model, or the path of a file of them (JSON lines).
        accelerated: predictions of the accelerated model for the same questions.
        control: the original run again under another batch size and order: the noise floor.
        further_controls: more such runs; they sharpen the stable core only.
        correct_threshold: a score at or above it counts as right; fix it before the run.
        alpha: intervals have confidence 1 - alpha.
        seed: changes the bootstrap's resamples, not the estimates.
        common_only: compare the questions both runs hold and report the rest, instead of refusing.

    Raises:
        PairingError: when the runs were not asked, or not graded, the same.
        InvalidOption: for a threshold outside (0, 1] or an alpha outside (0, 1).

    >>> def says(word: str, score: float) -> Prediction:
    ...     return Prediction("q1", "pope", "yes_no", "A dog?", "hash", (), ("yes",), (), "", "", word, word, score)
    >>> str(compare([says("yes", 1.0)], [says("no", 0.0)]).divergence_ratio)
    '100.0 % [20.7, 100.0] (1 of 1)'
    """
    if not 0 < correct_threshold <= 1:
        raise InvalidOption(f"correct_threshold is {correct_threshold}; choose a score above 0 and up to 1.")
    if not 0 < alpha < 1:
        raise InvalidOption(f"alpha is {alpha}; choose a number between 0 and 1, such as 0.05.")
    if control is None and further_controls:
        raise InvalidOption("further_controls were given without a control; pass the first one as control=.")
    pairing = pair(predictions_of(original), predictions_of(accelerated), common_only=common_only)
    control_runs = [] if control is None else [control, *further_controls]
    controls = [_control_answers(pairing, predictions_of(run), common_only) for run in control_runs]
    table = build_table(pairing.pairs, controls, correct_threshold=correct_threshold)
    overall = table.summary("all", alpha=alpha, seed=seed)
    left_out = (len(pairing.only_first), len(pairing.only_second))
    return Comparison(
        **vars(overall),
        correct_threshold=correct_threshold,
        alpha=alpha,
        seed=seed,
        by_task=table.summaries([a.task for a, _ in pairing.pairs], overall, alpha=alpha, seed=seed),
        by_family=table.summaries(_family_names(pairing.pairs), overall, alpha=alpha, seed=seed),
        flips=table.flips(),
        failed=failed_samples(pairing.pairs, controls, table.failed),
        left_out=left_out,
        caveats=caveats_of(table.answered, overall, left_out),
    )


def _control_answers(pairing: Pairing, control: Sequence[Prediction], common_only: bool) -> list[Prediction | None]:
    """The control's answer to each pair, after checking that it was asked and graded as the original was."""
    names = ("original", "control")
    originals = {key: original for key, (original, _) in zip(pairing.keys, pairing.pairs, strict=True)}
    again = by_key(control, "control")
    check_questions(originals, again, names=names, common_only=common_only)
    check_pairs([(item, again[key]) for key, item in originals.items() if key in again], names=names)
    return [again.get(key) for key in originals]


def _family_names(pairs: Sequence[tuple[Prediction, Prediction]]) -> list[str]:
    """The family of each sample; with its task where two tasks use the same name, so that they are not pooled."""
    tasks_of: dict[str, set[str]] = {}
    for sample, _ in pairs:
        tasks_of.setdefault(sample.family, set()).add(sample.task)
    names = [sample.family or NO_FAMILY for sample, _ in pairs]
    return [
        f"{sample.task}/{name}" if len(tasks_of[sample.family]) > 1 else name
        for (sample, _), name in zip(pairs, names, strict=True)
    ]
