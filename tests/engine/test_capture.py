"""A prompt is read as `generate` reads it, and an observer sees what every layer really computed."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from steadyvlm.engine import PrefillResult, Request, VisionCache, generate, run_prefill
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import Unsupported
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from tiny import VISUAL, make_image, tiny_llava

REQUESTS = [
    Request((make_image(0),), "what colour is the star?", 1),
    Request((make_image(1),), " ", 2),
    Request((make_image(1), make_image(2)), "how?", 3),
    Request((), "how?", 4),
]
FASTV = REDUCTIONS.create("fastv(layer=2, keep_ratio=0.25)")


def test_logits_and_counts_are_those_of_the_answer() -> None:
    model = tiny_llava()
    answers = generate(model, REQUESTS, FASTV, max_new_tokens=1)
    results = run_prefill(model, REQUESTS, FASTV, vision_cache=VisionCache())
    assert results[1] == answers[1]
    for answer, result in zip(answers, results, strict=True):
        if isinstance(answer, Generation):
            assert isinstance(result, PrefillResult)
            assert int(result.logits.argmax()) == answer.token_ids[0]
            assert result.logits.dtype == torch.float32
            assert result.visual_per_layer == answer.cost.visual_tokens_per_layer
            text = answer.cost.text_tokens
            assert result.tokens_per_layer == tuple(count + text for count in result.visual_per_layer)
    assert [item.row for item in results if isinstance(item, PrefillResult)] == [0, 1, 2]


@torch.inference_mode()
def test_an_observer_sees_each_layers_output_also_the_last_and_changes_nothing() -> None:
    model = tiny_llava()
    layers = list(model.layers())
    seen: list[tuple[int, Tensor, Tensor, list[int], list[int]]] = []

    def observe(index: int, sequence: VisualSequence, output: Tensor) -> None:
        seen.append((index, sequence.hidden.clone(), output.clone(), sequence.lengths, sequence.counts))

    quiet, observed = run_prefill(model, REQUESTS, FASTV), run_prefill(model, REQUESTS, FASTV, observe=observe)
    for one, other in zip(quiet, observed, strict=True):
        if isinstance(one, PrefillResult) and isinstance(other, PrefillResult):
            torch.testing.assert_close(one.logits, other.logits)
    assert [index for index, *_ in seen] == [0, 1, 2, 3]
    assert [counts for *_, counts in seen] == [[VISUAL, 2 * VISUAL, 0]] * 2 + [[9, 18, 0]] * 2
    for index, (_, hidden, output, _, _) in enumerate(seen[:-1]):
        if index != 1:  # a selection stands between layers 1 and 2
            torch.testing.assert_close(layers[index].finish(hidden, output.clone()), seen[index + 1][1])
    _, hidden, output, lengths, _ = seen[-1]
    last = layers[-1].finish(hidden, output)
    for row, result in enumerate(item for item in observed if isinstance(item, PrefillResult)):
        torch.testing.assert_close(model.logits(last[row, lengths[row] - 1][None])[0], result.logits)


@dataclass(frozen=True)
class Refusing:
    """Will not act on prompts with two pictures."""

    needs = frozenset[Signal]()
    compact_positions = True

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(1), Site(2))

    def select(self, signals: Signals, site: Site) -> Selection:
        if signals.num_tokens > VISUAL:
            raise Unsupported("too many")
        return Selection(torch.arange(signals.num_tokens // 2))


def test_a_method_that_fails_inside_the_decoder_leaves_the_other_rows_alone() -> None:
    results = run_prefill(tiny_llava(), REQUESTS, Refusing())
    assert results[2] == Failure("Unsupported", "too many")
    assert [type(item) for item in results] == [PrefillResult, Failure, Failure, PrefillResult]
    assert [item.row for item in results if isinstance(item, PrefillResult)] == [0, 2]
    (alone,) = run_prefill(tiny_llava(), REQUESTS[:1], Refusing())
    assert isinstance(alone, PrefillResult)
    assert isinstance(results[0], PrefillResult)
    torch.testing.assert_close(results[0].logits, alone.logits, rtol=1e-4, atol=1e-4)


def test_no_requests_no_results() -> None:
    assert run_prefill(tiny_llava(), []) == []
    assert [type(item) for item in run_prefill(tiny_llava(), REQUESTS[1:2])] == [Failure]


@pytest.mark.parametrize("recipe", ["keep_all", "lofi"])
def test_states_of_a_batch_are_those_of_batches_of_one(recipe: str) -> None:
    model, reduction = tiny_llava(), REDUCTIONS.create(recipe)

    def outputs(requests: list[Request]) -> list[list[Tensor]]:
        found: list[list[Tensor]] = []
        run_prefill(
            model,
            requests,
            reduction,
            observe=lambda _, sequence, output: found.append(
                [rows[valid] for rows, valid in zip(output.clone(), sequence.valid(), strict=True)]
            ),
        )
        return found

    asked = [REQUESTS[0], *REQUESTS[2:]]
    together, alone = outputs(asked), [outputs([request]) for request in asked]
    for layer, rows in enumerate(together):
        for row, single in zip(rows, alone, strict=True):
            torch.testing.assert_close(row, single[layer][0], rtol=1e-4, atol=1e-5)
