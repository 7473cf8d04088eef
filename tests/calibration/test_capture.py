"""What is recorded in front of a block is what the model gave it, and a block run by itself gives what the next is."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from steadyvlm.calibration.capture import BlockInputs, block_inputs
from steadyvlm.calibration.running import alone, channel_maxima, run_block
from steadyvlm.engine import Request
from steadyvlm.errors import SampleError, Unsupported
from steadyvlm.quantization.structure import Part
from steadyvlm.reduction import REDUCTIONS
from tiny import make_image, tiny_llava
from tiny_families import tiny_family

KINDS = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl")
PICTURE = make_image(3, 30, 40)
EXAMPLES = [
    Request((PICTURE,), "what?", 1),
    Request((), "how is the star", 2),
    Request((make_image(4),), "a red star, or a blue star ?", 3),
    Request((PICTURE, make_image(5, 48, 24)), "how", 4),
    Request((make_image(6, 24, 48),), "shape", 5),
]


def of_kind(kind: str) -> Any:
    return tiny_llava() if kind == "llava" else tiny_family(kind)


def recorded(model: Any, part: Part, **options: Any) -> list[BlockInputs]:
    return list(block_inputs(model, EXAMPLES, part, batch=2, **options))


def meant(inputs: BlockInputs) -> list[Tensor]:
    return [batch.hidden[batch.valid] for batch in inputs.batches]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["language", "vision"])
def test_each_block_alone_makes_of_its_inputs_what_the_next_one_reads(kind: str, part: Part) -> None:
    model = of_kind(kind)
    found = recorded(model, part)
    assert [inputs.block for inputs in found] == model.blocks((part,))
    assert len(found[0].batches) == {"language": 3, "vision": 2}[part]  # pictures: one is asked about twice
    for inputs, following in itertools.pairwise(found):
        for batch, after in zip(inputs.batches, following.batches, strict=True):
            output = run_block(inputs.block, model.module, batch)
            torch.testing.assert_close(output[batch.valid], after.hidden[after.valid], atol=2e-5, rtol=1e-4)
            single = run_block(inputs.block, alone(inputs.block, model.module), batch)
            assert torch.equal(single[batch.valid], output[batch.valid])


@pytest.mark.parametrize("kind", KINDS)
def test_the_connector_reads_the_rows_that_become_tokens(kind: str) -> None:
    model = of_kind(kind)
    (inputs,) = recorded(model, "connector")
    assert [len(batch.hidden) for batch in inputs.batches] == [
        sum(_projected(model, image) for example in EXAMPLES[start : start + 2] for image in example.images)
        for start in (0, 2, 4)
    ]
    first = inputs.batches[0]
    with torch.no_grad():
        tokens = model.visual_tokens(model.encode([model.preprocess(PICTURE)], frozenset())[0])
    made = run_block(inputs.block, model.module, first)
    distances = torch.cdist(
        made, tokens, compute_mode="donot_use_mm_for_euclid_dist"
    )  # rows of a windowed tower stand in another order
    assert bool((distances.amin(dim=1) < 1e-4).all())
    assert len(set(distances.argmin(dim=1).tolist())) == len(made)
    assert first.context is None
    assert first.valid.shape == (len(first.hidden),)


def _projected(model: Any, image: Any) -> int:
    """Rows the connector works on; newlines of a stitched map are not among them."""
    layout = model.preprocess(image).layout
    return sum(number < layout.tiles * layout.tokens_per_tile for number in layout.token_ids())


@pytest.mark.parametrize("part", ["language", "vision"])
def test_little_memory_means_more_passes_and_the_same_inputs(part: Part) -> None:
    model = of_kind("qwen2_5_vl")
    plenty, little = recorded(model, part), recorded(model, part, held_bytes=1)
    for ours, theirs in zip(plenty, little, strict=True):
        assert ours.block == theirs.block
        assert all(torch.equal(a, b) for a, b in zip(meant(ours), meant(theirs), strict=True))


def test_with_a_reduction_at_work_dropped_tokens_are_gone_from_its_layer_on() -> None:
    model = of_kind("llava")
    whole = recorded(model, "language")
    pruned = recorded(model, "language", reduction=REDUCTIONS.create("fastv(layer=2, keep_ratio=0.25)"))
    rows = [[sum(len(part) for part in meant(inputs)) for inputs in found] for found in (whole, pruned)]
    pictures = 5 * 36
    assert rows[0] == [rows[0][0]] * 4
    assert rows[1] == [*rows[0][:2], rows[0][2] - pictures * 3 // 4, rows[0][3] - pictures * 3 // 4]
    assert all(torch.equal(a, b) for a, b in zip(meant(whole[0]), meant(pruned[0]), strict=True))
    for batch, after in zip(pruned[2].batches, pruned[3].batches, strict=True):
        output = run_block(pruned[2].block, model.module, batch)
        torch.testing.assert_close(output[batch.valid], after.hidden[after.valid], atol=2e-5, rtol=1e-4)
    for batch, after in zip(whole[1].batches, pruned[2].batches, strict=True):  # survivors are moved, not changed
        made = {tuple(row) for row in run_block(whole[1].block, model.module, batch)[batch.valid].tolist()}
        assert {tuple(row) for row in after.hidden[after.valid].tolist()} <= made


def test_what_is_recorded_can_be_trained_on() -> None:
    for part in ("language", "vision"):
        for inputs in recorded(of_kind("qwen2_5_vl"), part):
            for batch in inputs.batches:
                assert batch.context is not None
                rows = batch.hidden.view(*batch.hidden.shape[:2], -1, 8).transpose(1, 2).requires_grad_()
                turned = batch.context.rotate(rows)
                loss: Any = batch.context.attend(turned, turned, rows)[:, :, -1].sum()
                loss.backward()
                assert rows.grad is not None


@pytest.mark.parametrize("part", ["language", "vision", "connector"])
def test_channel_maxima_leave_padding_out(part: Part) -> None:
    model = of_kind("llava_next")
    for inputs in recorded(model, part):
        found = channel_maxima(inputs.block, model.module, inputs.batches)
        assert list(found) == [reader.feed for reader in inputs.block.readers]
        # one batch at a time, padding overwritten with something large that the rest must not see
        loud = [
            type(batch)(
                torch.where(batch.valid.unsqueeze(-1), batch.hidden, torch.full_like(batch.hidden, 50.0)),
                batch.valid,
                batch.context,
            )
            for batch in inputs.batches
        ]
        again = channel_maxima(inputs.block, model.module, loud)
        for feed, maxima in found.items():
            linear: Any = model.module.get_submodule(inputs.block.reader(feed).linears[0])
            assert maxima.shape == (linear.in_features,)
            assert bool(maxima.gt(0).all())
            assert torch.equal(maxima, again[feed])


def test_channel_maxima_by_hand() -> None:
    model = of_kind("llava")
    (inputs, *_) = recorded(model, "language")
    norm: Any = model.module.get_submodule(inputs.block.readers[0].norm or "")
    rows = torch.cat(meant(inputs)).double()
    normed = rows / (rows.square().mean(dim=1, keepdim=True) + norm.variance_epsilon).sqrt() * norm.weight.double()
    found = channel_maxima(inputs.block, model.module, inputs.batches)["attention_input"]
    torch.testing.assert_close(found, normed.abs().amax(dim=0).float())


@pytest.mark.parametrize("part", ["vision", "connector"])
def test_text_alone_shows_a_tower_nothing(part: Part) -> None:
    with pytest.raises(Unsupported, match=f"the {part} part cannot be calibrated: none of the 1 examples"):
        list(block_inputs(of_kind("llava"), EXAMPLES[1:2], part))


def test_an_example_too_long_for_the_model_is_named() -> None:
    long = [*EXAMPLES, Request((), "how " * 600, 9)]
    with pytest.raises(SampleError, match=r"batch 2\) cannot be read: the prompt has"):
        list(block_inputs(of_kind("llava"), long, "language", batch=2))
