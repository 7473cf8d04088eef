"""One block whose transforms, scales and clips can be learned: FlatQuant's parameters over a simulated block.

For each input the two factors of its transform, a scale per channel where the input is not the attention's output, a
pair of clip logits of its activation and one of every weight row; for the attention a matrix of the values, and for
decoder layers one of the cached keys and two pairs of clip logits of the cache.

Source: Sun et al. 2024, "FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426, sections 3.1 to 3.3;
repository ruikangliu/FlatQuant at 9d88ffc.
Differs: towers and connectors (LayerNorm, fused qkv, plain feed-forwards, biases) are ours; `folding` tells what takes
their scales.

Letters: B batch, T sequence, D width, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from steadyvlm.quantization.block_input import BlockInput
from steadyvlm.quantization.block_simulation import PLAIN, BlockContext, SimulatedBlock
from steadyvlm.quantization.flat_parameters import ClipLogits, LearnedMatrix, first_matrix, first_scale
from steadyvlm.quantization.folding import joined_norm
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Block, Feed, Reader
from steadyvlm.quantization.transforms import factors

if TYPE_CHECKING:
    from steadyvlm.quantization.flatquant import FlatQuant


class FlatBlock(nn.Module):
    """A block that learns how to be quantised.

    >>> learner = FlatBlock(block, model.module, FlatQuant(), channel_max, generator)   # doctest: +SKIP
    >>> target = learner(hidden, context, quantize=False)                               # doctest: +SKIP
    >>> block_loss(learner(hidden, context, quantize=True), target, valid).backward()   # doctest: +SKIP
    """

    def __init__(
        self,
        block: Block,
        root: nn.Module,
        quantizer: FlatQuant,
        channel_max: Mapping[Feed, Tensor],
        generator: torch.Generator,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Start the parameters.

        Args:
            block: of `root`.
            root: the Hugging Face model, not quantised; its weights are read and stay as they are.
            quantizer: whose settings these are.
            channel_max: [I] largest magnitude of each channel of an input over the calibration set; channels of an
                input that is missing count as one.
            generator: draws the first matrices, on the CPU.
            dtype: of parameters and arithmetic.
        """
        super().__init__()
        self._simulated = SimulatedBlock(block, root, quantizer.settings, dtype)
        self._quantizer, self._generator = quantizer, generator
        heads = block.heads
        self.values = self._matrix(heads.width) if heads is not None else None
        cached = heads is not None and heads.cached
        self.keys = self._matrix(heads.width) if heads is not None and cached else None
        self.key_clip, self.value_clip = (
            ClipLogits((), quantizer.clip_start) if cached and quantizer.settings.quantises_cache else None
            for _ in range(2)
        )
        self.readers = nn.ModuleDict(
            {reader.feed: self._reader(block, reader, root, channel_max.get(reader.feed)) for reader in block.readers}
        )
        del self._generator
        self.to(next(iter(self._simulated.inputs.values())).weight.device, dtype)

    def forward(
        self, hidden: Tensor, context: BlockContext | None, *, quantize: bool, transformed: bool | None = None
    ) -> Tensor:
        """Return the block's output [B, T, D]; rows in, rows out for a connector.

        Args:
            hidden: [B, T, D] into the block; [N, I] rows the first linear of a connector reads.
            context: of the batch; None for a connector.
            quantize: round weights, activations and cache; otherwise this is the model's own block.
            transformed: whether transforms are at work; None where `quantize` is. Without rounding they change nothing,
                and without them rounding is round-to-nearest.
        """
        at_work = quantize if transformed is None else transformed
        return self._simulated(hidden, context, self._decided() if at_work else PLAIN, quantize=quantize)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what an optimiser takes: transforms and scales at `lr`, clips at `clip_lr`."""
        clips = [part for module in self.modules() if isinstance(module, ClipLogits) for part in module.parameters()]
        known = {id(part) for part in clips}
        transforms = [part for part in self.parameters() if id(part) not in known]
        groups = [(transforms, self._quantizer.lr), (clips, self._quantizer.clip_lr)]
        return [{"params": parts, "lr": rate} for parts, rate in groups if parts]

    @torch.no_grad()
    def state(self) -> BlockState:
        """Return what is decided so far, detached: matrices and scales in float64."""
        return self._decided(torch.float64)

    def _decided(self, dtype: torch.dtype | None = None) -> BlockState:
        values = None if self.values is None else self.values(dtype)
        readers = {feed: part.decided(values, dtype) for feed, part in self._own_readers()}
        return BlockState(
            readers,
            keys=None if self.keys is None else self.keys(dtype),
            values=values,
            key_clip=_clip(self.key_clip, dtype),
            value_clip=_clip(self.value_clip, dtype),
        )

    def _own_readers(self) -> Iterator[tuple[Feed, _ReaderParameters]]:
        for feed in self._simulated.inputs:
            part = self.readers[feed]
            assert isinstance(part, _ReaderParameters)  # a ModuleDict forgets what it holds
            yield feed, part

    def _matrix(self, order: int) -> LearnedMatrix:
        start = first_matrix(order, self._quantizer.start, self._generator)
        return LearnedMatrix(start, self._quantizer.parametrization)

    def _reader(self, block: Block, reader: Reader, root: nn.Module, largest: Tensor | None) -> _ReaderParameters:
        inputs, quantizer = self._simulated.inputs[reader.feed], self._quantizer
        width, scale, repeats = inputs.weight.shape[1], None, 1
        if block.heads is not None and reader.feed == "attention_output":
            sides = [self._matrix(width // block.heads.width)]  # the other side is the matrix of the values
        else:
            sides = [self._matrix(order) for order in factors(width)]
            wanted = quantizer.diag and (inputs.takes_scale != "online" or quantizer.online_scale)
            scale = first_scale(inputs.weight, largest, quantizer.alpha) if wanted else None
            joined = joined_norm(block, reader, root) if quantizer.connector_scale == "tied" else None
            if scale is not None and joined is not None:
                own: Any = root.get_submodule(joined)
                repeats = width // len(own.weight)
                scale = scale.view(repeats, -1).log().mean(dim=0).exp()
        return _ReaderParameters(inputs, sides, scale, repeats, quantizer.clip_start)


class _ReaderParameters(nn.Module):
    """What is learned about one input."""

    def __init__(
        self, inputs: BlockInput, sides: list[LearnedMatrix], scale: Tensor | None, repeats: int, clip_start: float
    ) -> None:
        super().__init__()
        self.left = sides[0]
        self.right = sides[1] if len(sides) > 1 else None
        self.log_scale = None if scale is None else nn.Parameter(scale.log())
        self.activation = ClipLogits((), clip_start)
        self.weights = ClipLogits((sum(inputs.sizes), 1), clip_start)
        self._repeats, self._paths, self._sizes = repeats, inputs.paths, inputs.sizes

    def decided(self, values: Tensor | None, dtype: torch.dtype | None) -> ReaderState:
        right = values if self.right is None else self.right(dtype)
        assert right is not None  # an input without a right matrix of its own takes that of the values
        scale = None
        if self.log_scale is not None:
            scale = (self.log_scale if dtype is None else self.log_scale.to(dtype)).exp().repeat(self._repeats)
        shares: Clip = self.weights()
        pairs = zip(*(_tensor(side).split_with_sizes(self._sizes) for side in (shares.high, shares.low)), strict=True)
        clips = {path: Clip(*pair) for path, pair in zip(self._paths, pairs, strict=True)}
        return ReaderState(Transform(self.left(dtype), right, scale), _clip(self.activation, dtype), clips)


def _clip(logits: ClipLogits | None, dtype: torch.dtype | None) -> Clip:
    """Return shares to learn with, or numbers once a dtype says that learning is over."""
    if logits is None:
        return Clip()
    shares: Clip = logits()
    return shares if dtype is None else Clip(float(shares.high), float(shares.low))


def _tensor(share: Tensor | float) -> Tensor:
    assert isinstance(share, Tensor)  # sigmoids
    return share
