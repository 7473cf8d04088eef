"""Every signal equals what eager attention of transformers shows, and nothing unasked is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import naive
from steadyvlm.engine import Request, generate
from steadyvlm.engine.signals import check_deployed, check_reduction, decoder_sites
from steadyvlm.errors import InvalidOption, RunError, Unsupported
from steadyvlm.models.adapter import IMAGE_SLOT, EncodedImage
from steadyvlm.models.llava import Llava
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.records import Failure
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.seeding import stable_seed
from tiny import (
    VISUAL,
    make_image,
    make_image_processor,
    make_module,
    make_tokenizer,
    tiny_llava,
    with_packed_cache,
)
from tiny_families import tiny_family


@dataclass(frozen=True)
class Spy:
    """Writes down what it sees and keeps everything."""

    where: Site
    needs: frozenset[Signal]
    seen: list[Signals] = field(default_factory=list)
    compact_positions = False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return (self.where,)

    def select(self, signals: Signals, site: Site) -> Selection:
        self.seen.append(signals)
        return Selection(torch.arange(signals.num_tokens + int(signals.has_cls)))


ENCODER = frozenset(signal for signal in Signal if signal.of_encoder) - {Signal.TEXT_RELEVANCE}
DECODER = frozenset(signal for signal in Signal if not signal.of_encoder) - {Signal.QUANTIZATION_RESIDUAL}


def test_encoder_signals_equal_eager_attention() -> None:
    model = tiny_llava()
    images = (make_image(0), make_image(1))
    spy = Spy(Site(None), ENCODER)
    generate(model, [Request(images, "what?", 5)], spy, max_new_tokens=1)
    module = naive.eager(model.module)
    for index, (image, seen) in enumerate(zip(images, spy.seen, strict=True)):
        with torch.no_grad():
            truth = naive.encoder_truth(module, model.preprocess(image).values)
        assert (seen.num_tokens, seen.has_cls) == (VISUAL, True)
        assert seen.layout == model.preprocess(image).layout
        assert seen.seed == stable_seed(5, "image", index)
        assert seen.require(Signal.CLS_ATTENTION).shape == (2, VISUAL)
        for signal in ENCODER:
            torch.testing.assert_close(seen.require(signal), truth[signal], msg=signal)
        assert seen.last_query_attention is None


@pytest.mark.parametrize("layers", [-1, 1])
def test_signals_of_the_last_layer_do_not_depend_on_the_feature_layer(layers: int) -> None:
    needs = frozenset({Signal.LAST_KEYS, Signal.LAST_CLS_ATTENTION})
    model = tiny_llava(layers_read=layers)
    with torch.no_grad():
        (encoded,) = model.encode([model.preprocess(make_image(1))], needs)
        truth = naive.encoder_truth(naive.eager(model.module), model.preprocess(make_image(1)).values)
    for signal in needs:
        torch.testing.assert_close(encoded.signals[signal], truth[signal])


@pytest.mark.parametrize("signal", sorted(ENCODER))
def test_only_the_encoder_signals_asked_for_arrive(signal: Signal) -> None:
    spy = Spy(Site(None), frozenset({signal}))
    generate(tiny_llava(), [Request((make_image(0),), "what?", 5)], spy, max_new_tokens=1)
    present = {item for item in Signal if getattr(spy.seen[0], item.value) is not None}
    assert present == {signal}


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("options", [{"text": "llama"}, {"text": "mistral", "sliding_window": 25}])
def test_last_query_attention_equals_eager_attention(options: dict[str, object], layer: int) -> None:
    model = tiny_llava(**options)  # type: ignore[arg-type]  # keyword options of two kinds
    requests = [Request((make_image(0),), "what colour?", 5), Request((make_image(1),), "is the star red?", 6)]
    spy = Spy(Site(layer), frozenset({Signal.LAST_QUERY_ATTENTION}))
    generate(model, requests, spy, max_new_tokens=1)
    module = naive.eager(model.module)
    for request, seen in zip(requests, spy.seen, strict=True):
        ids: list[int] = []
        for token in model.tokenize(request.prompt, 1):
            ids += [3] * VISUAL if token == IMAGE_SLOT else [token]
        with torch.no_grad():
            out = module(
                input_ids=torch.tensor([ids]),
                pixel_values=model.preprocess(request.images[0]).values,
                output_attentions=True,
            )
        start = ids.index(3)
        expected = out.attentions[layer - 1][0, :, -1, start : start + VISUAL]
        assert seen.seed == request.seed
        assert seen.encoder_rows is None
        torch.testing.assert_close(seen.require(Signal.LAST_QUERY_ATTENTION), expected)


@dataclass(frozen=True)
class Rater(Spy):
    """Names its raters, and writes down what it chose them from."""

    chosen: tuple[int, ...] = (0, 2)
    given: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def raters(self, visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        self.given.append((visual, text))
        return torch.tensor(self.chosen, dtype=torch.int64)


def model_of(name: str) -> Any:
    if name.startswith("packed"):
        return with_packed_cache(tiny_llava(), in_prefill=name == "packed")
    return tiny_llava() if name == "llama" else tiny_llava(text="mistral", sliding_window=25)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "packed", "packed-not-in-prefill"])
def test_decoder_signals_equal_those_of_the_slow_engine(name: str) -> None:
    model = model_of(name)
    requests = [
        Request((make_image(0),), "what colour?", 5),
        Request((make_image(1), make_image(2)), "is the star red?", 6),
    ]
    spy = Rater(Site(2), DECODER)
    generate(model, requests, spy, max_new_tokens=1)
    for request, seen, given in zip(requests, spy.seen, spy.given, strict=True):
        with torch.no_grad():
            own = Rater(Site(2), DECODER)
            prompt = naive.Prompt(naive.eager(model.module), model, request, own)
            prompt.forward([])
        for signal in DECODER:
            expected = prompt.seen[2].require(signal).float()
            torch.testing.assert_close(seen.require(signal), expected, rtol=1e-4, atol=1e-5)
        assert seen.images is not None
        assert seen.images.tolist() == [index for index in range(len(request.images)) for _ in range(VISUAL)]
        assert seen.original_tokens == seen.num_tokens == len(request.images) * VISUAL
        for one, other in zip(given, own.given[0], strict=True):
            torch.testing.assert_close(one, other.float())


def test_several_sites_each_see_the_layer_before_them() -> None:
    """The tokens that entered that layer, of ragged prompts with two, one and no pictures."""

    @dataclass(frozen=True)
    class Thinning(Spy):
        def sites(self, num_layers: int) -> tuple[Site, ...]:
            return (Site(1), Site(2), Site(3))

        def select(self, signals: Signals, site: Site) -> Selection:
            self.seen.append(signals)
            return Selection(torch.arange(0, signals.num_tokens, 2))

    needs = frozenset({Signal.QUESTION_ATTENTION, Signal.VISUAL_ATTENTION, Signal.HIDDEN_BEFORE})
    model, spy = tiny_llava(), Thinning(Site(1), needs)
    requests = [
        Request((make_image(1), make_image(2)), "is the star red?", 6),
        Request((make_image(0),), "what?", 5),
        Request((), "how?", 4),
    ]
    generate(model, requests, spy, max_new_tokens=1)
    assert [seen.num_tokens for seen in spy.seen] == [72, 36, 36, 18, 18, 9]
    for row, request in enumerate(requests[:2]):
        with torch.no_grad():
            prompt = naive.Prompt(naive.eager(model.module), model, request, Thinning(Site(1), needs))
            prompt.forward([])
        for site, seen in zip((1, 2, 3), spy.seen[row::2], strict=True):
            for signal in needs:
                expected = prompt.seen[site].require(signal)
                torch.testing.assert_close(seen.require(signal), expected, rtol=1e-4, atol=1e-5)


def rows_lost(rows: torch.Tensor) -> list[float]:
    """Norm of what symmetric four-bit rounding of each row loses, number by number."""
    lost = []
    for row in rows.double().tolist():
        scale = max(abs(number) for number in row) / 7
        lost.append(sum((number - scale * round(number / scale)) ** 2 for number in row) ** 0.5)
    return lost


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_residual_is_what_the_next_layers_quantiser_loses(family: str) -> None:
    source: Any = tiny_llava() if family == "llava" else tiny_family(family)
    model = source.copy()
    RTNW4A4().quantize_blocks(model.blocks(("language",)), model.module)
    spy = Spy(Site(2), frozenset({Signal.QUANTIZATION_RESIDUAL, Signal.HIDDEN}))
    requests = [Request((make_image(0),), "what?", 5), Request((), "how?", 6), Request((make_image(1),), "how?", 7)]
    generate(model, requests, spy, max_new_tokens=1)
    norm = source.module.model.language_model.layers[2].input_layernorm
    assert len(spy.seen) == 2
    for seen in spy.seen:
        residual = seen.require(Signal.QUANTIZATION_RESIDUAL)
        assert residual.dtype == torch.float32
        with torch.no_grad():
            expected = rows_lost(norm(seen.require(Signal.HIDDEN)))
        assert residual.tolist() == pytest.approx(expected, rel=1e-3)
    alone = Spy(Site(2), frozenset({Signal.QUANTIZATION_RESIDUAL}))
    generate(model, requests[1:2], alone, max_new_tokens=1)
    assert alone.seen == [], "a batch without pictures asks nothing"


def test_a_residual_of_a_model_that_is_not_quantised_is_refused_before_anything_is_read() -> None:
    spy = Spy(Site(2), frozenset({Signal.QUANTIZATION_RESIDUAL}))
    check_reduction(spy, tiny_llava())  # a quantiser may still come
    with pytest.raises(Unsupported, match="reads its input as it is"):
        generate(tiny_llava(), [Request((), " ", 1)], spy, max_new_tokens=1)
    partly = tiny_llava().copy()
    RTNW4A4().quantize_blocks(partly.blocks(("language",))[:2], partly.module)
    with pytest.raises(Unsupported):
        check_deployed(spy, partly)
    check_deployed(Spy(Site(1), spy.needs), partly)


@pytest.mark.parametrize("signal", [Signal.QUESTION_ATTENTION, Signal.VISUAL_ATTENTION, Signal.HIDDEN_BEFORE])
def test_what_the_layer_before_did_does_not_exist_before_layer_0(signal: Signal) -> None:
    with pytest.raises(Unsupported, match="layer=1 or higher"):
        check_reduction(Spy(Site(0), frozenset({signal})), tiny_llava())


@pytest.mark.parametrize("signal", sorted(DECODER))
def test_only_the_decoder_signals_asked_for_arrive(signal: Signal) -> None:
    spy = Rater(Site(2), frozenset({signal}))
    generate(tiny_llava(), [Request((make_image(0),), "what?", 5)], spy, max_new_tokens=1)
    assert {item for item in Signal if getattr(spy.seen[0], item.value) is not None} == {signal}
    assert bool(spy.given) == (signal in (Signal.RATER_ATTENTION, Signal.RATER_ROTARY))


IMAGE_LAST = (
    "{{ bos_token }}{% for m in messages %}USER: {% for p in m['content'] %}"
    "{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}<image>{% endfor %}"
)


def test_all_text_is_the_question_when_the_prompt_ends_with_the_image() -> None:
    model = tiny_llava(template=IMAGE_LAST)
    request = Request((make_image(0),), "what colour?", 5)
    assert model.tokenize(request.prompt, 1)[-1] == IMAGE_SLOT
    spy = Rater(Site(2), DECODER)
    generate(model, [request], spy, max_new_tokens=1)
    with torch.no_grad():
        prompt = naive.Prompt(naive.eager(model.module), model, request, Rater(Site(2), DECODER))
        prompt.forward([])
    text = len(model.tokenize(request.prompt, 1)) - 1
    assert spy.seen[0].require(Signal.TEXT_HIDDEN).shape[0] == spy.given[0][1].shape[0] == text
    for signal in DECODER - {Signal.RATER_ROTARY}:
        expected = prompt.seen[2].require(signal)
        torch.testing.assert_close(spy.seen[0].require(signal), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chosen", [(), (1, 0), (0, 400), (-1, 2)])
def test_raters_that_do_not_fit_fail_their_sample(chosen: tuple[int, ...]) -> None:
    spy = Rater(Site(2), frozenset({Signal.RATER_ATTENTION}), chosen=chosen)
    (failed,) = generate(tiny_llava(), [Request((make_image(0),), "what colour?", 5)], spy, max_new_tokens=1)
    assert isinstance(failed, Failure)
    assert failed.kind == RunError.__name__
    assert "'Rater' returned raters" in failed.message
    assert spy.seen == []


def test_a_method_without_needs_sees_only_counts_and_seed() -> None:
    spy = Spy(Site(2), frozenset())
    generate(tiny_llava(), [Request((make_image(0), make_image(1)), "what?", 9)], spy, max_new_tokens=1)
    (seen,) = spy.seen
    assert (seen.num_tokens, seen.seed, seen.original_tokens) == (2 * VISUAL, 9, 2 * VISUAL)
    assert seen.layout is None
    assert not [signal for signal in Signal if getattr(seen, signal.value) is not None]


def test_a_prompt_without_image_asks_the_method_nothing() -> None:
    for site in (Site(None), Site(1)):
        spy = Spy(site, frozenset())
        generate(tiny_llava(), [Request((), "what?", 9)], spy, max_new_tokens=1)
        assert spy.seen == []


def test_attention_before_layer_zero_is_refused() -> None:
    with pytest.raises(Unsupported, match="layer=1 or higher"):
        check_reduction(Spy(Site(0), frozenset({Signal.LAST_QUERY_ATTENTION})), tiny_llava())


def test_a_family_a_method_is_not_defined_on_is_refused_with_the_reason() -> None:
    @dataclass(frozen=True)
    class Picky(Spy):
        refusals: dict[str, str] = field(default_factory=lambda: {"llava": "it has no time axis."})
        equivalents: dict[str, str] = field(default_factory=dict)

    with pytest.raises(Unsupported, match="Picky is not defined for models of the family llava: it has no time axis"):
        check_reduction(Picky(Site(1), frozenset()), tiny_llava())
    check_reduction(Picky(Site(1), frozenset(), refusals={"qwen2_vl": "no."}), tiny_llava())


def test_text_relevance_is_asked_for_each_question_with_the_methods_tower() -> None:
    class Related(Llava):
        """Stands in for a CLIP text tower: relevance is made of the names it gets."""

        def text_relevance(self, encoded: EncodedImage, question: str, text_tower: str) -> torch.Tensor:
            return torch.full((encoded.layout.visual_tokens,), float(len(question) + len(text_tower)))

    @dataclass(frozen=True)
    class Comparing(Spy):
        text_tower: str = "here"

    model = Related(make_module(), make_tokenizer(), make_image_processor())
    spy = Comparing(Site(None), frozenset({Signal.TEXT_RELEVANCE}))
    image = make_image(0)
    generate(model, [Request((image,), "what?", 5), Request((image,), "what is it?", 6)], spy, max_new_tokens=1)
    assert [seen.require(Signal.TEXT_RELEVANCE).unique().tolist() for seen in spy.seen] == [[9.0], [15.0]]


@pytest.mark.parametrize("layer", [4, -1])
def test_a_layer_the_model_lacks_is_refused(layer: int) -> None:
    with pytest.raises(InvalidOption, match="layers 0 to 3"):
        decoder_sites(Spy(Site(layer), frozenset()), tiny_llava().info)
    with pytest.raises(InvalidOption):
        check_reduction(REDUCTIONS.create("fastv(layer=9)"), tiny_llava())


def test_encoder_signals_of_a_decoder_method_are_not_asked_of_the_encoder() -> None:
    two_layers = tiny_llava(layers_read=(-2, -1))
    check_reduction(REDUCTIONS.create("fastv(layer=1)"), two_layers)
    with pytest.raises(Unsupported, match="no encoder signal encoder_keys"):
        check_reduction(REDUCTIONS.create("visionzip(dominant=5, contextual=2)"), two_layers)
