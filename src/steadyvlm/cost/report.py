"""What one answer cost, part by part, from counts that were recorded while it was made.

Nothing here knows a method or a schedule: the counter takes the visual tokens each layer really processed, the text
beside them, the grids the tower really read, and adds up. Every number is an exact integer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steadyvlm.cost import decoder, vision
from steadyvlm.cost.profiles import Profile, profile
from steadyvlm.cost.scoring import Scoring
from steadyvlm.cost.sizes import ModelSizes, QwenVisionSizes
from steadyvlm.errors import InvalidOption


@dataclass(frozen=True, slots=True)
class Counts:
    """What was executed for one prompt and its answer.

    Attributes:
        visual: visual tokens each decoder layer processed in prefill.
        text: all other tokens of the prompt.
        grids: (tiles, height, width) in patches of every picture the tower read.
        connector_tokens: tokens that went through the connector.
        generated: tokens of the answer; the first comes from the prompt, each further one is a decoding step.
        scoring: what choosing tokens needed.
        original: visual tokens of the prompt before any reduction; 0 when nobody asks.
        head_visual: visual tokens beside the text where the output head reads all positions; those of the last layer
            when None (they differ when tokens are removed after it).
    """

    visual: tuple[int, ...]
    text: int
    grids: tuple[tuple[int, int, int], ...] = ()
    connector_tokens: int = 0
    generated: int = 1
    scoring: tuple[Scoring, ...] = ()
    original: int = 0
    head_visual: int | None = None


@dataclass(frozen=True, slots=True)
class CostReport:
    """A bill in multiply-accumulate operations; what the profile leaves out is 0 or empty.

    Attributes:
        profile: the convention.
        vision: the vision tower.
        connector: the connector, or the merger of a Qwen tower.
        layers: each decoder layer in prefill.
        head: the output head on the prompt.
        scoring: what choosing tokens needed, line by line.
        decode: all generated tokens but the first, output head included.
        cache_bytes: keys and values at the end of the answer, 2 bytes a number.
    """

    profile: Profile
    vision: int
    connector: int
    layers: tuple[int, ...]
    head: int
    scoring: tuple[Scoring, ...]
    decode: int
    cache_bytes: int

    @property
    def prefill(self) -> int:
        """Everything up to the first answer token."""
        return self.vision + self.connector + sum(self.layers) + self.head + sum(item.macs for item in self.scoring)

    @property
    def macs(self) -> int:
        """Everything."""
        return self.prefill + self.decode

    @property
    def flops(self) -> int:
        """Everything, in what the profile calls FLOPs."""
        return self.profile.operations * self.macs

    @property
    def tflops(self) -> float:
        """`flops` in units of 10^12, for tables."""
        return self.flops / 1e12


def count(counts: Counts, sizes: ModelSizes, convention: Profile | str = "default") -> CostReport:
    """Return the bill of one answer.

    Args:
        counts: what was executed.
        sizes: of the model that executed it.
        convention: a profile or its name.

    Raises:
        InvalidOption: for counts that do not fit the model.
        UnknownName: for an unknown profile.

    >>> from steadyvlm.cost.sizes import published
    >>> whole = Counts((576,) * 32, text=60, grids=((1, 24, 24),), connector_tokens=576)
    >>> round(count(whole, published("llava-1.5-7b"), "lofi").tflops, 3)  # published: 9.04
    9.022
    """
    rule = profile(convention) if isinstance(convention, str) else convention
    _check(counts, sizes)
    text = counts.text if rule.text is None else rule.text
    tokens = [visual + text for visual in counts.visual]
    tower, connector = _vision(counts, sizes, rule)
    cached = [length + counts.generated - 1 for length in tokens]
    return CostReport(
        profile=rule,
        vision=tower,
        connector=connector,
        layers=_layers(tokens, sizes, rule),
        head=decoder.head(sizes.decoder, _head_rows(counts, text, rule)),
        scoring=counts.scoring if rule.scoring else (),
        decode=_decode(tokens, counts.generated - 1, sizes, rule) if rule.decode else 0,
        cache_bytes=decoder.cache_bytes(sizes.decoder, cached),
    )


@dataclass(frozen=True, slots=True)
class Ratios:
    """Cost of an accelerated prompt over that of the original, in three conventions that papers mix up.

    Head, scoring and decoding are in none of them; nan where the original costs nothing.

    Attributes:
        visual_only: decoder alone, as if there were no text.
        decoder: decoder alone, text included.
        full: vision tower, connector and decoder: the headline.
    """

    visual_only: float
    decoder: float
    full: float


def ratios(accelerated: Counts, original: Counts, sizes: ModelSizes) -> Ratios:
    """Return what `accelerated` cost of `original`, both on the same model and prompt.

    >>> from steadyvlm.cost.sizes import published
    >>> whole = Counts((576,) * 32, text=61, grids=((1, 24, 24),), connector_tokens=576)
    >>> part = Counts((128,) * 32, text=61, grids=((1, 24, 24),), connector_tokens=576)
    >>> found = ratios(part, whole, published("llava-1.5-7b"))
    >>> [f"{100 * value:.2f} %" for value in (found.visual_only, found.decoder, found.full)]
    ['21.83 %', '29.15 %', '32.27 %']
    """
    bare = Profile("ratio", "", tower="none", connector=False, head="none", scoring=False, decode=False)
    rules = (
        Profile("ratio", "", tower="none", connector=False, head="none", text=0, scoring=False, decode=False),
        bare,
        Profile("ratio", "", head="none", scoring=False, decode=False),
    )
    found = []
    for rule in rules:
        whole = count(original, sizes, rule).macs
        found.append(count(accelerated, sizes, rule).macs / whole if whole else float("nan"))
    return Ratios(*found)


def _check(counts: Counts, sizes: ModelSizes) -> None:
    if len(counts.visual) != sizes.decoder.layers:
        raise InvalidOption(
            f"the counts name {len(counts.visual)} decoder layers, the model has {sizes.decoder.layers}. "
            "Take sizes and counts from the same model."
        )
    smallest = min([*counts.visual, counts.text, counts.connector_tokens, counts.generated - 1])
    if smallest < 0 or any(min(grid) < 1 for grid in counts.grids):
        raise InvalidOption(
            f"counts cannot be negative, an answer has at least one token and a picture at least one patch: {counts}."
        )


def _vision(counts: Counts, sizes: ModelSizes, rule: Profile) -> tuple[int, int]:
    """Return the operations of tower and connector."""
    tower, tail = sizes.vision, 0
    if isinstance(tower, QwenVisionSizes):
        total = sum(tiles * vision.qwen(tower, (height, width)) for tiles, height, width in counts.grids)
        tail = sum(tiles * vision.merger(tower, (height, width)) for tiles, height, width in counts.grids)
    else:
        layers = tower.layers if rule.tower == "all" else tower.feature_layers
        total = sum(vision.clip(tower, (grid[1], grid[2]), tiles=grid[0], layers=layers) for grid in counts.grids)
    if sizes.connector is not None:
        tail += vision.connector(sizes.connector, counts.connector_tokens)
    return (0 if rule.tower == "none" else total), (tail if rule.connector else 0)


def _layers(tokens: Sequence[int], sizes: ModelSizes, rule: Profile) -> tuple[int, ...]:
    costs = [decoder.layer(sizes.decoder, length, mlp_matrices=rule.mlp_matrices) for length in tokens]
    if rule.last_layer_row:
        costs[-1] = decoder.last_layer(sizes.decoder, tokens[-1], mlp_matrices=rule.mlp_matrices)
    return tuple(cost.macs for cost in costs)


def _head_rows(counts: Counts, text: int, rule: Profile) -> int:
    if rule.head == "all":
        return text + (counts.visual[-1] if counts.head_visual is None else counts.head_visual)
    return int(rule.head == "last")


def _decode(tokens: Sequence[int], steps: int, sizes: ModelSizes, rule: Profile) -> int:
    rows = 0 if rule.head == "none" else steps
    layers = decoder.decode(sizes.decoder, tokens, steps, mlp_matrices=rule.mlp_matrices)
    return layers + decoder.head(sizes.decoder, rows)
