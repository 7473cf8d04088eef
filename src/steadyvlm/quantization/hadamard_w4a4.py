"""Rotation by Hadamard matrices, then 4 bits throughout: large channels are spread over all before anything is rounded.

Each input of a block is multiplied by a Kronecker product of two randomly signed Hadamard matrices, whose inverse is
folded into the linears behind. The norm in front gives up its weight, which those linears take. Values are rotated
inside each head and across heads before the output projection, keys and queries inside each head after the rotary
embedding. Then everything is rounded to nearest, with fixed clips.

Source: Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", arXiv 2404.00456, section 4; clip
ratios 0.9 of activations and 0.95 of the cache as in its section 5.
Differs:
    - QuaRot turns the residual stream once and for all (R1): embeddings, all that reads the stream and all that writes
      it. Here each block turns its own inputs and nothing outside a block changes, neither embeddings, connector
      output, nor head. What is rounded is the same up to which Hadamard matrix is taken: R1 commutes with an RMS norm
      that has no weight. The price is one small transform per norm at run time, 2 (a + b) operations for each of a b
      channels; the gain is that any part of a model can be rotated alone, and that LayerNorm needs no mean taken out of
      what writes the stream, because its bias is turned with the rest.
    - Two factors of a width's own (11008 = 64 x 172) in place of one matrix of full width; random signs go to the
      factors. Orders without a Hadamard matrix get a random orthogonal part.
    - Weights are rounded to nearest, not by GPTQ.

Letters: I input width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.errors import InvalidOption
from steadyvlm.quantization.base import QuantizationReport
from steadyvlm.quantization.folding import joined_norm
from steadyvlm.quantization.hadamard import rotation, rotation_factors
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.settings import LowBitSettings, check_share
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Block, Reader
from steadyvlm.seeding import stable_seed


@dataclass(frozen=True, slots=True)
class HadamardW4A4:
    """Hadamard rotation, then round-to-nearest of weights, activations and cache.

    Attributes:
        weight_bits: bits per weight, 2 to 8; symmetric, one scale per output row.
        activation_bits: bits per activation, 2 to 8; symmetric, one scale per token; 16 leaves activations alone.
        kv_bits: bits per cached key and value, 2 to 8; asymmetric, per token and head; 16 leaves the cache alone.
        kv_in_prefill: whether prefill already attends to the quantised keys and values, as decoding does.
        activation_clip: share of a token's largest entry that is still represented; 1 clips nothing.
        kv_clip: the same of keys and values.
        seed: of the random signs and of what is random in the rotations.
        vision_edge_bits: bits in the first and the last block of the vision tower; None for those of all others.
        scale_dtype: format of the stored scales of weights, "float16" or "float32".
        transform_dtype: format of the stored rotations, "float16" or "float32"; weights are folded for those numbers.
        backend: what multiplies, "auto", "fake", "reference", "int8" or "triton".
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, biases and the
            language-model head stay as they are.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> HadamardW4A4(seed=1).activation_clip
    0.9
    """

    weight_bits: int = 4
    activation_bits: int = 4
    kv_bits: int = 4
    kv_in_prefill: bool = True
    activation_clip: float = 0.9
    kv_clip: float = 0.95
    seed: int = 0
    vision_edge_bits: int | None = None
    scale_dtype: str = "float16"
    transform_dtype: str = "float16"
    backend: str = "auto"
    modules: tuple[str, ...] = ("language", "connector", "vision")

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "modules", self.settings.modules)
        for name in ("activation_clip", "kv_clip"):
            object.__setattr__(self, name, check_share("hadamard_w4a4", name, getattr(self, name)))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InvalidOption(f"hadamard_w4a4: seed={self.seed!r} is not allowed. Give a whole number.")

    @property
    def settings(self) -> LowBitSettings:
        """Bits and formats."""
        return LowBitSettings.of(self, "hadamard_w4a4")

    def check_available(self) -> None:
        """Nothing beyond torch is needed."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        """Quantise `blocks` inside `root`."""
        states = {block.path: self.state(block, root) for block in blocks}
        layers, skipped = install(blocks, states, root, self.settings)
        return report("hadamard_w4a4", layers, skipped, self.settings, [f"Rotations are drawn with seed {self.seed}."])

    def state(self, block: Block, root: nn.Module) -> BlockState:
        """Return the rotations and clips of a block, float64; drawn from the seed and the paths, in any order."""
        rows, cache = (Clip(share, share) for share in (self.activation_clip, self.kv_clip))
        heads = block.heads
        values = None if heads is None else self._rotation(heads.width, block.path, "values")
        keys = self._rotation(heads.width, block.path, "keys") if heads is not None and heads.cached else None
        readers = {}
        for reader in block.readers:
            width: Any = root.get_submodule(reader.linears[0]).in_features
            left, right = rotation_factors(width)
            if reader.feed == "attention_output" and values is not None:
                left, right = width // len(values), len(values)
                transform = Transform(self._rotation(left, block.path, reader.feed, "left"), values)
            else:
                sides = (
                    self._rotation(left, block.path, reader.feed, "left"),
                    self._rotation(right, block.path, reader.feed, "right"),
                )
                transform = Transform(*sides, norm_absorbed(block, reader, root))
            readers[reader.feed] = ReaderState(transform, rows)
        return BlockState(readers, keys, values, cache, cache)

    def _rotation(self, order: int, *names: str) -> Tensor:
        return rotation(order, torch.Generator().manual_seed(stable_seed("hadamard_w4a4", self.seed, *names)))


def norm_absorbed(block: Block, reader: Reader, root: nn.Module) -> Tensor | None:
    """Return the scale [I] that leaves the norm in front with weights of magnitude 1; None where there is no norm.

    A weight of zero stays: nothing behind the norm could make up for it.
    """
    path = reader.norm or joined_norm(block, reader, root)
    weight = None if path is None else getattr(root.get_submodule(path), "weight", None)
    if weight is None:
        return None
    width: Any = root.get_submodule(reader.linears[0]).in_features
    size = weight.detach().double().abs()
    return torch.where(size > 0, 1.0 / size, 1.0).repeat(width // len(size))
