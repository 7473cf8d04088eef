"""A second, slow and obvious way to answer with reduced visual tokens, to hold the engine against.

One sample, no batch, no cache, no fused kernels: for every answer token the whole sequence runs again through the
decoder layers of transformers with eager attention and a dense mask. Selections are made once, for the prompt, from the
full attention matrices that eager attention returns. Sequences are Python lists of rows, rebuilt token by token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadyvlm.engine import Request
from steadyvlm.models.adapter import IMAGE_SLOT, VisionLanguageModel
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals
from steadyvlm.seeding import stable_seed


def eager(module: Any) -> Any:
    """Return the same weights with eager attention everywhere."""
    twin = copy.deepcopy(module)
    twin.set_attn_implementation("eager")
    return twin


def encoder_truth(module: Any, tiles: Tensor) -> dict[Signal, Tensor]:
    """Return every signal of a CLIP tower for the tiles [P, 3, h, w] of one image, its whole tower run to the end."""
    parts = [_tile_truth(module, tile[None]) for tile in tiles]
    heads_first = {Signal.CLS_ATTENTION, Signal.SALIENCE, Signal.FIRST_CLS_ATTENTION}
    return {
        signal: torch.cat([part[signal] for part in parts], dim=1 if signal in heads_first else 0)
        for signal in parts[0]
    }


def _tile_truth(module: Any, tile: Tensor) -> dict[Signal, Tensor]:
    tower = module.model.vision_tower
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda _module, _inputs, out: kept.update({name: out[0]})

    feature, last = tower.encoder.layers[-2].self_attn, tower.encoder.layers[-1].self_attn
    hooks = [
        feature.k_proj.register_forward_hook(keep("feature keys")),
        last.k_proj.register_forward_hook(keep("last keys")),
        last.q_proj.register_forward_hook(keep("last queries")),
    ]
    small = tile.shape[-1] != tower.embeddings.image_size
    out = tower(tile, output_hidden_states=True, output_attentions=True, interpolate_pos_encoding=small)
    for hook in hooks:
        hook.remove()
    last_keys = kept["last keys"]
    scores = torch.stack([(kept["last queries"][0] * key).sum() for key in last_keys]) / last_keys.shape[1] ** 0.5
    attention = out.attentions[-2][0, :, 0, 1:]
    return {
        Signal.ENCODER_ROWS: out.hidden_states[-2][0],
        Signal.CLS_ATTENTION: attention,
        Signal.SALIENCE: attention,
        Signal.FIRST_CLS_ATTENTION: out.attentions[0][0, :, 0, 1:],
        Signal.LAST_CLS_ATTENTION: (scores.exp() / scores.exp().sum())[1:],
        Signal.ENCODER_KEYS: kept["feature keys"].unflatten(-1, (feature.num_heads, -1)).mean(1),
        Signal.LAST_KEYS: last_keys,
    }


def answer(model: VisionLanguageModel, request: Request, reduction: Reduction, steps: int) -> tuple[list[int], Tensor]:
    """Return greedy ids and the log-probabilities [V] of the first answer token."""
    module: Any = eager(model.module)
    prompt = Prompt(module, model, request, reduction)
    ids: list[int] = []
    first = torch.empty(0)
    for _ in range(steps):
        logits = prompt.forward(ids)
        first = first if ids else logits.log_softmax(-1)
        ids.append(int(logits.argmax()))
        if ids[-1] in model.info.eos_token_ids:
            break
    return ids, first


def attend(
    text: Any, layer: Any, hidden: Tensor, places: Tensor, allowed: Tensor, answered: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the output [1, T, D] and probabilities [H, T, T] of one layer's attention.

    Args:
        text: the language model.
        layer: of transformers, with eager attention; its `self_attn` may have a `kv_quantizer`.
        hidden: [1, T, D] as it enters the layer.
        places: [T] or [T, 3] positions.
        allowed: [T, T] bool, True where a row may look.
        answered: how many of the last rows belong to the answer.
    """
    angles = text.rotary_emb(hidden, places[None] if places.dim() == 1 else places.T[:, None])
    attention, normed = layer.self_attn, layer.input_layernorm(hidden)
    if not hasattr(attention, "kv_quantizer"):
        mask = torch.zeros(allowed.shape, dtype=hidden.dtype).masked_fill(~allowed, -1e30)
        output, probabilities = attention(normed, attention_mask=mask[None, None], position_embeddings=angles)[:2]
        return output, probabilities[0]
    return _attend_packed(attention, normed[0], angles, allowed, answered)


