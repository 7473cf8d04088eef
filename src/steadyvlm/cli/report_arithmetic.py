"""The operations behind a study's answers, counted from what each record says was executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from steadyvlm.cost import ModelSizes
from steadyvlm.cost.methods import scoring_of
from steadyvlm.cost.profiles import Profile, profile
from steadyvlm.cost.records import counts_of
from steadyvlm.cost.report import Counts, count
from steadyvlm.errors import ConfigError, InvalidOption
from steadyvlm.probes.correlation import FEWEST, correlate
from steadyvlm.records import Prediction
from steadyvlm.registry import Spec
from steadyvlm.report.data import ORIGINAL, Arithmetic, Correlation, Disruption
from steadyvlm.stability import Comparison
from steadyvlm.study.plan import CONTROL
from steadyvlm.study.result import StudyResult

PROFILE = "engine"


def study_arithmetic(result: StudyResult, convention: str = PROFILE) -> tuple[dict[str, Arithmetic], list[str]]:
    """Return the operations of every arm by name, "original" included, and what a reader must know about them.

    Empty when the model's sizes or the counts were not recorded (an older run, imported answers).

    Args:
        result: what a study answered.
        convention: a cost profile; a ratio means something only inside one.
    """
    sizes = _sizes(result)
    if sizes is None:
        return {}, []
    rule = profile(convention)
    by_key = {item.key: item for item in result.original}
    found: dict[str, Arithmetic] = {}
    uncounted: list[str] = []
    for arm, predictions in {ORIGINAL: result.original, **result.arms}.items():
        spec = _reduction(result.recipes[arm])
        twins = [by_key[item.key] for item in predictions if item.key in by_key]
        mine, complete = _total(predictions, sizes, rule, spec)
        theirs, _ = _total(twins, sizes, rule, None)
        if mine is None or theirs is None:
            continue
        if not complete:
            uncounted.append(arm)
        found[arm] = Arithmetic(mine[0] / mine[1], mine[0] * theirs[1] / (theirs[0] * mine[1]), mine[1], rule.note)
    notes = []
    if uncounted:
        notes.append(f"Operations of {', '.join(uncounted)} leave out what choosing the tokens takes: it is not known.")
    bits = [arm for arm in found if arm not in (ORIGINAL, CONTROL) and _has_quantizer(result.recipes[arm])]
    if bits:
        notes.append(
            f"Operations count arithmetic whatever its precision; {', '.join(bits)} also run it in fewer bits."
        )
    return found, notes


def study_disruption(
    result: StudyResult, comparisons: Mapping[str, Comparison]
) -> tuple[dict[str, Disruption], Correlation | None]:
    """Return the inner disruption of every arm that was looked into, and how it goes with consistency."""
    found = {
        arm: Disruption(
            value=float(row["value"]),
            low=float(row["low"]),
            high=float(row["high"]),
            n=len(row["values"]),
            per_layer=tuple(float(value) for value in row["per_layer"]),
            method=f"bootstrap over images, {row['resamples']:,} resamples",
        )
        for arm, row in result.inside.items()
        if arm in comparisons
    }
    arms = [arm for arm in found if comparisons[arm].divergence_ratio.defined]
    if len(arms) < FEWEST:
        return found, None
    numbers = correlate(
        [found[arm].value for arm in arms],
        [1 - comparisons[arm].divergence_ratio.value for arm in arms],
        [result.recipes[arm].partition("(")[0] for arm in arms],
    )
    return found, Correlation(numbers.pearson, numbers.spearman, numbers.points, numbers.leave_one_out)


def _sizes(result: StudyResult) -> ModelSizes | None:
    for cell in result.about.get(ORIGINAL, ()):
        if cell.get("sizes"):
            return ModelSizes.from_json(cell["sizes"])
    return None


def _total(
    predictions: Sequence[Prediction], sizes: ModelSizes, rule: Profile, spec: Spec | None
) -> tuple[tuple[int, int] | None, bool]:
    """Return ((operations, answers), whether scoring is in it); None when no answer can be counted."""
    operations, answers, complete = 0, 0, True
    known: dict[Counts, tuple[int, bool]] = {}  # questions of one length cost the same
    for item in predictions:
        if item.generation is None:
            continue
        try:
            counts = counts_of(item)
            if counts not in known:
                scoring = scoring_of(spec, counts, sizes)
                bill = count(replace(counts, scoring=scoring or ()), sizes, rule)
                known[counts] = (bill.flops, scoring is not None)
        except InvalidOption:
            return None, False
        flops, whole = known[counts]
        operations, answers, complete = operations + flops, answers + 1, complete and whole
    return ((operations, answers) if answers else None), complete


def _reduction(recipe: str) -> Spec | None:
    """Return the reduction of a canonical recipe, without importing a method."""
    from steadyvlm.reduction import REDUCTIONS

    for part in recipe.split(" + "):
        try:
            spec = Spec.parse(part)
        except ConfigError:
            continue
        if spec.name in REDUCTIONS:
            return spec
    return None


def _has_quantizer(recipe: str) -> bool:
    from steadyvlm.quantization import QUANTIZERS

    return any(part.partition("(")[0] in QUANTIZERS for part in recipe.split(" + "))
