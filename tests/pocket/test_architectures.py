"""The Qwen2.5-VL and LLaVA-NeXT pockets: trained as transformers computes them, started from the shipped LLaVA."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from steadyvlm.cli import pocket as pocket_command
from steadyvlm.pocket import weights
from steadyvlm.pocket.tokenizer import IMAGE
from steadyvlm.pocket.training import start
from steadyvlm.pocket.training.data import PocketExamples, make_example
from steadyvlm.pocket.training.decoder import PocketConfig
from steadyvlm.pocket.training.export_llava_next import to_llava_next
from steadyvlm.pocket.training.export_qwen2_5_vl import to_qwen
from steadyvlm.pocket.training.main import ARCHITECTURES, LLAVA_NEXT, QWEN2_5_VL, export_checkpoint
from steadyvlm.pocket.training.model import normalise
from steadyvlm.pocket.training.qwen2_5_vl import QwenConfig
from steadyvlm.pocket.training.run import Architecture, Plan, Stage, Trainer

Batch = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """An architecture with a tiny model of it and the transformers side of its arithmetic."""

    architecture: Architecture
    tokenizer: Any
    model: Any
    module: Any
    rendered: str

    def visual(self, batch: Batch) -> Tensor:
        found: Tensor = (
            self.model.visual_tokens(batch["pixels"])
            if self.architecture is QWEN2_5_VL
            else self.model.arrange(self.model.project(self.model.features(batch)))
        )
        return found


@pytest.fixture(scope="module", params=["qwen2_5_vl", "llava_next"])
def family(request: pytest.FixtureRequest) -> Family:
    torch.manual_seed(0)
    if request.param == "qwen2_5_vl":
        tokenizer = QWEN2_5_VL.tokenizer()
        qwen = start.new_qwen(tokenizer, QwenConfig(decoder_layers=4, vision_layers=2, full_layers=(1,)))
        rendered = "<s>USER: <|vision_start|><image><|vision_end|>\nhow many stars?\nASSISTANT:"
        return Family(QWEN2_5_VL, tokenizer, qwen, to_qwen(qwen, tokenizer), rendered)
    tokenizer = LLAVA_NEXT.tokenizer()
    following = start.new_next(tokenizer, PocketConfig(image_size=48, decoder_layers=4, vision_layers=2))
    rendered = "<s>USER: <image>\nhow many stars?\nASSISTANT:"
    return Family(LLAVA_NEXT, tokenizer, following, to_llava_next(following, tokenizer), rendered)


def _batch(family: Family, index: int) -> Batch:
    example = make_example(family.tokenizer, "train", index, layout=family.architecture.layout)
    return {k: {n: x[None] for n, x in v.items()} if isinstance(v, dict) else v[None] for k, v in example.items()}


def _processed(family: Family, folder: Path, pixels: Tensor) -> dict[str, Tensor]:
    kind: Any = Qwen2VLImageProcessorPil if family.architecture is QWEN2_5_VL else LlavaNextImageProcessorPil
    processor = kind.from_pretrained(folder)
    return dict(processor(Image.fromarray(pixels.numpy()), return_tensors="pt"))


@pytest.fixture
def folder(family: Family, tmp_path: Path) -> Path:
    family.architecture.export(family.model, family.tokenizer, tmp_path)
    return tmp_path


@torch.no_grad()
def test_packed_questions_give_the_logits_of_transformers(family: Family, folder: Path) -> None:
    batch, model = _batch(family, 5), family.model
    packed = model.read(family.visual(batch), batch["text"], batch["questions"], batch["places"]).logits[0]
    picture = _processed(family, folder, batch["pixels"][0])
    image = torch.full((model.visual,), family.tokenizer.token_to_id(IMAGE))
    for question in (0, int(batch["questions"].max())):
        own = batch["questions"][0] == question
        ids = torch.cat([model.before, image, model.after, batch["text"][0, own]])[None]
        kinds = {"mm_token_type_ids": (ids == image[0]).int()} if family.architecture is QWEN2_5_VL else {}
        alone = family.module(input_ids=ids, **picture, **kinds).logits[0, -int(own.sum()) :]
        torch.testing.assert_close(packed[own], alone, atol=1e-4, rtol=1e-4)


def test_the_folder_holds_the_layout_of_training(family: Family, folder: Path) -> None:
    shipped = AutoTokenizer.from_pretrained(folder)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many stars?"}]}
    rendered = shipped.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    assert rendered == family.rendered
    question = family.tokenizer.encode("how many stars?\nASSISTANT:").ids
    image = [family.tokenizer.token_to_id(IMAGE)]
    expected = [*family.model.before.tolist(), *image, *family.model.after.tolist(), *question]
    assert shipped(rendered, add_special_tokens=False)["input_ids"] == expected
    assert (shipped.bos_token, shipped.eos_token, shipped.pad_token) == ("<s>", "</s>", "<pad>")


def test_training_lowers_the_losses(family: Family, tmp_path: Path) -> None:
    logged: list[str] = []
    tiny = replace(family.architecture, model=lambda _: family.model)
    trainer = Trainer(tmp_path, tiny, compile=False, workers=0, log=logged.append)
    plan = Plan("vision", steps=11, batch=2, muon=5e-3, adam=5e-3, decay_from=1, first_example=0, warmup=2)
    trainer.stage(Stage(plan, "vision_loss"))
    trainer.stage(Stage(replace(plan, name="joint"), "joint_loss", 0.3))
    for name, part in (("vision", "dense"), ("joint", "answers")):
        first, *_, last = [line.split() for line in logged if line.startswith(name)]
        assert float(last[last.index(part) + 1]) < float(first[first.index(part) + 1])


def test_the_copy_is_what_the_image_processor_makes(tmp_path: Path) -> None:
    tokenizer = LLAVA_NEXT.tokenizer()
    model: Any = start.new_next(tokenizer, PocketConfig(image_size=48, decoder_layers=1, vision_layers=2))
    LLAVA_NEXT.export(model, tokenizer, tmp_path)
    example = PocketExamples(tokenizer, start=3, length=1, layout=LLAVA_NEXT.layout)[0]
    processor: Any = LlavaNextImageProcessorPil.from_pretrained(tmp_path)
    theirs = processor(Image.fromarray(example["pixels"].numpy()), return_tensors="pt")["pixel_values"][0]
    ours = normalise(model.crops({name: example[name][None] for name in ("pixels", "copy")}))[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", [QWEN2_5_VL, LLAVA_NEXT], ids=lambda a: a.name)
def test_a_new_run_starts_from_the_shipped_llava(architecture: Architecture, tmp_path: Path) -> None:
    tokenizer = architecture.tokenizer()
    model: Any = architecture.model(tokenizer)
    batch = {"text": torch.tensor([tokenizer.encode("which letter is red?").ids])}
    assert model.embed(batch["text"]).std() > 0.05, "trained embeddings, not the first random ones"
    trained = tmp_path / "joint.safetensors"
    save_file(model.state_dict(), trained)
    export_checkpoint(architecture, trained, tmp_path / "folder")
    assert sum(path.stat().st_size for path in (tmp_path / "folder").iterdir()) < 15e6


def test_the_command_line_offers_every_architecture() -> None:
    assert tuple(ARCHITECTURES) == pocket_command.ARCHITECTURES == weights.ARCHITECTURES
