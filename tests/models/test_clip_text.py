"""Relevance is what a whole CLIP computes for its own patches and text, and a tower that does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModelWithProjection

from steadyvlm.errors import CheckpointError
from steadyvlm.models import clip_text
from steadyvlm.models.clip_text import load_space, relevance, text_tower_folder
from tiny import make_tokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 10,
    "projection_dim": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
VISION: dict[str, Any] = {
    "hidden_size": 20,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
    "projection_dim": 12,
}


def make_clip(seed: int = 0) -> CLIPModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)).eval()
        for weight in clip.parameters():
            weight.data += 0.1 * torch.randn_like(weight)
    return clip


@pytest.fixture(autouse=True)
def _forget() -> None:
    load_space.cache_clear()


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return make_clip()


@pytest.fixture
def published(clip: CLIPModel, tmp_path: Path) -> Path:
    """A full CLIP checkpoint as the hub holds it."""
    clip.save_pretrained(tmp_path / "clip")
    make_tokenizer().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def beside(clip: CLIPModel, tmp_path: Path) -> Path:
    """A model folder with its tokenizer and a folder `clip_text`, as the pocket model ships them, in bfloat16."""
    model = tmp_path / "model"
    tower = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT))
    names = set(tower.state_dict())
    tower.load_state_dict({name: weight for name, weight in clip.state_dict().items() if name in names})
    tower.bfloat16().save_pretrained(model / "clip_text")
    save_file(
        {"visual_projection.weight": clip.visual_projection.weight.detach().bfloat16().contiguous()},
        model / "clip_text" / "visual_projection.safetensors",
    )
    make_tokenizer().save_pretrained(model)
    return model


def patch_rows(seed: int = 1) -> torch.Tensor:
    return torch.randn(9, 20, generator=torch.Generator().manual_seed(seed))


def expected(clip: CLIPModel, rows: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """By the definitions, from the whole model: LayerNorm and projection of each patch, dot with the text."""
    with torch.no_grad():
        pooled = clip.text_model(input_ids=torch.tensor([ids])).pooler_output
        text = clip.text_projection(pooled)[0].double()
        norm = clip.vision_model.post_layernorm
        wide = rows.double()
        centred = (wide - wide.mean(1, keepdim=True)) / (wide.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        normed = centred * norm.weight.double() + norm.bias.double()
        projected = normed @ clip.visual_projection.weight.double().T
    return torch.stack([(row * text).sum() for row in projected])


def ids_of(question: str) -> list[int]:
    ids: list[int] = make_tokenizer()(question, add_special_tokens=False)["input_ids"]
    return [*ids[:9], 2]


@pytest.mark.parametrize("question", ["red", "star red", "what colour is the big red star over there?"])
def test_a_published_clip_gives_its_own_products(clip: CLIPModel, published: Path, question: str) -> None:
    rows = patch_rows()
    found = relevance(str(published), None, clip.vision_model, rows, question)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected(clip, rows, ids_of(question)), atol=1e-4, rtol=1e-4)


def test_low_precision_rows_are_widened(clip: CLIPModel, published: Path) -> None:
    rows = patch_rows().bfloat16()
    found = relevance(str(published), None, clip.vision_model, rows, "red")
    assert torch.equal(found, relevance(str(published), None, clip.vision_model, rows.float(), "red"))


def test_a_folder_beside_the_weights_is_found_and_shares_the_tokenizer(clip: CLIPModel, beside: Path) -> None:
    rows = patch_rows()
    found = relevance("auto", beside, clip.vision_model, rows, "red star")
    near = expected(clip, rows, ids_of("red star"))
    assert torch.corrcoef(torch.stack([found.double(), near]))[0, 1] > 0.999, "bfloat16 weights, the same ranking"
    assert torch.equal(found, relevance(str(beside), None, clip.vision_model, rows, "red star"))
    assert torch.equal(found, relevance(str(beside / "clip_text"), None, clip.vision_model, rows, "red star"))


def test_a_long_question_is_cut_and_closed(published: Path) -> None:
    space = load_space(str(published), "cpu")
    long = space.token_ids("what colour is the star " * 20)
    assert len(long) == 10
    assert long[-1] == 2
    assert long.count(2) == 1
    assert space.token_ids("") == [2]


def test_a_tower_is_read_once_and_leaves_the_callers_lot_alone(published: Path) -> None:
    before = torch.random.get_rng_state()
    first = load_space(str(published), "cpu")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert load_space(str(published), "cpu") is first
    assert not any(weight.requires_grad for weight in first.text.parameters())


def test_the_sizes_of_a_tower_tell_its_clip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def find(source: str) -> Path:
        asked.append(source)
        return tmp_path

    monkeypatch.setattr(clip_text, "find_folder", find)
    config = make_clip().config.vision_config
    for name, value in (("num_hidden_layers", 24), ("hidden_size", 1024), ("image_size", 336), ("patch_size", 14)):
        setattr(config, name, value)
    assert text_tower_folder("auto", tmp_path / "model", config) == tmp_path
    assert asked == ["openai/clip-vit-large-patch14-336"]


def test_a_tower_of_unknown_size_has_no_clip(clip: CLIPModel, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        with pytest.raises(CheckpointError, match=r"3 layers of width 20, 12 pixels.*text_tower='folder or hub id'"):
            relevance("auto", folder, clip.vision_model, patch_rows(), "red")


def test_widths_have_to_match(clip: CLIPModel, published: Path) -> None:
    with pytest.raises(CheckpointError, match=r"width 20, but this vision tower has width 24"):
        relevance(str(published), None, clip.vision_model, torch.randn(9, 24), "red")


def test_pickles_are_not_opened(clip: CLIPModel, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    with pytest.raises(CheckpointError, match=r"no safetensors.*never loaded.*CLIPModel.from_pretrained"):
        relevance(str(tmp_path), None, clip.vision_model, patch_rows(), "red")


def test_a_missing_projection_is_named(clip: CLIPModel, beside: Path) -> None:
    (beside / "clip_text" / "visual_projection.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no 'visual_projection.weight'"):
        relevance("auto", beside, clip.vision_model, patch_rows(), "red")


def test_projections_of_different_checkpoints_are_told_apart(clip: CLIPModel, beside: Path) -> None:
    save_file({"visual_projection.weight": torch.ones(7, 20)}, beside / "clip_text" / "visual_projection.safetensors")
    with pytest.raises(CheckpointError, match="text is projected to width 12 and patches to 7"):
        relevance("auto", beside, clip.vision_model, patch_rows(), "red")


def test_missing_text_weights_are_named(clip: CLIPModel, published: Path) -> None:
    weights = load_file(published / "model.safetensors")
    left = {name: weight for name, weight in weights.items() if "text_model.encoder.layers.1." not in name}
    save_file(left, published / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks 16 tensors \(text_model.encoder.layers.1"):
        relevance(str(published), None, clip.vision_model, patch_rows(), "red")


def test_weights_of_another_size_are_refused(clip: CLIPModel, published: Path) -> None:
    weights = load_file(published / "model.safetensors")
    weights["text_projection.weight"] = torch.ones(3, 3)
    save_file(weights, published / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"the CLIP text tower .* cannot be read: .*size mismatch"):
        relevance(str(published), None, clip.vision_model, patch_rows(), "red")


def test_a_damaged_file_is_named(clip: CLIPModel, published: Path) -> None:
    (published / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match=r"model.safetensors' cannot be read.*Fetch it again"):
        relevance(str(published), None, clip.vision_model, patch_rows(), "red")


def test_a_tower_without_tokenizer_is_refused(clip: CLIPModel, beside: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (beside / name).unlink()
    with pytest.raises(CheckpointError, match="no usable tokenizer for the text tower"):
        relevance("auto", beside, clip.vision_model, patch_rows(), "red")
