"""Answers while they are written: when to stop, what the first token could have been, what it all cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steadyvlm.engine.selector import Selector
from steadyvlm.engine.vision import Prepared
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.records import Cost, Failure, Generation, KeptTokens, StopReason, TokenLogprob


@dataclass(slots=True)
class Answer:
    """One answer in the making.

    Attributes:
        limit: tokens it may have.
        prompt: what was asked.
        kept: records of every selection.
        failure: why it was given up, if it was.
        reason: why it stopped, None while it goes on.
    """

    limit: int
    stop: tuple[str, ...]
    prompt: Prepared
    kept: tuple[KeptTokens, ...]
    failure: Failure | None = None
    reason: StopReason | None = None
    token_ids: list[int] = field(default_factory=list)
    top: tuple[TokenLogprob, ...] = ()
    text: str = ""

    @property
    def done(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.reason is not None or self.failure is not None

    def add(self, token_id: int, model: VisionLanguageModel) -> None:
        """Take the next token and decide whether the answer is complete."""
        self.token_ids.append(token_id)
        if token_id in model.info.eos_token_ids:
            self.reason = "eos"
        elif self.stop and any(text in model.text(self.token_ids) for text in self.stop):
            self.reason = "stop"
        elif len(self.token_ids) >= self.limit:
            self.reason = "length"

    def finish(
        self, model: VisionLanguageModel, time_ms: float, visual: Sequence[int], prompt_bytes: int, token_bytes: int
    ) -> Generation | Failure:
        """Return the record.

        Args:
            model: decodes the text.
            time_ms: this answer's share of the batch's wall time.
            visual: visual tokens each layer processed.
            prompt_bytes: bytes of the keys and values all layers hold of the prompt.
            token_bytes: bytes each token of the answer adds to them.
        """
        if self.failure is not None:
            return self.failure
        text = model.text(self.token_ids)
        cuts = [text.find(end) for end in self.stop if end in text]
        text = text[: min(cuts)] if cuts else text
        answered = len(self.token_ids) - 1  # the last token was never fed back
        layouts = self.prompt.layouts
        tiled = any(item.tiles > 1 for item in layouts)
        cost = Cost(
            time_ms=time_ms,
            prompt_tokens=self.prompt.text_tokens + self.prompt.visual_tokens,
            generated_tokens=len(self.token_ids),
            visual_tokens_per_layer=tuple(visual),
            cache_bytes=prompt_bytes + answered * token_bytes,
            image_grids=tuple((item.tiles, *item.patch_grid) for item in layouts),
            connector_tokens=self.prompt.connector_tokens,
            text_tokens=self.prompt.text_tokens,
            image_cuts=tuple((*item.mosaic, *item.window) for item in layouts) if tiled else (),
        )
        assert self.reason is not None, "an unfinished answer has no record"
        margin = self.top[0].logprob - self.top[1].logprob
        return Generation(text.strip(), tuple(self.token_ids), self.reason, self.top, margin, self.kept, cost)


def first_tokens(model: VisionLanguageModel, logits: Tensor, top_k: int) -> list[tuple[TokenLogprob, ...]]:
    """Return the `top_k` likeliest first tokens of each row of float32 logits [B, V], likeliest first.

    Log-probabilities are taken in float32; equal ones are ordered by token id.
    """
    count = max(2, min(top_k, logits.shape[-1]))
    values, ids = logits.topk(count, dim=-1)
    logprobs = (values - torch.logsumexp(logits, dim=-1, keepdim=True)).tolist()
    found = []
    for row_ids, row_values, row in zip(ids.tolist(), values.tolist(), logprobs, strict=True):
        ranked = sorted(zip(row_values, row_ids, row, strict=True), key=lambda item: (-item[0], item[1]))
        found.append(tuple(TokenLogprob(token, model.token_text(token), value) for _, token, value in ranked))
    return found


def new_answers(
    ready: Sequence[Prepared], selector: Selector, model: VisionLanguageModel, limit: int, stop: tuple[str, ...]
) -> list[Answer]:
    """Return an empty answer per prompt, or a failed one; none may outgrow the positions the model was made for."""
    return [
        Answer(
            limit=min(limit, model.info.max_positions - item.text_tokens - item.visual_tokens),
            stop=stop,
            prompt=item,
            kept=(*item.kept, *selector.records(row)),
            failure=selector.failures[row],
        )
        for row, item in enumerate(ready)
    ]
