from __future__ import annotations

import pytest
import torch
from torch import nn

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.quantization.apply import replace, sort_out
from steadyvlm.quantization.base import QuantizedLayer, SkippedLayer


class Own(nn.Linear):
    """Some other package's linear."""


def halve(name: str, linear: nn.Linear) -> tuple[nn.Module, QuantizedLayer]:
    module = nn.Linear(linear.in_features, linear.out_features)
    module.weight.data = linear.weight / 2
    return module, QuantizedLayer(name, (linear.out_features, linear.in_features), 8, 4, 2, 2, 0.5)


def test_what_is_no_plain_floating_point_linear_is_skipped_with_the_reason() -> None:
    root = nn.ModuleDict(
        {
            "plain": nn.Linear(2, 2),
            "own": Own(2, 2),
            "whole": nn.Linear(2, 2),
            "empty": nn.Linear(2, 2),
        }
    )
    whole, empty = root["whole"], root["empty"]
    assert isinstance(whole, nn.Linear)
    assert isinstance(empty, nn.Linear)
    whole.weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    empty.weight, empty.out_features = nn.Parameter(torch.zeros(0, 2)), 0
    linears = {name: module for name, module in root.items() if isinstance(module, nn.Linear)}
    ready, skipped = sort_out(linears, root)
    assert list(ready) == ["plain"]
    assert skipped == (
        SkippedLayer("own", "it is a Own, not a plain linear"),
        SkippedLayer("whole", "its weight is torch.int8, not floating point"),
        SkippedLayer("empty", "its weight is empty (0 x 2)"),
    )


def test_nothing_to_quantise_is_an_error_that_says_what_was_found() -> None:
    with pytest.raises(Unsupported, match="the parts hold no linears"):
        sort_out({}, nn.Sequential())
    root = nn.Sequential(Own(2, 2))
    with pytest.raises(Unsupported, match="0: it is a Own"):
        sort_out({"0": root[0]}, root)  # type: ignore[dict-item]  # nn.Sequential forgets what it holds


def test_linears_of_another_model_are_refused() -> None:
    linear = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="'0' belongs to another model"):
        sort_out({"0": linear}, nn.Sequential(nn.Linear(2, 2)))


def test_replacing_puts_new_modules_in_place_and_leaves_the_linears_as_they_were() -> None:
    inner = nn.Linear(2, 3).eval()
    root = nn.Sequential(nn.Sequential(inner), nn.Linear(3, 1))
    before = inner.weight.clone()
    layers = replace({"0.0": inner}, root, halve)
    replaced = root.get_submodule("0.0")
    assert isinstance(replaced, nn.Linear)
    assert replaced is not inner
    assert not replaced.training
    assert torch.equal(inner.weight, before)
    assert torch.equal(replaced.weight, before / 2)
    assert [layer.name for layer in layers] == ["0.0"]


@pytest.mark.parametrize("bad", [torch.nan, -torch.inf, 1e6])
def test_an_unusable_weight_is_found_before_anything_changes(bad: float) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    root = nn.Sequential(first, second)
    second.weight.data[1, 1] = bad
    with pytest.raises(CheckpointError, match="linear '1' cannot be quantised"):
        replace({"0": first, "1": second}, root, halve)
    assert root[0] is first
    assert root[1] is second
