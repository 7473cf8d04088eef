from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import sys
import warnings
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steadyvlm.engine import Request, generate
from steadyvlm.errors import InvalidOption, MissingDependency
from steadyvlm.models.families import FAMILIES
from steadyvlm.quantization.base import Quantizer
from steadyvlm.quantization.linear import Int8Linear
from steadyvlm.quantization.llm_int8 import LLMInt8
from steadyvlm.records import Generation
from tiny import make_image, tiny_llava
from tiny_families import tiny_family

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def quantized(linear: nn.Linear, *, threshold: float = 6.0) -> Int8Linear:
    root = nn.Sequential(linear)
    LLMInt8(threshold=threshold).quantize({"0": linear}, root)
    replaced = root[0]
    assert isinstance(replaced, Int8Linear)
    return replaced


def make(dtype: torch.dtype, *, outlier: bool = True, device: str = "cpu") -> tuple[nn.Linear, torch.Tensor]:
    """Return a linear of the pocket model's size and a batch whose first token has one large entry."""
    torch.manual_seed(0)
    linear, inputs = nn.Linear(128, 352), torch.randn(3, 17, 128).clamp(-5, 5)
    if outlier:
        inputs[0, 0, 5] = 40.0
    return linear.to(device, dtype), inputs.to(device, dtype)


def relative(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left.double() - right.double()).norm() / right.double().norm())


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [6.0, 0.0])
def test_batched_answers_are_near_the_float_ones_but_not_the_same(dtype: torch.dtype, threshold: float) -> None:
    linear, inputs = make(dtype, outlier=threshold > 0)
    outputs = quantized(linear, threshold=threshold)(inputs)
    exact = linear.double()(inputs.double()).detach()
    assert outputs.shape == (3, 17, 352)
    assert outputs.dtype == dtype
    assert 1e-3 < relative(outputs, exact) < 0.02


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", DTYPES)
def test_calls_repeat_exactly_and_change_neither_weights_nor_inputs(dtype: torch.dtype) -> None:
    linear, inputs = make(dtype)
    module = quantized(linear)
    state, untouched = copy.deepcopy(module.state_dict()), inputs.clone()
    first, second = module(inputs), module(inputs)
    module.train()
    assert torch.equal(first, second)
    assert torch.equal(first, module(inputs))
    assert torch.equal(inputs, untouched)
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
    assert module.codes.dtype == torch.int8


def int8_reference(weight: Any, bias: Any, inputs: Any, threshold: float) -> Any:
    """Section 4.1 of the specification in NumPy, integers in int64, everything else in float64."""
    weight = weight.astype(np.float16).astype(np.float64)
    half = inputs.astype(np.float16).astype(np.float64)
    row = np.abs(weight).max(axis=1)
    codes = np.rint(127 * weight / row[:, None]).astype(np.int64)
    marked = np.abs(half) >= threshold
    columns = marked.any(axis=0)
    token = np.where(marked, 0, np.abs(half)).max(axis=1)
    rounded = np.rint(127 * np.where(marked, 0, half) / token[:, None]).astype(np.int64)
    rounded[:, columns] = 0
    product = (rounded @ codes.T) * token[:, None] * row[None] * 6.200124e-5  # the code's constant for 1 / 127**2
    return product + inputs[:, columns] @ (codes[:, columns] * row[:, None] / 127).T + bias


@needs_bitsandbytes
def test_it_agrees_with_the_specification_rewritten_in_numpy() -> None:
    linear, inputs = make(torch.float32)
    outputs = quantized(linear)(inputs).reshape(-1, 352)
    assert linear.bias is not None
    weight, bias = (tensor.detach().double().numpy() for tensor in (linear.weight, linear.bias))
    exact = int8_reference(weight, bias, inputs.reshape(-1, 128).double().numpy(), 6.0)
    # A code may fall to the other side of a rounding edge in float32: allow one step of one token and one weight row.
    np.testing.assert_allclose(outputs.numpy(), exact, atol=2e-3)
    assert np.median(np.abs(outputs.numpy() - exact)) < 1e-6


@needs_bitsandbytes
def test_without_outliers_it_is_plain_vector_wise_int8() -> None:
    linear, inputs = make(torch.float32, outlier=False)
    assert float(inputs.abs().max()) < 6
    outputs = quantized(linear)(inputs)
    assert torch.equal(outputs, quantized(linear, threshold=0.0)(inputs))
    assert linear.bias is not None
    weight, bias = (tensor.detach().double().numpy() for tensor in (linear.weight, linear.bias))
    exact = int8_reference(weight, bias, inputs.reshape(-1, 128).double().numpy(), float("inf"))
    np.testing.assert_allclose(outputs.reshape(-1, 352).numpy(), exact, atol=2e-3)


@needs_bitsandbytes
def test_an_outlier_column_is_exact_up_to_its_int8_weights() -> None:
    linear, inputs = make(torch.float32, outlier=False)
    inputs[..., 5].clamp_(-0.5, 0.5)  # so small that it never sets a token's scale
    inputs[0, 0, 5] = 40.0
    module, silent = quantized(linear), inputs.clone()
    silent[..., 5] = 0.0
    difference = module(inputs) - module(silent)
    column = (module.codes[:, 5].double() * module.scale.double() / 127).float()
    torch.testing.assert_close(difference, inputs[..., 5:6] * column, rtol=1e-4, atol=1e-4)


