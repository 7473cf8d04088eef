"""Checks of a method's settings, made when the method is built and again when it meets a model.

Every message names the method and the option, says what was found, and what is allowed.
"""

from __future__ import annotations

import math

from steadyvlm.errors import InvalidOption


def checked_ratio(method: str, option: str, value: object) -> float:
    """Return `value` as a float in [0, 1].

    An int is turned into a float, so that `keep_ratio=1` and `keep_ratio=1.0` are one and the same recipe.

    Raises:
        InvalidOption: if `value` is no number or lies outside [0, 1].

    >>> checked_ratio("fastv", "keep_ratio", 1)
    1.0
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value) or not 0 <= value <= 1:
        raise InvalidOption(
            f"{method}: {option}={value!r} is not a fraction to keep. "
            f"Give a number from 0 (drop every visual token) to 1 (keep all), for example {option}=0.5."
        )
    return float(value)


def checked_count(method: str, option: str, value: object, *, minimum: int) -> int:
    """Return `value` if it is a whole number of at least `minimum`.

    Raises:
        InvalidOption: if it is anything else; a bool is no number and 3.0 is no whole number here.

    >>> checked_count("fastv", "layer", 3, minimum=1)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InvalidOption(
            f"{method}: {option}={value!r} is not allowed. Give a whole number of at least {minimum}, "
            f"for example {option}={max(minimum, 1)}."
        )
    return value


def checked_number(method: str, option: str, value: object, *, minimum: float) -> float:
    """Return `value` as a finite float of at least `minimum`.

    Raises:
        InvalidOption: if it is anything else.

    >>> checked_number("sparsevlm", "scale", 9, minimum=0)
    9.0
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value < math.inf:
        raise InvalidOption(f"{method}: {option}={value!r} is not allowed. Give a number of at least {minimum:g}.")
    return float(value)


def checked_layer(method: str, layer: int, num_layers: int) -> int:
    """Return `layer` if a decoder of `num_layers` layers has it.

    Raises:
        InvalidOption: if the decoder is too shallow.

    >>> checked_layer("fastv", 3, 12)
    3
    """
    if layer >= num_layers:
        raise InvalidOption(
            f"{method}: layer={layer} does not exist in this model, whose decoder has {num_layers} layers "
            f"(0 to {num_layers - 1}). Choose a smaller layer."
        )
    return layer


def checked_flag(method: str, option: str, value: object) -> bool:
    """Return `value` if it is True or False; 1 and 0 are not, so that equal recipes have equal text.

    Raises:
        InvalidOption: if it is anything else.

    >>> checked_flag("vtw", "reindex", True)
    True
    """
    if not isinstance(value, bool):
        raise InvalidOption(f"{method}: {option}={value!r} is not allowed. Give True or False.")
    return value
