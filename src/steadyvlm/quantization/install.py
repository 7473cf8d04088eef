"""Put a low-bit model in place: fold what was decided about each block into it, and quantise its linears.

The same code serves every low-bit quantiser: one that decides nothing (round-to-nearest), one that rotates, one that
has learned. `folding` says where the parts of a transform go. What happens to a weight, in this order: the transform of
its input, its clip, the transform of its output (values only), the scale of its output (up only), rounding.

Everything is checked before anything is changed, and one linear after the other is replaced, so that a large model is
never held twice. The Hugging Face module goes on working by itself, though its cache is then not quantised.

Source: Sun et al. 2024, arXiv 2410.09426, sections 3.2 and 3.3; order of the steps on a weight as in the repository
ruikangliu/FlatQuant at 9d88ffc.
Differs: the scale of an output is applied before rounding and not after, which is the same because it is one factor
per row, and leaves one rounding of the row's scale in place of two.

Letters: O output width, I input width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.quantization import integer
from steadyvlm.quantization.apply import check_weights, sort_out
from steadyvlm.quantization.base import QuantizationReport, QuantizedLayer, SkippedLayer
from steadyvlm.quantization.folding import Written, fold_norm, joined_norm, share_out, value_rows, wrap_norm
from steadyvlm.quantization.grid import relative_error
from steadyvlm.quantization.kv import KeyValueQuantizer
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.settings import LowBitSettings
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.state_checks import check_states
from steadyvlm.quantization.structure import Block, Heads
from steadyvlm.quantization.transforms import (
    InputTransform,
    clipped,
    placed,
    restored_weight,
    transformed_weight,
)


@torch.no_grad()
def install(
    blocks: Sequence[Block], states: Mapping[str, BlockState], root: nn.Module, settings: LowBitSettings
) -> tuple[tuple[QuantizedLayer, ...], tuple[SkippedLayer, ...]]:
    """Quantise the linears of `blocks` inside `root`, and the cache of those that keep one.

    A block that holds a linear which cannot be quantised is left as it is and reported: what is folded into the others
    would not reach that one.

    Args:
        blocks: blocks of `root`.
        states: what was decided about each, by path; the others are rounded as they are, and what was decided about
            blocks that are left alone does not matter.
        root: the model that is changed.
        settings: bits and formats; its `modules` are not looked at. Bits for the edges of the tower go to the first and
            the last of these vision blocks, so hand over all of them at once then.

    Returns:
        What was quantised and what was skipped, in the order of `blocks`. Errors of layers are measured in the
        original basis: the dequantised weight, all transforms undone, against the original one.

    Raises:
        Unsupported: when there is nothing to quantise.
        CheckpointError: when a decision does not fit its block, or a weight cannot be quantised; nothing has been
            changed then.
    """
    ready, skipped = _sorted_out(blocks, root)
    left = {block.path for block in blocks} - {block.path for block in ready}
    check_states(ready, {path: state for path, state in states.items() if path not in left}, root)
    edges = _edges(blocks)
    layers: list[QuantizedLayer] = []
    for block in ready:
        own = settings
        if settings.vision_edge_bits is not None and block.path in edges:
            bits = settings.vision_edge_bits
            own = replace(settings, weight_bits=bits, activation_bits=bits)
        layers += _quantise_block(block, states.get(block.path, BlockState()), root, own)
    return tuple(layers), skipped


def _sorted_out(blocks: Sequence[Block], root: nn.Module) -> tuple[list[Block], tuple[SkippedLayer, ...]]:
    linears: dict[str, Any] = {path: root.get_submodule(path) for block in blocks for path in block.linears}
    plain, skipped = sort_out(linears, root)
    reasons = {layer.name: layer.reason for layer in skipped}
    ready, left = [], []
    for block in blocks:
        stuck = [path for path in block.linears if path in reasons]
        if stuck:
            beside = f"its block holds '{stuck[0]}', which cannot be quantised: {reasons[stuck[0]]}"
            left += [SkippedLayer(path, reasons.get(path, beside)) for path in block.linears]
        else:
            ready.append(block)
    if not ready:
        raise Unsupported(f"there is no whole block to quantise: {left[0].name}: {left[0].reason}. Name other parts.")
    check_weights({path: plain[path] for block in ready for path in block.linears})
    return ready, tuple(left)


def _edges(blocks: Sequence[Block]) -> frozenset[str]:
    """Paths of the first and the last block of the vision tower."""
    tower = sorted((block for block in blocks if block.part == "vision"), key=lambda block: block.index)
    return frozenset(block.path for block in (*tower[:1], *tower[-1:]))


def _quantise_block(
    block: Block, state: BlockState, root: nn.Module, settings: LowBitSettings
) -> Iterator[QuantizedLayer]:
    decided = {reader.feed: state.readers.get(reader.feed, ReaderState()) for reader in block.readers}
    folds = {
        reader.feed: share_out(
            block, reader, decided[reader.feed].transform, state.values, root, settings.transform_format
        )
        for reader in block.readers
    }
    scales = {reader.scaled_by: folds[reader.feed].row_scale for reader in block.readers}
    for reader in block.readers:
        fold, own = folds[reader.feed], decided[reader.feed]
        for path in reader.linears:
            written = Written(value_rows(block, path), state.values, scales.get(path))
            at_work = None if reader.norm else fold.online()
            yield _quantise_linear(path, own, fold.weights, written, at_work, root, settings)
        norm = reader.norm or joined_norm(block, reader, root)
        if norm is not None and fold.norm_scale is not None:
            fold_norm(norm, fold.norm_scale, root)
        behind = fold.online() if reader.norm else None
        if reader.norm and behind is not None:
            wrap_norm(reader.norm, behind, root)
    if block.heads is not None and block.heads.cached and settings.quantises_cache:
        attention = root.get_submodule(block.heads.path)
        attention.kv_quantizer = _cache_quantizer(block.heads, state, attention, settings)


def _quantise_linear(
    path: str,
    decided: ReaderState,
    folded: Transform | None,
    written: Written,
    at_work: InputTransform | None,
    root: nn.Module,
    settings: LowBitSettings,
) -> QuantizedLayer:
    linear: Any = root.get_submodule(path)
    weight: Tensor = linear.weight.detach()
    transform = None if folded is None else placed(folded, weight.device)
    exact = clipped(transformed_weight(weight.double(), transform), decided.weights.get(path, Clip()))
    exact = written.applied(exact).float()
    try:
        codes, scale = integer.quantize_weight(exact, settings.weight_bits, scale_dtype=settings.scale_format)
    except ValueError as error:
        raise CheckpointError(
            f"linear '{path}' cannot be quantised once it is transformed: {error} The model that was being changed is "
            "of no further use; take scale_dtype='float32', or calibrate again."
        ) from None
    bias = None if linear.bias is None else written.applied(linear.bias.detach().double()).to(linear.bias.dtype)
    module = LowBitLinear.from_codes(
        codes,
        scale,
        bias,
        transform=None if at_work is None else at_work.to(weight.device),
        activation_clip=decided.activation,
        activation_bits=settings.activation_bits,
        weight_bits=settings.weight_bits,
        backend=settings.backend,
    )
    root.set_submodule(path, module.train(linear.training))
    rounded = restored_weight(written.undone(module.weight_dequantized()), transform)
    return QuantizedLayer(
        name=path,
        shape=(linear.out_features, linear.in_features),
        bits=settings.weight_bits,
        original_bytes=weight.nbytes,
        packed_bytes=linear.out_features * ((linear.in_features * settings.weight_bits + 7) // 8) + scale.nbytes,
        held_bytes=module.packed.nbytes + module.scale.nbytes,
        relative_error=relative_error(weight, rounded),
    )


def _cache_quantizer(heads: Heads, state: BlockState, attention: nn.Module, settings: LowBitSettings) -> nn.Module:
    device = next(attention.buffers()).device
    keys = None if state.keys is None else state.keys.to(device, settings.transform_format)
    return KeyValueQuantizer(
        heads.width,
        transform=keys,
        bits=settings.kv_bits,
        in_prefill=settings.kv_in_prefill,
        key_clip=state.key_clip,
        value_clip=state.value_clip,
    ).train(attention.training)


def report(
    method: str,
    layers: tuple[QuantizedLayer, ...],
    skipped: tuple[SkippedLayer, ...],
    settings: LowBitSettings,
    notes: Sequence[str] = (),
) -> QuantizationReport:
    """Return the report of a low-bit quantiser."""
    cache = f"the cache {settings.kv_bits} bits" if settings.quantises_cache else "the cache stays unquantised"
    when = "" if settings.kv_in_prefill or not settings.quantises_cache else ", which prefill does not read"
    bits = f"Activations have {settings.activation_bits} bits, {cache}{when}."
    basis = "Errors of weights are measured in the original basis, with all transforms undone."
    return QuantizationReport(method, layers, skipped, notes=(bits, basis, *notes))
