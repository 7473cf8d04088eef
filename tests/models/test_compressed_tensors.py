"""Models written in the compressed-tensors format answer the same, bit for bit, when they are read again."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

from steadyvlm.engine import Request, generate
from steadyvlm.errors import CheckpointError, MissingDependency, Unsupported, UsageError
from steadyvlm.models.adapter import Part
from steadyvlm.models.compressed_tensors import save_compressed, to_words
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.llava import Llava
from steadyvlm.models.load import load
from steadyvlm.quantization.grid import Grid, quantize
from steadyvlm.quantization.llm_int8 import LLMInt8
from steadyvlm.quantization.rtn import RTN
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear
from tiny import make_image, make_image_processor, make_module, make_tokenizer
from tiny_families import make_family

needs_format = pytest.mark.skipif(
    importlib.util.find_spec("compressed_tensors") is None, reason="compressed-tensors is not installed"
)
PARTS: tuple[Part, ...] = ("language", "connector", "vision")
REQUESTS = [Request((make_image(seed, 40, 30 + 10 * seed),), "what colour is the star ?") for seed in range(2)]


def packed(family: str, grid: Grid, parts: tuple[Part, ...] = ("language",)) -> Any:
    """A tiny model whose linears were rounded to nearest, held as gptq and awq hold theirs."""
    fresh = Llava(make_module(), make_tokenizer(), make_image_processor()) if family == "llava" else make_family(family)
    model: Any = fresh
    for name, linear in model.linears(parts).items():
        found = quantize(linear.weight.detach(), grid)
        shift = 0 if grid.symmetric else 1 << (grid.bits - 1)  # unsigned codes here, signed ones there
        zero = None if found.zero is None else found.zero - shift
        bias = None if linear.bias is None else linear.bias.detach()
        rounded = CalibratedLinear(found.codes - shift, found.scale.float(), zero, bias, grid)
        model.module.set_submodule(name, rounded.eval())
    return model


def answers(model: Any) -> list[Any]:
    return [(item.token_ids, item.top) for item in generate(model, REQUESTS, None, max_new_tokens=3)]


@needs_format
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grid", [Grid(4, 8), Grid(4, 8, symmetric=False), Grid(3, None, symmetric=False)])
def test_a_model_that_was_written_and_read_answers_the_same(
    family: str, grid: Grid, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts: tuple[Part, ...] = ("language",) if grid.bits == 4 else PARTS
    model = packed(family, grid, parts)
    total = save_compressed(model, tmp_path / "out")
    read: Any = load(tmp_path / "out", device="cpu", dtype="float32")
    assert answers(read) == answers(model)
    for name, linear in read.linears(PARTS).items():
        assert type(linear) is (CalibratedLinear if name in model.linears(parts) else nn.Linear)
    assert total == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors")) - headers(tmp_path)
    assert capfd.readouterr() == ("", "")
    again = save_compressed(read, tmp_path / "again")  # nothing of the backend stays, so it can be written once more
    assert again == total
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "out/model.safetensors").read_bytes()


def headers(folder: Path) -> int:
    return sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in (folder / "out").glob("*.safetensors"))


@needs_format
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("width", [32, 33, 7])
def test_words_are_those_of_the_compressed_tensors_package(bits: int, width: int) -> None:
    packing: Any = importlib.import_module("compressed_tensors.compressors.pack_quantized.helpers")
    limit = 1 << (bits - 1)
    codes = torch.randint(-limit, limit, (300, width), generator=torch.Generator().manual_seed(width)).to(torch.int8)
    assert torch.equal(to_words(codes, bits), packing.pack_to_int32(codes, bits))


@needs_format
def test_names_are_those_of_published_checkpoints_and_all_else_is_left_out_by_name(tmp_path: Path) -> None:
    save_compressed(packed("llava", Grid(4, 8, symmetric=False)), tmp_path / "out")
    settings = json.loads((tmp_path / "out/config.json").read_text())["quantization_config"]
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        names = set(file.keys())
        first = "language_model.model.layers.0.self_attn.q_proj."
        found = {name.removeprefix(first) for name in names if name.startswith(first)}
        assert found == {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"}
        assert file.get_tensor(first + "weight_shape").tolist() == [32, 32]
        assert file.get_slice(first + "weight_packed").get_shape() == [32, 4]
        assert file.get_slice(first + "weight_zero_point").get_shape() == [4, 4]
    assert settings["format"] == "pack-quantized"
    assert settings["config_groups"]["group_0"]["targets"] == ["Linear"]
    left = {name.removesuffix(".weight") for name in names if name.endswith((".weight", "proj.weight"))}
    linears = {name for name in left if "vision" in name or "linear_" in name or "lm_head" in name}
    ignored = set(settings["ignore"])
    assert {name for name in linears if "norm" not in name and "embed" not in name} <= ignored
    assert {"lm_head", "language_model.lm_head", "multi_modal_projector.linear_1"} <= ignored
    assert not [name for name in ignored if "layers.0.self_attn.q_proj" in name and "vision" not in name]


@needs_format
def test_large_models_come_in_several_files_and_read_the_same(tmp_path: Path) -> None:
    model = packed("qwen2_5_vl", Grid(4, 8))
    save_compressed(model, tmp_path / "out", shard_bytes=40_000)
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 2
    assert answers(load(tmp_path / "out", device="cpu", dtype="float32")) == answers(model)


def test_nothing_is_overwritten_and_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = packed("llava", Grid(4, 8))
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        save_compressed(model, tmp_path / "out")
    plain: Any = Llava(make_module(), make_tokenizer(), make_image_processor())
    with pytest.raises(Unsupported, match="gptq or awq, and there is none"):
        save_compressed(plain, tmp_path / "none")
    RTN(group=8, modules=("connector",)).quantize(model.linears(("connector",)), model.module)
    with pytest.raises(Unsupported, match=r"'model\.multi_modal_projector\.linear_1' is a RoundedLinear"):
        save_compressed(model, tmp_path / "none")
    mixed = packed("llava", Grid(4, 8))
    other = packed("llava", Grid(8, 8), ("connector",)).module.get_submodule("model.multi_modal_projector")
    mixed.module.set_submodule("model.multi_modal_projector", other)
    with pytest.raises(Unsupported, match="2 different grids"):
        save_compressed(mixed, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@needs_format
def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_compressed(packed("llava", Grid(4, 8)), tmp_path / "out")
    tensors = load_file(tmp_path / "out/model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="lack 1 tensors"):
        load(tmp_path / "out", device="cpu", dtype="float32")


@needs_format
def test_formats_with_low_bit_activations_run_as_their_package_runs_them(tmp_path: Path) -> None:
    """Here weights of 8 bits with activations of 8 bits: not replaced, and unpacked before the engine runs them."""
    model = packed("llava", Grid(8, None))
    save_compressed(model, tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    scheme = config["quantization_config"]["config_groups"]["group_0"]
    scheme["input_activations"] = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "strategy": "token",
        "dynamic": True,
    }
    (tmp_path / "out/config.json").write_text(json.dumps(config))
    read: Any = load(tmp_path / "out", device="cpu", dtype="float32")
    assert all(type(linear) is not CalibratedLinear for linear in read.linears().values())
    found, near = answers(read)[0][1], answers(model)[0][1]
    assert found != near
    assert {item.token_id for item in found[:5]} & {item.token_id for item in near[:5]}


def test_without_the_package_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_compressed(packed("llava", Grid(4, 8)), tmp_path / "out")
    for name in ("compressed_tensors", "compressed_tensors.quantization.lifecycle.apply"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependency, match="pip install compressed-tensors"):
        load(tmp_path / "out", device="cpu", dtype="float32")


def test_int8_models_are_not_written(tmp_path: Path) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    model = packed("llava", Grid(4, 8))
    LLMInt8(modules=("connector",)).quantize(model.linears(("connector",)), model.module)
    with pytest.raises(Unsupported, match="is a Int8Linear"):
        save_compressed(model, tmp_path / "none")
