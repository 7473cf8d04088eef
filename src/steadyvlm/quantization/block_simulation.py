"""One block of a model at work on its own, with transforms and rounding simulated, differentiable throughout.

It is built from the model's own modules, of which it reads norms, weights, biases and activation, and it computes what
`install` would put in place: the same folds in the same order, with numbers that are dequantised at once in place of
packed ones. So decisions can be learned on it, and compared on one and the same input: none (round-to-nearest), a
rotation, or learned ones.

    decoder layer     x + O(attend(Q, K, V));  then + down(act(gate) * up)
    vision block      the same with one qkv linear, LayerNorm, or a plain feed-forward, and no cache
    connector         second(act(first(rows)))

Source: Sun et al. 2024, arXiv 2410.09426, section 3.3; transformers `modeling_llama.py`, `modeling_clip.py`,
`modeling_qwen2_vl.py`, `modeling_qwen2_5_vl.py`.
Differs: the linears that read one input are one linear, so that an input is transformed and rounded once.

Letters: B batch, T sequence, D width, H heads, d head width, O outputs of all linears of an input, I input width.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from steadyvlm.quantization.block_input import BlockInput, activation_of
from steadyvlm.quantization.fake_gradients import learn_clip, learn_groups, learn_rows, learn_weight
from steadyvlm.quantization.folding import Written
from steadyvlm.quantization.settings import UNQUANTISED, LowBitSettings
from steadyvlm.quantization.state import BlockState, ReaderState, Transform
from steadyvlm.quantization.structure import Block, Feed
from steadyvlm.quantization.transforms import apply_transform, transformed_weight

PLAIN = BlockState()
"""Nothing transformed, nothing clipped."""


class BlockContext(Protocol):
    """How the rows of a batch see each other; masks, windows and grouped heads are its own affair."""

    def rotate(self, heads: Tensor) -> Tensor:
        """Return queries or keys [B, H, T, d] turned by their positions."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return attended heads [B, H, T, d] of rotated queries and keys, and values."""


class SimulatedBlock:
    """A block's arithmetic on its own frozen weights.

    Attributes:
        block: which.
        inputs: by feed, the linears that read it, joined.

    >>> simulated = SimulatedBlock(block, model.module, settings)                       # doctest: +SKIP
    >>> exact = simulated(hidden, context)                                              # doctest: +SKIP
    >>> rounded = simulated(hidden, context, state, quantize=True)                      # doctest: +SKIP
    """

    def __init__(
        self, block: Block, root: nn.Module, settings: LowBitSettings, dtype: torch.dtype = torch.float32
    ) -> None:
        """Read a block.

        Args:
            block: of `root`.
            root: the Hugging Face model, not quantised and not changed.
            settings: bits and formats.
            dtype: of the arithmetic; float64 for a check.
        """
        self.block = block
        self._settings = settings
        self.inputs = {reader.feed: BlockInput.of(block, reader, root, dtype) for reader in block.readers}
        self._activation = activation_of(block, root)

    def __call__(
        self, hidden: Tensor, context: BlockContext | None, state: BlockState = PLAIN, *, quantize: bool = False
    ) -> Tensor:
        """Return the block's output.

        Args:
            hidden: [B, T, D] into the block; rows [..., I] of the first linear for a connector.
            context: of the batch; None for a connector.
            state: transforms, and clips where `quantize`.
            quantize: round weights, activations and cache.
        """
        if context is None:
            wide = self._activation(self._linear("connector_1", hidden, state, quantize))
            return self._linear("connector_2", wide, state, quantize)
        hidden = hidden + self._attention(hidden, context, state, quantize)
        wide = self._linear("mlp_input", hidden, state, quantize)
        if len(self.inputs["mlp_input"].sizes) == 2:
            gate, up = wide.chunk(2, dim=-1)
            wide = self._activation(gate) * up
        else:
            wide = self._activation(wide)
        return hidden + self._linear("mlp_output", wide, state, quantize)

    def _attention(self, hidden: Tensor, context: BlockContext, state: BlockState, quantize: bool) -> Tensor:
        heads = self.block.heads
        assert heads is not None  # a block with a context is no connector
        batch, length, _ = hidden.shape
        sizes = [count * heads.width for count in (heads.count, heads.kv_count, heads.kv_count)]
        queries, keys, values = (
            part.view(batch, length, -1, heads.width).transpose(1, 2)
            for part in self._linear("attention_input", hidden, state, quantize).split_with_sizes(sizes, dim=-1)
        )
        queries, keys = context.rotate(queries), context.rotate(keys)
        if state.keys is not None:
            turn = state.keys.to(keys.dtype)
            queries, keys = queries @ torch.linalg.inv(state.keys.double()).to(keys.dtype).T, keys @ turn
        if quantize and heads.cached and self._settings.quantises_cache:
            bits = self._settings.kv_bits
            keys = learn_groups(keys, bits, state.key_clip.high, state.key_clip.low)
            values = learn_groups(values, bits, state.value_clip.high, state.value_clip.low)
        attended = context.attend(queries, keys, values).transpose(1, 2).reshape(batch, length, -1)
        return self._linear("attention_output", attended, state, quantize)

    def _linear(self, feed: Feed, rows: Tensor, state: BlockState, quantize: bool) -> Tensor:
        """Return what the linears of an input make of it, norm in front included: [..., O]."""
        inputs, decided = self.inputs[feed], state.readers.get(feed, ReaderState())
        transform = decided.transform
        scale = None if transform is None else transform.scale
        if inputs.norm is not None:
            rows = inputs.norm(rows, scale if inputs.takes_scale == "norm" else None)
        if transform is not None:
            turned = feed == "attention_output" and state.values is not None
            online = scale if inputs.takes_scale == "online" else None
            rows = apply_transform(rows, transform.left, None if turned else transform.right, online)
        bits = self._settings.activation_bits
        if quantize and bits != UNQUANTISED:
            rows = learn_rows(rows, bits, decided.activation.high, decided.activation.low)
        weight, bias = self._weights(inputs, decided, state, quantize)
        return linear(rows, weight, bias)

    def _weights(
        self, inputs: BlockInput, decided: ReaderState, state: BlockState, quantize: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return [O, I] and [O], transformed and rounded."""
        transform = decided.transform
        if inputs.feed == "attention_output" and state.values is not None and transform is None:
            count = inputs.weight.shape[1] // len(state.values)
            transform = Transform(torch.eye(count, dtype=state.values.dtype, device=state.values.device), state.values)
        weight = transformed_weight(inputs.weight, transform)
        if quantize and decided.weights:
            weight = learn_clip(weight, *inputs.joined_clip(decided))
        written = Written(inputs.values, state.values, self._row_scale(inputs, state))
        weight = written.applied(weight)
        if quantize:
            weight = learn_weight(weight, self._settings.weight_bits, self._settings.scale_format)
        return weight, None if inputs.bias is None else written.applied(inputs.bias)

    def _row_scale(self, inputs: BlockInput, state: BlockState) -> Tensor | None:
        """Return [O]: what the rows of one of these linears take for the input they write, ones elsewhere."""
        for reader in self.block.readers:
            if reader.scaled_by in inputs.paths and reader.feed in state.readers:
                transform = state.readers[reader.feed].transform
                if transform is not None and transform.scale is not None:
                    before = sum(inputs.sizes[: inputs.paths.index(reader.scaled_by)])
                    after = sum(inputs.sizes) - before - len(transform.scale)
                    return pad(transform.scale, (before, after), value=1.0)
        return None