@needs_bitsandbytes
def test_an_outlier_in_one_sample_changes_the_others_and_the_report_says_so() -> None:
    linear, inputs = make(torch.float32)
    module = quantized(linear)
    assert not torch.equal(module(inputs)[1], module(inputs[1:2])[0])
    calm = make(torch.float32, outlier=False)[1]
    assert torch.equal(module(calm)[1], module(calm[1:2])[0])
    root = nn.Sequential(linear)
    report = LLMInt8().quantize({"0": linear}, root)
    assert "what else is in its batch" in report.notes[0]


def linear8bit(linear: nn.Linear, threshold: float) -> Any:
    bitsandbytes = importlib.import_module("bitsandbytes")
    theirs = bitsandbytes.nn.Linear8bitLt(128, 352, has_fp16_weights=False, threshold=threshold)
    theirs.load_state_dict(linear.state_dict())
    return theirs.to(linear.weight.device).eval()


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [6.0, 0.0])
def test_it_equals_bitsandbytes_own_module_bit_for_bit(dtype: torch.dtype, threshold: float) -> None:
    linear, inputs = make(dtype)
    ours = quantized(linear, threshold=threshold)
    with torch.no_grad():
        assert torch.equal(ours(inputs), linear8bit(linear, threshold)(inputs))


@pytest.mark.gpu
@needs_bitsandbytes
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 17])
def test_it_equals_bitsandbytes_own_module_on_a_gpu(dtype: torch.dtype, rows: int) -> None:
    linear, inputs = make(dtype, device="cuda")
    ours = quantized(linear)
    with torch.no_grad():
        assert torch.equal(ours(inputs[:, :rows]), linear8bit(linear, 6.0)(inputs[:, :rows]))


@needs_bitsandbytes
def test_the_report_counts_one_byte_per_weight_and_a_scale_per_row() -> None:
    linear, _ = make(torch.bfloat16)
    linear.bias = None  # type: ignore[assignment]  # a linear without bias holds None
    root = nn.Sequential(linear)
    before = linear.weight.clone()
    report = LLMInt8(threshold=0).quantize({"0": linear}, root)
    (layer,) = report.layers
    assert (layer.original_bytes, layer.packed_bytes, layer.held_bytes) == (352 * 128 * 2, *[352 * 128 + 352 * 4] * 2)
    assert layer.bits == 8
    assert 1e-3 < layer.relative_error < 0.01
    assert not report.simulated
    assert report.notes == ()
    assert torch.equal(linear.weight, before)
    assert root[0](torch.randn(2, 128)).shape == (2, 352)


@needs_bitsandbytes
def test_importing_bitsandbytes_is_quiet_and_leaves_logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger("bitsandbytes")
    monkeypatch.setattr(logger, "level", logging.INFO)
    seen: list[int] = []

    def noisy(name: str) -> ModuleType:
        warnings.warn(f"{name} is being imported", DeprecationWarning, stacklevel=2)
        seen.append(logger.level)
        return sys.modules[name]

    importlib.import_module("bitsandbytes")
    monkeypatch.setattr(importlib, "import_module", noisy)
    quantized(make(torch.float32)[0])
    assert seen == [logging.ERROR]
    assert logger.level == logging.INFO


def test_without_bitsandbytes_the_error_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    linear = nn.Linear(4, 4)
    root = nn.Sequential(linear)
    with pytest.raises(MissingDependency, match=r"pip install 'steadyvlm\[int8\]'"):
        LLMInt8().quantize({"0": linear}, root)
    assert root[0] is linear
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install 'steadyvlm\[int8\]'"):
        LLMInt8().check_available()


def test_a_plan_can_ask_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    LLMInt8().check_available()


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "6"])
def test_a_threshold_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(InvalidOption, match="llm_int8: threshold="):
        LLMInt8(threshold=value)


def test_options_are_put_in_order_on_construction() -> None:
    assert repr(LLMInt8(threshold=6)) == repr(LLMInt8())
    assert LLMInt8(modules=("vision", "connector")).modules == ("connector", "vision")
    assert isinstance(LLMInt8(), Quantizer)


def family_of(name: str) -> Any:
    return tiny_llava() if name == "llava" else tiny_family(name)


@needs_bitsandbytes
@pytest.mark.parametrize("family", FAMILIES)
def test_all_parts_of_all_families_answer_in_eight_bits(family: str) -> None:
    original = family_of(family)
    requests = [Request((make_image(seed, 40, 30 + 10 * seed),), "what colour is the star ?") for seed in range(3)]
    exact = generate(original, requests, None, max_new_tokens=1)
    for parts in (("language",), ("connector",), ("vision",), ("language", "connector", "vision")):
        model = original.copy()
        linears = model.linears(parts)
        report = LLMInt8(modules=parts).quantize(linears, model.module)
        assert [layer.name for layer in report.layers] == list(linears)
        assert all(isinstance(model.module.get_submodule(name), Int8Linear) for name in linears)
        answers = generate(model, requests, None, max_new_tokens=1)
        for answer, reference in zip(answers, exact, strict=True):
            assert isinstance(answer, Generation)
            assert isinstance(reference, Generation)
            nearest = {item.token_id for item in answer.top[:3]}
            assert nearest & {item.token_id for item in reference.top[:3]}
            assert answer.top != reference.top
