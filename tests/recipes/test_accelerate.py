"""Applying a recipe leaves the source alone, refuses early, and answers samples one record each."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steadyvlm.errors import CheckpointError, ImageError, InvalidOption, RunError, SampleError, Unsupported
from steadyvlm.models.llava import Llava
from steadyvlm.recipes import AcceleratedModel, Recipe, accelerate, answer
from steadyvlm.recipes.calibrating import calibration_sha256
from steadyvlm.records import Failure, Generation, Sample
from steadyvlm.reduction.quota import Quota
from tiny import VISUAL, make_image, make_image_processor, make_module, make_tokenizer, save_tiny, tiny_llava
from tiny_sets import write_set


@dataclass
class Picture:
    """An image reference that counts how often it is loaded."""

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


def generations(results: list[Generation | Failure]) -> list[Generation]:
    assert all(isinstance(item, Generation) for item in results), results
    return [item for item in results if isinstance(item, Generation)]


def test_keep_all_answers_with_the_source_itself() -> None:
    model = tiny_llava()
    plain = accelerate(model)
    assert plain.model is model
    assert (plain.recipe, plain.reduction, plain.report) == (Recipe(), None, None)


def test_a_quantiser_works_on_a_copy() -> None:
    model = tiny_llava()
    before = {name: linear.weight.clone() for name, linear in model.linears().items()}
    pictures = [sample(str(seed), Picture(seed)) for seed in range(6)]
    first = [item.token_ids for item in generations(accelerate(model).answer_batch(pictures))]
    fast = accelerate(model, "rtn(bits=2, group=8)")
    assert fast.model is not model
    assert fast.report is not None
    assert len(fast.report.layers) == 28
    changed = [item.token_ids for item in generations(fast.answer_batch(pictures))]
    assert changed != first, "two bits must be felt"
    assert all(bool((linear.weight == before[name]).all()) for name, linear in model.linears().items())
    assert [item.token_ids for item in generations(accelerate(model).answer_batch(pictures))] == first


def test_reduction_and_quantiser_together() -> None:
    fast = accelerate(tiny_llava(), Recipe.parse("fastv(layer=1, keep_ratio=0.25) + rtn(bits=4, group=8)"))
    (result,) = generations(fast.answer_batch([sample("a", Picture(1))]))
    assert result.cost.visual_tokens_per_layer == (VISUAL, 9, 9, 9)
    assert fast.report is not None


def test_a_checkpoint_takes_the_place_of_the_weights(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path, seed=5)
    model = tiny_llava()
    fast = accelerate(model, f"checkpoint(path={str(folder)!r}) + fastv(layer=1)")
    assert fast.model is not model
    assert fast.model.weights_sha256() != model.weights_sha256()
    pictures = [sample("a", Picture(1))]
    expected = accelerate(tiny_llava(seed=5), "fastv(layer=1)").answer_batch(pictures)
    assert [item.token_ids for item in generations(fast.answer_batch(pictures))] == [
        item.token_ids for item in generations(expected)
    ]
    both = accelerate(model, f"checkpoint(path={str(folder)!r}) + rtn(bits=4, group=8)")
    assert both.report is not None


def test_what_cannot_work_is_refused_before_weights_are_touched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(_self: Llava) -> Llava:
        raise AssertionError("weights were copied")

    monkeypatch.setattr(Llava, "copy", never)
    with pytest.raises(InvalidOption, match="layer"):
        accelerate(tiny_llava(), "fastv(layer=4) + rtn(bits=4)")
    with pytest.raises(Unsupported):
        accelerate(tiny_llava(layers_read=(-2, -1)), "visionzip(dominant=5, contextual=2) + rtn(bits=4)")
    with pytest.raises(CheckpointError):
        accelerate(tiny_llava(), f"checkpoint(path={str(tmp_path)!r})")
    shallow = save_tiny(tmp_path / "shallow", layers=2)
    with pytest.raises(InvalidOption, match="layer"):
        accelerate(tiny_llava(), f"checkpoint(path={str(shallow)!r}) + fastv(layer=3)")


def test_a_batch_loads_each_picture_once_and_keeps_failures_apart() -> None:
    loads: list[int] = []
    results = accelerate(tiny_llava()).answer_batch(
        [
            sample("a", Picture(1, loads)),
            sample("b", Picture(2, loads, broken=True)),
            sample("c", Picture(1, loads), prompt="how?"),
            sample("d", prompt="no picture at all?"),
        ],
        max_new_tokens=3,
    )
    assert loads == [1, 2]
    assert results[1] == Failure("ImageError", "the picture is gone")
    assert [type(item) for item in results] == [Generation, Failure, Generation, Generation]


def test_chance_follows_content_not_name() -> None:
    fast = accelerate(tiny_llava(), "random(keep_ratio=0.3)")
    first, second, other = generations(
        fast.answer_batch([sample("a", Picture(1)), sample("b", Picture(1)), sample("c", Picture(1), prompt="how?")])
    )
    assert first.kept == second.kept != other.kept


def test_the_vision_cache_is_optional_and_changes_no_answer() -> None:
    assert accelerate(tiny_llava()).vision_cache is None
    cached = accelerate(tiny_llava(), vision_cache_images=4)
    assert cached.vision_cache is not None
    pictures = [sample("a", Picture(1))]
    answers = [
        generations(arm.answer_batch(pictures))[0].token_ids for arm in (cached, cached, accelerate(tiny_llava()))
    ]
    assert answers[0] == answers[1] == answers[2]
    assert len(cached.vision_cache) == 1


def test_answer_takes_files_pictures_several_or_none(tmp_path: Path) -> None:
    model = tiny_llava()
    path = tmp_path / "a.png"
    make_image(3).save(path)
    from_file = answer(model, path, "what colour is it?")
    assert answer(model, str(path), "what colour is it?").token_ids == from_file.token_ids
    assert answer(model, make_image(3), "what colour is it?").token_ids == from_file.token_ids
    assert answer(model, [path, make_image(4)], "same?").cost.prompt_tokens > 2 * VISUAL
    assert answer(model, None, "how?").cost.visual_tokens_per_layer == (0,) * 4
    fast = accelerate(model, "fastv(layer=1)")
    assert isinstance(fast, AcceleratedModel)
    assert answer(fast, path, "what?", max_new_tokens=2).cost.visual_tokens_per_layer[1] == VISUAL // 2


def test_answer_raises_what_went_wrong(tmp_path: Path) -> None:
    model = tiny_llava()
    with pytest.raises(SampleError, match="empty"):
        answer(model, None, " ")
    with pytest.raises(ImageError, match="does not exist"):
        answer(model, tmp_path / "missing.png", "what?")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match="not a readable"):
        answer(model, tmp_path / "text.png", "what?")
    broken = Llava(make_module(), make_tokenizer(), make_image_processor())
    broken.module.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(RunError, match="not finite"):
        answer(broken, None, "what?")


def test_a_huge_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(ImageError, match=r"9,000 x 9,000 pixels"):
        answer(tiny_llava(), path, "what?")


QUICK = "epochs=1, batch=2, samples=4"


def numbers(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("method", ["rtn_w4a4", "hadamard_w4a4"])
def test_a_quantiser_of_whole_blocks_works_on_a_copy(method: str) -> None:
    model = tiny_llava()
    before = numbers(model)
    fast = accelerate(model, f"fastv(layer=2, keep_ratio=0.5) + {method}")
    assert fast.report is not None
    assert {layer.name for layer in fast.report.layers} == set(model.linears(("language", "connector", "vision")))
    assert all(bool((value == before[name]).all()) for name, value in numbers(model).items())
    (result,) = generations(fast.answer_batch([sample("a", Picture(1))]))
    assert result.cost is not None


def test_a_quantiser_that_learns_is_shown_its_examples(tmp_path: Path) -> None:
    model = tiny_llava()
    before = numbers(model)
    fast = accelerate(model, f"flatquant(calibration={str(write_set(tmp_path))!r}, {QUICK})")
    assert fast.report is not None
    assert len(fast.report.block_errors) == len(model.blocks(("language", "connector", "vision")))
    assert any("4 examples" in note for note in fast.report.notes)
    assert all(bool((value == before[name]).all()) for name, value in numbers(model).items())
    assert generations(fast.answer_batch([sample("a", Picture(1))]))


@pytest.mark.parametrize(
    ("options", "kind", "complaint"),
    [
        ("calibration='auto'", Unsupported, "no calibration set belongs to"),
        ("calibration='pocket', samples=100000", InvalidOption, "holds 396 samples, 100000 were asked for"),
        ("calibration='none.json'", SampleError, "no calibration set at 'none.json'"),
        ("calibration='pocket', pruned=True", InvalidOption, "the recipe drops no tokens"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_a_copy_is_made(
    options: str, kind: type[Exception], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Llava, "copy", lambda self: pytest.fail("copied before it was checked"))
    with pytest.raises(kind, match=complaint):
        accelerate(tiny_llava(), f"flatquant({options})")


def test_a_missing_picture_stops_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_set(tmp_path)
    (tmp_path / "pictures" / "1.png").unlink()
    monkeypatch.setattr(Llava, "copy", lambda self: pytest.fail("copied before it was checked"))
    with pytest.raises(ImageError, match=r"1 of 3 pictures are missing: 1\.png"):
        accelerate(tiny_llava(), f"flatquant(calibration={str(path)!r}, {QUICK})")


@pytest.mark.parametrize("quantizer", ["", " + rtn(group=8)", " + rtn_w4a4(modules='vision')"])
def test_scores_that_need_quantised_activations_are_refused_without_them(
    quantizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Llava, "copy", lambda self: pytest.fail("copied before it was checked"))
    for ratios in ("'uniform'", "'auto'"):
        quota = f"quota(layers=(2,), keep_ratios={ratios}, residual_domain='transformed')"
        with pytest.raises(Unsupported, match="reads its input as it is"):
            accelerate(tiny_llava(), quota + quantizer)


def test_a_schedule_is_measured_on_the_quantised_model_with_the_quantisers_set(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    recipe = f"quota(layers=(2,), samples=4) + flatquant(calibration={path!r}, {QUICK})"
    fast = accelerate(tiny_llava(), recipe)
    assert isinstance(fast.reduction, Quota)
    assert fast.reduction.keep_ratios == (0.3,)
    assert fast.recipe.reduction is not None
    assert "keep_ratios=(0.3,)" in str(fast.recipe)
    assert any("candidate" in note or "layers" in note for note in fast.notes)
    (result,) = generations(fast.answer_batch([sample("a", Picture(1))]))
    assert result.cost is not None
    assert min(result.cost.visual_tokens_per_layer) == math.ceil(0.3 * VISUAL)


def test_a_schedule_can_be_measured_without_a_quantiser(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    weights = "weights=(0.5, 0.25, 0.25, 0.0)"
    fast = accelerate(tiny_llava(), f"quota(layers=(2,), samples=4, calibration={path!r}, {weights})")
    assert fast.model is tiny_llava()
    assert isinstance(fast.reduction, Quota)
    assert not fast.reduction.is_auto


def test_a_pruned_graph_is_calibrated_with_the_reduction_at_work(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    recipe = f"fastv(layer=2, keep_ratio=0.25) + flatquant(calibration={path!r}, pruned=True, {QUICK})"
    report = accelerate(tiny_llava(), recipe).report
    assert report is not None
    assert any("keep_ratio=0.25" in note and "at work" in note for note in report.notes)
    for auto in ("quota", "quota-30", "quota-uniform-30"):
        unknown = f"{auto} + flatquant(calibration={path!r}, pruned=True)"
        with pytest.raises(InvalidOption, match=r"layers=\(2, 3, 4\), .* in place of 'quota' or a preset"):
            accelerate(tiny_llava(), unknown)
    recipe = Recipe.parse(unknown.replace(auto, "quota"))
    with pytest.raises(InvalidOption, match="in place of"):  # a study asks for addresses before its first question
        calibration_sha256(recipe.build_quantizer(), recipe.build_reduction(), "0" * 64, "mine")


def test_the_address_of_examples_follows_what_is_drawn(tmp_path: Path) -> None:
    path = write_set(tmp_path)

    def address(recipe: str) -> str | None:
        parsed = Recipe.parse(recipe)
        return calibration_sha256(parsed.build_quantizer(), parsed.build_reduction(), "0" * 64, "mine")

    flat, quota = "flatquant(calibration={0!r}, samples={1})", "quota(calibration={0!r}, samples={1})"
    assert address("fastv + rtn") is None
    assert address("quota(layers=(2,), keep_ratios='uniform')") is None
    whole = address(flat.format(str(path), 4))
    assert whole is not None
    assert address(flat.format(str(path), 2)) != whole
    assert address(quota.format(str(path), 4)) not in (None, whole)
    both = address(f"quota(samples=4) + {flat.format(str(path), 4)}")
    assert both not in (None, whole)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("what 0", "what else"), encoding="utf-8")
    assert address(flat.format(str(path), 4)) != whole
    path.write_text(text.replace('"mine"', '"renamed"'), encoding="utf-8")
    assert address(flat.format(str(path), 4)) == whole
