"""Applying a recipe leaves the source alone, refuses early, and answers samples one record each."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from steadyvlm.errors import CheckpointError, ImageError, InvalidOption, RunError, SampleError, Unsupported
from steadyvlm.models.llava import Llava
from steadyvlm.recipes import AcceleratedModel, Recipe, accelerate, answer
from steadyvlm.records import Failure, Generation, Sample
from tiny import VISUAL, make_image, make_image_processor, make_module, make_tokenizer, save_tiny, tiny_llava


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
