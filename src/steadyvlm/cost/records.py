"""From a stored answer to its bill."""

from __future__ import annotations

from collections.abc import Sequence

from steadyvlm.cost.profiles import Profile
from steadyvlm.cost.report import CostReport, Counts, count
from steadyvlm.cost.scoring import Scoring
from steadyvlm.cost.sizes import ModelSizes
from steadyvlm.errors import InvalidOption
from steadyvlm.records import Cost, Generation, Prediction


def counts_of(record: Prediction | Generation | Cost, scoring: Sequence[Scoring] = ()) -> Counts:
    """Return what was executed for a recorded answer.

    Args:
        record: a prediction, its generation, or that one's cost.
        scoring: what choosing tokens needed (see `methods.scoring_of`); records do not hold it.

    Raises:
        InvalidOption: for a prediction that failed or was imported, or a record older than the counts.
    """
    cost = _cost(record)
    if cost.prompt_tokens and not (cost.text_tokens or cost.image_grids):
        raise InvalidOption(
            "this record holds no text length and no picture grids, because it was written by an earlier version. "
            "Answer the question again, or build `Counts` from what you know."
        )
    return Counts(
        visual=cost.visual_tokens_per_layer,
        text=cost.text_tokens,
        grids=cost.image_grids,
        connector_tokens=cost.connector_tokens,
        generated=cost.generated_tokens,
        scoring=tuple(scoring),
        original=cost.prompt_tokens - cost.text_tokens,
    )


def cost_of(
    record: Prediction | Generation | Cost,
    sizes: ModelSizes,
    profile: Profile | str = "default",
    *,
    scoring: Sequence[Scoring] = (),
) -> CostReport:
    """Return the bill of a recorded answer.

    Args:
        record: a prediction, its generation, or that one's cost.
        sizes: of the model that answered (`models.sizes.sizes_of`, or `published`).
        profile: a convention or its name.
        scoring: what choosing tokens needed.

    Raises:
        InvalidOption: for a record without counts, or of another model.
        UnknownName: for an unknown profile.

    >>> from steadyvlm.cost.sizes import published
    >>> cost = Cost(5.0, 636, 1, (576,) * 32, 0, text_tokens=60, image_grids=((1, 24, 24),), connector_tokens=576)
    >>> round(cost_of(cost, published("llava-1.5-7b"), "lofi").tflops, 3)
    9.022
    """
    return count(counts_of(record, scoring), sizes, profile)


def _cost(record: Prediction | Generation | Cost) -> Cost:
    if isinstance(record, Cost):
        return record
    if isinstance(record, Generation):
        return record.cost
    if record.generation is None:
        raise InvalidOption(
            f"sample '{record.sample_id}' has no counts: its answer failed or comes from an imported log. "
            "Only answers given by this package can be costed."
        )
    return record.generation.cost
