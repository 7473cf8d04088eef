"""Checks of settings that come as lists: the layers at which a method acts again and again, and what stays at each.

In recipe text a list may be written with either bracket, `layers=[8, 16, 24]` or `layers=(8, 16, 24)`; a list of one
is `[8]` or `(8,)`. The canonical text has round ones, and a method's field holds a tuple, which can be hashed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import Signals
from steadyvlm.reduction.options import checked_count, checked_ratio
from steadyvlm.reduction.tensor_ops import trunc_budget


def checked_layers(method: str, option: str, value: object, *, minimum: int = 0) -> tuple[int, ...]:
    """Return `value` as layers in strictly ascending order.

    Raises:
        InvalidOption: if it is no list, is empty, repeats a layer or goes backwards.

    >>> checked_layers("pyramiddrop", "layers", [8, 16, 24])
    (8, 16, 24)
    """
    layers = tuple(checked_count(method, option, layer, minimum=minimum) for layer in _listed(method, option, value))
    if any(after <= before for before, after in itertools.pairwise(layers)):
        raise InvalidOption(f"{method}: {option}={layers} must go from the first layer to the last, each named once.")
    return layers


def checked_ratios(method: str, option: str, value: object, *, stages: int) -> tuple[float, ...]:
    """Return `value` as one fraction kept per stage, none above the one before.

    Raises:
        InvalidOption: if it is no list, a fraction is out of range, their number is wrong, or one grows.

    >>> checked_ratios("pyramiddrop", "keep_ratios", [1, 0.5], stages=2)
    (1.0, 0.5)
    """
    ratios = tuple(checked_ratio(method, option, ratio) for ratio in _listed(method, option, value))
    _check_stages(method, option, ratios, stages)
    return ratios


def checked_budgets(method: str, option: str, value: object, *, stages: int) -> tuple[int | float, ...]:
    """Return `value` as one budget per stage, none above the one before: all counts, or all fractions below 1.

    A whole number counts tokens; a fraction is a share of the prompt's visual tokens before any reduction. 1.0 is
    refused, because 1 is a count and the two would be the same recipe to everyone but the method.

    Raises:
        InvalidOption: if it is no list, a budget is neither kind, both are mixed, their number is wrong, or one grows.

    >>> checked_budgets("sparsevlm", "keep", [300, 200, 110], stages=3)
    (300, 200, 110)
    """
    budgets = _listed(method, option, value)
    counts = all(isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0 for budget in budgets)
    shares = all(isinstance(budget, float) and 0 <= budget < 1 for budget in budgets)
    if not (counts or shares):
        raise InvalidOption(
            f"{method}: {option}={budgets} is not one kind of budget. Give numbers of tokens, for example "
            f"{option}=[300, 200, 110], or shares of the prompt's visual tokens, for example {option}=[0.5, 0.3, 0.2]."
        )
    _check_stages(method, option, budgets, stages)
    return budgets


def checked_outputs(method: str, layers: tuple[int, ...], num_layers: int) -> tuple[int, ...]:
    """Return the layers that read the output of `layers`, if a decoder of `num_layers` layers has them all.

    Raises:
        InvalidOption: if the decoder is too shallow, or ends with the layer named.

    >>> checked_outputs("sparsevlm", (2, 6, 15), 32)
    (3, 7, 16)
    """
    if layers[-1] >= num_layers - 1:
        raise InvalidOption(
            f"{method}: layers={layers} prune the output of layer {layers[-1]}, but this model's decoder has "
            f"{num_layers} layers (0 to {num_layers - 1}) and nothing reads the output of the last. "
            f"Choose layers below {num_layers - 1}."
        )
    return tuple(layer + 1 for layer in layers)


def stage_budget(budget: int | float, signals: Signals, *, compat: bool) -> int:
    """Return how many tokens a budget of `checked_budgets` keeps here.

    Args:
        budget: a count, or a fraction of the original visual tokens, rounded towards zero.
        signals: of one sequence.
        compat: keep at most all but one.

    >>> [stage_budget(budget, Signals(40, original_tokens=90), compat=False) for budget in (300, 30, 0.25)]
    [40, 30, 22]
    """
    wanted = budget if isinstance(budget, int) else trunc_budget(signals.original_tokens, budget)
    return min(wanted, signals.num_tokens - compat)


def _listed(method: str, option: str, value: object) -> tuple[int | float, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        raise InvalidOption(
            f"{method}: {option}={value!r} is not a list. Write one value per stage, for one stage as in [8]."
        )
    return tuple(value)


def _check_stages(method: str, option: str, values: Sequence[int | float], stages: int) -> None:
    if len(values) != stages:
        raise InvalidOption(
            f"{method}: {option}={tuple(values)} has {len(values)} values for {stages} layers. Give one per layer."
        )
    if any(after > before for before, after in itertools.pairwise(values)):
        raise InvalidOption(
            f"{method}: {option}={tuple(values)} asks for more at a later layer, where lost tokens cannot come back. "
            "Give values that do not grow."
        )
