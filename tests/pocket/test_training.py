"""The training model is the transformers model, and a stopped run goes on as if never stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steadyvlm.errors import CheckpointError, InvalidOption, UnknownName
from steadyvlm.pocket.tokenizer import IMAGE
from steadyvlm.pocket.training.data import make_example
from steadyvlm.pocket.training.export import export, to_clip_text, to_llava
from steadyvlm.pocket.training.main import LLAVA, TrainingOptions
from steadyvlm.pocket.training.model import Losses, PocketTrainer, normalise
from steadyvlm.pocket.training.run import Plan, Stage, Trainer, learning_rate
from steadyvlm.pocket.training.start import shipped_tokenizer

FROM_NOTHING = replace(LLAVA, tokenizer=shipped_tokenizer)
"""The LLaVA pocket without the seconds that training its tokenizer takes."""
TINY = Stage(
    Plan("vision", steps=4, batch=2, muon=1e-3, adam=1e-3, decay_from=0.5, first_example=0, warmup=2), "vision_loss"
)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("training"), LLAVA, compile=False, workers=0, log=lambda _: None)


@torch.no_grad()
def test_packed_questions_give_the_logits_of_transformers(trainer: Trainer) -> None:
    llava = to_llava(trainer.model, trainer.tokenizer)
    example = make_example(trainer.tokenizer, "train", 5)
    pixels = normalise(example["pixels"][None])
    model: PocketTrainer = trainer.model
    visual = model.project(model.vision.features(pixels))
    packed = model.read(visual, *(example[name][None] for name in ("text", "questions", "places"))).logits[0]
    image = torch.full((144,), trainer.tokenizer.token_to_id(IMAGE))
    for question in (0, 3, int(example["questions"].max())):
        own = example["questions"] == question
        ids = torch.cat([model.before, image, model.after, example["text"][own]])
        alone = llava(input_ids=ids[None], pixel_values=pixels).logits[0, -int(own.sum()) :]
        torch.testing.assert_close(packed[own], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_text_tower_is_a_clip_text_model(trainer: Trainer) -> None:
    clip = to_clip_text(trainer.model, trainer.tokenizer)
    caption = make_example(trainer.tokenizer, "train", 7)["caption"][None]
    ours = trainer.model.text_projection(trainer.model.text(caption, trainer.model.end))
    torch.testing.assert_close(clip(input_ids=caption).text_embeds, ours, atol=1e-5, rtol=1e-5)


def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path: Path) -> None:
    def run(folder: Path, stop_after: int | None) -> None:
        trainer = Trainer(folder, FROM_NOTHING, compile=False, workers=0, checkpoint_s=0, log=lambda _: None)
        loss_of, calls = trainer.model.vision_loss, 0

        def loss_until_stopped(batch: dict[str, torch.Tensor]) -> Losses:
            nonlocal calls
            if calls == stop_after:
                raise KeyboardInterrupt
            calls += 1
            found: Losses = loss_of(batch)
            return found

        trainer.model.vision_loss = loss_until_stopped
        trainer.stage(TINY)

    run(tmp_path / "once", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", 2)
    assert (tmp_path / "twice" / "vision.partial").exists()
    run(tmp_path / "twice", None)
    once, twice = ((tmp_path / name / "vision.safetensors").read_bytes() for name in ("once", "twice"))
    assert once == twice
    assert not (tmp_path / "twice" / "vision.partial").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, FROM_NOTHING, compile=False, workers=0, log=lambda _: None)
    (tmp_path / "vision.partial").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"vision\.partial"):
        trainer.stage(TINY)


def test_a_folder_of_another_architecture_is_named(tmp_path: Path) -> None:
    save_file({"embed.weight": torch.zeros(2, 2)}, tmp_path / "vision.safetensors")
    trainer = Trainer(tmp_path, FROM_NOTHING, compile=False, workers=0, log=lambda _: None)
    with pytest.raises(CheckpointError, match="folder of its own"):
        trainer.stage(TINY)


def test_drills_ask_for_the_letter_of_every_option(trainer: Trainer) -> None:
    tokenizer, found = trainer.tokenizer, 0
    for index in range(12):
        example = make_example(tokenizer, "train", index)
        for question in range(int(example["questions"].max()) + 1):
            own = example["questions"] == question
            ids, targets = example["text"][own], example["targets"][own]
            if int((example["kinds"][own] == 1).sum()) != 4:
                continue
            found += 1
            text = tokenizer.decode(ids.tolist())
            for token, target in zip(ids.tolist(), targets.tolist(), strict=True):
                if target >= 0:
                    assert f"{tokenizer.decode([target]).strip()}.{tokenizer.decode([token])}" in text
    assert found


def test_alignment_leaves_what_the_decoder_reads_alone(trainer: Trainer) -> None:
    trainer.model.freeze_features()
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    for value in trainer.model.parameters():
        value.requires_grad_(True)
    assert "text.token.weight" in trained
    assert any(name.startswith("vision.layers.5.") for name in trained)
    assert not any(
        name.startswith(("vision.layers.4.", "vision.patch", "embed", "layers.", "linear_")) for name in trained
    )


def test_schedule_warms_up_stays_flat_and_decays() -> None:
    plan = Plan("joint", steps=100, batch=1, muon=1, adam=1, decay_from=0.6, first_example=0, warmup=10)
    assert learning_rate(plan, 0) == pytest.approx(0.1)
    assert learning_rate(plan, 30) == learning_rate(plan, 60) == 1
    assert learning_rate(plan, 80) == pytest.approx(0.51)
    assert learning_rate(plan, 100) == pytest.approx(0.02)


@pytest.mark.parametrize("options", [{"scale": 0}, {"scale": 11}, {"workers": -1}, {"threads": -1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        TrainingOptions(**options)


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(UnknownName, match="qwen2_5_vl"):
        TrainingOptions(architecture="qwen2_5")


def test_the_chat_template_renders_what_training_used(trainer: Trainer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(trainer.model, trainer.tokenizer, tmp_path)
    shipped = AutoTokenizer.from_pretrained(tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": "how many stars?"}]
    rendered = shipped.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<s>USER: <image>\nhow many stars?\nASSISTANT:"
    question = trainer.tokenizer.encode("how many stars?\nASSISTANT:").ids
    image = [trainer.tokenizer.token_to_id(IMAGE)]
    expected = [*trainer.model.before.tolist(), *image, *trainer.model.after.tolist(), *question]
    assert shipped(rendered, add_special_tokens=False)["input_ids"] == expected
