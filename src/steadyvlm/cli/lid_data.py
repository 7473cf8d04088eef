"""What `steadyvlm lid` measures: inner disruption of several recipes, and their answers to the same questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.probes.correlation import Correlation, correlate
from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate
from steadyvlm.recipes.lid import LidResult, Scope, Source, compare_spectra, measure_spectra
from steadyvlm.records import Prediction, Sample
from steadyvlm.report.data import Disruption
from steadyvlm.report.disruption_figure import Curve, lid_figure
from steadyvlm.report.inside import consistency, of_disruption
from steadyvlm.report.measures import Measure
from steadyvlm.seeding import content_hash
from steadyvlm.stability import compare
from steadyvlm.stability.estimates import json_ready
from steadyvlm.study.backends.local import LocalArm
from steadyvlm.study.cell import Cell, run_cell
from steadyvlm.study.identity import Decoding, Item, identify, subset
from steadyvlm.study.images import ImageCache
from steadyvlm.tasks.base import Task, checked_samples

BATCH = 16


@dataclass(frozen=True, slots=True)
class LidRow:
    """One recipe.

    Attributes:
        recipe: canonical text.
        method: its reduction's name, for leaving methods out.
        lid: against the original.
        same: share of answers that are the original's, 1 - DR.
    """

    recipe: str
    method: str
    lid: LidResult
    same: Measure


@dataclass(frozen=True, slots=True)
class LidStudy:
    """All recipes, and how LID and consistency go together over them."""

    rows: tuple[LidRow, ...]
    correlation: Correlation

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types."""
        rows = [
            {
                "recipe": row.recipe,
                "lid": json_ready(row.lid) | {"n": row.lid.n},
                "consistency": json_ready({"value": row.same.value, "low": row.same.low, "high": row.same.high})
                | {"of": row.same.of},
            }
            for row in self.rows
        ]
        return {"recipes": rows, "correlation": json_ready(self.correlation)}


def measure_lid(
    model: VisionLanguageModel,
    recipes: Sequence[str],
    task: Task,
    *,
    limit: int | None,
    scope: Scope,
    rank: float,
    tensor: Source,
    say: Callable[[str], object],
) -> LidStudy:
    """Measure every recipe against the original: spectra, then answers.

    Every recipe is applied once before anything is measured, so that one that does not fit is refused at the start.

    Args:
        model: from `load`.
        recipes: texts.
        task: whose questions are read and answered.
        limit: how many of them, whole pictures chosen by hash; None for all.
        scope: of the spectra.
        rank: of the spectra.
        tensor: of the spectra.
        say: told what happens.
    """
    items = identify(_chosen(checked_samples(task), limit))
    samples = [item.sample for item in items]
    for recipe in recipes:
        accelerate(model, recipe)
    say(f"original, {len(items)} questions")
    original = accelerate(model)
    spectra = measure_spectra(original, samples, scope=scope, rank=rank, tensor=tensor, batch_size=BATCH)
    answers = _answers(original, items, task)
    rows = []
    for number, recipe in enumerate(recipes, start=1):
        say(f"{number}/{len(recipes)} {recipe}")
        side = accelerate(model, recipe)
        found = compare_spectra(
            spectra, measure_spectra(side, samples, scope=scope, rank=rank, tensor=tensor, batch_size=BATCH)
        )
        rate = compare(answers, _answers(side, items, task)).divergence_ratio
        method = side.recipe.reduction.name if side.recipe.reduction else str(side.recipe)
        rows.append(LidRow(str(side.recipe), method, found, consistency(rate)))
    known = [row for row in rows if row.same.defined]
    together = correlate(
        [row.lid.value for row in known], [row.same.value for row in known], [row.method for row in known]
    )
    return LidStudy(tuple(rows), together)


def lid_lines(study: LidStudy) -> list[str]:
    """Return the table and the correlation as text."""
    width = max(len("recipe"), *(len(row.recipe) for row in study.rows))
    lines = [f"{'recipe':<{width}}  {'LID [95 %]':<22}  {'consistency, % [95 %]':<24}  n"]
    for row in study.rows:
        disruption = f"{row.lid.value:.3f} [{row.lid.low:.3f}, {row.lid.high:.3f}]"
        same = f"{row.same.text} {row.same.interval}"
        lines.append(f"{row.recipe:<{width}}  {disruption:<22}  {same:<24}  {row.lid.n}")
    found = study.correlation
    if found.pearson == found.pearson:
        lines.append(f"Pearson {found.pearson:+.3f}, Spearman {found.spearman:+.3f} over {found.points} recipes")
        if found.leave_one_out is not None:
            low, high = found.leave_one_out
            lines.append(f"  leaving out one method at a time: {low:+.3f} to {high:+.3f}")
    else:
        lines.append("No correlation: it takes three recipes that differ in LID and in consistency.")
    return lines


def draw(study: LidStudy) -> str:
    """Return the figure as an SVG document."""
    curves = [Curve("original", study.rows[0].lid.original_per_layer)]
    curves += [Curve(row.recipe, row.lid.accelerated_per_layer) for row in study.rows]
    points = []
    for row in study.rows:
        found, how = row.lid, f"bootstrap over images, {row.lid.resamples:,} resamples"
        moved = Disruption(found.value, found.low, found.high, found.n, found.per_layer, how)
        points.append((row.method, of_disruption(moved), row.same))
    return lid_figure(points, curves, study.correlation.pearson)


def _chosen(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Return at most `limit` samples as a study would choose them, without reading a picture that is not asked."""
    known = [Item(sample, "", (), content_hash([sample.task, sample.id])) for sample in samples]
    return [item.sample for item in subset(known, limit)]


def _answers(model: AcceleratedModel, items: tuple[Item, ...], task: Task) -> list[Prediction]:
    decoding = Decoding(task.max_new_tokens, tuple(task.stop))
    cell = Cell("", "lid", str(model.recipe), task, items, decoding, BATCH)
    return [answer for batch in run_cell(cell, LocalArm(model), (), ImageCache()) for answer in batch.predictions]
