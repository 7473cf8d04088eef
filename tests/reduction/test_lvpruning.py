from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported
from steadyvlm.reduction.base import Signal, Signals, Site
from steadyvlm.reduction.lvpruning import LVPruning
from steadyvlm.reduction.lvpruning_files import CONFIG, WEIGHTS, ModulesConfig, read_modules, save_modules
from steadyvlm.reduction.lvpruning_module import PruningModule

Array = NDArray[np.float64]
WIDTH, INNER, HEADS, LAYERS, DEPTH = 24, 16, 4, (1, 8, 16), 32


def make_config(**changes: Any) -> ModulesConfig:
    fields: dict[str, Any] = {
        "model": "tiny",
        "weights_sha256": "ab" * 32,
        "width": WIDTH,
        "num_layers": DEPTH,
        "layers": LAYERS,
        "keep_ratios": (0.66, 0.35, 0.10),
        "inner": INNER,
        "heads": HEADS,
    }
    return ModulesConfig(**(fields | changes))


def make_modules(config: ModulesConfig, seed: int = 0) -> list[PruningModule]:
    """Random modules whose norms are not the identity and which keep about half of random tokens."""
    generator = torch.Generator().manual_seed(seed)
    modules = config.make()
    with torch.no_grad():
        for module in modules:
            for name, weight in sorted(module.named_parameters()):
                centre = 1.0 if "norm" in name else 0.0
                weight.copy_(centre + torch.randn(weight.shape, generator=generator) * weight.shape[-1] ** -0.5)
            probe = torch.randn(2, 99, config.width, generator=generator) * 3
            logits = module(probe[0], probe[1, :9])
            module.decide.bias[0] -= (logits[:, 0] - logits[:, 1]).median()
    return modules


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = make_config()
    save_modules(tmp_path / "modules", config, make_modules(config))
    return tmp_path / "modules"


def make_signals(tokens: int, *, text: int = 9, original: int = 0, seed: int = 0) -> Signals:
    generator = torch.Generator().manual_seed(seed)
    return Signals(
        tokens,
        original_tokens=original,
        hidden=torch.randn(tokens, WIDTH, generator=generator) * 3,
        text_hidden=torch.randn(text, WIDTH, generator=generator) * 3,
    )


def reference(module: PruningModule, visual: Array, text: Array) -> Array:
    """Section 10 of the specification with Python loops, in float64."""
    weight = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}

    def norm(row: Array, name: str) -> Array:
        return row / math.sqrt(float((row**2).mean()) + 1e-6) * weight[f"{name}.weight"]

    keys = [weight["key.weight"] @ norm(row, "text_norm") for row in text]
    values = [weight["value.weight"] @ norm(row, "text_norm") for row in text]
    size = INNER // HEADS
    logits = []
    for row in visual:
        query = weight["query.weight"] @ norm(row, "visual_norm")
        attended = np.zeros(INNER)
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            scores = [float(query[part] @ key[part]) / math.sqrt(size) for key in keys]
            shares = [math.exp(score - max(scores)) for score in scores]
            for share, value in zip(shares, values, strict=True):
                attended[part] += share / sum(shares) * value[part]
        fused = weight["output.weight"] @ attended + weight["residual.weight"] @ row
        wide = weight["wide.weight"] @ norm(fused, "mlp_norm") + weight["wide.bias"]
        active = [0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in wide]
        logits.append(weight["decide.weight"] @ np.array(active) + weight["decide.bias"])
    return np.array(logits)


