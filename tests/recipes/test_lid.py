"""Layer-wise inner disruption, on tiny models, against one prompt at a time and a full decomposition."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.engine import Request, run_prefill
from steadyvlm.errors import ImageError, InvalidOption, RunError, SampleError
from steadyvlm.models.llava import Llava
from steadyvlm.recipes import accelerate
from steadyvlm.recipes.lid import Scope, Source, compare_spectra, lid, measure_spectra
from steadyvlm.records import Sample
from steadyvlm.reduction import REDUCTIONS
from tiny import VISUAL, make_image, make_image_processor, make_module, make_tokenizer, tiny_llava


@dataclass(frozen=True)
class Picture:
    seed: int
    broken: bool = False

    def load(self) -> Any:
        if self.broken:
            raise ImageError("the picture is gone")
        return make_image(self.seed)

    def sha256(self) -> str:
        return f"hash of {self.seed}"


def sample(name: str, *pictures: Picture, prompt: str = "what colour is it?", cluster: str = "") -> Sample:
    return Sample(name, "t", "what?", prompt, "open", ("red",), images=pictures, cluster=cluster)


SAMPLES = [
    sample("a", Picture(1)),
    sample("b", Picture(2), prompt="what shape is the blue star ?"),
    sample("c", Picture(3)),
    sample("d", Picture(4), Picture(5)),
]


def slow_ratios(model: Llava, item: Sample, recipe: str, scope: str, rank: float, tensor: str) -> list[float]:
    """One prompt alone, every matrix by a full singular value decomposition."""
    found = []

    def observe(index: int, sequence: Any, output: Tensor) -> None:
        states = (output if tensor == "attention_output" else sequence.hidden)[0]
        columns = sequence.visual[0] if scope == "visual" else torch.ones_like(sequence.visual[0])
        matrix = states[columns].double().numpy()
        if not len(matrix):
            found.append(0.0)
            return
        sigma = np.linalg.svd(matrix, compute_uv=False)
        sigma = sigma[: max(1, int(rank * len(sigma)))]
        found.append(float((sigma**4).sum() / (sigma**2).sum() ** 2))

    request = Request(tuple(picture.load() for picture in item.images), item.prompt)
    run_prefill(model, [request], REDUCTIONS.create(recipe), observe=observe)
    return found


@pytest.mark.parametrize("recipe", ["lofi(beta=0.5)", "fastv(layer=2, keep_ratio=0.25)", "vtw(layer=2)"])
@pytest.mark.parametrize(
    ("scope", "rank", "tensor"),
    [("all", 0.75, "attention_output"), ("visual", 0.5, "attention_output"), ("visual", 1.0, "hidden")],
)
def test_batches_give_what_one_prompt_at_a_time_gives(recipe: str, scope: Scope, rank: float, tensor: Source) -> None:
    model = tiny_llava()
    found = lid(model, "keep_all", recipe, SAMPLES, scope=scope, rank=rank, tensor=tensor, batch_size=3)
    changes = np.array(
        [
            np.abs(
                np.array(slow_ratios(model, item, "keep_all", scope, rank, tensor))
                - np.array(slow_ratios(model, item, recipe, scope, rank, tensor))
            )
            for item in SAMPLES
        ]
    )
    np.testing.assert_allclose(found.values, changes.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(found.per_layer, changes.mean(axis=0), atol=1e-5)
    assert found.value > 0.01
    assert found.value == pytest.approx(sum(found.per_layer))
    assert found.low <= found.value <= found.high
    assert found.n == len(SAMPLES)


def test_the_original_against_itself_is_zero() -> None:
    found = lid(tiny_llava(), "keep_all", "keep_all", SAMPLES)
    assert found.values == (0.0,) * 4
    assert (found.low, found.high, found.of_means) == (0.0, 0.0, 0.0)
    assert str(found) == "0.000 [0.000, 0.000] (n = 4)"


def test_a_quantised_side_runs_on_its_own_weights() -> None:
    found = lid(tiny_llava(), "keep_all", "rtn(bits=3, group=None)", SAMPLES[:2])
    assert found.value > 0
    assert found.accelerated.startswith("rtn(")


def test_questions_about_one_picture_are_resampled_together() -> None:
    alone = lid(tiny_llava(), "keep_all", "lofi(beta=0.5)", SAMPLES)
    together = lid(tiny_llava(), "keep_all", "lofi(beta=0.5)", [replace(item, cluster="one") for item in SAMPLES])
    assert together.values == alone.values
    assert together.low == pytest.approx(together.high)
    assert alone.low < alone.high


def test_an_original_is_measured_once_for_several_recipes() -> None:
    model = tiny_llava()
    original = measure_spectra(accelerate(model), SAMPLES)
    lofi = measure_spectra(accelerate(model, "lofi(beta=0.5)"), SAMPLES)
    assert compare_spectra(original, lofi) == lid(model, "keep_all", "lofi(beta=0.5)", SAMPLES)


def test_a_sample_that_cannot_be_read_is_left_out_and_named() -> None:
    broken = sample("gone", Picture(9, broken=True))
    found = lid(tiny_llava(), "keep_all", "lofi(beta=0.5)", [SAMPLES[0], broken, SAMPLES[1]], batch_size=2)
    assert (found.sample_ids, found.failed) == (("a", "b"), ("gone",))
    assert found.values == pytest.approx(lid(tiny_llava(), "keep_all", "lofi(beta=0.5)", SAMPLES[:2]).values)


def test_without_any_readable_sample_the_reason_is_said() -> None:
    with pytest.raises(RunError, match="ImageError: the picture is gone"):
        lid(tiny_llava(), "keep_all", "lofi", [sample("gone", Picture(9, broken=True))])


def test_hidden_states_that_are_not_finite_fail_their_sample_only() -> None:
    module = make_module()
    model = Llava(module, make_tokenizer(), make_image_processor(), name="tiny")
    poison = set(model.tokenize("XYZ", 1)) - set(model.tokenize(SAMPLES[0].prompt, 1))
    with torch.no_grad():
        module.model.language_model.embed_tokens.weight[sorted(poison)] = float("nan")
    spectra = measure_spectra(accelerate(model), [SAMPLES[0], sample("bad", Picture(2), prompt="XYZ"), SAMPLES[2]])
    assert list(spectra.failures) == ["bad"]
    assert "not finite" in spectra.failures["bad"].message
    assert spectra.ratios[0] is not None
    assert spectra.ratios[2] is not None


def test_text_alone_has_no_visual_spectrum() -> None:
    found = lid(tiny_llava(), "keep_all", "lofi(beta=0.5)", [sample("text")], scope="visual")
    assert found.value == 0
    assert set(found.original_per_layer) == {0.0}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scope": "text"}, "scope='text'"),
        ({"tensor": "keys"}, "tensor='keys'"),
        ({"rank": 0}, "rank=0"),
        ({"rank": 2}, "rank=2"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        lid(tiny_llava(), "keep_all", "lofi", SAMPLES, **options)


def test_no_samples_are_refused() -> None:
    with pytest.raises(SampleError, match="at least one question"):
        lid(tiny_llava(), "keep_all", "lofi", [])


def test_sides_measured_differently_are_not_compared() -> None:
    model = tiny_llava()
    sides = [measure_spectra(accelerate(model), SAMPLES[:1], rank=rank) for rank in (0.5, 0.75)]
    with pytest.raises(InvalidOption, match="rank differs"):
        compare_spectra(*sides)


def test_lofi_runs_in_every_layer_and_merges_into_the_median_place() -> None:
    """The engine applies it: counts never grow, the merged token is one slot, and its record says how many it holds."""
    from steadyvlm.engine import generate

    model = tiny_llava()
    request = Request((make_image(1),), "what colour is it?")
    answer = generate(model, [request], REDUCTIONS.create("lofi(keep_ratio=0.8)"), max_new_tokens=2)[0]
    counts = answer.cost.visual_tokens_per_layer  # type: ignore[union-attr]  # it did not fail
    expected = [VISUAL]
    for _ in counts[1:]:
        removed = int(0.2 * expected[-1] + 1e-9)
        expected.append(expected[-1] - removed + 1 if removed > 1 else expected[-1])
    assert list(counts) == expected
    last = answer.kept[-1]  # type: ignore[union-attr]  # it did not fail
    assert len(last.indices) == expected[-1]
    assert sum(last.merged) + len(last.indices) == VISUAL
