"""What an answer carries, when it stops, and how failures stay in their own slot."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

from steadyvlm.engine import Request, VisionCache, generate
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.llava import Llava
from steadyvlm.records import Failure, Generation
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.seeding import stable_seed
from tiny import VISUAL, make_image, make_image_processor, make_module, make_tokenizer, tiny_llava

NO_END: dict[str, Any] = {"eos": ()}


def request(seed: int = 0, prompt: str = "what colour is the star?") -> Request:
    return Request((make_image(seed),), prompt, seed)


def one(results: list[Generation | Failure]) -> Generation:
    (result,) = results
    assert isinstance(result, Generation)
    return result


def fresh(**options: Any) -> Llava:
    """A model that a test may change."""
    return Llava(make_module(**options), make_tokenizer(), make_image_processor())


def truncated_image() -> Image.Image:
    buffer = io.BytesIO()
    make_image(3, 200, 200).save(buffer, format="PNG")
    return Image.open(io.BytesIO(buffer.getvalue()[:500]))


def test_an_empty_batch_has_no_answers() -> None:
    assert generate(tiny_llava(), []) == []


def test_costs_count_what_was_processed_and_held() -> None:
    model = tiny_llava(**NO_END)
    plain = one(generate(model, [request()], max_new_tokens=3))
    prompt = len(model.tokenize(request().prompt, 1)) - 1 + VISUAL
    token_bytes = 2 * 2 * 8 * 4  # keys and values, two heads of eight, float32
    assert plain.cost.prompt_tokens == prompt
    assert plain.cost.generated_tokens == 3
    assert plain.cost.visual_tokens_per_layer == (VISUAL,) * 4
    assert plain.cost.cache_bytes == 4 * (prompt + 2) * token_bytes
    assert plain.cost.time_ms > 0
    assert plain.cost.text_tokens == prompt - VISUAL
    assert (plain.cost.image_grids, plain.cost.connector_tokens) == (((1, 6, 6),), VISUAL)
    assert plain.kept == ()
    pruned = one(generate(model, [request()], REDUCTIONS.create("fastv(layer=2, keep_ratio=0.25)"), max_new_tokens=3))
    assert pruned.cost.prompt_tokens == prompt
    assert pruned.cost.visual_tokens_per_layer == (VISUAL, VISUAL, 9, 9)
    assert pruned.cost.cache_bytes == plain.cost.cache_bytes - 2 * (VISUAL - 9) * token_bytes
    assert [(item.layer, item.image, len(item.indices)) for item in pruned.kept] == [(2, 0, 9)]


def test_visionzip_is_recorded_per_image_with_cls_and_merges() -> None:
    zipped = REDUCTIONS.create("visionzip(dominant=5, contextual=3)")
    result = one(generate(tiny_llava(), [Request((make_image(0), make_image(1)), "what?", 1)], zipped))
    assert [(item.layer, item.image) for item in result.kept] == [(0, 0), (0, 1)]
    for item in result.kept:
        assert len(item.indices) == 8
        assert item.indices[0] == -1, "the CLS row comes first"
        assert all(0 <= index < VISUAL for index in item.indices[1:])
        assert item.merged[:5] == (0,) * 5, "dominant rows merge nothing"
        assert sum(item.merged) == VISUAL + 1 - 8, "every other row is merged into a contextual one"
    assert result.cost.visual_tokens_per_layer == (16,) * 4
    assert (result.cost.image_grids, result.cost.connector_tokens) == (((1, 6, 6),) * 2, 16)


def test_first_token_candidates_are_sorted_and_normalised() -> None:
    model = tiny_llava(**NO_END)
    result = one(generate(model, [request()], max_new_tokens=1, top_k=model.info.vocabulary))
    logprobs = torch.tensor([item.logprob for item in result.top])
    assert len(result.top) == model.info.vocabulary
    assert float(logprobs.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    assert logprobs.diff().le(0).all()
    assert result.top[0].token_id == result.token_ids[0]
    assert result.margin == pytest.approx(float(logprobs[0] - logprobs[1]))
    assert result.top[0].token == model.token_text(result.token_ids[0])


def test_the_margin_is_known_even_when_one_candidate_is_asked_for() -> None:
    assert len(one(generate(tiny_llava(), [request()], top_k=1)).top) == 2


def test_length_eos_and_stop_end_an_answer() -> None:
    free = tiny_llava(**NO_END)
    long = one(generate(free, [request()], max_new_tokens=6))
    assert (long.stop_reason, len(long.token_ids)) == ("length", 6)
    ended = one(generate(tiny_llava(eos=(long.token_ids[2],)), [request()], max_new_tokens=6))
    assert ended.stop_reason == "eos"
    assert ended.token_ids == long.token_ids[:3]
    last = free.token_text(long.token_ids[3])
    stopped = one(generate(free, [request()], max_new_tokens=6, stop=("", "never", last)))
    assert stopped.stop_reason == "stop"
    assert stopped.token_ids == long.token_ids[:4]
    assert last not in stopped.text
    assert free.text(long.token_ids).startswith(stopped.text)


def test_an_answer_ends_where_the_model_has_no_more_positions() -> None:
    prompt = len(tiny_llava().tokenize(request().prompt, 1)) - 1 + VISUAL
    result = one(generate(tiny_llava(max_positions=prompt + 2, **NO_END), [request()], max_new_tokens=9))
    assert (result.stop_reason, len(result.token_ids)) == ("length", 2)


@dataclass(frozen=True)
class Choosy:
    """Refuses images of one seed."""

    refused: int
    compact_positions = True
    needs = frozenset[Signal]()

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (Site(1),)

    def select(self, signals: Signals, site: Site) -> Selection:
        if signals.seed == self.refused:
            raise Unsupported("this picture is not to my taste")
        return Selection(torch.arange(4))


def test_failures_stay_in_their_slot() -> None:
    model = tiny_llava(max_positions=120)
    good = [request(0), request(4, "how?")]
    bad = [
        Request((truncated_image(),), "what?", 1),
        Request(("not a picture",), "what?", 1),  # type: ignore[arg-type]  # what a careless caller passes
        Request((Image.new("RGB", (0, 5)),), "what?", 1),
        Request((make_image(0), Image.new("RGB", (2000, 10))), "what?", 1),
        request(1, "what is " * 40),
        request(1, "   "),
        request(1, "<image> what?"),
        request(7),
    ]
    mixed = [good[0], *bad, good[1]]
    method = Choosy(refused=7)
    results = generate(model, mixed, method, max_new_tokens=4)
    alone = [one(generate(model, [item], method, max_new_tokens=4)) for item in good]
    for got, expected in zip([results[0], results[-1]], alone, strict=True):
        assert isinstance(got, Generation)
        assert (got.token_ids, got.kept) == (expected.token_ids, expected.kept)
    failures = results[1:-1]
    assert [item.kind for item in failures if isinstance(item, Failure)] == [
        *["ImageError"] * 4,
        *["SampleError"] * 3,
        "Unsupported",
    ]
    messages = " ".join(item.message for item in failures if isinstance(item, Failure))
    for part in ("cannot be decoded", "expected a PIL image", "0 x 5", "2000 x 10", "at most 120", "empty", "<image>"):
        assert part in messages


def test_a_batch_of_failures_only_is_answered_too() -> None:
    assert [type(item) for item in generate(tiny_llava(), [request(1, " "), request(2, "")])] == [Failure, Failure]


def test_a_method_that_returns_nonsense_fails_its_samples_only() -> None:
    @dataclass(frozen=True)
    class Nonsense(Choosy):
        compact_positions = False

        def select(self, signals: Signals, site: Site) -> Selection:
            return Selection(torch.tensor([1, 0] if signals.seed == self.refused else [0, 1]))

    bad, good = generate(tiny_llava(), [request(3), request(4)], Nonsense(refused=3), max_new_tokens=2)
    assert isinstance(bad, Failure)
    assert bad.kind == "RunError"
    assert "strictly ascending" in bad.message
    assert isinstance(good, Generation)


def test_a_method_that_fails_on_a_picture_fails_its_samples_only() -> None:
    @dataclass(frozen=True)
    class AfterEncoder(Choosy):
        def sites(self, num_layers: int) -> tuple[Site, ...]:
            return (Site(None),)

    refused = stable_seed(3, "image", 0)
    bad, good = generate(tiny_llava(), [request(3), request(4)], AfterEncoder(refused), max_new_tokens=2)
    assert bad == Failure("Unsupported", "this picture is not to my taste")
    assert isinstance(good, Generation)
    assert len(good.kept[0].indices) == 4


def test_numbers_that_are_not_finite_fail_their_sample_only() -> None:
    model = fresh()
    ids = set(model.tokenize("blue?", 0))
    token = next(item for item in model.tokenize("zebra", 0) if item not in ids)
    with torch.no_grad():
        model.module.get_input_embeddings().weight[token] = float("nan")  # type: ignore[operator]
    bad, good = generate(model, [Request((), "zebra", 1), Request((), "blue?", 2)], max_new_tokens=2)
    assert isinstance(bad, Failure)
    assert bad.kind == "RunError"
    assert "not finite" in bad.message
    assert isinstance(good, Generation)


def test_a_prompt_that_is_too_long_costs_no_encoding() -> None:
    model = Counting(make_module(max_positions=60), make_tokenizer(), make_image_processor())
    (failed,) = generate(model, [Request((make_image(1), make_image(2)), "what?", 1)])
    assert isinstance(failed, Failure)
    assert "2 images included" in failed.message
    assert model.encoded == 0


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"top_k": 0}])
def test_limits_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption, match="at least 1"):
        generate(tiny_llava(), [request()], **options)  # type: ignore[arg-type]  # one keyword option


class Counting(Llava):
    """Counts the pictures it encodes."""

    encoded = 0

    def encode(self, pixels: Any, needs: Any) -> Any:
        self.encoded += len(pixels)
        return super().encode(pixels, needs)


def counting() -> Counting:
    return Counting(make_module(), make_tokenizer(), make_image_processor())


def test_equal_pictures_of_a_batch_are_encoded_once() -> None:
    model = counting()
    picture, copy = make_image(1), make_image(1)
    requests = [Request((picture,), "what?", 1), Request((copy, make_image(2)), "how?", 2), Request((picture,), "a", 3)]
    together = generate(model, requests)
    assert model.encoded == 2
    alone = [one(generate(model, [item])) for item in requests]
    assert [item.token_ids for item in together if isinstance(item, Generation)] == [item.token_ids for item in alone]


def test_a_palette_is_part_of_a_picture() -> None:
    indices = Image.new("P", (24, 24))
    red, blue = indices.copy(), indices.copy()
    red.putpalette([255, 0, 0] * 256)
    blue.putpalette([0, 0, 255] * 256)
    model = counting()
    generate(model, [Request((red,), "what?", 1), Request((blue,), "what?", 2)])
    assert model.encoded == 2


def test_a_vision_cache_carries_pictures_over_and_forgets_the_oldest() -> None:
    model, cache = counting(), VisionCache(max_images=2)
    first = [one(generate(model, [request(seed)], vision_cache=cache)).token_ids for seed in (1, 2)]
    assert (model.encoded, len(cache)) == (2, 2)
    again = [one(generate(model, [request(seed)], vision_cache=cache)).token_ids for seed in (1, 2)]
    assert (model.encoded, again) == (2, first)
    generate(model, [request(3)], vision_cache=cache)  # forgets picture 1
    generate(model, [request(2)], vision_cache=cache)
    assert model.encoded == 3
    generate(model, [request(1)], vision_cache=cache)
    assert model.encoded == 4


def test_a_vision_cache_knows_which_signals_it_holds() -> None:
    model, cache = counting(), VisionCache()
    zipped = REDUCTIONS.create("visionzip(dominant=5, contextual=3)")
    generate(model, [request(1)], vision_cache=cache)
    with_cache = one(generate(model, [request(1)], zipped, vision_cache=cache))
    assert model.encoded == 2
    assert one(generate(model, [request(1)], zipped, vision_cache=cache)).token_ids == with_cache.token_ids
    assert model.encoded == 2
    assert one(generate(model, [request(1)], zipped)).token_ids == with_cache.token_ids


def test_a_vision_cache_knows_at_which_size_a_picture_was_shown() -> None:
    model, cache = counting(), VisionCache()
    small = REDUCTIONS.create("downsample(keep_ratio=0.25)")
    whole = one(generate(model, [request(1)], vision_cache=cache))
    shrunk = one(generate(model, [request(1)], small, vision_cache=cache))
    assert model.encoded == 2
    assert (whole.cost.image_grids, shrunk.cost.image_grids) == (((1, 6, 6),), ((1, 3, 3),))
    assert shrunk.cost.visual_tokens_per_layer == (9,) * 4
    assert one(generate(model, [request(1)], small, vision_cache=cache)).token_ids == shrunk.token_ids
    assert model.encoded == 2


def test_a_vision_cache_holds_at_least_one_picture() -> None:
    with pytest.raises(InvalidOption, match="at least 1"):
        VisionCache(0)


def test_chance_depends_on_the_sample_not_on_the_batch() -> None:
    chance = REDUCTIONS.create("random(keep_ratio=0.3)")
    requests = [request(seed) for seed in (1, 2, 3)]
    forward = generate(tiny_llava(), requests, chance)
    backward = generate(tiny_llava(), requests[::-1], chance)[::-1]
    kept = [item.kept for item in forward if isinstance(item, Generation)]
    assert kept == [item.kept for item in backward if isinstance(item, Generation)]
    assert kept[0] != kept[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_runs_every_path(dtype: torch.dtype) -> None:
    model = fresh()
    model.module.to(dtype)
    for recipe in ("keep_all", "fastv(layer=1, keep_ratio=0.4)", "visionzip(dominant=6, contextual=3)"):
        result = one(generate(model, [request()], REDUCTIONS.create(recipe), max_new_tokens=3))
        assert len(result.top) == 20
    assert model.provenance()["dtype"] == str(dtype).removeprefix("torch.")


def test_cache_grows_past_its_first_block() -> None:
    model = tiny_llava(**NO_END)
    long = one(generate(model, [request()], max_new_tokens=40))
    assert len(long.token_ids) == 40
    assert one(generate(model, [request()], max_new_tokens=20)).token_ids == long.token_ids[:20]