def _attend_packed(
    attention: Any, normed: Tensor, angles: tuple[Tensor, Tensor], allowed: Tensor, answered: int
) -> tuple[Tensor, Tensor]:
    quantizer = attention.kv_quantizer
    exact = 0 if quantizer.in_prefill else len(normed) - answered  # rows that meet what is not rounded
    queries, keys, values = (
        projection(normed).unflatten(-1, (-1, attention.head_dim)).transpose(0, 1)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    queries = _rotated(queries, angles) @ torch.linalg.inv(quantizer.transform).T
    keys = _rotated(keys, angles) @ quantizer.transform
    rounded_keys = rounded(keys, quantizer.bits, quantizer.key_clip)
    rounded_values = rounded(values, quantizer.bits, quantizer.value_clip)
    shared = len(queries) // len(keys)
    weights, heads = [], []
    for head, query in enumerate(queries):
        own, parts = head // shared, []
        for rows, met, given in ((slice(exact), keys, values), (slice(exact, None), rounded_keys, rounded_values)):
            scores = (query[rows] @ met[own].T * attention.scaling).masked_fill(~allowed[rows], -torch.inf)
            weights.append(scores.softmax(1))
            parts.append(weights[-1] @ given[own])
        heads.append(torch.cat(parts))
    attended = torch.stack(heads, dim=1).flatten(1)
    return attention.o_proj(attended)[None], torch.cat(weights).view(len(queries), len(normed), -1)


def _rotated(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    cos, sin = angles
    return heads * cos + torch.cat((-second, first), dim=-1) * sin


def rounded(heads: Tensor, bits: int, clip: Any) -> Tensor:
    """Return [H, T, d] after asymmetric rounding of each token and head, number by number."""
    found = []
    for group in heads.flatten(0, 1).tolist():
        top, bottom = max(0.0, *group) * clip.high, min(0.0, *group) * clip.low
        exact = (top - bottom) / (2**bits - 1)
        scale = float(np.float16(exact))
        if scale < exact:  # rounded up, so that no number needs a code beyond the last
            scale = float(np.nextafter(np.float16(exact), np.float16(np.inf)))
        zero = round(-bottom / scale)
        codes = [min(max(round(number / scale) + zero, 0), 2**bits - 1) for number in group]
        found.append([(code - zero) * scale for code in codes])
    return torch.tensor(found, dtype=heads.dtype).view(heads.shape)


class Prompt:
    """One prompt as a list of rows, each with its position, and the image it belongs to (None for text)."""

    def __init__(self, module: Any, model: VisionLanguageModel, request: Request, reduction: Reduction) -> None:
        self.module, self.model, self.request, self.reduction = module, model, request, reduction
        self.text = module.model.language_model
        sites = reduction.sites(model.info.num_layers)
        self.encoder_site = next((site for site in sites if site.in_encoder), None)
        self.sites = {site.layer: site for site in sites if site.layer is not None}
        self.chosen: dict[int, Selection] = {}
        self.seen: dict[int, Signals] = {}
        self.rows: list[Tensor] = []
        self.owner: list[int | None] = []
        self.positions: list[Any] = []
        self.originals: list[int] = []
        self._assemble()
        self.raters = self._raters()

    def _assemble(self) -> None:
        scale = getattr(self.reduction, "image_scale", 1.0)
        pixels = [self.model.preprocess(image, scale=scale) for image in self.request.images]
        ids = self.model.tokenize(self.request.prompt, len(pixels))
        full = self.model.positions(ids, [item.layout for item in pixels]).tolist()
        start, image = 0, 0
        for token in ids:
            if token != IMAGE_SLOT:
                self.rows.append(self.text.embed_tokens(torch.tensor(token)))
                self.owner.append(None)
                self.positions.append(full[start])
                start += 1
                continue
            numbers = pixels[image].layout.token_ids()
            features, kept = self._image(pixels[image], image)
            self.rows += list(features)
            self.owner += [image] * len(features)
            self.positions += [full[start + numbers.index(number)] if number in numbers else None for number in kept]
            start += len(numbers)
            image += 1
            self.originals.append(len(numbers))
        self.next = max(max(place) if isinstance(place, list) else place for place in full) + 1
        if self.model.info.position_axes == 1:
            self.positions = list(range(len(self.rows)))
            self.next = len(self.rows)

    def _image(self, pixels: Any, index: int) -> tuple[Tensor, list[int]]:
        """Return features and the numbers of the tokens they stand for."""
        (encoded,) = self.model.encode([pixels], frozenset())
        if self.encoder_site is None:
            return self.model.visual_tokens(encoded), list(pixels.layout.token_ids())
        rows, values = encoded.rows, dict[str, Any]()
        if hasattr(self.module.model, "vision_tower"):
            truth = encoder_truth(self.module, pixels.values)
            rows = truth[Signal.ENCODER_ROWS]
            values = {signal.value: truth[signal] for signal in self.reduction.needs if signal in truth}
        else:  # towers with their own tests: the adapter's signals are taken as they are
            needs = frozenset(signal for signal in self.reduction.needs if signal.of_encoder)
            (encoded,) = self.model.encode([pixels], needs)
            values = {signal.value: value for signal, value in encoded.signals.items()}
        if Signal.TEXT_RELEVANCE in self.reduction.needs:
            tower = self.reduction.text_tower  # type: ignore[attr-defined]  # what a method with this need has
            values["text_relevance"] = self.model.text_relevance(encoded, self.request.prompt, tower)
        layout = pixels.layout
        seed = stable_seed(self.request.seed, "image", index)
        signals = Signals(layout.tiles * layout.tokens_per_tile, layout.has_cls, seed, layout, **values)
        selection = self.reduction.select(signals, self.encoder_site)
        mixed = rows[selection.keep] if selection.mix is None else selection.mix @ rows
        return self.model.project(mixed), [layout.row_ids()[row] for row in selection.keep.tolist()]

    def _raters(self) -> list[int]:
        """Return which of the text tokens, counted over the prompt's text alone, rate."""
        if not hasattr(self.reduction, "raters") or set(self.owner) == {None}:
            return []
        texts = [index for index, owner in enumerate(self.owner) if owner is None]
        question = self._question(self.owner)
        visual = [row for row, owner in zip(self.rows, self.owner, strict=True) if owner is not None]
        picked = self.reduction.raters(torch.stack(visual), torch.stack([self.rows[index] for index in question]))
        return [texts.index(question[index]) for index in picked.tolist()]

    @staticmethod
    def _question(owner: list[int | None]) -> list[int]:
        last = max(index for index, image in enumerate(owner) if image is not None)
        return list(range(last + 1, len(owner))) or [index for index, image in enumerate(owner) if image is None]

    @staticmethod
    def _asking(owner: list[int | None]) -> list[int]:
        last = max(index for index, image in enumerate(owner) if image is not None)
        return list(range(last + 1, len(owner))) or [last]

    def forward(self, answered: list[int]) -> Tensor:
        """Return the logits after the prompt and the answer so far."""
        rows = self.rows + [self.text.embed_tokens(torch.tensor(token)) for token in answered]
        owner = self.owner + [None] * len(answered)
        axes = self.model.info.position_axes
        ahead = [self.next + step if axes == 1 else [self.next + step] * 3 for step in range(len(answered))]
        positions = self.positions + ahead
        probabilities = output = torch.empty(0)
        before = rows
        window = getattr(self.module.config.text_config, "sliding_window", None)
        for index, layer in enumerate(self.text.layers):
            if index in self.sites and set(owner) != {None}:
                if index not in self.chosen:
                    signals = self._signals(index, layer, rows, owner, positions, probabilities, output, before, window)
                    self.seen[index] = signals
                    self.chosen[index] = self.reduction.select(signals, self.sites[index])
                rows, owner, positions = self._reduce(self.chosen[index], rows, owner, positions)
            before = rows
            hidden = torch.stack(rows)[None]
            gone = self._gone(index + 1, owner)
            output, probabilities = self._attend(layer, hidden, positions, window, answered=len(answered), gone=gone)
            hidden = hidden + output
            rows = list((hidden + layer.mlp(layer.post_attention_layernorm(hidden)))[0])
        return self.module.lm_head(self.text.norm(rows[-1]))  # type: ignore[no-any-return]

    def _attend(
        self,
        layer: Any,
        hidden: Tensor,
        positions: list[Any],
        window: int | None,
        *,
        answered: int = 0,
        gone: Sequence[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """Return the attention's output [1, T, D] and probabilities [H, T, T].

        The last `answered` rows are those of the answer; they do not find the columns `gone` in the cache.
        """
        allowed = torch.ones(len(positions), len(positions)).tril().bool()
        allowed[len(positions) - answered :, list(gone)] = False
        places = torch.tensor(positions)
        if window is not None:
            allowed &= places[:, None] - places[None, :] < window
        return attend(self.text, layer, hidden, places, allowed, answered)

    def _gone(self, following: int, owner: list[int | None]) -> list[int]:
        """Return the columns that leave the cache of a layer because of a selection before the following one."""
        if following not in self.chosen or not getattr(self.reduction, "prune_cache", False):
            return []
        visual = [place for place, image in enumerate(owner) if image is not None]
        kept = self.chosen[following].keep.tolist()
        return [place for index, place in enumerate(visual) if index not in kept]

    def _signals(
        self,
        index: int,
        layer: Any,
        rows: list[Tensor],
        owner: list[int | None],
        positions: list[Any],
        probabilities: Tensor,
        output: Tensor,
        before: list[Tensor],
        window: int | None,
    ) -> Signals:
        where = [place for place, image in enumerate(owner) if image is not None]
        texts = [place for place, image in enumerate(owner) if image is None]
        raters = [texts[number] for number in self.raters]
        hidden = torch.stack(rows)
        given: dict[Signal, Any] = {
            Signal.HIDDEN: lambda: hidden[where],
            Signal.TEXT_HIDDEN: lambda: hidden[self._question(owner)],
            Signal.FRESH_QUERY_ATTENTION: lambda: self._attend(layer, hidden[None], positions, window)[1][:, -1, where],
            Signal.LAST_QUERY_ATTENTION: lambda: probabilities[:, -1, where],
            Signal.RATER_ATTENTION: lambda: probabilities[:, raters][:, :, where],
            Signal.ATTENTION_OUTPUT: lambda: output[0, where],
            Signal.QUESTION_ATTENTION: lambda: probabilities[:, self._asking(owner)][:, :, where].mean((0, 1)),
            Signal.VISUAL_ATTENTION: lambda: probabilities[:, where][:, :, where].mean((0, 1)),
            Signal.HIDDEN_BEFORE: lambda: torch.stack([before[place] for place in where]),
            Signal.RATER_ROTARY: lambda: torch.tensor(
                [[self._similarity(positions[rater], positions[token]) for token in where] for rater in raters]
            ),
        }
        values = {signal.value: given[signal]() for signal in self.reduction.needs if not signal.of_encoder}
        return Signals(
            len(where),
            seed=self.request.seed,
            images=torch.tensor([owner[place] for place in where]),
            original_tokens=sum(self.originals),
            image_tokens=tuple(self.originals),
            **values,
        )

    def _similarity(self, one: Any, other: Any) -> float:
        """Return 2 / sqrt(d) * sum over f of cos(distance * theta_f), each frequency on its own axis."""
        frequencies = self.text.rotary_emb.inv_freq
        distance = torch.tensor(one) - torch.tensor(other)
        if distance.dim():
            sections = self.module.config.text_config.rope_parameters["mrope_section"]
            distance = torch.cat([distance[axis].repeat(size) for axis, size in enumerate(sections)])
        return float((distance * frequencies).cos().sum() * 2 / self.model.info.head_dim**0.5)

    def _reduce(
        self, selection: Selection, rows: list[Tensor], owner: list[int | None], positions: list[Any]
    ) -> tuple[list[Tensor], list[int | None], list[Any]]:
        where = [place for place, image in enumerate(owner) if image is not None]
        visual = torch.stack([rows[place] for place in where])
        slots = visual[selection.keep] if selection.mix is None else selection.mix @ visual
        taken = [where[index] for index in selection.keep.tolist()]
        new_rows: list[Tensor] = []
        new_owner: list[int | None] = []
        new_positions: list[Any] = []
        emitted: set[int] = set()
        for place, image in enumerate(owner):
            if image is None:
                new_rows.append(rows[place])
                new_owner.append(None)
                new_positions.append(positions[place])
            elif image not in emitted:
                emitted.add(image)
                for slot, origin in zip(slots, taken, strict=True):
                    if owner[origin] == image:
                        new_rows.append(slot)
                        new_owner.append(image)
                        new_positions.append(positions[origin])
        if self.reduction.compact_positions and self.model.info.position_axes == 1:
            new_positions = list(range(len(new_rows)))
        return new_rows, new_owner, new_positions