@pytest.mark.parametrize("tokens", [1, 36, 144])
def test_a_module_is_the_formula_of_the_specification(tokens: int) -> None:
    module = make_modules(make_config())[0]
    signals = make_signals(tokens)
    visual, text = signals.require(Signal.HIDDEN), signals.require(Signal.TEXT_HIDDEN)
    expected = reference(module, visual.double().numpy(), text.double().numpy())
    np.testing.assert_allclose(module(visual, text).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_padding_in_a_batch_changes_nothing() -> None:
    module = make_modules(make_config())[0]
    one, two = make_signals(7, text=3, seed=1), make_signals(7, text=5, seed=2)
    text = torch.full((2, 5, WIDTH), 1e3)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    text[mask] = torch.cat([signals.require(Signal.TEXT_HIDDEN) for signals in (one, two)])
    together = module(torch.stack([signals.require(Signal.HIDDEN) for signals in (one, two)]), text, mask)
    for row, signals in zip(together, (one, two), strict=True):
        alone = module(signals.require(Signal.HIDDEN), signals.require(Signal.TEXT_HIDDEN))
        torch.testing.assert_close(row, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [36, 144, 576])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_both_modes_keep_what_the_reference_keeps(folder: Path, tokens: int, stage: int) -> None:
    config = make_config()
    signals = make_signals(tokens, original=576, seed=stage)
    visual, text = signals.require(Signal.HIDDEN), signals.require(Signal.TEXT_HIDDEN)
    logits = reference(make_modules(config)[stage], visual.double().numpy(), text.double().numpy())
    margin = logits[:, 0] - logits[:, 1]
    assert np.abs(np.diff(np.sort(margin))).min() > 1e-7, "a float32 tie would test the arithmetic, not the method"
    site = Site(LAYERS[stage])
    adaptive = LVPruning(str(folder)).select(signals, site)
    assert adaptive.keep.tolist() == [i for i in range(tokens) if margin[i] > 0]
    assert 0 < adaptive.keep.numel() < tokens
    assert adaptive.mix is None
    budget = min(tokens, int(576 * (0.66, 0.35, 0.10)[stage]))
    ranked = sorted(range(tokens), key=lambda i: (-margin[i], i))
    fixed = LVPruning(str(folder), mode="fixed").select(signals, site)
    assert fixed.keep.tolist() == sorted(ranked[:budget])


def test_fixed_counts_of_the_specification(folder: Path) -> None:
    method = LVPruning(str(folder), mode="fixed")
    counts = {layer: 576 for layer in range(DEPTH)}
    for site in method.sites(DEPTH):
        assert site.layer is not None
        kept = method.select(make_signals(counts[site.layer], original=576), site).keep.numel()
        counts |= {layer: kept for layer in range(site.layer, DEPTH)}
    assert [counts[layer] for layer in (0, 1, 7, 8, 15, 16, 31)] == [576, 380, 380, 201, 201, 57, 57]


def test_own_ratios_and_never_fewer_than_one(folder: Path) -> None:
    method = LVPruning(str(folder), mode="fixed", keep_ratios=[1, 0.5, 0.0])  # type: ignore[arg-type]
    assert method.keep_ratios == (1.0, 0.5, 0.0)
    signals = make_signals(10)  # a prompt whose original count the engine did not give: of what is there
    assert [method.select(signals, site).keep.numel() for site in method.sites(DEPTH)] == [10, 5, 1]
    config = make_config()
    modules = make_modules(config)
    for module in modules:
        with torch.no_grad():
            module.decide.weight.mul_(1e-3)
            module.decide.bias.copy_(torch.tensor([0.0, 5.0]))
    save_modules(folder, config, modules)
    best = LVPruning(str(folder)).select(signals, Site(1)).keep
    assert torch.equal(best, LVPruning(str(folder), "fixed", (0.0, 0.0, 0.0)).select(signals, Site(1)).keep)
    assert best.numel() == 1


def test_text_may_be_missing_and_pictures_too(folder: Path) -> None:
    method = LVPruning(str(folder))
    assert method.select(make_signals(12, text=0), Site(8)).keep.numel() >= 1
    assert method.select(make_signals(0), Site(8)).keep.shape == (0,)


def test_it_acts_where_its_modules_were_trained(folder: Path) -> None:
    method = LVPruning(str(folder))
    assert method.needs == {Signal.HIDDEN, Signal.TEXT_HIDDEN}
    assert method.sites(DEPTH) == (Site(1), Site(8), Site(16))
    assert not method.compact_positions


def test_files_are_read_once_and_again_when_they_change(folder: Path) -> None:
    device = torch.device("cpu")
    first = read_modules(folder, device)
    assert read_modules(folder, device) is first
    assert not any(weight.requires_grad for module in first for weight in module.parameters())
    config = make_config(keep_ratios=(0.5, 0.4, 0.3))
    save_modules(folder, config, make_modules(config, seed=7))
    changed = read_modules(folder, device)
    assert not torch.equal(changed[0].key.weight, first[0].key.weight)


def test_low_precision_files_are_computed_in_float32(folder: Path) -> None:
    config = make_config()
    save_modules(folder, config, [module.bfloat16() for module in make_modules(config)])
    assert {weight.dtype for module in read_modules(folder, torch.device("cpu")) for weight in module.parameters()} == {
        torch.float32
    }


def test_auto_is_not_for_a_method_alone() -> None:
    with pytest.raises(Unsupported, match=r"accelerate\(model, recipe\)"):
        LVPruning().sites(DEPTH)


def test_modules_of_another_model_are_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="whose decoder has 32 layers, not 12"):
        LVPruning(str(folder)).sites(12)
    narrow = Signals(5, hidden=torch.zeros(5, 8), text_hidden=torch.zeros(2, 8))
    with pytest.raises(CheckpointError, match="width 24, but this model has 8"):
        LVPruning(str(folder)).select(narrow, Site(1))
    with pytest.raises(InvalidOption, match=r"2 fractions, but .* 3 layers"):
        LVPruning(str(folder), "fixed", (0.5, 0.2)).sites(DEPTH)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_names_the_command_that_makes_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing.*steadyvlm train lvpruning"):
        read_modules(folder, torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format is not 1"),
        ({"layers": [8, 1, 16]}, "not ascending"),
        ({"layers": [1, 8, 16.5]}, "not ascending whole"),
        ({"layers": [1, 8, 32]}, "do not lie in a decoder of 32"),
        ({"layers": [], "keep_ratios": []}, "do not lie"),
        ({"keep_ratios": [0.5]}, "one fraction per layer"),
        ({"keep_ratios": [0.5, 0.4, 1.5]}, "one fraction per layer"),
        ({"heads": 3}, "do not make a module"),
        ({"width": "24"}, "do not make a module"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_description_that_makes_no_sense_is_refused(folder: Path, change: dict[str, Any], reason: str) -> None:
    found = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(found | change))
    with pytest.raises(CheckpointError, match=reason):
        LVPruning(str(folder)).sites(DEPTH)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_description_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match="does not describe LVPruning modules"):
        LVPruning(str(folder)).sites(DEPTH)


