"""One decoder layer at work on whole prompts, keys and values quantised where the layer says so.

`run_layers` puts the pieces together with reductions and caches; `run_layer` does for calibration, which hands a layer
the inputs it wants: those of another copy of the model, before or after a token reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from steadyvlm.engine.attention import prompt_attention, rotate
from steadyvlm.engine.cache import LayerGroup
from steadyvlm.engine.layer_cache import LayerCache, PackedCache, PlainCache
from steadyvlm.models.adapter import DecoderLayer, Rotary


class Written(NamedTuple):
    """What a layer writes down of a prompt.

    Attributes:
        keys: [B, H_kv, T, d] rotated keys as the prompt's own queries meet them.
        values: [B, H_kv, T, d] in the same state.
        cache: what answer tokens will find.
    """

    keys: Tensor
    values: Tensor
    cache: LayerCache


def write(layer: DecoderLayer, normed: Tensor, angles: Rotary) -> Written:
    """Return the keys and values of a prompt.

    Args:
        layer: whose; with a quantiser of keys and values, the cache is packed and the prompt meets what is left of them
            (`KeyValueQuantizer.in_prefill`) or the keys in the same basis, not yet rounded.
        normed: [B, T, D] input of its projections.
        angles: of the positions.
    """
    keys, values = rotate(layer.keys(normed), angles), layer.values(normed)
    if layer.kv is None:
        return Written(keys, values, PlainCache(keys, values))
    packed = PackedCache(layer.kv, keys, values)
    if layer.kv.in_prefill:
        return Written(*packed.decoded(), packed)
    return Written(layer.kv.turn_keys(keys), values, packed)


def keys_met(layer: DecoderLayer, normed: Tensor, angles: Rotary) -> Tensor:
    """Return the keys of a prompt alone, as `write` gives them."""
    keys = rotate(layer.keys(normed), angles)
    if layer.kv is None:
        return keys
    return layer.kv.decode(layer.kv.encode_keys(keys), keys.dtype) if layer.kv.in_prefill else layer.kv.turn_keys(keys)


def ask(layer: DecoderLayer, normed: Tensor, angles: Rotary) -> Tensor:
    """Return the rotated queries [B, H, T, d], turned into the basis of the layer's quantised keys if it has one."""
    queries = rotate(layer.queries(normed), angles)
    return queries if layer.kv is None else layer.kv.turn_queries(queries)


def run_layer(
    layer: DecoderLayer, group: LayerGroup, hidden: Tensor, *, look: Callable[[Tensor, Tensor], None] | None = None
) -> Tensor:
    """Return the output [B, T, D] of one decoder layer on `hidden` [B, T, D], which stays as it is.

    Args:
        layer: of any copy of the model, quantised or not.
        group: describes the padded batch: `LayerGroup(model, sequence)` with a sequence from `capture.assembled` or the
            one an observer was shown.
        hidden: the batch as it enters the layer; columns past a sequence's length may hold any finite numbers and come
            out as such, and no other column depends on them.
        look: called with the queries [B, H, T, d] and keys [B, H_kv, T, d] that meet in this layer; change nothing.

    >>> sequence = assembled(model, requests)                                            # doctest: +SKIP
    >>> output = run_layer(quantized.layers()[0], LayerGroup(model, sequence), sequence.hidden)   # doctest: +SKIP
    """
    normed = layer.norm(hidden)
    keys, values, _ = write(layer, normed, group.angles)
    queries = ask(layer, normed, group.angles)
    if look is not None:
        look(queries, keys)
    attended = prompt_attention(queries, keys, values, scaling=layer.scaling, mask=group.prompt_mask())
    return layer.finish(hidden, layer.project_heads(attended))
