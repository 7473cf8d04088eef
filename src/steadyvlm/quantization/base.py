"""The contract of a quantiser: linears in, quantised linears in their place, and a report of what was done.

A quantiser is a frozen dataclass with its settings as fields. It is handed a model to change (a copy; the original is
never touched) and the linears of the parts it named, as a table of dotted names. Every linear it was handed ends up in
the report, either as quantised, with its sizes and its error, or as skipped, with the reason. Token embeddings, norms
and the language-model head belong to no part and are never handed over.

Letters: O output width, I input width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.structure import Block

PARTS = ("language", "connector", "vision")
"""Parts of a vision-language model whose linears a quantiser may name, in canonical order."""


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """One linear that was quantised.

    Attributes:
        name: dotted name in the model.
        shape: (O, I).
        bits: bits per weight code.
        original_bytes: the weight as it was held before.
        packed_bytes: codes, scales and zero points in their storage format.
        held_bytes: what the weight occupies in this process; more than packed when storage is simulated.
        relative_error: ||W - dequantised W|| / ||W||, Frobenius norms, 0 for an all-zero weight.
    """

    name: str
    shape: tuple[int, int]
    bits: int
    original_bytes: int
    packed_bytes: int
    held_bytes: int
    relative_error: float


@dataclass(frozen=True, slots=True)
class SkippedLayer:
    """One linear that was left as it was, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BlockError:
    """What quantising one block costs on the calibration examples, by three methods at equal bits.

    Errors are mean squared differences between the outputs of the full-precision and the quantised block, both given
    the full-precision input; padding is left out.

    Attributes:
        block: path of the block.
        part: "language", "connector" or "vision".
        power: mean square of the full-precision output.
        rounded: error of round-to-nearest.
        rotated: error of Hadamard rotation.
        learned: error of what was learned.
    """

    block: str
    part: str
    power: float
    rounded: float
    rotated: float
    learned: float


@dataclass(frozen=True, slots=True)
class QuantizationReport:
    """What a quantiser did to a model. Biases are never quantised and not counted in any size.

    Attributes:
        quantizer: name of the method.
        layers: what was quantised, in model order.
        skipped: what was left alone and why.
        simulated: True when weights are rounded to the grid but held in the compute dtype: the answers are those of
            the packed format, memory and speed are not.
        notes: what a reader of the results should know.
        block_errors: what each block loses on the calibration examples, for quantisers that learn from them.
    """

    quantizer: str
    layers: tuple[QuantizedLayer, ...]
    skipped: tuple[SkippedLayer, ...] = ()
    simulated: bool = False
    notes: tuple[str, ...] = ()
    block_errors: tuple[BlockError, ...] = ()

    @property
    def original_bytes(self) -> int:
        """Bytes of the quantised linears' weights before."""
        return sum(layer.original_bytes for layer in self.layers)

    @property
    def packed_bytes(self) -> int:
        """Bytes of the same weights in their storage format."""
        return sum(layer.packed_bytes for layer in self.layers)

    @property
    def held_bytes(self) -> int:
        """Bytes the same weights occupy now."""
        return sum(layer.held_bytes for layer in self.layers)

    @property
    def learned_share(self) -> float | None:
        """How much of round-to-nearest's error per block is left after learning, geometric mean over blocks.

        None without a block that rounding changes.
        """
        ratios = [math.log(max(item.learned, 1e-300) / item.rounded) for item in self.block_errors if item.rounded > 0]
        return math.exp(sum(ratios) / len(ratios)) if ratios else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for a run's provenance, totals included."""
        totals = {name: getattr(self, name) for name in ("original_bytes", "packed_bytes", "held_bytes")}
        return {**asdict(self), **totals}

    def __str__(self) -> str:
        kind = "simulated storage, held as before" if self.simulated else f"{self.held_bytes:,} bytes held"
        learned = "" if self.learned_share is None else f", {self.learned_share:.0%} of rounding's error per block"
        return (
            f"{self.quantizer}: {len(self.layers)} linears, {self.original_bytes:,} -> {self.packed_bytes:,} bytes "
            f"packed ({kind}), {len(self.skipped)} skipped{learned}"
        )


@runtime_checkable
class Quantizer(Protocol):
    """A weight quantiser: a frozen dataclass, validated on construction."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Parts of the model whose linears it wants: some of `PARTS`."""

    def check_available(self) -> None:
        """Return quietly if all it needs is installed, so that a plan can ask before any model is loaded.

        Raises:
            MissingDependency: with the install command.
        """

    def quantize(self, linears: Mapping[str, nn.Linear], root: nn.Module) -> QuantizationReport:
        """Replace `linears` inside `root`.

        Args:
            linears: dotted name inside `root` -> the linear of that name. The linears themselves are not changed.
            root: the model that is changed; hand over a copy to keep the original.

        Raises:
            InvalidOption: when a setting does not fit these linears; nothing has been changed then.
            Unsupported: when there is nothing to quantise.
            MissingDependency: when an optional package is not installed; nothing has been changed then.
        """


@runtime_checkable
class BlockQuantizer(Protocol):
    """A low-bit quantiser that changes whole blocks (norms, caches and linears together) and needs no examples."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Parts of the model it wants: some of `PARTS`."""

    def check_available(self) -> None:
        """As `Quantizer.check_available`."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        """Quantise `blocks` inside `root`; errors as `Quantizer.quantize`."""


@runtime_checkable
class Calibrated(Protocol):
    """A quantiser that has to see the model at work on examples; `steadyvlm.calibration` shows it.

    Attributes of every such dataclass, beside `modules` and `check_available`:
        calibration: a registered calibration set, or the path of one; "auto" is the set that belongs to the model.
        samples: how many of its samples are used.
        seed: draws the samples where the set has more, and starts everything that is random in the calibration.
        pruned: calibrate on the pruned graph: with the recipe's own token reduction at work (prune-then-quantise).
    """

    @property
    def modules(self) -> tuple[str, ...]:
        """Parts of the model it wants: some of `PARTS`."""

    @property
    def calibration(self) -> str:
        """Name or path of the calibration set."""

    @property
    def samples(self) -> int:
        """Samples used."""

    @property
    def seed(self) -> int:
        """Seed of the draw and of the calibration."""

    @property
    def pruned(self) -> bool:
        """Whether the recipe's token reduction is at work during calibration."""

    def check_available(self) -> None:
        """As `Quantizer.check_available`."""


def checked_parts(method: str, value: object) -> tuple[str, ...]:
    """Return the named parts in canonical order, each once; a single name may stand alone.

    Raises:
        InvalidOption: for an unknown part, or none at all.

    >>> checked_parts("rtn", ["vision", "language"])
    ('language', 'vision')
    >>> checked_parts("rtn", "connector")
    ('connector',)
    """
    named = (value,) if isinstance(value, str) else value
    if not isinstance(named, (tuple, list)) or not named or any(part not in PARTS for part in named):
        raise InvalidOption(
            f"{method}: modules={value!r} names no parts of a model. "
            f"Give one or more of {', '.join(map(repr, PARTS))}, for example modules=('language', 'connector')."
        )
    return tuple(part for part in PARTS if part in named)
