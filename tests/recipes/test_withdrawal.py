"""The search for the layer of visual token withdrawal, on tiny models."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from steadyvlm.engine import Request
from steadyvlm.engine.capture import run_prefill
from steadyvlm.errors import ImageError, InvalidOption, RunError, SampleError
from steadyvlm.models.llava import Llava
from steadyvlm.recipes import Recipe, WithdrawalSearch, search_withdrawal_layer
from steadyvlm.records import Failure, Sample
from steadyvlm.reduction import REDUCTIONS
from tiny import make_image, tiny_llava


@dataclass
class Picture:
    seed: int
    loads: list[int] = field(default_factory=list)
    broken: bool = False

    def load(self) -> Any:
        self.loads.append(self.seed)
        if self.broken:
            raise ImageError("the picture is gone")
        return make_image(self.seed)

    def sha256(self) -> str:
        return f"hash of {self.seed}"


def sample(name: str, *pictures: Picture, prompt: str = "what colour is it?") -> Sample:
    return Sample(name, "t", "what?", prompt, "open", ("red",), images=pictures)


def samples(count: int = 3) -> list[Sample]:
    several = [sample(str(i), Picture(i), prompt=f"what colour {'is the star ' * i}?") for i in range(count)]
    return [*several, sample("two", Picture(50), Picture(51))]


def divergence(model: Llava, item: Sample, layer: int) -> float:
    """One sample alone, in float64 with torch's own formula."""
    request = Request(tuple(picture.load() for picture in item.images), item.prompt)
    logs = []
    for method in (REDUCTIONS.create(f"vtw(layer={layer})"), None):
        result = run_prefill(model, [request], method)[0]
        assert not isinstance(result, Failure)
        logs.append(result.logits.double().log_softmax(-1))
    return float(torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="sum"))


def test_means_are_those_of_one_sample_at_a_time() -> None:
    model, items = tiny_llava(), samples()
    found = search_withdrawal_layer(model, items, first=0, batch_size=3)
    assert list(found.mean_kl) == [0, 1, 2, 3]
    assert found.samples == 4
    for layer, mean in found.mean_kl.items():
        expected = np.mean([divergence(model, item, layer) for item in items])
        assert mean == pytest.approx(expected, rel=1e-3)
        assert mean > 1e-6


def test_the_earliest_layer_that_passes_is_found() -> None:
    model, items = tiny_llava(), samples()
    found = search_withdrawal_layer(model, items, first=1, last=3)
    ranked = sorted(found.mean_kl.values())
    assert replace(found, eta=ranked[-1]).layer == 1
    assert replace(found, eta=ranked[0]).layer == min(found.mean_kl, key=lambda layer: found.mean_kl[layer])
    assert replace(found, eta=ranked[0] / 2).layer is None


@pytest.mark.parametrize(
    ("eta", "layer", "recipe"), [(0.003, 6, "vtw(layer=6)"), (0.2, 5, "vtw(layer=5)"), (0, None, "keep_all")]
)
def test_what_was_found_is_a_recipe(eta: float, layer: int | None, recipe: str) -> None:
    found = WithdrawalSearch({5: 0.2, 6: 0.003, 7: 0.001}, eta=eta, samples=20)
    assert found.layer == layer
    assert found.recipe == recipe
    assert Recipe.parse(found.recipe).is_original == (layer is None)


def test_each_picture_is_loaded_and_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, items, encoded = tiny_llava(), samples(), []
    plain = Llava.encode

    def counting(self: Llava, pixels: Any, needs: Any) -> Any:
        encoded.append(len(pixels))
        return plain(self, pixels, needs)

    monkeypatch.setattr(Llava, "encode", counting)
    search_withdrawal_layer(model, items, first=1, batch_size=2)
    assert sum(encoded) == 5
    assert all(len(picture.loads) == 1 for item in items for picture in item.images)  # type: ignore[attr-defined]  # ours


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, r"first=5 to last=3 .* 4 layers \(0 to 3\)"),
        ({"first": 2, "last": 4}, "last=4"),
        ({"first": 3, "last": 2}, "first=3 to last=2"),
        ({"first": -1}, "first=-1"),
        ({"first": 1, "last": 2.0}, "last=2.0"),
        ({"first": 1, "batch_size": 0}, "batch_size=0"),
        ({"first": 1, "eta": -0.1}, "eta=-0.1"),
        ({"first": 1, "eta": float("nan")}, "eta=nan"),
        ({"first": 1, "eta": True}, "eta=True"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        search_withdrawal_layer(tiny_llava(), samples(1), **options)


def test_samples_that_cannot_be_used_are_named() -> None:
    model = tiny_llava()
    with pytest.raises(SampleError, match="no samples"):
        search_withdrawal_layer(model, [], first=1)
    with pytest.raises(SampleError, match="'bare' has no picture"):
        search_withdrawal_layer(model, [*samples(1), sample("bare")], first=1)
    with pytest.raises(ImageError, match="gone"):
        search_withdrawal_layer(model, [sample("x", Picture(1, broken=True))], first=1)
    with pytest.raises(RunError, match=r"sample 'long' cannot be searched with \(SampleError\)"):
        search_withdrawal_layer(model, [sample("long", Picture(1), prompt="what? " * 600)], first=1)
