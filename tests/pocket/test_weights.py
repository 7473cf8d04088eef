"""The shipped model is what its card says: small, safe to load, good at its benchmark, blind without its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from steadyvlm.errors import CheckpointError, UnknownName
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.load import load
from steadyvlm.pocket import weights
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.pocket.evaluate import as_table, evaluate
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.training.data import caption_ids
from steadyvlm.pocket.training.model import normalise
from steadyvlm.pocket.weights import ARCHITECTURES, next_path, pocket_path, qwen_path


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load("pocket", device="cpu", dtype="float32")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_folder_is_small_and_holds_only_safetensors_and_text(architecture: str) -> None:
    files = [path for path in pocket_path(architecture).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja"}


def test_a_sample_of_the_benchmark_scores_far_above_every_blind_control(model: VisionLanguageModel) -> None:
    scores = evaluate(model, PocketTask(split="validation", limit=250))
    overall = scores["all"]
    assert overall.n == 250
    assert overall.score > 0.8
    assert max(overall.prior, overall.blank, overall.mismatched) < 0.45
    assert as_table(scores).count("\n") == len(scores) + 1


@pytest.mark.parametrize("name", ["pocket-qwen", "pocket-next"])
def test_the_other_architectures_score_far_above_every_blind_control(name: str) -> None:
    overall = evaluate(load(name, device="cpu", dtype="float32"), PocketTask(split="validation", limit=60))["all"]
    assert overall.score > 0.8
    assert max(overall.prior, overall.blank, overall.mismatched) < 0.45


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="--architecture llava_next"):
        next_path()
    with pytest.raises(UnknownName, match="qwen2_5_vl"):
        pocket_path("qwen")


def test_qwen_names_its_picture_tokens_for_processors() -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen_path())
    assert (tokenizer.image_token, tokenizer.video_token) == ("<image>", "<|video_pad|>")


def test_the_tokenizer_renders_the_prompt_of_training(model: VisionLanguageModel) -> None:
    tokenizer = AutoTokenizer.from_pretrained(pocket_path())
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "how many stars?"}]}
    rendered = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    assert rendered == "<s>USER: <image>\nhow many stars?\nASSISTANT:"


@torch.no_grad()
def test_the_text_tower_finds_the_scene_of_a_caption(model: VisionLanguageModel) -> None:
    folder: Path = pocket_path() / "clip_text"
    text_tower = CLIPTextModelWithProjection.from_pretrained(folder).float()
    projection = load_file(folder / "visual_projection.safetensors")["visual_projection.weight"].float()
    scenes = [make_scene("validation", n) for n in range(48)]
    tokenizer = AutoTokenizer.from_pretrained(pocket_path()).backend_tokenizer
    rng = np.random.default_rng(0)
    captions = torch.from_numpy(np.stack([caption_ids(tokenizer, scene, rng) for scene in scenes]))
    tower = model.module.model.vision_tower  # type: ignore[attr-defined]
    pixels = normalise(torch.from_numpy(np.stack([scene.pixels for scene in scenes])))
    pictures = torch.nn.functional.normalize(tower(pixels).pooler_output @ projection.T, dim=-1)
    texts = torch.nn.functional.normalize(text_tower(input_ids=captions).text_embeds, dim=-1)
    found = (texts @ pictures.T).argmax(dim=1) == torch.arange(len(scenes))
    assert found.float().mean() > 0.9
