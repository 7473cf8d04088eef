"""LLaVA-Med in its authors' layout answers as the same weights in transformers' layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from steadyvlm.engine import Request, generate
from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.llava import Llava
from steadyvlm.models.llava_original import TEMPLATE
from steadyvlm.models.load import load
from steadyvlm.records import Generation
from tiny import SIDE, make_config, make_image, make_tokenizer
from tiny_families import randomise

TOWER = "model.vision_tower.vision_tower.vision_model."
THEIRS = {
    "model.vision_tower.": TOWER,
    "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
    "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
    "model.language_model.": "model.",
}


def make_module() -> Any:
    config = make_config("mistral")
    config.vision_config.hidden_size, config.vision_config.num_attention_heads = 64, 1  # CLIP's heads are 64 wide
    return randomise(LlavaForConditionalGeneration(config))


def original_name(name: str) -> str:
    for ours, theirs in THEIRS.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


@pytest.fixture(scope="module")
def module() -> Any:
    return make_module()


@pytest.fixture
def folder(module: Any, tmp_path: Path) -> Path:
    """A checkpoint as the authors' code writes it, in two files."""
    weights = {original_name(name): value.clone() for name, value in module.state_dict().items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, tmp_path / f"model-0000{number}-of-00002.safetensors")
    make_tokenizer(None).save_pretrained(tmp_path)
    text = module.config.text_config
    settings = {
        "architectures": ["LlavaMistralForCausalLM"],
        "model_type": "llava_mistral",
        "image_aspect_ratio": "pad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "rope_theta": text.rope_parameters["rope_theta"],
        **{name: getattr(text, name) for name in ("vocab_size", "hidden_size", "intermediate_size", "rms_norm_eps")},
        **{name: getattr(text, name) for name in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")},
        **{name: getattr(text, name) for name in ("max_position_embeddings", "sliding_window", "hidden_act")},
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rewrite(folder: Path, keep: Any) -> None:
    for path in folder.glob("*.safetensors"):
        save_file({name: value for name, value in load_file(path).items() if keep(name)}, path)


def test_it_answers_as_the_converted_checkpoint_would(module: Any, folder: Path) -> None:
    processor = LlavaImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, do_pad=True
    )
    converted = Llava(module, make_tokenizer(None), processor, template=TEMPLATE)
    original = load(folder, device="cpu")
    requests = [Request((make_image(1, 60, 40),), "what colour is it?", 1), Request((), "how", 1)]
    got, expected = (generate(model, requests, max_new_tokens=6) for model in (original, converted))
    for mine, theirs in zip(got, expected, strict=True):
        assert isinstance(mine, Generation)
        assert isinstance(theirs, Generation)
        assert mine.token_ids == theirs.token_ids
    assert original.info.family == "llava/clip_vision_model/mistral"
    assert original.weights_sha256() == load(folder, device="cpu").weights_sha256()
    state = original.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_the_prompt_is_the_one_the_authors_evaluate_with(folder: Path) -> None:
    model: Any = load(folder, device="cpu")
    assert model._prompts.render("what colour?", 1) == "[INST] <image>\nwhat colour? [/INST]"


def test_the_picture_is_padded_about_its_middle(folder: Path) -> None:
    model = load(folder, device="cpu")
    (shown,) = model.pictures(model.preprocess(Image.new("RGB", (48, 16), "white")))
    levels = np.asarray(shown.convert("L")).astype(int)
    assert (levels[10:14] > 250).all()
    assert abs(levels[:6].mean() - 114) < 6, "the edges have CLIP's mean colour"
    assert (levels[::-1] == levels).all()
    edit(folder, image_aspect_ratio=None)
    cropped = load(folder, device="cpu")
    (shown,) = cropped.pictures(cropped.preprocess(Image.new("RGB", (48, 16), "white")))
    assert np.asarray(shown).min() > 250


def test_an_image_token_is_added_behind_a_vocabulary_without_one(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.write_text(path.read_text().replace("<image>", "<other>"))
    model: Any = load(folder, device="cpu")
    vocabulary = model.info.vocabulary
    assert model._module.config.image_token_id == vocabulary
    assert model.tokenize("what?", 1).count(-1) == 1
    (result,) = generate(model, [Request((make_image(1),), "what?", 1)], max_new_tokens=2)
    assert isinstance(result, Generation)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_vision_select_feature", "cls_patch"),
        ("mm_use_im_start_end", True),
        ("image_aspect_ratio", "anyres"),
    ],
)
def test_other_variants_of_the_layout_are_refused(folder: Path, setting: str, value: Any) -> None:
    edit(folder, **{setting: value})
    with pytest.raises(Unsupported, match=f"{setting} {value!r}.*llava-hf/llava-v1.6-mistral-7b-hf"):
        load(folder, device="cpu")


def test_damaged_checkpoints_are_refused(folder: Path) -> None:
    rewrite(folder, lambda name: name != "model.norm.weight")
    with pytest.raises(CheckpointError, match=r"lack 1 tensors .*norm"):
        load(folder, device="cpu")
    edit(folder, hidden_size=64)
    with pytest.raises(CheckpointError, match=r"do not fit config\.json"):
        load(folder, device="cpu")
    rewrite(folder, lambda name: "position_embedding" not in name)
    with pytest.raises(CheckpointError, match=r"the vision tower lacks .*position_embedding"):
        load(folder, device="cpu")
    rewrite(folder, lambda name: "vision_tower" not in name)
    with pytest.raises(CheckpointError, match=r"hold no vision tower.*convert_llava_weights_to_hf\.py"):
        load(folder, device="cpu")
    for path in folder.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(folder, device="cpu")


def test_pickles_are_refused_here_too(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="pickle"):
        load(folder, device="cpu")
