"""Joint recipes: built, written, read, deployed; and refused wherever something does not belong."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quota_recipes import recipe
from steadyvlm.calibration.quota import Schedule, resolve_schedule
from steadyvlm.engine import Request, generate
from steadyvlm.errors import CheckpointError
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import load
from steadyvlm.models.low_bit_files import About, write_module
from steadyvlm.models.new_folder import new_folder
from steadyvlm.quantization.rtn_w4a4 import RTNW4A4
from steadyvlm.quota.recipe_file import CalibrationIdentity
from steadyvlm.recipes import Recipe, accelerate
from steadyvlm.recipes.joint import check_joint, deploy, joint_sha256, load_joint, quota_of
from steadyvlm.recipes.joint_file import Packed, build_file
from steadyvlm.records import Generation
from steadyvlm.reduction.quota import Quota
from steadyvlm.registry import spec_of
from steadyvlm.seeding import bytes_hash
from steadyvlm.study.plan import recipe_address
from tiny import make_image, save_tiny

LAYERS = 8
EXAMPLES = tuple(Request((make_image(seed),), f"what colour is star {seed}?", seed) for seed in range(3))
IDENTITY = CalibrationIdentity("d" * 64, 3, 0)


@dataclass(frozen=True)
class Made:
    """A joint recipe in a folder, and all it was made from."""

    folder: Path
    source: Path
    model: Any
    low_bit: Any
    schedule: Schedule
    packed: Packed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("joint")
    source = save_tiny(root / "source", layers=LAYERS)
    model: Any = load(source, device="cpu")
    quantizer = RTNW4A4()
    low_bit = model.copy()
    quantizer.quantize_blocks(low_bit.blocks(quantizer.modules), low_bit.module)
    spec = spec_of(quantizer, "rtn_w4a4")
    folder = root / "made"
    with new_folder(folder / "model") as partial:
        about = About(str(spec), "tiny", model.weights_sha256())
        write_module(low_bit.module, low_bit.write_settings(partial), about, partial)
    schedule = resolve_schedule(Quota(), model, low_bit, EXAMPLES)
    packed = Packed(spec, folder_sha256(folder / "model"), kv_in_prefill=True)
    build_file(Quota(), schedule, model, packed, IDENTITY, EXAMPLES).save(folder / "recipe.json")
    return Made(folder, source, model, low_bit, schedule, packed)


def answers(model: Any, quota: Quota | None) -> list[tuple[Any, ...]]:
    found = generate(model, EXAMPLES, quota, max_new_tokens=3)
    assert all(isinstance(item, Generation) for item in found), found
    return [(item.token_ids, item.top, item.kept) for item in found if isinstance(item, Generation)]


def test_what_runs_is_the_very_model_and_schedule_that_were_saved(made: Made) -> None:
    joint = load_joint(made.folder)
    assert joint == load_joint(made.folder / "recipe.json")
    assert joint.quota == made.schedule.quota
    assert str(joint) == f"joint(path='{made.folder}/recipe.json')"
    target = deploy(joint, made.model)
    assert answers(target, joint.quota) == answers(made.low_bit, made.schedule.quota)
    assert answers(target, joint.quota) != answers(made.model, joint.quota)
    for asked in (joint, str(joint), Recipe(joint=str(made.folder))):
        fast = accelerate(made.model, asked)
        assert answers(fast.model, fast.reduction) == answers(target, joint.quota)  # type: ignore[arg-type]  # a Quota
    with pytest.raises(CheckpointError, match="was made for 'source'"):
        accelerate(load("pocket", device="cpu"), joint)


def test_the_file_says_nothing_about_where_it_was_made(made: Made) -> None:
    text = (made.folder / "recipe.json").read_text()
    assert str(made.source.parent) not in text
    assert load_joint(made.folder).file.model.name == "source"
    assert recipe_address(str(load_joint(made.folder))) == "joint", "what is in the file is hashed with the weights"
    assert joint_sha256(made.folder) == bytes_hash(text.encode())


def test_the_file_says_what_was_measured_and_what_it_costs(made: Made) -> None:
    file = load_joint(made.folder).file
    schedule = made.schedule
    assert file.allocation.schedule == "sensitivity"
    assert file.sensitivity.raw == tuple(schedule.measured.sensitivity[layer] for layer in file.candidates)
    assert file.profile == schedule.measured.profile
    assert (file.n_ref, file.n_ref_mode) == (36, "actual")
    assert file.allocation.keep_count[-1] == 11
    assert file.flops.text_proxy == round(schedule.measured.text_tokens)
    spent = [file.flops.ratio_visual_only, file.flops.ratio_llm_only, file.flops.ratio_with_vision]
    assert 0.3 < spent[0] < spent[1] < spent[2] < 1, "text and tower are not pruned"
    assert file.model.weights_sha256 == made.model.weights_sha256()


def test_equal_inputs_give_equal_bytes(made: Made, tmp_path: Path) -> None:
    schedule = resolve_schedule(Quota(), made.model, made.low_bit, EXAMPLES)
    build_file(Quota(), schedule, made.model, made.packed, IDENTITY, EXAMPLES).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (made.folder / "recipe.json").read_bytes()


@pytest.mark.parametrize(
    "asked",
    [
        Quota(tokens=36, tau=0.5, sensitivity_mode="propagated"),
        Quota(keep_ratios="uniform", apply="own", scope="image", floor=0.5, rounding="round"),
        Quota(layers=(2, 3), keep_ratios=(0.6, 0.4), weights=(0.5, 0.5, 0.0, 0.0), prune_cache=False),
        Quota(
            layers=(3,),
            percentiles=(0, 99),
            v_source="input",
            residual_domain="transformed",
            residual_bits=3,
            quant_relative=True,
            intra_causal_correction=True,
            k_min=2,
            sensitivity_rows="all",
        ),
    ],
)
def test_every_setting_survives_the_file(made: Made, tmp_path: Path, asked: Quota) -> None:
    schedule = resolve_schedule(asked, made.model, made.low_bit, EXAMPLES)
    file = build_file(asked, schedule, made.model, None, IDENTITY, EXAMPLES)
    file.save(tmp_path / "recipe.json")
    joint = load_joint(tmp_path)
    assert (joint.file, joint.quota) == (file, schedule.quota)
    assert quota_of(file) == schedule.quota
    assert deploy(joint, made.model) is made.model, "nothing is quantised"
    answers(made.low_bit, joint.quota)


Change = Callable[[dict[str, Any], Path], None]


def at(path: str, value: Any) -> Change:
    *parents, last = path.split(".")

    def change(plain: dict[str, Any], _: Path) -> None:
        for name in parents:
            plain = plain[name]
        plain[last] = value

    return change


def damage(_: dict[str, Any], folder: Path) -> None:
    path = next(folder.glob("model/*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def requantise(_: dict[str, Any], folder: Path) -> None:
    path = folder / "model" / "config.json"
    settings = json.loads(path.read_text())
    settings["quantization_config"]["quantizer"] = "rtn_w4a4(kv_bits=3)"
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (at("model.weights_sha256", "0" * 64), "weights: 000000000000"),
        (at("model.hidden_size", 64), "decoder width: 64.*has 32"),
        (at("quantiser.config_sha256", "0" * 64), "hash of another one"),
        (at("quantiser.artifact_sha256", "0" * 64), "made with 000000000000"),
        (at("quantiser.name", "rtn_w4a4(kv_bits=3)"), "hash of another one"),
        (lambda _, folder: shutil.rmtree(folder / "model"), "is not there"),
        (damage, "damaged or another one"),
        (requantise, r"holds rtn_w4a4\(kv_bits=3\)"),
        (at("reduction", "quota(layers=(2, 3))"), "its fields amount to"),
        (at("scoring.v_source", "input"), "its fields amount to"),
        (at("scoring.weights.inter", 0.5), "sum to"),
        (at("scoring.p_hi", 60.0), "all score 1"),
    ],
)
def test_what_does_not_belong_together_is_refused(made: Made, tmp_path: Path, change: Change, message: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(made.folder, folder)
    plain = json.loads((folder / "recipe.json").read_text())
    change(plain, folder)
    (folder / "recipe.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=message):
        deploy(load_joint(folder), made.model)


def test_another_model_is_refused_before_anything_is_loaded(made: Made, tmp_path: Path) -> None:
    joint = load_joint(made.folder)
    deeper: Any = load(save_tiny(tmp_path / "deeper", layers=LAYERS + 1), device="cpu")
    with pytest.raises(CheckpointError, match=r"decoder layers: 8\), and this model has 9.*steadyvlm calibrate"):
        deploy(joint, deeper)
    with pytest.raises(CheckpointError, match="weights"):
        check_joint(joint, "0" * 64, LAYERS, 32)


def test_a_file_that_agrees_with_itself_but_not_with_its_reduction_is_refused(tmp_path: Path) -> None:
    recipe().save(tmp_path / "recipe.json")
    with pytest.raises(CheckpointError, match="amount to"):
        load_joint(tmp_path)
    text = str(spec_of(quota_of(recipe()), "quota"))
    dataclasses.replace(recipe(), reduction=text).save(tmp_path / "recipe.json")
    assert load_joint(tmp_path).quota == quota_of(recipe())
    assert load_joint(tmp_path).quota.tokens == 576
