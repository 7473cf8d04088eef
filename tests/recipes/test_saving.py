from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from low_bit_models import answers, save_source
from steadyvlm.errors import InvalidOption, Unsupported, UsageError
from steadyvlm.models.load import load
from steadyvlm.models.low_bit_config import transform_numbers
from steadyvlm.models.low_bit_files import saved_table
from steadyvlm.quantization.grid import Grid
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear, to_codes
from steadyvlm.recipes import AcceleratedModel, Recipe, accelerate
from steadyvlm.recipes.packed_size import original_size, packed_size
from steadyvlm.recipes.saving import save


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_source(tmp_path_factory.mktemp("models") / "source", "qwen2_5_vl")


@pytest.mark.parametrize(
    ("recipe", "dtype"),
    [
        ("rtn_w4a4", "model"),
        ("hadamard_w4a4(vision_edge_bits=8, transform_dtype='float32') + fastv(layer=1, keep_ratio=0.5)", "model"),
        ("rtn_w4a4(modules='vision', scale_dtype='float32', weight_bits=3)", "bfloat16"),
    ],
)
def test_a_saved_model_answers_as_this_one_and_is_as_large_as_counted(
    recipe: str, dtype: str, source: Path, tmp_path: Path
) -> None:
    original = load(source, device="cpu")
    fast = accelerate(original, recipe)
    saved = save(fast, tmp_path / "packed", dtype=dtype)
    loaded: Any = load(saved.folder, device="cpu")
    if dtype == "model":
        assert answers(loaded) == answers(fast.model)
    assert saved.format == "steadyvlm"
    assert saved.seconds > 0
    quantizer: Any = fast.recipe.build_quantizer()
    precision = torch.float32 if dtype == "model" else torch.bfloat16
    kept = transform_numbers(saved_table(saved.folder))
    assert (kept > 0) == ("hadamard" in recipe)
    assert packed_size(original, quantizer.settings, precision, kept).total == saved.numbers_bytes
    assert original_size(original, precision).total > saved.numbers_bytes
    reduction = "" if fast.recipe.reduction is None else f" + {fast.recipe.reduction}"
    again = accelerate(original, f"checkpoint(path={str(saved.folder)!r}){reduction}")
    if dtype == "model":
        assert answers(again.model) == answers(fast.model)
    assert again.reduction == fast.reduction


def test_weight_only_models_are_written_for_serving_engines(source: Path, tmp_path: Path) -> None:
    model: Any = load(source, device="cpu").copy()
    for path, linear in model.linears(("language",)).items():
        weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
        scale = weight.unflatten(1, (-1, 16)).abs().amax(dim=2) / 7
        placed = CalibratedLinear(to_codes(weight, scale, None, 4), scale, None, bias, Grid(4, 16))
        model.module.set_submodule(path, placed)
    fast = AcceleratedModel(model, Recipe.parse("gptq(group=16)"))
    saved = save(fast, tmp_path / "packed")
    assert saved.format == "compressed-tensors"
    assert 0 < saved.numbers_bytes < original_size(model, torch.float32).total
    settings = json.loads((saved.folder / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"


def test_what_has_no_saved_form_is_refused(source: Path, tmp_path: Path) -> None:
    original = load(source, device="cpu")
    with pytest.raises(Unsupported, match="models of 'rtn' have no saved form"):
        save(accelerate(original, "rtn(group=None)"), tmp_path / "out")
    with pytest.raises(Unsupported, match="nothing in it is quantised"):
        save(accelerate(original, "fastv(layer=1, keep_ratio=0.5)"), tmp_path / "out")
    fast = accelerate(original, "rtn_w4a4(modules='connector')")
    with pytest.raises(InvalidOption, match="dtype 'int4' is unknown"):
        save(fast, tmp_path / "out", dtype="int4")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="exists already"):
        save(fast, tmp_path)
