from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from low_bit_models import FAMILIES, answers, low_bit_model, random_states, save_source
from steadyvlm.cost.checkpoint_size import Packing, checkpoint_size
from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported, UsageError
from steadyvlm.models.checkpoint_sizes import inventory_of
from steadyvlm.models.llava import Llava
from steadyvlm.models.load import load
from steadyvlm.models.low_bit_files import VERSION, About, is_packed, write_module
from steadyvlm.models.new_folder import check_new_folder, new_folder
from steadyvlm.models.shards import INDEX, open_shards
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.install import install
from steadyvlm.quantization.low_bit import LowBitLinear
from steadyvlm.quantization.settings import LowBitSettings
from tiny import make_image_processor, make_module, make_tokenizer

ABOUT = About("flatquant()", "tiny", "0" * 64)


def write(model: Any, out: Path, **options: Any) -> Path:
    with new_folder(out) as partial:
        write_module(model.module, model.write_settings(partial), ABOUT, partial, **options)
    return out


def same_tensors(one: Any, two: Any) -> bool:
    left, right = one.module.state_dict(), two.module.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype for name in left
    )


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    return write(low_bit_model(save_source(folder / "source", "llava")), folder / "packed", shard_bytes=30_000)


@pytest.fixture
def copied(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copied"))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_loaded_is_what_was_saved(family: str, tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", family)
    model = low_bit_model(source, vision_edge_bits=8)
    out = write(model, tmp_path / "packed", shard_bytes=40_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    loaded = load(out, device="cpu")
    assert same_tensors(model, loaded)
    assert answers(model) == answers(loaded) != answers(load(source, device="cpu"))
    assert type(loaded) is type(model)
    assert loaded.info.eos_token_ids == model.info.eos_token_ids
    assert loaded.weights_sha256() != model.weights_sha256() == load(source, device="cpu").weights_sha256()
    again = write(loaded, tmp_path / "again")
    assert same_tensors(load(again, device="cpu"), model)


@pytest.mark.parametrize("options", [{"kv_bits": 16}, {"activation_bits": 16}, {"weight_bits": 8}, {"kv_bits": 6}])
def test_other_widths(options: dict[str, int], tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "llava"), **options, scale_dtype="float32", backend="fake")
    loaded = load(write(model, tmp_path / "packed"), device="cpu")
    assert same_tensors(model, loaded)
    assert answers(model) == answers(loaded)


def test_parts_that_were_left_alone_stay_as_they_were(tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "qwen2_5_vl"), parts=("connector",))
    loaded: Any = load(write(model, tmp_path / "packed"), device="cpu")
    assert [path for path, child in loaded.module.named_modules() if isinstance(child, LowBitLinear)] == [
        "model.visual.merger.mlp.0",
        "model.visual.merger.mlp.2",
    ]
    assert answers(model) == answers(loaded)


def test_a_model_made_in_memory_can_be_saved(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}SAY {{ m['content'] }} {% endfor %}:"
    model = Llava(make_module(), make_tokenizer(), make_image_processor(), template=template)
    blocks = model.blocks(("language",))
    install(blocks, random_states(blocks, model.module), model.module, LowBitSettings())
    loaded = load(write(model, tmp_path / "packed"), device="cpu")
    assert same_tensors(model, loaded)
    assert answers(model) == answers(loaded)
    assert model.tokenize("a star", 1) == loaded.tokenize("a star", 1)


