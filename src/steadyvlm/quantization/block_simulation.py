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

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear, pad, rms_norm

from steadyvlm.errors import Unsupported
from steadyvlm.quantization.fake_gradients import learn_clip, learn_groups, learn_rows, learn_weight
from steadyvlm.quantization.folding import Written, scale_home, value_rows
from steadyvlm.quantization.settings import UNQUANTISED, LowBitSettings
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Block, Feed, Reader
from steadyvlm.quantization.transforms import apply_transform, transformed_weight

PLAIN = BlockState()
"""Nothing transformed, nothing clipped."""

Norm = Callable[[Tensor, Tensor | None], Tensor]
"""Normalise [..., D], with a scale [D] on what is written."""


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
        self._activation = _activation(block, root)

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


@dataclass(frozen=True, slots=True)
class BlockInput:
    """One input of a block and all that reads it.

    Attributes:
        feed: which.
        paths, sizes: of the linears, and how many outputs each has.
        weight: [O, I], all linears one below the other.
        bias: [O], zeros where one of several has none; None where none has.
        norm: what writes this input, None where nothing does.
        takes_scale: what takes a scale of this input.
        values: [start, stop) of the values among the outputs.
    """

    feed: Feed
    paths: tuple[str, ...]
    sizes: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    norm: Norm | None
    takes_scale: str
    values: tuple[int, int] | None

    @staticmethod
    def of(block: Block, reader: Reader, root: nn.Module, dtype: torch.dtype) -> BlockInput:
        """Read the linears off the model."""
        linears: list[Any] = [root.get_submodule(path) for path in reader.linears]
        biases = [linear.bias for linear in linears]
        bias = None
        if any(one is not None for one in biases):
            own = [
                linear.weight.new_zeros(linear.out_features) if one is None else one
                for linear, one in zip(linears, biases, strict=True)
            ]
            bias = torch.cat(own).detach().to(dtype)
        sizes = tuple(len(linear.weight) for linear in linears)
        values: tuple[int, int] | None = None
        for place, path in enumerate(reader.linears):
            rows, before = value_rows(block, path), sum(sizes[:place])
            values = values if rows is None else (rows[0] + before, rows[1] + before)
        home = scale_home(block, reader, root)
        return BlockInput(
            reader.feed,
            reader.linears,
            sizes,
            torch.cat([linear.weight for linear in linears]).detach().to(dtype),
            bias,
            None if reader.norm is None else _norm(root.get_submodule(reader.norm), dtype),
            "online" if home == "joined" else home,  # the rows arrive joined, behind that norm
            values,
        )

    def joined_clip(self, decided: ReaderState) -> tuple[Tensor, Tensor]:
        """Return the high and the low shares of all linears, [O, 1] each."""
        clips = [decided.weights.get(path, Clip()) for path in self.paths]
        high, low = (
            torch.cat([self._column(share, size) for share, size in zip(side, self.sizes, strict=True)])
            for side in ([clip.high for clip in clips], [clip.low for clip in clips])
        )
        return high, low

    def _column(self, share: Tensor | float, size: int) -> Tensor:
        return share if isinstance(share, Tensor) else self.weight.new_full((size, 1), share)


def _norm(module: Any, dtype: torch.dtype) -> Norm:
    """Return a LayerNorm or an RMS norm as a function of its input and a scale of its output."""
    weight, bias = (
        None if part is None else part.detach().to(dtype)
        for part in (getattr(module, "weight", None), getattr(module, "bias", None))
    )
    centred = isinstance(module, nn.LayerNorm)
    epsilon: float = module.eps if centred else module.variance_epsilon

    def normalise(rows: Tensor, scale: Tensor | None) -> Tensor:
        taken, shift = (part if scale is None or part is None else part * scale.to(part) for part in (weight, bias))
        if not centred:
            return rms_norm(rows, rows.shape[-1:], taken, epsilon)
        return layer_norm(rows, rows.shape[-1:], taken, shift, epsilon)

    return normalise


def _activation(block: Block, root: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the activation of the feed-forward or connector: the one module beside its linears."""
    feed: Feed = "connector_2" if block.part == "connector" else "mlp_output"
    parent = block.reader(feed).linears[0].rpartition(".")[0]
    found = [child for child in root.get_submodule(parent).children() if next(child.parameters(), None) is None]
    if len(found) != 1:
        raise Unsupported(
            f"block '{block.path}' cannot be calibrated: beside the linears of '{parent}' one activation was expected, "
            f"and {len(found)} were found. Leave the {block.part} part out of `modules`."
        )
    return found[0]
