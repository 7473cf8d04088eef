"""What every registered quantiser promises, whoever wrote it."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import torch
from torch import nn

from block_cases import BlockCase, block_cases
from steadyvlm.errors import CheckpointError, InvalidOption, MissingDependency, Unsupported
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.base import PARTS, BlockQuantizer, Calibrated, Quantizer
from steadyvlm.registry import spec_of


def usable(name: str) -> Any:
    quantizer = QUANTIZERS.load(name)()
    try:
        quantizer.check_available()
    except MissingDependency as missing:
        return pytest.param(quantizer, id=name, marks=pytest.mark.skip(reason=str(missing)))
    return pytest.param(quantizer, id=name)


def of_kind(kind: type) -> list[Any]:
    return [usable(name) for name in QUANTIZERS if isinstance(QUANTIZERS.load(name)(), kind)]


ALL = of_kind(Quantizer)
OF_BLOCKS = of_kind(BlockQuantizer)
CALIBRATED = of_kind(Calibrated)  # how they change a model is tested where models are run: tests/calibration


def make_root(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, dict[str, nn.Linear]]:
    torch.manual_seed(0)
    root = nn.ModuleDict({"a": nn.Linear(128, 352), "norm": nn.LayerNorm(352), "b": nn.Linear(352, 128, bias=False)})
    return root.to(dtype).eval(), {f"{name}": module for name, module in root.items() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_it_is_a_frozen_dataclass_that_its_spec_rebuilds(name: str) -> None:
    quantizer: Any = QUANTIZERS.load(name)()
    assert QUANTIZERS.create(str(spec_of(quantizer, name))) == quantizer
    assert hash(quantizer) == hash(dataclasses.replace(quantizer))
    assert set(quantizer.modules) <= set(PARTS)
    assert sum(isinstance(quantizer, kind) for kind in (Quantizer, BlockQuantizer, Calibrated)) == 1


@pytest.mark.parametrize("name", list(QUANTIZERS))
def test_unknown_parts_are_refused_on_construction(name: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name}: modules="):
        QUANTIZERS.load(name)(modules=("head",))


@pytest.mark.parametrize("quantizer", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_linear_is_replaced_by_one_that_answers_nearly_the_same(quantizer: Quantizer, dtype: torch.dtype) -> None:
    root, linears = make_root(dtype)
    original = copy.deepcopy(linears)
    quantizer.quantize(linears, root)
    inputs = torch.randn(2, 7, 128).to(dtype)
    with torch.inference_mode():
        for name, linear in original.items():
            replaced = root.get_submodule(name)
            assert replaced is not linears[name]
            assert not replaced.training
            exact, near = linear(inputs), replaced(inputs)
            assert near.dtype == dtype
            error = float((near.float() - exact.float()).norm() / exact.float().norm())
            assert 1e-4 < error < 0.2
            assert torch.equal(near, replaced(inputs))
            inputs = exact


@pytest.mark.parametrize("quantizer", ALL)
def test_the_report_accounts_for_every_linear_and_the_linears_stay_untouched(quantizer: Quantizer) -> None:
    root, linears = make_root()
    before = {name: linear.weight.clone() for name, linear in linears.items()}
    report = quantizer.quantize(linears, root)
    assert {layer.name for layer in report.layers} | {layer.name for layer in report.skipped} == set(linears)
    assert report.original_bytes == 2 * 352 * 128 * 4
    assert report.packed_bytes < report.original_bytes
    assert report.simulated == (report.held_bytes == report.original_bytes)
    assert json.loads(json.dumps(report.to_json()))["quantizer"] == report.quantizer
    assert all(torch.equal(linear.weight, before[name]) for name, linear in linears.items())
    assert isinstance(root.get_submodule("norm"), nn.LayerNorm)


@pytest.mark.parametrize("quantizer", ALL)
def test_quantising_twice_gives_the_same_model(quantizer: Quantizer) -> None:
    states = []
    for _ in range(2):
        root, linears = make_root()
        quantizer.quantize(linears, root)
        states.append(root.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("quantizer", ALL)
def test_a_quantised_model_can_be_copied(quantizer: Quantizer) -> None:
    root, linears = make_root()
    quantizer.quantize(linears, root)
    twin, inputs = copy.deepcopy(root), torch.randn(3, 128)
    assert torch.equal(twin.get_submodule("a")(inputs), root.get_submodule("a")(inputs))


@pytest.mark.parametrize("quantizer", ALL)
def test_bad_requests_are_refused_before_anything_changes(quantizer: Quantizer) -> None:
    root, linears = make_root()
    with pytest.raises(Unsupported, match="nothing to quantise"):
        quantizer.quantize({}, root)
    linears["b"].weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="linear 'b'"):
        quantizer.quantize(linears, root)
    assert all(root.get_submodule(name) is linear for name, linear in linears.items())


@pytest.mark.parametrize("quantizer", OF_BLOCKS)
@pytest.mark.parametrize("case", block_cases(), ids=str)
def test_a_block_answers_nearly_the_same(quantizer: Any, case: BlockCase) -> None:
    root = copy.deepcopy(case.root)
    with torch.inference_mode():
        report = dataclasses.replace(quantizer, weight_bits=8, activation_bits=8).quantize_blocks([case.block], root)
        error = float((case.original(root) - case.original()).norm() / case.original().norm())
        assert 1e-4 < error < 0.2
        assert torch.equal(case.original(root), case.original(root))
    assert [layer.name for layer in report.layers] == list(case.block.linears)
    assert json.loads(json.dumps(report.to_json()))["quantizer"] == report.quantizer
    assert not any(root.get_submodule(path).training for path in case.block.linears)


@pytest.mark.parametrize("quantizer", OF_BLOCKS)
def test_blocks_quantised_twice_are_the_same_and_can_be_copied(quantizer: BlockQuantizer) -> None:
    case, states = block_cases()[1], []
    for _ in range(2):
        root = copy.deepcopy(case.root)
        quantizer.quantize_blocks([case.block], root)
        states.append(root.state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert torch.equal(case.original(copy.deepcopy(root)), case.original(root))


@pytest.mark.parametrize("quantizer", OF_BLOCKS)
def test_bad_blocks_are_refused_before_anything_changes(quantizer: BlockQuantizer) -> None:
    case = block_cases()[0]
    root = copy.deepcopy(case.root)
    linears = {path: root.get_submodule(path) for path in case.block.linears}
    with pytest.raises(Unsupported, match="nothing to quantise"):
        quantizer.quantize_blocks([], root)
    last: Any = linears[[*linears][-1]]
    last.weight.data[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=[*linears][-1]):
        quantizer.quantize_blocks([case.block], root)
    assert all(root.get_submodule(path) is linear for path, linear in linears.items())


@pytest.mark.parametrize("quantizer", CALIBRATED)
def test_what_calibrates_says_on_what(quantizer: Calibrated) -> None:
    assert isinstance(quantizer.calibration, str)
    assert quantizer.samples > 0
    assert isinstance(quantizer.seed, int)
    assert quantizer.pruned is False
    changed: Any = dataclasses.replace(quantizer, seed=5, samples=3)  # type: ignore[type-var]
    assert (changed.seed, changed.samples) == (5, 3)
