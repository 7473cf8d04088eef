"""A second, slow and obvious way to answer with reduced visual tokens, to hold the engine against.

One sample, no batch, no cache, no fused kernels: for every answer token the whole sequence runs again through the
decoder layers of transformers with eager attention and a dense mask. Selections are made once, for the prompt, from the
full attention matrices that eager attention returns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steadyvlm.engine import Request
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.models.llava import Llava
from steadyvlm.reduction.base import Reduction, Selection, Signals, Site
from steadyvlm.seeding import stable_seed


def eager(module: Any) -> Any:
    """Return the same weights with eager attention everywhere."""
    import copy

    twin = copy.deepcopy(module)
    twin.set_attn_implementation("eager")
    return twin


def encoder_truth(module: Any, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows [R, D], CLS attention [H, N] and mean keys [R, d] of the feature layer of one image."""
    kept: dict[str, Tensor] = {}
    layer = module.model.vision_tower.encoder.layers[-2]
    hook = layer.self_attn.k_proj.register_forward_hook(lambda _m, _i, out: kept.update(keys=out))
    out = module.model.vision_tower(pixels, output_hidden_states=True, output_attentions=True)
    hook.remove()
    heads = layer.self_attn.num_heads
    keys = kept["keys"][0].unflatten(-1, (heads, -1)).mean(1)
    return out.hidden_states[-2][0], out.attentions[-2][0, :, 0, 1:], keys


def answer(model: Llava, request: Request, reduction: Reduction, steps: int) -> tuple[list[int], Tensor]:
    """Return greedy ids and the log-probabilities [V] of the first answer token."""
    module = eager(model.module)
    rows: list[Tensor] = []
    visual: list[bool] = []
    images = iter(range(len(request.images)))
    for token in model.tokenize(request.prompt, len(request.images)):
        if token != IMAGE_SLOT:
            rows.append(module.model.language_model.embed_tokens(torch.tensor([token])))
            visual.append(False)
            continue
        features = _image(module, model, request, next(images), reduction)
        rows.append(features)
        visual += [True] * len(features)
    prompt = torch.cat(rows)
    sites = {site.layer: site for site in reduction.sites(model.info.num_layers) if site.layer is not None}
    chosen: dict[int, Selection] = {}
    ids: list[int] = []
    first = torch.empty(0)
    for _ in range(steps):
        answered = module.model.language_model.embed_tokens(torch.tensor(ids, dtype=torch.int64))
        logits = _forward(module, torch.cat([prompt, answered]), visual, sites, chosen, reduction, request.seed)
        first = first if ids else logits.log_softmax(-1)
        ids.append(int(logits.argmax()))
        if ids[-1] in model.info.eos_token_ids:
            break
    return ids, first


def _image(module: Any, model: Llava, request: Request, index: int, reduction: Reduction) -> Tensor:
    rows, attention, keys = encoder_truth(module, model.preprocess(request.images[index]))
    site = next((site for site in reduction.sites(model.info.num_layers) if site.in_encoder), None)
    if site is None:
        return module.model.multi_modal_projector(rows[1:])
    signals = Signals(len(rows) - 1, True, stable_seed(request.seed, "image", index), rows, attention, keys)
    selection = reduction.select(signals, site)
    mixed = rows[selection.keep] if selection.mix is None else selection.mix @ rows
    return module.model.multi_modal_projector(mixed)


def _forward(
    module: Any,
    hidden: Tensor,
    is_visual: list[bool],
    sites: dict[int, Site],
    chosen: dict[int, Selection],
    reduction: Reduction,
    seed: int,
) -> Tensor:
    """Run the whole sequence; `chosen` remembers the selections made on the bare prompt."""
    text = module.model.language_model
    visual = torch.tensor(is_visual + [False] * (len(hidden) - len(is_visual)))
    positions = torch.arange(len(hidden))
    window = getattr(module.config.text_config, "sliding_window", None)
    attention = torch.empty(0)
    for index, layer in enumerate(text.layers):
        if index in sites:
            where = visual.nonzero()[:, 0]
            if index not in chosen:
                row = attention[:, -1, where] if attention.numel() else None
                chosen[index] = reduction.select(Signals(len(where), seed=seed, last_query_attention=row), sites[index])
            selection = chosen[index]
            if selection.mix is not None:
                hidden = hidden.clone()
                hidden[where[selection.keep]] = selection.mix @ hidden[where]
            stays = ~visual
            stays[where[selection.keep]] = True
            hidden, visual, positions = hidden[stays], visual[stays], positions[stays]
            if reduction.compact_positions:
                positions = torch.arange(len(hidden))
        distance = positions[:, None] - positions[None, :]
        allowed = torch.ones(len(hidden), len(hidden)).tril().bool()
        if window is not None:
            allowed &= distance < window
        mask = torch.zeros(len(hidden), len(hidden)).masked_fill(~allowed, -1e30)
        rotary = text.rotary_emb(hidden, positions[None])
        normed = layer.input_layernorm(hidden[None])
        _, probabilities = layer.self_attn(normed, attention_mask=mask[None, None], position_embeddings=rotary)
        attention = probabilities[0]
        hidden = layer(hidden[None], attention_mask=mask[None, None], position_embeddings=rotary)[0]
    return module.lm_head(text.norm(hidden[-1]))
