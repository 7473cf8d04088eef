"""Loading: from a folder, a name or a hub id; everything that is wrong is said before weights are touched."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from steadyvlm.engine import Request, generate
from steadyvlm.errors import CheckpointError, MissingDependency, Unsupported
from steadyvlm.models import MODELS, processors
from steadyvlm.models import load as load_module
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.load import find_folder, load
from steadyvlm.records import Generation
from tiny import PARTS_TEMPLATE, make_image, save_tiny, tiny_llava


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("saved") / "tiny")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy a test may damage."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one."""
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: item for key, item in value.items() if item is not None}))


def test_a_folder_gives_the_answers_of_the_model_it_was_saved_from(saved: Path) -> None:
    request = [Request((make_image(1),), "what colour is it?", 1)]
    loaded = load(saved, device="cpu")
    (got,), (expected,) = generate(loaded, request), generate(tiny_llava(), request)
    assert isinstance(got, Generation)
    assert isinstance(expected, Generation)
    assert got.token_ids == expected.token_ids
    assert loaded.info.name == str(saved)
    assert len(loaded.weights_sha256()) == 64
    assert loaded.weights_sha256() == load(str(saved), device="cpu").weights_sha256()


def test_mistral_and_precision(tmp_path: Path) -> None:
    model = load(save_tiny(tmp_path, "mistral", sliding_window=25), device="cpu", dtype="bfloat16")
    assert (model.info.sliding_window, model.provenance()["dtype"]) == (25, "bfloat16")
    assert model.module.lm_head.weight.dtype is torch.bfloat16


def test_a_registered_name(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setitem(MODELS._own, "mine", "somewhere:path")
    monkeypatch.setattr(type(MODELS), "load", lambda _self, _name: lambda: saved)
    assert load("mine", device="cpu").info.name == "mine"


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "/nowhere/at/all", Path("owner/name"), "a/b/c"])
def test_nothing_there(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model at .* or one of: .*pocket"):
        find_folder(source)


@pytest.mark.parametrize("repository", ["nobody/nothing-here", "not valid/..name"])
def test_an_unreachable_hub_id(repository: str) -> None:
    with pytest.raises(CheckpointError, match="could not be fetched from the Hugging Face hub"):
        load(repository)


def test_a_hub_id_is_fetched_without_pickles(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.update(repository=repository, patterns=allow_patterns)
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("owner/name", device="cpu").info.name == "owner/name"
    assert asked["repository"] == "owner/name"
    assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in asked["patterns"])


def test_a_hub_id_without_the_hub_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match="huggingface_hub"):
        load("owner/name")


def test_pickle_weights_are_refused_with_the_way_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickle") as caught:
        load(folder)
    assert "pytorch_model.bin" in str(caught.value)
    assert "save_pretrained('converted')" in str(caught.value)


def test_a_folder_without_weights_or_config(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        load(folder)
    with pytest.raises(CheckpointError, match=r"no config.json"):
        load(tmp_path)


def test_truncated_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load(folder, device="cpu")


def test_weights_of_another_size(folder: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "deeper", layers=5)
    shutil.copy(tmp_path / "deeper" / "config.json", folder / "config.json")
    with pytest.raises(CheckpointError, match=r"lack \d+ tensors"):
        load(folder, device="cpu")


@pytest.mark.parametrize(
    ("architectures", "hint"),
    [(["LlavaLlamaForCausalLM"], "llava-hf"), (["Qwen3VLForConditionalGeneration"], "known arch"), (None, "no arch")],
)
def test_other_architectures(folder: Path, architectures: list[str] | None, hint: str) -> None:
    edit(folder / "config.json", architectures=architectures)
    with pytest.raises(Unsupported, match=hint) as caught:
        load(folder)
    assert "LlavaForConditionalGeneration" in str(caught.value)


def test_another_text_backbone_is_refused_before_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "model_type": "qwen2"})
    (folder / "model.safetensors").unlink()
    with pytest.raises(Unsupported, match="qwen2"):
        load(folder)


@pytest.mark.parametrize("text", ["{", "[1, 2]"])
def test_a_config_that_is_not_a_json_object(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_a_config_transformers_cannot_read(folder: Path) -> None:
    edit(folder / "config.json", model_type="never-heard-of")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(folder)


def test_missing_tokenizer_or_image_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="preprocessor_config"):
        load(folder, device="cpu")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        load(folder, device="cpu")


