"""Where modules act, how much each leaves, and how temperature and learning rate run.

Source: the stages lie before layers 1, 8 and 16 of 32 and leave 66 %, 35 % and 10 % of the visual tokens; the Gumbel
temperature falls from 1.0 to 0.5. Choices of ours, since no code was published (see `reduction/lvpruning.py`).
"""

from __future__ import annotations

from steadyvlm.errors import Unsupported

DEPTH = 32
LAYERS, KEEP_RATIOS = (1, 8, 16), (0.66, 0.35, 0.10)
TEMPERATURES = (1.0, 0.5)
WARM_UP = 20
"""Steps until the learning rate is at its peak."""


def stage_layers(num_layers: int) -> tuple[int, ...]:
    """Return the layers of the default schedule at the same relative depth; the first layer is never reduced.

    Raises:
        Unsupported: for a decoder too shallow for three stages.

    >>> stage_layers(32), stage_layers(12), stage_layers(28)
    ((1, 8, 16), (1, 3, 6), (1, 7, 14))
    """
    layers = tuple(max(1, round(layer * num_layers / DEPTH)) for layer in LAYERS)
    if len(set(layers)) < len(layers) or layers[-1] >= num_layers:
        raise Unsupported(f"a decoder of {num_layers} layers is too shallow for the {len(LAYERS)} stages of LVPruning.")
    return layers


def temperature(step: int, steps: int) -> float:
    """Return the Gumbel temperature: linear over the run.

    >>> temperature(0, 101), temperature(50, 101), temperature(100, 101)
    (1.0, 0.75, 0.5)
    """
    first, last = TEMPERATURES
    return first + (last - first) * step / max(1, steps - 1)


def learning_rate(step: int, steps: int) -> float:
    """Return the factor on the peak learning rate: a short warm-up, flat for half of the run, then linear to 2 %.

    >>> learning_rate(0, 1000), learning_rate(400, 1000), round(learning_rate(999, 1000), 3)
    (0.05, 1.0, 0.022)
    """
    decay = max(0.0, (step / steps - 0.5) / 0.5)
    return min(1.0, (step + 1) / WARM_UP) * (1 - 0.98 * decay)
