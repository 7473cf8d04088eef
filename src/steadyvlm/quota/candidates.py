"""Which decoder layers may lose tokens: a contiguous early range, chosen from what a profile shows.

Attention to the picture is spread out in the first layers and becomes concentrated afterwards; from there on it can
rank tokens. In the last layers tokens grow alike and losing them is fragile. So the range begins at the first layer
whose concentration is high and steady, and ends before redundancy reaches the level of the last quarter.

    start: the first l >= 2 with median concentration >= the midpoint between that of layers 0 and 1 and the highest
           one, and with an interquartile range of at most twice the median range
    end:   the last layer of the unbroken run up to half the depth with median redundancy <= that at three quarters

Source: Li et al. 2026, arXiv 2604.17320, sections 3.2 and 0.D.2.2: the first two layers are excluded, the range is
contiguous and early, the final layers are spared; Qwen2.5-VL-7B uses "layers 8-12".
Differs: the rule itself is reconstructed from the prose. The range for LLaVA-1.5 is not published; 2-6 and 7-11
(counted from 0, tokens dropped behind the layer) are the reading with which both published cost ratios come out, and
8-12 is the literal one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from steadyvlm.errors import InvalidOption

FIRST = 2
"""The first two layers are never pruned."""
MAX_LAYERS = 5

PUBLISHED: Mapping[str, tuple[int, ...]] = {
    "llava-1.5": (2, 3, 4, 5, 6),
    "qwen2.5-vl": (7, 8, 9, 10, 11),
    "qwen2.5-vl-literal": (8, 9, 10, 11, 12),
}
"""Candidate layers of the paper's models as they are read here; of 32, 28 and 28 layers."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The layers behind which tokens may be dropped.

    Attributes:
        layers: contiguous, ascending, none below 2.
        rule: "profile" when the rule found them, "depth" when it found none and the published range was scaled.
        note: how they came about, as a sentence.
    """

    layers: tuple[int, ...]
    rule: str
    note: str


def choose(
    concentration: Sequence[float],
    spread: Sequence[float],
    redundancy: Sequence[float],
    *,
    max_layers: int = MAX_LAYERS,
) -> Candidates:
    """Apply the rule to a profile.

    Args:
        concentration: median over samples, of each decoder layer.
        spread: its interquartile range over samples.
        redundancy: median pairwise similarity of visual tokens, of each decoder layer.
        max_layers: longest range.

    Raises:
        InvalidOption: for a decoder too shallow to have candidates, or profiles of unequal length.

    >>> found = choose([0.2, 0.2, 0.3, 0.7, 0.8, 0.8, 0.8, 0.8], [0.1] * 8, [0.1, 0.1, 0.2, 0.2, 0.3, 0.5, 0.6, 0.9])
    >>> found.layers, found.rule
    ((3, 4), 'profile')
    """
    depth = len(concentration)
    if not depth == len(spread) == len(redundancy):
        raise InvalidOption(f"quota: profiles of {depth}, {len(spread)} and {len(redundancy)} layers do not fit.")
    check_depth(depth)
    half, late = depth // 2, min(depth - 1, 3 * depth // 4)
    early = (concentration[0] + concentration[1]) / 2
    least = (early + max(concentration)) / 2
    steady = 2 * median(spread)
    able = [layer for layer in range(FIRST, half + 1) if concentration[layer] >= least and spread[layer] <= steady]
    run: list[int] = []
    for layer in range(able[0], half + 1) if able else ():
        if redundancy[layer] > redundancy[late] or len(run) == max_layers:
            break
        run.append(layer)
    if run:
        about = f"concentration reaches {least:.3f} at layer {run[0]}, redundancy stays below {redundancy[late]:.3f}"
        return Candidates(tuple(run), "profile", f"candidate layers {span(run)}: {about}")
    scaled = by_depth(depth, max_layers=max_layers)
    why = "tokens are alike where attention is able to rank" if able else "no early layer is concentrated and steady"
    return Candidates(scaled, "depth", f"candidate layers {span(scaled)} by relative depth, because {why}")


def check_depth(depth: int) -> None:
    """Return quietly if a decoder of so many layers has candidates to choose from; raises InvalidOption otherwise."""
    if depth // 2 < FIRST:
        raise InvalidOption(
            f"quota: a decoder of {depth} layers has no candidate layers: the first {FIRST} and the second half are "
            "spared. Name some yourself, for example layers=(2,)."
        )


def by_depth(depth: int, *, max_layers: int = MAX_LAYERS) -> tuple[int, ...]:
    """Return LLaVA-1.5's range in a decoder of another depth: as many layers as fit from layer 2 to half the depth.

    >>> by_depth(32), by_depth(12), by_depth(4)
    ((2, 3, 4, 5, 6), (2, 3, 4, 5, 6), (2,))
    """
    return tuple(range(FIRST, min(FIRST + max_layers, depth // 2 + 1)))


def check_layers(layers: object, num_layers: int | None = None, *, apply: str = "next") -> tuple[int, ...]:
    """Return candidate layers as a tuple if they are contiguous, ascending, and spare the first two.

    Args:
        layers: a list of whole numbers, or a name of `PUBLISHED`.
        num_layers: of the decoder, when it is known.
        apply: "next" drops behind a layer, so the last one cannot be a candidate.

    Raises:
        InvalidOption: if they are not.

    >>> check_layers([2, 3, 4], 12)
    (2, 3, 4)
    """
    listed = tuple(layers) if isinstance(layers, (tuple, list)) else PUBLISHED.get(str(layers), ())
    whole = [layer for layer in listed if isinstance(layer, int) and not isinstance(layer, bool)]
    if not whole or len(whole) != len(listed) or whole != list(range(whole[0], whole[0] + len(whole))):
        raise InvalidOption(
            f"quota: layers={layers!r} is no range of decoder layers. Give neighbouring layers in ascending order, for "
            "example layers=(2, 3, 4, 5, 6), or layers='auto'."
        )
    if whole[0] < FIRST:
        raise InvalidOption(
            f"quota: candidate layers {span(whole)} begin at layer {whole[0]}, but attention of the first {FIRST} "
            f"layers cannot rank tokens yet. Begin at layer {FIRST} or later."
        )
    if num_layers is not None:
        last = num_layers - 2 if apply == "next" else num_layers - 1
        if whole[-1] > last:
            behind = " (tokens are dropped behind a layer, and nothing reads those of the last)" * (apply == "next")
            raise InvalidOption(
                f"quota: candidate layers {span(whole)} do not fit this model, whose decoder has {num_layers} layers; "
                f"the last candidate can be layer {last}{behind}."
            )
    return tuple(whole)


def parse_layers(text: str) -> tuple[int, ...]:
    """Read "2-6", "2,3,4" or a name of `PUBLISHED` as candidate layers.

    Raises:
        InvalidOption: for anything else.

    >>> parse_layers("2-6")
    (2, 3, 4, 5, 6)
    """
    if text in PUBLISHED:
        return PUBLISHED[text]
    try:
        first, dash, last = text.partition("-")
        found = list(range(int(first), int(last) + 1)) if dash else [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found:
        raise InvalidOption(f"quota: layers '{text}' cannot be read. Write a range such as 2-6.")
    return check_layers(found)


def span(layers: Sequence[int]) -> str:
    """Return a contiguous range as text, such as "2-6"."""
    return f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else f"{layers[0]}"
