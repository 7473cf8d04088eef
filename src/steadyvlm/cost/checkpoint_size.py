"""How many bytes a packed checkpoint takes, counted exactly before anything is packed.

    bytes = packed codes + row scales + 16-bit tensors + online transforms

Packed are the matrices of the named parts, nibbles along the input (an odd width is padded by one). Embedding, output
head, norms, positions, patch matrix and biases stay as they are. Transforms are the matrices a transforming quantiser
has to keep for run time; what it folds into weights costs nothing.

Source: Li et al. 2026, "Towards Joint Quantization and Token Pruning of Vision-Language Models", arXiv 2604.17320:
14.13 and 16.6 GB in 16 bits, 3.97 and 5.86 GB in 4, reproduced to the last digit when the connector stays in 16 bits.
Sun et al. 2024, "FlatQuant", arXiv 2410.09426, for the transforms.
Differs: the paper's accuracy runs quantise the connector too, while its sizes say that the saved one is not; name the
parts to count either. GB are 10^9 bytes. File headers, about a ten-thousandth, are not counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from steadyvlm.cost.inventory import PARTS, Heads, Inventory, Matrix
from steadyvlm.cost.sizes import DecoderSizes
from steadyvlm.errors import InvalidOption

Transforms = Literal["none", "flatquant", "published"]
"""What is kept for run time: nothing; what FlatQuant learns as this package keeps it; or as the published sizes count
it: in towers with the values' matrix (although it is folded) and without the scale per channel that has to stay, and
nothing for the connector."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How a checkpoint is packed.

    Attributes:
        parts: parts whose matrices are packed; () for none.
        bits: per packed weight; above 4 a code takes a byte.
        group: neighbours along the input with a scale of their own; None for one scale per output row.
        scale_bits: of a scale.
        zero_bits: of a zero point beside each scale; 0 for symmetric codes.
        head: whether the output head is packed too.
        transforms: which are kept for run time, or how many numbers they hold.
        transform_bits: of each of those numbers.
        float_bits: of every other number that is not packed.
        vision_edge_bits: in place of `bits` in the first and last packed block of the tower; None for no difference.
        vision_layers: blocks of the tower that are packed, from the first; None for all. Behind the layer the connector
            reads a tower never runs, and may have been left as it was.

    Raises:
        InvalidOption: for a part, width or size that does not exist.
    """

    parts: tuple[str, ...] = ("language", "vision")
    bits: int = 4
    group: int | None = None
    scale_bits: int = 16
    zero_bits: int = 0
    head: bool = False
    transforms: Transforms | int = "published"
    transform_bits: int = 16
    float_bits: int = 16
    vision_edge_bits: int | None = None
    vision_layers: int | None = None

    def __post_init__(self) -> None:
        """Validate."""
        strangers = [part for part in self.parts if part not in PARTS]
        if strangers:
            raise InvalidOption(f"a checkpoint has no part {strangers[0]!r}. Use some of {', '.join(PARTS)}.")
        if not 2 <= self.bits <= 8 or (self.group is not None and self.group < 1):
            raise InvalidOption(f"bits={self.bits}, group={self.group}: use 2 to 8 bits, and a group of 1 or more.")


@dataclass(frozen=True, slots=True)
class CheckpointSize:
    """Bytes of a checkpoint by what they hold."""

    packed: int
    scales: int
    floats: int
    transforms: int

    @property
    def total(self) -> int:
        """All bytes."""
        return self.packed + self.scales + self.floats + self.transforms

    @property
    def gigabytes(self) -> float:
        """The total in units of 10^9 bytes."""
        return self.total / 1e9

    def __str__(self) -> str:
        whole = f"{self.gigabytes:.3f} GB" if self.total >= 1e8 else f"{self.total / 1e6:.3f} MB"
        return (
            f"{whole}: packed {self.packed:,}, scales {self.scales:,}, "
            f"16-bit and wider {self.floats:,}, transforms {self.transforms:,} bytes"
        )


def checkpoint_size(found: Inventory, packing: Packing | None = None) -> CheckpointSize:
    """Return the bytes of a checkpoint.

    Args:
        found: what the checkpoint holds (`inventory.inventory`, or `models.checkpoint_sizes.inventory_of`).
        packing: how; None for 16-bit numbers throughout.

    >>> from steadyvlm.cost.inventory import details, inventory
    >>> from steadyvlm.cost.sizes import published
    >>> llava = inventory(published("llava-1.5-7b"), details("llava-1.5-7b"))
    >>> checkpoint_size(llava).total, checkpoint_size(llava, Packing()).total
    (14126854144, 3968555264)
    """
    plan = packing or Packing(parts=(), transforms="none")
    matrices = list(_packed(found, plan))
    rest = found.parameters - sum(matrix.weights for matrix, _ in matrices)
    groups = sum(matrix.outputs * matrix.copies * _groups(matrix, plan) for matrix, _ in matrices)
    return CheckpointSize(
        packed=sum(matrix.outputs * matrix.copies * _row_bytes(matrix.inputs, bits) for matrix, bits in matrices),
        scales=groups * (plan.scale_bits + plan.zero_bits) // 8,
        floats=rest * plan.float_bits // 8,
        transforms=transform_numbers(found, plan) * plan.transform_bits // 8,
    )


def transform_numbers(found: Inventory, packing: Packing) -> int:
    """Return the numbers of the transforms that stay for run time.

    >>> from steadyvlm.cost.inventory import details, inventory
    >>> from steadyvlm.cost.sizes import published
    >>> transform_numbers(inventory(published("llava-1.5-7b"), details("llava-1.5-7b")), Packing())
    2765952
    """
    if not isinstance(packing.transforms, str):
        return packing.transforms
    if packing.transforms == "none":
        return 0
    ours = packing.transforms == "flatquant"
    without = ("head",) if ours else ("head", "connector")
    whole = dataclasses.replace(packing, vision_edge_bits=None)
    inputs = {(matrix.part, matrix.feed): matrix for matrix, _ in _packed(found, whole) if matrix.part not in without}
    heads = {entry.part: entry for entry in found.heads}
    plain = _plain_towers(found)
    total = 0
    for (part, feed), matrix in inputs.items():
        if feed == "attention_output":
            total += matrix.copies * _head_numbers(heads[part], ours)
            continue
        scaled = ours and (part == "connector" or (part == "vision" and feed == "mlp_output" and plain))
        total += matrix.copies * (sum(side**2 for side in factors(matrix.inputs)) + scaled * matrix.inputs)
    return total


def cache_bytes_per_token(sizes: DecoderSizes, bits: int = 4, *, zero_bits: int = 16) -> int:
    """Return the bytes of one token's keys and values in all layers.

    Args:
        sizes: of the decoder.
        bits: 16 for plain numbers; else codes in whole bytes per head, and a 16-bit scale and a zero point per head.
        zero_bits: of that zero point; this package's cache keeps 8.

    >>> from steadyvlm.cost.sizes import published
    >>> cache_bytes_per_token(published("llava-1.5-7b").decoder) // 32
    4352
    >>> cache_bytes_per_token(published("qwen2.5-vl-7b").decoder) // 28
    544
    """
    extra = 0 if bits == 16 else 2 + zero_bits // 8
    width = 2 * sizes.head_width if bits == 16 else _row_bytes(sizes.head_width, bits)
    return 2 * sizes.layers * sizes.kv_heads * (width + extra)


def factors(width: int) -> tuple[int, int]:
    """Return the most balanced a <= b with a b = width and equal parity; (1, width) where there is none.

    >>> factors(3420), factors(11008), factors(10)
    ((38, 90), (86, 128), (1, 10))
    """
    for small in range(math.isqrt(width), 0, -1):
        if width % small == 0 and (small + width // small) % 2 == 0:
            return small, width // small
    return 1, width


def _packed(found: Inventory, packing: Packing) -> Iterator[tuple[Matrix, int]]:
    """Yield the matrices that are packed, with the number of copies that are, and their bits."""
    for matrix in found.matrices:
        if matrix.part not in packing.parts:
            continue
        vision = matrix.part == "vision"
        limit = packing.vision_layers if vision else None
        copies = matrix.copies if limit is None else min(limit, matrix.copies)
        edges = min(2, copies) if vision and packing.vision_edge_bits is not None else 0
        yield dataclasses.replace(matrix, copies=copies - edges), packing.bits
        if edges:
            yield dataclasses.replace(matrix, copies=edges), packing.vision_edge_bits or packing.bits
    if packing.head and found.head is not None:
        yield found.head, packing.bits


def _plain_towers(found: Inventory) -> bool:
    """Return whether the tower's feed-forward is not gated, so that no scale passes its non-linearity."""
    return sum(matrix.part == "vision" and matrix.feed == "mlp_input" for matrix in found.matrices) == 1


def _head_numbers(heads: Heads, ours: bool) -> int:
    """Return the numbers that act on attended heads, and on queries and keys where these are cached."""
    if heads.cached:
        return heads.count**2 + 2 * heads.width**2
    return heads.count**2 + (0 if ours else heads.width**2)


def _groups(matrix: Matrix, packing: Packing) -> int:
    return 1 if packing.group is None else -(-matrix.inputs // packing.group)


def _row_bytes(width: int, bits: int) -> int:
    return (width + 1) // 2 if bits <= 4 else width
