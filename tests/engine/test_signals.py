"""Every signal equals what eager attention of transformers shows, and nothing unasked is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

import naive
from steadyvlm.engine import Request, generate
from steadyvlm.engine.signals import check_reduction, decoder_sites
from steadyvlm.errors import InvalidOption, Unsupported
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.base import Selection, Signal, Signals, Site
from steadyvlm.seeding import stable_seed
from tiny import VISUAL, make_image, tiny_llava


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


ENCODER = frozenset({Signal.ENCODER_ROWS, Signal.CLS_ATTENTION, Signal.ENCODER_KEYS})


def test_encoder_signals_equal_eager_attention() -> None:
    model = tiny_llava()
    images = (make_image(0), make_image(1))
    spy = Spy(Site(None), ENCODER)
    generate(model, [Request(images, "what?", 5)], spy, max_new_tokens=1)
    module = naive.eager(model.module)
    for index, (image, seen) in enumerate(zip(images, spy.seen, strict=True)):
        with torch.no_grad():
            rows, attention, keys = naive.encoder_truth(module, model.preprocess(image))
        assert (seen.num_tokens, seen.has_cls) == (VISUAL, True)
        assert seen.seed == stable_seed(5, "image", index)
        assert seen.require(Signal.CLS_ATTENTION).shape == (2, VISUAL)
        torch.testing.assert_close(seen.require(Signal.ENCODER_ROWS), rows)
        torch.testing.assert_close(seen.require(Signal.CLS_ATTENTION), attention)
        torch.testing.assert_close(seen.require(Signal.ENCODER_KEYS), keys)
        assert seen.last_query_attention is None


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
                pixel_values=model.preprocess(request.images[0]),
                output_attentions=True,
            )
        start = ids.index(3)
        expected = out.attentions[layer - 1][0, :, -1, start : start + VISUAL]
        assert seen.seed == request.seed
        assert seen.encoder_rows is None
        torch.testing.assert_close(seen.require(Signal.LAST_QUERY_ATTENTION), expected)


def test_a_method_without_needs_sees_only_counts_and_seed() -> None:
    spy = Spy(Site(2), frozenset())
    generate(tiny_llava(), [Request((make_image(0), make_image(1)), "what?", 9)], spy, max_new_tokens=1)
    assert spy.seen == [Signals(2 * VISUAL, seed=9)]


def test_a_prompt_without_image_asks_the_method_nothing() -> None:
    for site in (Site(None), Site(1)):
        spy = Spy(site, frozenset())
        generate(tiny_llava(), [Request((), "what?", 9)], spy, max_new_tokens=1)
        assert spy.seen == []


def test_attention_before_layer_zero_is_refused() -> None:
    with pytest.raises(Unsupported, match="layer=1 or higher"):
        check_reduction(Spy(Site(0), frozenset({Signal.LAST_QUERY_ATTENTION})), tiny_llava())


@pytest.mark.parametrize("layer", [4, -1])
def test_a_layer_the_model_lacks_is_refused(layer: int) -> None:
    with pytest.raises(InvalidOption, match="layers 0 to 3"):
        decoder_sites(Spy(Site(layer), frozenset()), tiny_llava().info)
    with pytest.raises(InvalidOption):
        check_reduction(REDUCTIONS.create("fastv(layer=9)"), tiny_llava())


def test_encoder_signals_of_a_decoder_method_are_not_asked_of_the_encoder() -> None:
    two_layers = tiny_llava(layers_read=(-2, -1))
    check_reduction(REDUCTIONS.create("fastv(layer=1)"), two_layers)
    with pytest.raises(Unsupported, match="cls_attention"):
        check_reduction(REDUCTIONS.create("visionzip(dominant=5, contextual=2)"), two_layers)
