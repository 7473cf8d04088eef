"""Profile and sensitivity against transformers itself: eager attention, one prompt at a time, hooks on its layers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from steadyvlm.calibration.quota import measure, resolve_schedule
from steadyvlm.engine import Request
from steadyvlm.errors import InvalidOption, RunError, SampleError
from steadyvlm.models.adapter import IMAGE_SLOT
from steadyvlm.quota.allocation import allocate, uniform
from steadyvlm.quota.candidates import choose
from steadyvlm.reduction.quota import Quota
from tiny import make_image, tiny_llava

LAYERS = 8
EXAMPLES = (
    Request((make_image(0),), "what colour is the star?", 1),
    Request((), "a question without any image: is the star red?", 2),
    Request((make_image(1), make_image(2)), "how?", 3),
    Request((make_image(3),), "what shape is the blue star? " * 3, 4),
)
PICTURED = tuple(item for item in EXAMPLES if item.images)


@functools.cache
def original() -> Any:
    return tiny_llava(layers=LAYERS)


@functools.cache
def deployed(changed: tuple[int, ...] = tuple(range(LAYERS))) -> Any:
    """The model with coarsely rounded weights in some layers, as a quantiser would leave them."""
    copy = original().copy()
    with torch.no_grad():
        for index in changed:
            for weight in copy.module.model.language_model.layers[index].parameters():
                if weight.dim() > 1:
                    step = weight.abs().amax() / (2 + index)
                    weight.copy_((weight / step).round() * step)
    return copy


def inputs_of(request: Request) -> tuple[dict[str, Any], Tensor, Tensor]:
    """What transformers reads of a prompt, which positions are visual, and which ask about them."""
    model, ids = original(), list[int]()
    pixels = [model.preprocess(image) for image in request.images]
    sizes = iter(pixels)
    for token in model.tokenize(request.prompt, len(request.images)):
        ids += [3] * next(sizes).layout.visual_tokens if token == IMAGE_SLOT else [token]
    visual = torch.tensor(ids) == 3
    last = int(visual.nonzero()[-1]) if visual.any() else -1
    given = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.int64)}
    if pixels:
        given["pixel_values"] = torch.cat([item.values for item in pixels])
    return given, visual, torch.arange(len(ids)) > last


def layer_outputs(model: Any, request: Request, fed: list[Tensor] | None = None) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and outputs [T, D] of every decoder layer; `fed` replaces the inputs."""
    inputs, outputs, hooks = list[Tensor](), list[Tensor](), []

    def before(_: Any, args: tuple[Any, ...], index: int) -> Any:
        hidden = args[0] if fed is None else fed[index][None]
        inputs.append(hidden[0].clone())
        return (hidden, *args[1:])

    def after(_: Any, args: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    for index, layer in enumerate(model.module.model.language_model.layers):
        hooks += [layer.register_forward_pre_hook(functools.partial(before, index=index))]
        hooks += [layer.register_forward_hook(after)]
    with torch.no_grad():
        model.module(**inputs_of(request)[0])
    for hook in hooks:
        hook.remove()
    return inputs, outputs


def reference_sensitivity(low_bit: Any, mode: str, rows: str) -> list[float]:
    """Equation (1), straight from the specification."""
    table = []
    for request in EXAMPLES if rows == "all" else PICTURED:
        inputs, exact = layer_outputs(original(), request)
        _, other = layer_outputs(low_bit, request, inputs if mode == "local" else None)
        kept = inputs_of(request)[1] if rows == "visual" else slice(None)
        table.append(
            [
                float((x[kept] - y[kept]).double().norm() / (x[kept].double().norm() + 1e-8))
                for x, y in zip(exact, other, strict=True)
            ]
        )
    return np.mean(table, axis=0).tolist()  # type: ignore[no-any-return]  # numpy lists are untyped


@pytest.mark.parametrize("mode", ["local", "propagated"])
@pytest.mark.parametrize("rows", ["visual", "all"])
@pytest.mark.parametrize("batch", [1, 4])
def test_sensitivity_agrees_with_transformers_layer_by_layer(mode: str, rows: str, batch: int) -> None:
    method = Quota(sensitivity_mode=mode, sensitivity_rows=rows)
    found = measure(method, original(), deployed(), EXAMPLES, batch_size=batch)
    assert found.sensitivity == pytest.approx(reference_sensitivity(deployed(), mode, rows), rel=1e-3)
    assert min(found.sensitivity) > 0.005


def test_local_isolates_a_layer_and_propagated_passes_its_error_on() -> None:
    low_bit = deployed((4,))
    local = measure(Quota(), original(), low_bit, EXAMPLES).sensitivity
    passed = measure(Quota(sensitivity_mode="propagated"), original(), low_bit, EXAMPLES).sensitivity
    assert [layer for layer, value in enumerate(local) if value > 1e-6] == [4]
    assert [layer for layer, value in enumerate(passed) if value > 1e-6] == [4, 5, 6, 7]


def test_the_profile_is_that_of_the_deployed_model() -> None:
    low_bit = deployed()
    low_bit.module.set_attn_implementation("eager")
    shares, masses, alike = list[Any](), list[Any](), list[Any]()
    for request in PICTURED:
        given, visual, asks = inputs_of(request)
        with torch.no_grad():
            attention = low_bit.module(**given, output_attentions=True).attentions
        _, outputs = layer_outputs(low_bit, request)
        mass = [
            layer[0][:, asks][:, :, visual].double().mean(dim=(0, 1)).sort(descending=True).values
            for layer in attention
        ]
        tenth = int(np.ceil(0.1 * int(visual.sum())))
        shares.append([float(row[:tenth].sum() / row.sum()) for row in mass])
        masses.append([float(row[:10].sum()) for row in mass])
        units = [torch.nn.functional.normalize(rows[visual].double(), dim=1) for rows in outputs]
        alike.append([float((unit @ unit.T)[np.triu_indices(len(unit), 1)].quantile(0.5)) for unit in units])
    low_bit.module.set_attn_implementation("sdpa")
    profile = measure(Quota(), original(), low_bit, EXAMPLES, batch_size=3).profile
    assert profile.concentration_top10pct.median == pytest.approx(np.median(shares, axis=0), rel=1e-3)
    quartiles = np.percentile(shares, 75, axis=0) - np.percentile(shares, 25, axis=0)
    assert profile.concentration_top10pct.iqr == pytest.approx(quartiles, abs=1e-4)
    assert profile.mass_top10abs.median == pytest.approx(np.median(masses, axis=0), rel=1e-3)
    assert profile.redundancy_median == pytest.approx(np.median(alike, axis=0), abs=1e-3)
    assert (profile.samples, profile.visual_tokens) == (3, (36, 72))


def test_it_is_measured_how_far_residual_and_magnitude_say_the_same() -> None:
    table = []
    for request in PICTURED:
        visual = inputs_of(request)[1]
        row = []
        for output in layer_outputs(deployed(), request)[1]:
            rows = output[visual].double()
            scale = rows.abs().amax(dim=1, keepdim=True) / 7
            lost = (rows - (rows / scale).round().clamp(-8, 7) * scale).norm(dim=1)
            row.append(spearmanr(lost, rows.norm(dim=1)).statistic)
        table.append(row)
    found = measure(Quota(), original(), deployed(), EXAMPLES).residual_with_magnitude
    assert found == pytest.approx(np.median(table, axis=0), abs=0.02)
    single = Image.new("RGB", (1, 1), (200, 20, 20))
    flat = measure(Quota(), original(), original(), [Request((single,), "how?", 1)])
    assert all(-1 <= value <= 1 for value in flat.residual_with_magnitude)


def test_a_schedule_follows_profile_and_sensitivity() -> None:
    said: list[tuple[int, int]] = []
    found = resolve_schedule(
        Quota(tau=0.5, floor=0.4), original(), deployed(), EXAMPLES, batch_size=2, say=lambda *now: said.append(now)
    )
    shown = found.measured.profile
    spread = shown.concentration_top10pct
    expected = choose(spread.median, spread.iqr, shown.redundancy_median)
    assert found.candidates == expected
    assert found.quota.layers == expected.layers
    sensitivity = [found.measured.sensitivity[layer] for layer in expected.layers]
    assert found.allocation == allocate(sensitivity, floor=0.4, tau=0.5)
    assert found.quota == Quota(layers=expected.layers, keep_ratios=found.allocation.keep_ratio)
    assert not found.quota.is_auto
    assert found.measured.visual_tokens == (36, 72, 36)
    assert found.notes[0] == expected.note
    assert found.notes[1].startswith("visual tokens left behind layers")
    assert said == [(2, 3), (3, 3)]
    lengths = [int((~inputs_of(request)[1]).sum()) for request in PICTURED]
    assert found.measured.text_tokens == pytest.approx(np.mean(lengths))


def test_calibrating_again_finds_the_very_same() -> None:
    assert resolve_schedule(Quota(), original(), deployed(), EXAMPLES) == resolve_schedule(
        Quota(), original(), deployed(), EXAMPLES
    )


def test_what_was_named_stays() -> None:
    named = resolve_schedule(Quota(layers=(3, 4, 5)), original(), deployed(), EXAMPLES)
    assert named.quota.layers == (3, 4, 5)
    assert named.candidates is None
    assert isinstance(named.quota.keep_ratios, tuple)
    even = resolve_schedule(Quota(keep_ratios="uniform"), original(), deployed(), EXAMPLES)
    assert even.quota.keep_ratios == "uniform"
    assert even.allocation == uniform(len(even.quota.candidates), 0.3)
    method = Quota(layers=(2, 3), keep_ratios=(0.5, 0.4))
    given = resolve_schedule(method, original(), deployed(), EXAMPLES)
    assert (given.quota, given.allocation, given.notes) == (method, None, ())


def test_without_a_quantiser_the_schedule_is_uniform_and_says_so() -> None:
    found = resolve_schedule(Quota(layers=(2, 3, 4)), original(), original(), EXAMPLES)
    assert found.measured.sensitivity == (0.0,) * LAYERS
    assert found.quota.ratios == uniform(3, 0.3).keep_ratio
    assert "nothing is quantised" in found.notes[-1]


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(SampleError, match="none of the 1 calibration examples has a picture"):
        resolve_schedule(Quota(), original(), deployed(), EXAMPLES[1:2])
    with pytest.raises(SampleError, match="none of the 1"):
        resolve_schedule(Quota(sensitivity_rows="all"), original(), deployed(), EXAMPLES[1:2])
    with pytest.raises(InvalidOption, match="8 layers"):
        resolve_schedule(Quota(layers=(6, 7)), original(), deployed(), EXAMPLES)
    with pytest.raises(SampleError, match="cannot be read"):
        resolve_schedule(Quota(), original(), deployed(), [Request((make_image(0),), "how? " * 400, 1)])


def test_states_that_are_not_finite_are_refused() -> None:
    broken = original().copy()
    with torch.no_grad():
        broken.module.model.language_model.layers[3].mlp.down_proj.weight.fill_(torch.inf)
    with pytest.raises(RunError, match="float32"):
        measure(Quota(), original(), broken, EXAMPLES)
    with pytest.raises(RunError, match="float32"):
        measure(Quota(sensitivity_rows="all"), broken, original(), EXAMPLES)