def test_a_tied_head_is_stored_once_and_tied_again(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", "llava")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    untied = low_bit_model(source)  # the file holds a head of its own, and that counts
    assert same_tensors(load(write(untied, tmp_path / "untied"), device="cpu"), untied)
    tensors = load_file(source / "model.safetensors")
    del tensors[next(name for name in tensors if name.endswith("lm_head.weight"))]
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    model = low_bit_model(source)
    loaded: Any = load(write(model, tmp_path / "packed"), device="cpu")
    assert loaded.module.lm_head.weight is loaded.module.model.language_model.embed_tokens.weight
    with open_shards(tmp_path / "packed") as reader:
        assert "lm_head.weight" not in reader.table
    assert answers(model) == answers(loaded)


def test_half_precision_halves_what_is_not_packed(tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "llava"))
    loaded: Any = load(write(model, tmp_path / "packed", dtype="float16"), device="cpu")
    before, after = model.module.state_dict(), loaded.module.state_dict()
    for name, tensor in after.items():
        if tensor.dtype == torch.float32:
            assert torch.equal(tensor, before[name].half().float()), name
        else:
            assert torch.equal(tensor, before[name].to(tensor.dtype)), name
    assert after["model.language_model.embed_tokens.weight"].dtype == torch.float32
    assert after["model.multi_modal_projector.linear_1.bias"].dtype == torch.float16
    with open_shards(tmp_path / "packed") as reader:
        assert torch.float32 not in {place.dtype for place in reader.table.values()}
    lower: Any = load(tmp_path / "packed", device="cpu", dtype="bfloat16")
    assert lower.module.lm_head.weight.dtype == torch.bfloat16
    assert lower.module.model.multi_modal_projector.linear_1.scale.dtype == torch.float16


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("transforms", ["none", "flatquant"])
def test_the_counter_agrees_with_what_is_written(family: str, transforms: Any, tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", family)
    model: Any = load(source, device="cpu").copy()
    blocks = model.blocks(("language", "connector", "vision"))
    states = random_states(blocks, model.module) if transforms == "flatquant" else {}
    install(blocks, states, model.module, LowBitSettings())
    (tmp_path / "out").mkdir()
    written = write_module(model.module, {}, ABOUT, tmp_path / "out", dtype="float16")
    tower = sum(block.part == "vision" for block in blocks)
    packing = Packing(parts=("language", "connector", "vision"), transforms=transforms, vision_layers=tower)
    assert checkpoint_size(inventory_of(model.module.config), packing).total == written


def test_a_text_tower_beside_the_weights_comes_along(tmp_path: Path) -> None:
    source = save_source(tmp_path / "source", "llava")
    (source / "clip_text").mkdir()
    (source / "clip_text" / "model.safetensors").write_bytes(b"text tower")
    (source / "clip_text").chmod(0o700)
    (source / "notes.md").write_text("left behind")
    out = write(low_bit_model(source), tmp_path / "packed")
    assert (out / "clip_text" / "model.safetensors").read_bytes() == b"text tower"
    assert (out / "clip_text").stat().st_mode == source.stat().st_mode, "a new folder, as any other"
    assert not (out / "notes.md").exists()


def test_an_original_is_not_taken_for_a_packed_one(packed: Path) -> None:
    assert is_packed(packed)
    assert not is_packed(packed.parent / "source")


def edit_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def edit_settings(folder: Path, change: Callable[[dict[str, Any]], None], *, sign: bool) -> None:
    from steadyvlm.models.low_bit_config import digest

    def both(config: dict[str, Any]) -> None:
        settings = config["quantization_config"]
        change(settings)
        if sign:
            settings["sha256"] = digest({key: value for key, value in settings.items() if key != "sha256"})

    edit_config(folder, both)


def refused(folder: Path, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load(folder, device="cpu")


def test_a_newer_version_is_refused(copied: Path) -> None:
    edit_settings(copied, lambda settings: settings.update(version=VERSION + 1), sign=True)
    refused(copied, f"of version {VERSION + 1}; this steadyvlm reads version {VERSION}")


DOWN = "model.language_model.layers.0.mlp.down_proj"
NORM = "model.language_model.layers.0.input_layernorm"
CACHE = "model.language_model.layers.0.self_attn.kv_quantizer"


def test_edited_bits_are_refused(copied: Path) -> None:
    edit_settings(copied, lambda settings: settings["modules"][DOWN].update(weight_bits=8), sign=False)
    refused(copied, "edited after it was written")
    edit_settings(copied, lambda settings: None, sign=True)
    refused(copied, rf"'{DOWN}\.packed' .* is uint8 \[32, 24\]; config.json describes int8 \[32, 48\]")


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (DOWN, {"shape": [32, 50]}),
        (DOWN, {"bias": "float16"}),
        (DOWN, {"weight_bits": 1}),
        (DOWN, {"kind": "pickle"}),
        (DOWN, {"activation_clip": [2.0, float("nan")]}),
        (DOWN, {"activation_clip": [1, 1]}),
        (DOWN, {"scale": "float8"}),
        (DOWN, {"transform": {"left": 5, "right": 8, "scale": None, "format": "float16"}}),
        (DOWN, {"transform": {"left": 4, "right": 6, "scale": None, "format": "float16"}}),
        (NORM, {"kind": "cache"}),
        (NORM, {"kind": "linear"}),
        (NORM, {"transform": None}),
        (CACHE, {"bits": 99}),
        (CACHE, {"kind": "norm"}),
        (DOWN, {"kind": "norm"}),
    ],
)
def test_rows_that_fit_no_module_are_refused(copied: Path, path: str, change: dict[str, Any]) -> None:
    edit_settings(copied, lambda settings: settings["modules"][path].update(change), sign=True)
    refused(copied, f"describes '{path}' as .* does not fit this model")