def test_image_processor_variants(folder: Path) -> None:
    settings = folder / "preprocessor_config.json"
    for kind in ("CLIPImageProcessorFast", "CLIPFeatureExtractor", "LlavaImageProcessor", None):
        edit(settings, image_processor_type=kind)
        assert load(folder, device="cpu").preprocess(make_image(1, 60, 40)).values.shape == (1, 3, 24, 24)
    edit(settings, image_processor_type="SiglipImageProcessor")
    with pytest.raises(Unsupported, match="SiglipImageProcessor"):
        load(folder, device="cpu")


def test_settings_and_template_beside_the_tokenizer(folder: Path) -> None:
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "processor_config.json").write_text(
        json.dumps({"image_processor": settings, "chat_template": PARTS_TEMPLATE.replace("ASSISTANT:", "BOT:")})
    )
    model = load(folder, device="cpu")
    assert model.tokenize("what?", 0) != tiny_llava().tokenize("what?", 0)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": PARTS_TEMPLATE}))
    assert load(folder, device="cpu").tokenize("what?", 1) == tiny_llava().tokenize("what?", 1)


@pytest.mark.parametrize(
    ("settings", "package"),
    [({"quant_method": "gptq", "bits": 4}, "gptqmodel")],
)
def test_a_quantised_checkpoint_without_its_backend(folder: Path, settings: dict[str, Any], package: str) -> None:
    edit(folder / "config.json", quantization_config=settings)
    with pytest.raises(MissingDependency, match=package):
        load(folder, device="cpu")


def test_a_compressed_checkpoint_that_does_not_say_how(folder: Path) -> None:
    """Its backend is named where it is missing; where it is there, the settings are at fault."""
    edit(folder / "config.json", quantization_config={"quant_method": "compressed-tensors"})
    there = importlib.util.find_spec("compressed_tensors") is not None
    kind = (
        (CheckpointError, "quantization_config cannot be used") if there else (MissingDependency, "compressed-tensors")
    )
    with pytest.raises(kind[0], match=kind[1]):
        load(folder, device="cpu")


def test_a_checkpoint_quantised_by_bitsandbytes_answers(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes warns while it is imported
        quantised = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, quantization_config=transformers.BitsAndBytesConfig(load_in_8bit=True), device_map={"": "cpu"}
        )
        quantised.save_pretrained(tmp_path / "int8")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja"):
        shutil.copy(folder / name, tmp_path / "int8" / name)
    model = load(tmp_path / "int8", device="cpu")
    assert {type(linear).__name__ for linear in model.linears().values()} == {"Linear8bitLt"}
    (result,) = generate(model, [Request((make_image(1),), "what?", 1)], max_new_tokens=2)
    assert isinstance(result, Generation)


def test_loading_restores_how_much_transformers_prints(saved: Path) -> None:
    output = transformers.utils.logging
    before = (output.get_verbosity(), output.is_progress_bar_enabled())
    output.set_verbosity(output.INFO)
    load(saved, device="cpu")
    after = (output.get_verbosity(), output.is_progress_bar_enabled())
    output.set_verbosity(before[0])
    assert after == (output.INFO, before[1])


def test_loading_hides_progress_bars_and_brings_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    output, shown = transformers.utils.logging, []
    monkeypatch.setattr(output, "is_progress_bar_enabled", lambda: True)
    monkeypatch.setattr(output, "disable_progress_bar", lambda: shown.append(False))
    monkeypatch.setattr(output, "enable_progress_bar", lambda: shown.append(True))
    with load_module._quiet():
        assert shown == [False]
    assert shown == [False, True]


def test_code_from_a_checkpoint_is_never_trusted(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    seen: list[dict[str, Any]] = []
    real = transformers.LlavaForConditionalGeneration.from_pretrained.__func__  # type: ignore[attr-defined]

    def spy(cls: Any, *args: Any, **options: Any) -> Any:
        seen.append(options)
        return real(cls, *args, **options)

    monkeypatch.setattr(transformers.LlavaForConditionalGeneration, "from_pretrained", classmethod(spy))
    load(saved, device="cpu")
    assert seen[0]["trust_remote_code"] is False
    assert seen[0]["use_safetensors"] is True


def test_image_processors_without_pillow_variants(monkeypatch: pytest.MonkeyPatch, saved: Path) -> None:
    monkeypatch.setitem(processors._PILLOW, "CLIPImageProcessor", ("no.such.module", "X"))
    only = types.SimpleNamespace(CLIPImageProcessor=lambda **settings: settings)
    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", lambda name: only if name == "transformers" else real(name))
    assert processors.load_image_processor(saved, FAMILIES["llava"])["image_mean"] == [0.5] * 3
