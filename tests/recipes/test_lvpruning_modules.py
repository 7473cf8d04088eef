"""Trained modules meet the model they were trained for, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.load import load
from steadyvlm.pocket import weights
from steadyvlm.recipes import Recipe, accelerate, answer
from steadyvlm.recipes.lvpruning_modules import modules_sha256, resolve_modules
from steadyvlm.reduction.fastv import FastV
from steadyvlm.reduction.lvpruning import LVPruning
from steadyvlm.reduction.lvpruning_files import ModulesConfig, save_modules
from steadyvlm.study.backends.local import LocalSession
from tiny import VISUAL, make_image, save_tiny, tiny_llava

DEPTH = 6


def save_for(model: VisionLanguageModel, folder: Path, seed: int = 0) -> Path:
    """Modules for this very model, which nobody trained."""
    info = model.info
    layers, ratios = (1, 2, 3), (0.66, 0.35, 0.10)
    hashed = model.weights_sha256()
    config = ModulesConfig(info.name, hashed, info.width, info.num_layers, layers, ratios, inner=8, heads=2)
    torch.manual_seed(seed)
    save_modules(folder, config, config.make())
    return folder


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where registered modules are looked for."""
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    return tmp_path / "lvpruning"


def test_auto_finds_the_modules_of_the_very_model(shipped: Path) -> None:
    one, other = tiny_llava(layers=DEPTH), tiny_llava(layers=DEPTH, seed=1)
    save_for(other, shipped / "a")
    mine = save_for(one, shipped / "b")
    assert resolve_modules(LVPruning(mode="fixed"), one) == LVPruning(str(mine), mode="fixed")
    fast = accelerate(one, "lvpruning(mode='fixed')")
    assert str(fast.recipe) == "lvpruning(keep_ratios=None, mode='fixed', modules='auto')"
    result = answer(fast, make_image(1), "what colour is it?")
    assert result.cost.visual_tokens_per_layer == (VISUAL, 23, 12, 3, 3, 3)


def test_a_model_without_modules_is_told_how_to_train_them(shipped: Path) -> None:
    save_for(tiny_llava(layers=DEPTH), shipped / "a")
    with pytest.raises(
        Unsupported, match=r"no LVPruning modules were trained for 'tiny-llama'.*train lvpruning --model"
    ):
        accelerate(tiny_llava(layers=DEPTH, seed=1), "lvpruning")


def test_modules_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    folder = save_for(tiny_llava(layers=DEPTH), tmp_path)
    assert accelerate(tiny_llava(layers=DEPTH), Recipe.parse(f"lvpruning(modules={str(folder)!r})")).reduction
    with pytest.raises(CheckpointError, match=r"were trained for 'tiny-llama' with weights .* but 'tiny-llama' holds"):
        accelerate(tiny_llava(layers=DEPTH, seed=1), f"lvpruning(modules={str(folder)!r})")


def test_with_a_checkpoint_the_modules_belong_to_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "model", layers=DEPTH, seed=5)
    folder = save_for(load(checkpoint, device="cpu"), tmp_path / "modules")
    fast = accelerate(
        tiny_llava(layers=DEPTH), f"checkpoint(path={str(checkpoint)!r}) + lvpruning(modules={str(folder)!r})"
    )
    assert fast.model.weights_sha256() == load(checkpoint, device="cpu").weights_sha256()
    with pytest.raises(CheckpointError, match="were trained for"):
        accelerate(
            load(checkpoint, device="cpu"), f"lvpruning(modules={str(save_for(tiny_llava(layers=DEPTH), folder))!r})"
        )


def test_other_methods_pass_and_are_not_hashed() -> None:
    assert resolve_modules(None, tiny_llava()) is None
    assert resolve_modules(FastV(), tiny_llava()) == FastV()
    assert modules_sha256(FastV(), "any", "model") is None


def test_the_address_of_a_result_knows_which_modules_ran(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", layers=DEPTH)
    loaded = load(model, device="cpu")
    recipe = f"lvpruning(modules={str(save_for(loaded, tmp_path / 'modules'))!r})"
    session = LocalSession(str(model), device="cpu", dtype="float32")
    plain, first = session.weights_sha256("keep_all"), session.weights_sha256(recipe)
    assert plain == loaded.weights_sha256() == session.weights_sha256("fastv")
    assert first == session.weights_sha256(recipe) != plain
    save_for(loaded, tmp_path / "modules", seed=1)
    assert session.weights_sha256(recipe) not in (plain, first)
