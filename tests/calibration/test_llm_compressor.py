"""GPTQ and AWQ on tiny models of all families, against references written out slowly from their papers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steadyvlm.calibration.llm_compressor import awq_pairs, calibrate_weights
from steadyvlm.calibration.llm_compressor_inputs import forward_arguments
from steadyvlm.engine.requests import Request
from steadyvlm.errors import CheckpointError, InvalidOption, MissingDependency, Unsupported
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.llava import Llava
from steadyvlm.quantization.awq import AWQ
from steadyvlm.quantization.gptq import GPTQ
from steadyvlm.quantization.rtn import RTN
from steadyvlm.quantization.weight_only_calibrated import CalibratedLinear
from tiny import make_image, make_image_processor, make_module, make_tokenizer, tiny_llava
from tiny_families import expanded, make_family, processed, tiny_family

needs_compressor = pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is None, reason="llm-compressor is not installed"
)
PARTS = ("language", "connector", "vision")
WORDS = ("what colour is the star ?", "how is the red a", "what shape is blue", "a star ? .", "colour : the shape is")
SIZES = ((40, 30), (24, 24), (50, 20), (33, 60), (28, 44))


def fresh(family: str) -> Any:
    if family == "llava":
        return Llava(make_module(), make_tokenizer(), make_image_processor(), name="tiny llava")
    return make_family(family)


def shared(family: str) -> Any:
    return tiny_llava() if family == "llava" else tiny_family(family)


def examples(start: int = 0) -> list[Request]:
    return [Request((make_image(start + i, *SIZES[i]),), WORDS[i]) for i in range(5)]


@torch.no_grad()
def logits(model: Any, requests: Sequence[Request]) -> torch.Tensor:
    calls = [forward_arguments(model, [item])[0] for item in requests]
    return torch.cat([model.module(**call).logits.flatten(0, 1) for call in calls])


def distance(model: Any, exact: torch.Tensor, requests: Sequence[Request]) -> float:
    return float((logits(model, requests) - exact).norm() / exact.norm())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pictures", [0, 1, 2])
def test_arguments_are_those_the_processors_of_transformers_make(family: str, pictures: int) -> None:
    model, images = shared(family), tuple(make_image(i, *SIZES[i]) for i in range(pictures))
    (found,) = forward_arguments(model, [Request(images, WORDS[0])])
    assert found.pop("input_ids")[0].tolist() == expanded(model, WORDS[0], images)
    found.pop("attention_mask"), found.pop("use_cache"), found.pop("mm_token_type_ids", None)
    theirs = processed(model, images)
    assert found.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(found[name], tensor.to(found[name].dtype)), name


@needs_compressor
@pytest.mark.parametrize("family", FAMILIES)
def test_all_parts_of_all_families_are_quantised_and_accounted_for(
    family: str, capfd: pytest.CaptureFixture[str]
) -> None:
    exact = logits(shared(family), examples())
    for quantizer in (GPTQ(group=8, modules=PARTS), AWQ(group=8, grid_points=3, modules=PARTS)):
        model = fresh(family)
        linears = model.linears(PARTS)
        report = calibrate_weights(quantizer, model, examples()[:2])
        assert [layer.name for layer in report.layers] == list(linears)
        assert report.skipped == ()
        assert report.simulated
        assert all(0.02 < layer.relative_error < 0.2 for layer in report.layers)
        assert all(type(model.module.get_submodule(name)) is CalibratedLinear for name in linears)
        assert 0.01 < distance(model, exact, examples()) < 1
    assert capfd.readouterr() == ("", "")


@needs_compressor
@pytest.mark.parametrize("family", FAMILIES)
def test_the_language_model_alone_is_the_default_and_nothing_foreign_stays_in_it(family: str) -> None:
    model, before = fresh(family), shared(family).module.state_dict()
    calibrate_weights(GPTQ(group=8), model, examples()[:2])
    chosen = set(shared(family).linears(("language",)))
    assert all(name.rpartition(".")[0] in chosen for name, _ in changed(model.module, before))
    logits(shared(family), examples())  # transformers notes things in a model that runs for the first time
    for name, module in model.module.named_modules():
        kept = shared(family).module.get_submodule(name)
        assert vars(module).keys() - vars(kept).keys() <= {"grid"}
        assert len(module._forward_hooks) == len(kept._forward_hooks)
        assert len(module._forward_pre_hooks) == len(kept._forward_pre_hooks)


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    return [
        (name, tensor)
        for name, tensor in module.state_dict().items()
        if name not in before or not torch.equal(tensor, before[name])
    ]


@needs_compressor
@pytest.mark.parametrize("family", FAMILIES)
def test_gptq_loses_less_of_the_output_than_rounding_on_what_it_saw_and_on_what_it_did_not(family: str) -> None:
    plain, ours = fresh(family), fresh(family)
    RTN(group=8).quantize(plain.linears(), plain.module)
    calibrate_weights(GPTQ(group=8), ours, examples())
    for requests in (examples(), examples(100)):
        exact = logits(shared(family), requests)
        assert distance(ours, exact, requests) < 0.9 * distance(plain, exact, requests)


def gptq_reference(weight: Any, inputs: Any, scale: Any, group: int, *, act_order: bool) -> Any:
    """Column by column in float64, as the paper tells it; scales of the original groups. Returns codes."""
    weight = weight.copy()
    hessian = 2 * inputs.T @ inputs
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(len(hessian))
    hessian = hessian[order][:, order]
    hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    codes = np.zeros_like(weight)
    for place, column in enumerate(order):
        step = scale[:, column // group]
        codes[:, column] = np.clip(np.rint(weight[:, column] / step), -8, 7)
        error = (weight[:, column] - codes[:, column] * step) / upper[place, place]
        for later in range(place + 1, len(order)):
            weight[:, order[later]] -= error * upper[place, later]
    return codes


def inputs_of(model: Any, path: str, requests: Sequence[Request]) -> Any:
    seen: list[torch.Tensor] = []
    handle = model.module.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    logits(model, requests)
    handle.remove()
    return torch.cat([item.flatten(0, -2) for item in seen]).double().numpy()


@needs_compressor
@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    "path", ["model.language_model.layers.0.self_attn.k_proj", "model.language_model.layers.0.mlp.up_proj"]
)
def test_codes_are_those_of_the_paper_and_lie_where_their_weights_lay(path: str, act_order: bool) -> None:
    """The second linear reads inputs that passed quantised attention; static groups need no permutation."""
    model = fresh("llava")
    original = model.module.get_submodule(path).weight.detach().clone().double().numpy()
    calibrate_weights(GPTQ(group=8, act_order=act_order), model, examples())
    linear = model.module.get_submodule(path)
    largest = np.abs(original.reshape(len(original), -1, 8)).max(axis=-1)
    np.testing.assert_allclose(linear.scale.double().numpy(), largest / 7.5, rtol=1e-5)
    quantized = fresh("llava")
    if "mlp" in path:  # put the quantised attention in front, and nothing else
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            place = f"model.language_model.layers.0.self_attn.{name}"
            quantized.module.set_submodule(place, model.module.get_submodule(place))
    steps, inputs = linear.scale.double().numpy(), inputs_of(quantized, path, examples())
    codes = gptq_reference(original, inputs, steps, 8, act_order=act_order)
    found, nearest = linear.codes().numpy(), np.clip(np.rint(original / steps.repeat(8, axis=1)), -8, 7)
    # A rounding that float32 takes to the other side changes what is left to do in its row.
    assert (found == codes).mean() > 0.95
    assert (found != nearest).mean() > 0.15

    def lost(chosen: Any) -> float:
        return float(np.square(inputs @ (chosen * steps.repeat(8, axis=1) - original).T).sum())

    assert abs(lost(found) / lost(codes) - 1) < 0.05
    assert lost(found) < 0.5 * lost(nearest)


@needs_compressor
@pytest.mark.parametrize("family", ["llava_next", "qwen2_5_vl"])
def test_prompts_of_equal_length_share_a_call_and_give_the_same_weights(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request((make_image(i, 40, 30),), "what colour is the star ?") for i in range(3)]
    together, alone = fresh(family), fresh(family)
    (call,) = forward_arguments(together, requests)
    assert call["input_ids"].shape[0] == 3
    calibrate_weights(GPTQ(group=8, modules=PARTS), together, requests)
    monkeypatch.setattr("steadyvlm.calibration.llm_compressor_inputs._TOKENS", 1)
    assert len(forward_arguments(alone, requests)) == 3
    calibrate_weights(GPTQ(group=8, modules=PARTS), alone, requests)
    for name, linear in together.linears(PARTS).items():
        assert float((linear.codes() == alone.module.get_submodule(name).codes()).float().mean()) > 0.9


@needs_compressor
def test_blocks_at_once_differ_from_groups_in_turn() -> None:
    turn, once = fresh("llava"), fresh("llava")
    calibrate_weights(GPTQ(group=8), turn, examples())
    calibrate_weights(GPTQ(group=8, true_sequential=False), once, examples())
    first = "model.language_model.layers.0."
    same = {
        path: torch.equal(turn.module.get_submodule(path).weight, once.module.get_submodule(path).weight)
        for path in (first + "self_attn.q_proj", first + "self_attn.o_proj", first + "mlp.down_proj")
    }
    assert list(same.values()) == [True, False, False]


def salient(family: str, size: float = 48.0) -> Any:
    """A model in whose decoder a few channels of every normed input are far larger than the rest."""
    model = fresh(family)
    with torch.no_grad():
        for layer in model.module.model.language_model.layers:
            for norm in (layer.input_layernorm, layer.post_attention_layernorm):
                norm.weight[[3, 17]] *= size
    return model


@needs_compressor
@pytest.mark.parametrize("family", FAMILIES)
def test_awq_loses_less_than_rounding_where_some_channels_stand_out(family: str) -> None:
    plain, ours = salient(family), salient(family)
    RTN(group=8, symmetric=False).quantize(plain.linears(), plain.module)
    calibrate_weights(AWQ(group=8, grid_points=6), ours, examples())
    for requests in (examples(), examples(100)):
        exact = logits(salient(family), requests)
        assert distance(ours, exact, requests) < 0.95 * distance(plain, exact, requests)


@needs_compressor
@pytest.mark.parametrize("family", FAMILIES)
def test_awq_moves_scales_without_changing_what_the_model_computes(family: str) -> None:
    """With 8 bits hardly anything is lost, although norms and weights are other ones."""
    model, plain = fresh(family), fresh(family)
    RTN(bits=8, group=8, symmetric=False, modules=PARTS).quantize(plain.linears(PARTS), plain.module)
    calibrate_weights(AWQ(bits=8, group=8, grid_points=4, modules=PARTS), model, examples()[:2])
    exact = logits(shared(family), examples())
    assert distance(model, exact, examples()) < 1.3 * distance(plain, exact, examples()) < 0.1
    norm = "model.language_model.layers.0.input_layernorm.weight"
    assert not torch.equal(model.module.state_dict()[norm], shared(family).module.state_dict()[norm])


@needs_compressor
def test_awq_takes_the_scales_whose_rounded_weights_lose_least() -> None:
    """The grid search of the paper for one linear that reads alone: the down projection behind the up projection."""
    model, path = fresh("llava"), "model.language_model.layers.0.mlp."
    down, up = (model.module.get_submodule(path + name).weight.detach().clone() for name in ("down_proj", "up_proj"))
    seen = torch.tensor(inputs_of(model, path + "down_proj", examples()))
    calibrate_weights(AWQ(group=8), model, examples())
    weight, mean = down.double(), seen.abs().mean(dim=0)
    best: tuple[float, torch.Tensor] = (float("inf"), torch.ones(48))
    for point in range(20):
        scales = mean.pow(point / 19).clamp(min=1e-4)
        scales = scales / (scales.max() * scales.min()).sqrt()
        groups = (weight * scales).reshape(len(weight), -1, 8)
        low, high = groups.amin(-1, keepdim=True).clamp(max=0), groups.amax(-1, keepdim=True).clamp(min=0)
        step = (high - low) / 15
        zero = (-8 - low / step).round()
        rounded = (((groups / step + zero).round().clamp(-8, 7) - zero) * step).flatten(1) / scales
        loss = float((seen @ (rounded - weight).T).pow(2).mean())
        best = min(best, (loss, scales), key=lambda item: item[0])
    found = model.module.get_submodule(path + "up_proj").weight  # its rows are divided by s
    moved = model.module.state_dict()["model.language_model.layers.0.post_attention_layernorm.weight"]
    kept = shared("llava").module.state_dict()["model.language_model.layers.0.post_attention_layernorm.weight"]
    effective = (found * (moved / kept)).double()
    ratio = (up.double() * effective).sum(1) / effective.pow(2).sum(1)
    torch.testing.assert_close(ratio, best[1], rtol=0.1, atol=0.02)
    assert float(best[1].std()) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_join_what_writes_an_input_and_what_reads_it(family: str) -> None:
    model = shared(family)
    blocks = model.blocks(PARTS)
    pairs = awq_pairs(blocks, model.linears(PARTS))
    for writer, readers in pairs:
        wide = model.module.get_submodule(writer).weight.shape[0]
        assert all(model.module.get_submodule(name).in_features == wide for name in readers)
    decoder = [
        (writer.rpartition(".")[2], len(readers)) for writer, readers in pairs if "language_model.layers.0" in writer
    ]
    assert decoder == [("input_layernorm", 3), ("post_attention_layernorm", 2), ("up_proj", 1)]  # grouped queries
    tower = {writer.rpartition(".")[2] for writer, _ in pairs if "language_model" not in writer}
    expected = {"qwen2_vl": {"norm1", "norm2"}, "qwen2_5_vl": {"norm1", "norm2", "up_proj"}}
    assert tower == expected.get(family, {"layer_norm1", "v_proj", "layer_norm2"})
    assert awq_pairs(blocks, ()) == []


@needs_compressor
def test_a_connector_alone_is_rounded_and_the_report_says_so() -> None:
    model = fresh("llava")
    told: list[tuple[int, int, str]] = []
    quantizer = AWQ(group=8, modules=("connector",))
    report = calibrate_weights(quantizer, model, examples(), progress=lambda *what: told.append(what))
    assert told == [(1, 1, "model.multi_modal_projector")]
    assert len(report.layers) == 2
    assert report.notes[1] == "2 linears were rounded without scales: nothing in front of them can take up a factor."


@needs_compressor
def test_a_hessian_without_a_factor_is_told_in_the_report() -> None:
    """A prompt of eleven tokens spans eleven of 32 inputs, and this damping is lost in float32."""
    model = fresh("llava")
    report = calibrate_weights(GPTQ(group=8, damping=1e-12), model, [Request((), "how ?")])
    assert "Rounded to nearest" in report.notes[1]
    assert "layers.0.self_attn.q_proj" in report.notes[1]


@needs_compressor
@pytest.mark.parametrize(
    "quantizer", [GPTQ(group=8), AWQ(group=None, clip=True, grid_points=3), GPTQ(group=8, clip=True, bits=3)]
)
def test_the_same_examples_give_the_same_model(quantizer: GPTQ | AWQ) -> None:
    states = []
    for _ in range(2):
        model = fresh("qwen2_5_vl")
        calibrate_weights(quantizer, model, examples()[:2])
        states.append(model.module.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@needs_compressor
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_keep_their_precision(dtype: torch.dtype) -> None:
    model = fresh("qwen2_vl")
    model.module.to(dtype)
    for quantizer in (GPTQ(group=8), AWQ(group=8, grid_points=3)):
        twin = model.copy()
        calibrate_weights(quantizer, twin, examples()[:2])
        assert all(linear.weight.dtype == linear.scale.dtype == dtype for linear in twin.linears().values())
        assert distance(twin, logits(model, examples()[:2]), examples()[:2]) < 1


def test_bad_requests_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    model = fresh("llava")
    before = model.module.state_dict()
    with pytest.raises(InvalidOption, match=r"gptq: group=128 does not divide .*Use group=16, None"):
        calibrate_weights(GPTQ(), model, examples())
    with pytest.raises(InvalidOption, match="awq: there are no calibration examples"):
        calibrate_weights(AWQ(group=8), model, [])
    model.module.get_submodule("model.language_model.layers.0.mlp.up_proj").weight.data[0, 0] = torch.inf
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj' cannot be quantised"):
        calibrate_weights(GPTQ(group=8), model, examples())
    assert model.module.state_dict().keys() == before.keys()
    monkeypatch.setattr(model, "linears", lambda parts: {})
    with pytest.raises(Unsupported, match="nothing to quantise"):
        calibrate_weights(GPTQ(group=8), model, examples())


@needs_compressor
def test_a_tower_without_pictures_is_refused() -> None:
    model, before = fresh("llava"), shared("llava").module.state_dict()
    with pytest.raises(Unsupported, match=r"none of the 1 calibration examples has a picture.*vision"):
        calibrate_weights(GPTQ(group=8, modules=("vision",)), model, [Request((), "how ?")])
    assert not changed(model.module, before)


@needs_compressor
def test_text_alone_passes_the_language_model_and_nothing_else() -> None:
    model = fresh("qwen2_vl")
    requests = [Request((), text) for text in WORDS]
    report = calibrate_weights(GPTQ(group=8, modules=PARTS), model, [*requests, *examples()[:1]])
    assert len(report.layers) == len(model.linears(PARTS))


@needs_compressor
def test_values_take_up_scales_where_every_query_head_has_its_own() -> None:
    module = make_module(kv_heads=4)
    model: Any = Llava(module, make_tokenizer(), make_image_processor(), name="tiny llava")
    exact = logits(model, examples()[:2])
    pairs = awq_pairs(model.blocks(("language",)), model.linears())
    assert (
        "model.language_model.layers.0.self_attn.v_proj",
        ("model.language_model.layers.0.self_attn.o_proj",),
    ) in pairs
    report = calibrate_weights(AWQ(bits=8, group=8, grid_points=4), model, examples()[:2])
    assert len(report.notes) == 1  # no linear was left without scales
    assert distance(model, exact, examples()[:2]) < 0.1


@needs_compressor
def test_what_is_quantised_already_is_skipped() -> None:
    model = fresh("llava")
    calibrate_weights(AWQ(group=8, modules=("connector",)), model, examples()[:1])
    first = model.linears(("connector",))
    report = calibrate_weights(GPTQ(group=8, modules=("connector", "language")), model, examples()[:1])
    assert [layer.name for layer in report.skipped] == list(first)
    assert len(report.layers) == len(model.linears())


@needs_compressor
def test_nothing_global_is_left_changed(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    loguru = importlib.import_module("loguru")
    heard: list[str] = []
    handler = loguru.logger.add(heard.append)
    for value in (None, "true"):
        if value:
            monkeypatch.setenv("LLM_COMPRESSOR_LOG_DISABLED", value)
        before, session = dict(os.environ), importlib.import_module("llmcompressor.core").active_session()
        calibrate_weights(AWQ(group=8, grid_points=3), fresh("llava"), examples()[:1])
        assert dict(os.environ) == before
        assert importlib.import_module("llmcompressor.core").active_session() is session
        assert not session.lifecycle.initialized_
    loguru.logger.info("still there")
    loguru.logger.remove(handler)
    assert [text.strip().rpartition(" - ")[2] for text in heard] == ["still there"]
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh("llava")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "llmcompressor.core", None)
    monkeypatch.setitem(sys.modules, "llmcompressor", None)
    for quantizer in (GPTQ(group=8), AWQ(group=8)):
        with pytest.raises(MissingDependency, match=r"pip install 'steadyvlm\[compress\]'"):
            calibrate_weights(quantizer, model, examples()[:1])
    assert not changed(model.module, shared("llava").module.state_dict())