def test_weights_that_do_not_fit_are_refused_and_pickles_never_opened(folder: Path) -> None:
    other = make_config(inner=32)
    save_modules(folder.parent / "other", other, make_modules(other))
    (folder / WEIGHTS).write_bytes((folder.parent / "other" / WEIGHTS).read_bytes())
    with pytest.raises(CheckpointError, match="does not hold the modules"):
        read_modules(folder, torch.device("cpu"))
    torch.save(make_modules(make_config())[0].state_dict(), folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="does not hold the modules"):
        read_modules(folder, torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": ""}, "modules='' is no folder"),
        ({"modules": 3}, "modules=3 is no folder"),
        ({"mode": "soft"}, "adaptive, fixed"),
        ({"mode": "fixed", "keep_ratios": 0.5}, "no list of fractions"),
        ({"mode": "fixed", "keep_ratios": ()}, "no list of fractions"),
        ({"mode": "fixed", "keep_ratios": (0.5, 1.5)}, "keep_ratios=1.5"),
        ({"mode": "fixed", "keep_ratios": (0.1, 0.5)}, "cannot come back"),
        ({"keep_ratios": (0.5, 0.1)}, "mode='fixed'"),
    ],
)
def test_settings_out_of_range_are_refused_on_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        LVPruning(**options)
