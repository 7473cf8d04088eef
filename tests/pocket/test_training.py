"""The training model is the transformers model, and a stopped run goes on as if never stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steadyvlm.errors import CheckpointError, InvalidOption
from steadyvlm.pocket.tokenizer import IMAGE
from steadyvlm.pocket.training.data import PREFIX, make_example
from steadyvlm.pocket.training.export import export, to_clip_text, to_llava
from steadyvlm.pocket.training.main import TrainingOptions
from steadyvlm.pocket.training.run import Plan, Trainer, learning_rate, normalise

TINY = Plan("vision", steps=4, batch=2, muon=1e-3, adam=1e-3, decay_from=0.5, first_example=0, warmup=2)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("training"), compile=False, workers=0, log=lambda _: None)


@torch.no_grad()
def test_packed_questions_give_the_logits_of_transformers(trainer: Trainer) -> None:
    llava = to_llava(trainer.model, trainer.tokenizer)
    example = make_example(trainer.tokenizer, "train", 5)
    pixels = normalise(example["pixels"][None])
    features = trainer.model.vision.features(pixels)
    packed, _ = trainer.model.answer_logits(
        features, trainer.head, trainer.tail, *(example[name][None] for name in ("text", "questions", "places"))
    )
    packed = packed[0]
    image = torch.full((144,), trainer.tokenizer.token_to_id(IMAGE))
    for question in (0, 3, int(example["questions"].max())):
        own = example["questions"] == question
        ids = torch.cat([trainer.head, image, trainer.tail, example["text"][own]])
        alone = llava(input_ids=ids[None], pixel_values=pixels).logits[0, PREFIX:]
        torch.testing.assert_close(packed[own], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_text_tower_is_a_clip_text_model(trainer: Trainer) -> None:
    clip = to_clip_text(trainer.model, trainer.tokenizer)
    caption = make_example(trainer.tokenizer, "train", 7)["caption"][None]
    ours = trainer.model.text_projection(trainer.model.text(caption, trainer.end))
    torch.testing.assert_close(clip(input_ids=caption).text_embeds, ours, atol=1e-5, rtol=1e-5)


def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path: Path) -> None:
    def run(folder: Path, stop_after: int | None) -> None:
        steps = 0

        def log(_: str) -> None:
            nonlocal steps
            steps += 1

        trainer = Trainer(folder, compile=False, workers=0, checkpoint_s=0, log=log)
        loss_of = trainer.vision_loss
        calls = 0

        def loss_until_stopped(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            nonlocal calls
            if calls == stop_after:
                raise KeyboardInterrupt
            calls += 1
            return loss_of(batch)

        trainer.stage(TINY, loss_until_stopped)

    run(tmp_path / "once", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "twice", 2)
    assert (tmp_path / "twice" / "vision.partial").exists()
    run(tmp_path / "twice", None)
    once, twice = ((tmp_path / name / "vision.safetensors").read_bytes() for name in ("once", "twice"))
    assert once == twice
    assert not (tmp_path / "twice" / "vision.partial").exists()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, compile=False, workers=0, log=lambda _: None)
    (tmp_path / "vision.partial").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"vision\.partial"):
        trainer.stage(TINY, trainer.vision_loss)


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
    trainer.freeze_features()
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
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(InvalidOption):
        TrainingOptions(**options)


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
    expected = [*trainer.head.tolist(), *image, *trainer.tail.tolist(), *question]
    assert shipped(rendered, add_special_tokens=False)["input_ids"] == expected