@pytest.mark.parametrize("row", ["text", 3, None, [], {"kind": "linear", "shape": [32, 2**70]}])
def test_rows_that_are_no_rows_are_refused(copied: Path, row: Any) -> None:
    edit_settings(copied, lambda settings: settings["modules"].update({DOWN: row}), sign=True)
    refused(copied, f"describes '{DOWN}' as .* does not fit this model")


@pytest.mark.parametrize("change", [{"dtype": "int4"}, {"dtype": None}, {"modules": []}])
def test_settings_that_say_too_little_are_refused(copied: Path, change: dict[str, Any]) -> None:
    edit_settings(copied, lambda settings: settings.update(change), sign=True)
    refused(copied, "lacks its dtype or its modules")


def test_a_configuration_that_describes_no_model_is_refused(copied: Path) -> None:
    edit_config(copied, lambda config: config["text_config"].update(hidden_act="no such activation"))
    refused(copied, "describes no LlavaForConditionalGeneration that can be built")


def test_a_module_that_stands_where_none_was_has_no_saved_form(tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "llava"), parts=("connector",))
    model.module.model.multi_modal_projector.linear_1.transform = torch.nn.Identity()
    with pytest.raises(Unsupported, match="transform of kind Identity"):
        write(model, tmp_path / "packed")
    model.module.extra = torch.nn.Identity()
    model.module.model.multi_modal_projector.linear_1.transform = None
    with pytest.raises(Unsupported, match="'extra' is a Identity"):
        write(model, tmp_path / "packed")


def test_another_number_of_layers_is_refused(copied: Path) -> None:
    edit_config(copied, lambda config: config["text_config"].update(num_hidden_layers=5))
    refused(copied, r"lack 9 tensors of the model .*another number of layers")
    edit_config(copied, lambda config: config["text_config"].update(num_hidden_layers=3))
    refused(copied, r"layers\.3\.\S+' as .* does not fit this model")


def test_another_architecture_is_refused(copied: Path) -> None:
    edit_settings(copied, lambda settings: settings.update(architecture="Qwen2VLForConditionalGeneration"), sign=True)
    refused(copied, "was packed from a Qwen2VLForConditionalGeneration, and its config.json describes a Llava")


def test_a_configuration_of_another_model_is_refused(copied: Path) -> None:
    edit_config(copied, lambda config: config.update(model_type="llava_next", image_grid_pinpoints=[[24, 48]]))
    refused(copied, "says it is a LlavaForConditionalGeneration|no image processor|architecture")


def test_a_missing_file_is_refused(copied: Path) -> None:
    first = min(copied.glob("*.safetensors"))
    first.unlink()
    refused(copied, f"lacks 1 of .* weight files .*{first.name}.*not finished")


