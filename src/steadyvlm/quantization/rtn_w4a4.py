"""RTN in 4 bits throughout: weights, activations and cache rounded to nearest as they are. The lower bound.

Weights have one scale per output row, activations one per token, cached keys and values one scale and zero point per
token and head. Nothing is transformed, so a single large channel takes the resolution of its whole token; on language
models of billions of weights the answers are near random.

Source: round-to-nearest as the baseline of FlatQuant, arXiv 2410.09426, and QuaRot, arXiv 2404.00456 (tables 1).
Differs: the connector and the vision tower are quantised too, as QUOTA does (arXiv 2604.17320).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from steadyvlm.quantization.base import QuantizationReport
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.settings import LowBitSettings, check_share
from steadyvlm.quantization.state import BlockState, Clip, ReaderState
from steadyvlm.quantization.structure import Block


@dataclass(frozen=True, slots=True)
class RTNW4A4:
    """Round-to-nearest of weights, activations and cache.

    Attributes:
        weight_bits: bits per weight, 2 to 8; symmetric, one scale per output row.
        activation_bits: bits per activation, 2 to 8; symmetric, one scale per token; 16 leaves activations alone.
        kv_bits: bits per cached key and value, 2 to 8; asymmetric, per token and head; 16 leaves the cache alone.
        kv_in_prefill: whether prefill already attends to the quantised keys and values, as decoding does.
        activation_clip: share of a token's largest entry that is still represented; 1 clips nothing.
        kv_clip: the same of keys and values.
        vision_edge_bits: bits in the first and the last block of the vision tower; None for those of all others.
        scale_dtype: format of the stored scales of weights, "float16" or "float32".
        transform_dtype: format of stored transforms, of which this method has none.
        backend: what multiplies, "auto", "fake", "reference", "int8" or "triton".
        modules: parts of the model, some of "language", "connector", "vision". Token embeddings, norms, biases and
            the language-model head stay as they are.

    Raises:
        InvalidOption: on construction, for a value outside its range.

    >>> RTNW4A4(activation_clip=0.9).kv_bits
    4
    """

    weight_bits: int = 4
    activation_bits: int = 4
    kv_bits: int = 4
    kv_in_prefill: bool = True
    activation_clip: float = 1.0
    kv_clip: float = 1.0
    vision_edge_bits: int | None = None
    scale_dtype: str = "float16"
    transform_dtype: str = "float16"
    backend: str = "auto"
    modules: tuple[str, ...] = ("language", "connector", "vision")

    def __post_init__(self) -> None:
        """Validate."""
        object.__setattr__(self, "modules", self.settings.modules)
        for name in ("activation_clip", "kv_clip"):
            object.__setattr__(self, name, check_share("rtn_w4a4", name, getattr(self, name)))

    @property
    def settings(self) -> LowBitSettings:
        """Bits and formats."""
        return LowBitSettings.of(self, "rtn_w4a4")

    def check_available(self) -> None:
        """Nothing beyond torch is needed."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        """Quantise `blocks` inside `root`."""
        states = {block.path: self.state(block) for block in blocks}
        layers, skipped = install(blocks, states, root, self.settings)
        return report("rtn_w4a4", layers, skipped, self.settings)

    def state(self, block: Block) -> BlockState:
        """Return what is decided about a block: clips, and nothing else."""
        rows, cache = (Clip(share, share) for share in (self.activation_clip, self.kv_clip))
        readers = {reader.feed: ReaderState(activation=rows) for reader in block.readers}
        return BlockState(readers, key_clip=cache, value_clip=cache)