def test_a_file_cut_short_is_refused(copied: Path) -> None:
    last = max(copied.glob("*.safetensors"))
    last.write_bytes(last.read_bytes()[:-100])
    refused(copied, f"{last.name}' cannot be read: .*cut short; copy it again")


def test_missing_and_extra_tensors_are_refused(copied: Path) -> None:
    (copied / INDEX).unlink()
    last = max(copied.glob("*.safetensors"))
    tensors = load_file(last)
    name = min(tensors)
    save_file({**tensors, "spare": torch.zeros(1)}, last)
    refused(copied, r"hold 1 tensors the model has no place for \(spare")
    save_file({key: value for key, value in tensors.items() if key != name}, last)
    refused(copied, rf"lack 1 tensors of the model \({name}")


def test_a_tensor_of_another_shape_or_format_is_refused(copied: Path) -> None:
    file = next(path for path in copied.glob("*.safetensors") if "lm_head.weight" in load_file(path))
    tensors = load_file(file)
    head = tensors["lm_head.weight"]
    save_file({**tensors, "lm_head.weight": head[:-1].clone()}, file)
    refused(copied, r"'lm_head\.weight' in .* is float32 \[\d+, 32\]; config.json describes float32")
    save_file({**tensors, "lm_head.weight": head.half()}, file)
    refused(copied, "is float16 .*describes float32")


def test_nothing_is_overwritten(packed: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in packed.iterdir())
    with pytest.raises(UsageError, match="exists already, and nothing is overwritten"), new_folder(packed):
        pass
    assert sorted(path.name for path in packed.iterdir()) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot be written: .*file' takes nothing new"):
        check_new_folder(tmp_path / "file" / "out")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exists already"):
        check_new_folder(tmp_path / "link")
    check_new_folder(tmp_path / "some" / "new" / "place")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, **_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(UsageError, match="takes nothing new"):
            check_new_folder(tmp_path / "out")
    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(UsageError, match="cannot be written: No space left"), new_folder(tmp_path / "out"):
        pass


def test_what_was_made_survives_a_place_that_was_taken_meanwhile(tmp_path: Path) -> None:
    def taken() -> None:
        with new_folder(tmp_path / "out") as partial:
            (partial / "model.safetensors").write_text("hours of work")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "other").write_text("")

    with pytest.raises(UsageError, match=r"cannot be written any more: .* complete in '.*\.partial'"):
        taken()
    (kept,) = (path for path in tmp_path.iterdir() if path.name != "out")
    assert (kept / "model.safetensors").read_text() == "hours of work"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["other"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as partial:
            (partial / "model.safetensors").write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_modules_of_other_quantisers_have_no_saved_form(tmp_path: Path) -> None:
    model: Any = load(save_source(tmp_path / "source", "llava"), device="cpu").copy()
    rtn: Any = QUANTIZERS.create("rtn(bits=4, group=16)")
    rtn.quantize(model.linears(("language",)), model.module)
    with pytest.raises(Unsupported, match=r"'model\.language_model\.layers\.0\.self_attn\.q_proj' is a RoundedLinear"):
        write(model, tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_mixed_precision_is_refused_and_low_bit_biases_are_not(tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "llava"))
    model.module.to(torch.bfloat16)
    assert model.module.model.multi_modal_projector.linear_1.bias.dtype == torch.float32
    loaded = load(write(model, tmp_path / "packed"), device="cpu", dtype="bfloat16")
    assert same_tensors(model, loaded)
    model.module.lm_head.float()
    with pytest.raises(
        Unsupported, match=r"'lm_head\.weight' is held in torch\.float32 and the model in torch\.bfloat16"
    ):
        write(model, tmp_path / "mixed")


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    model = low_bit_model(save_source(tmp_path / "source", "llava"), parts=("connector",))
    with pytest.raises(InvalidOption, match=r"dtype 'float8' is unknown\. Use model, float32"):
        write(model, tmp_path / "packed", dtype="float8")
