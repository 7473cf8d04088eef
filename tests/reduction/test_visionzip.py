from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steadyvlm.errors import InvalidOption
from steadyvlm.reduction.base import FamilyAware, Selection, Signal, Signals, Site
from steadyvlm.reduction.layout import ImageLayout
from steadyvlm.reduction.visionzip import VisionZip

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "reductions_by_hand.json").read_text())
Array = np.ndarray[Any, Any]


def reference(
    attention: Array, keys: Array, rows: Array, dominant: int, contextual: int
) -> tuple[list[int], list[int], Array]:
    """Section 2 of the specification, step by step, in float64 with Python loops: dominant, targets, output rows."""
    heads, tokens = attention.shape
    scores = [sum(float(attention[h, i]) for h in range(heads)) for i in range(tokens)]
    chosen = sorted(range(tokens), key=lambda i: (-scores[i], i))[: dominant - 1]
    kept = [0, *sorted(i + 1 for i in chosen)]
    rest = [r for r in range(tokens + 1) if r not in set(kept)]
    step = max(1, len(rest) // contextual)
    targets = rest[::step][:contextual]
    assigned: dict[int, list[int]] = {target: [] for target in targets}
    for row in rest:
        if row not in assigned:
            cosines = [keys[row] @ keys[t] / np.linalg.norm(keys[row]) / np.linalg.norm(keys[t]) for t in targets]
            assigned[targets[int(np.argmax(cosines))]].append(row)
    merged = [rows[t] + (np.mean([rows[m] for m in assigned[t]], axis=0) if assigned[t] else 0) for t in targets]
    return kept, targets, np.stack([rows[r] for r in kept] + merged)


def random_signals(tokens: int, seed: int, *, width: int = 24) -> tuple[Signals, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    attention = (torch.randn(16, tokens + 1, generator=generator) * 2).softmax(-1)[:, 1:]
    keys, rows = torch.randn(tokens + 1, 64, generator=generator), torch.randn(tokens + 1, width, generator=generator)
    return Signals(tokens, has_cls=True, salience=attention, encoder_keys=keys), rows


def apply(selection: Selection, rows: Tensor) -> Tensor:
    return rows[selection.keep] if selection.mix is None else selection.mix @ rows


def test_golden_by_hand() -> None:
    golden = GOLDEN["visionzip"]
    signals = Signals(
        num_tokens=9,
        has_cls=True,
        salience=torch.tensor(golden["attention_sixteenths"]) / 16,
        encoder_keys=torch.tensor(golden["keys"], dtype=torch.float32),
    )
    selection = VisionZip(dominant=golden["dominant"], contextual=golden["contextual"]).select(signals, Site())
    assert selection.keep.tolist() == golden["keep"]
    assert selection.mix is not None
    assert selection.mix[3].nonzero().flatten().tolist() == sorted([1, *golden["members_of_row_1"]])
    assert selection.mix[4].nonzero().flatten().tolist() == sorted([4, *golden["members_of_row_4"]])
    slots = apply(selection, torch.tensor(golden["rows"], dtype=torch.float32))
    torch.testing.assert_close(slots, torch.tensor(golden["slots"], dtype=torch.float32))


@pytest.mark.parametrize("total", ["192", "128", "64"])
def test_published_settings_on_576_patches(total: str) -> None:
    dominant, contextual, patches, left, step, last = GOLDEN["visionzip_counts"][total]
    signals, rows = random_signals(576, seed=int(total))
    selection = VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())
    chosen, targets = selection.keep[:dominant].tolist(), selection.keep[dominant:].tolist()
    rest = [row for row in range(577) if row not in set(chosen)]
    assert (len(chosen) - 1, len(rest), selection.keep.numel()) == (patches, left, int(total))
    assert [rest.index(target) for target in targets] == list(range(0, last + 1, step))
    assert apply(selection, rows).shape == (int(total), 24)


@pytest.mark.parametrize(
    ("tokens", "dominant", "contextual"),
    [(576, 162, 30), (576, 108, 20), (576, 54, 10), (576, 191, 30), (144, 54, 10), (144, 27, 5), (36, 12, 4)],
)
def test_it_agrees_with_a_float64_reimplementation(tokens: int, dominant: int, contextual: int) -> None:
    for seed in range(3):
        signals, rows = random_signals(tokens, seed)
        selection = VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())
        kept, targets, slots = reference(
            signals.require(Signal.SALIENCE).double().numpy(),
            signals.require(Signal.ENCODER_KEYS).double().numpy(),
            rows.double().numpy(),
            dominant,
            contextual,
        )
        assert selection.keep.tolist() == kept + targets
        np.testing.assert_allclose(apply(selection, rows).numpy(), slots, atol=1e-5)


def test_each_lost_row_joins_exactly_one_target() -> None:
    signals, _ = random_signals(144, seed=9)
    mix = VisionZip(dominant=20, contextual=8).select(signals, Site()).mix
    assert mix is not None
    assert ((mix > 0).sum(dim=0) == 1).all()
    assert torch.equal(mix[:20].sum(dim=1), torch.ones(20))
    merged = mix[20:].sum(dim=1)  # the target counts 1, its members together 1 more
    torch.testing.assert_close(merged, torch.full((8,), 2.0))


def test_without_contextual_tokens_it_only_prunes_and_needs_no_keys() -> None:
    method = VisionZip(dominant=10, contextual=0)
    signals, _ = random_signals(36, seed=2)
    with_keys = VisionZip(dominant=10, contextual=1).select(signals, Site())
    assert method.needs == {Signal.SALIENCE}
    selection = method.select(Signals(36, has_cls=True, salience=signals.salience), Site())
    assert selection.mix is None
    assert torch.equal(selection.keep, with_keys.keep[:10])


@pytest.mark.parametrize(("dominant", "contextual"), [(10, 27), (37, 0), (1, 36)])
def test_a_budget_of_all_rows_keeps_every_row_unmixed(dominant: int, contextual: int) -> None:
    signals, _ = random_signals(36, seed=3)
    selection = VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())
    assert selection.mix is None
    assert sorted(selection.keep.tolist()) == list(range(37))
    assert selection.keep[dominant:].tolist() == sorted(selection.keep[dominant:].tolist())


def test_step_one_takes_the_first_rows_left_as_targets() -> None:
    signals, _ = random_signals(36, seed=4)
    selection = VisionZip(dominant=10, contextual=20).select(signals, Site())  # 27 left, step 1
    rest = [row for row in range(37) if row not in set(selection.keep[:10].tolist())]
    assert selection.keep[10:].tolist() == rest[:20]


@pytest.mark.parametrize(("dominant", "contextual"), [(10, 28), (38, 0), (54, 10)])
def test_a_budget_above_the_rows_there_are_is_refused(dominant: int, contextual: int) -> None:
    signals, _ = random_signals(36, seed=5)
    with pytest.raises(InvalidOption, match=r"37 rows here \(36 patches and CLS\)"):
        VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())


def without_cls(tokens: int, seed: int) -> Signals:
    generator = torch.Generator().manual_seed(seed)
    attention = (torch.randn(4, tokens, generator=generator) * 2).softmax(-1)
    return Signals(tokens, salience=attention, encoder_keys=torch.randn(tokens, 16, generator=generator))


@pytest.mark.parametrize(("tokens", "dominant", "contextual"), [(576, 162, 30), (144, 40, 8), (35, 9, 4)])
def test_without_cls_all_dominant_tokens_are_patches(tokens: int, dominant: int, contextual: int) -> None:
    signals = without_cls(tokens, seed=tokens)
    selection = VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())
    attention, keys = signals.require(Signal.SALIENCE), signals.require(Signal.ENCODER_KEYS)
    # The reference counts a CLS row that is always kept: one more dominant row, and every row one further.
    padded = torch.cat([keys.new_ones(1, 16), keys])
    kept, targets, slots = reference(
        attention.double().numpy(), padded.double().numpy(), padded.double().numpy(), dominant + 1, contextual
    )
    assert selection.keep.tolist() == [row - 1 for row in kept[1:] + targets]
    np.testing.assert_allclose(apply(selection, keys).numpy(), slots[1:], atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 4, 63])
def test_without_cls_a_picture_within_the_budget_stays_as_it_is(tokens: int) -> None:
    selection = VisionZip(dominant=54, contextual=10).select(without_cls(tokens, seed=1), Site())
    assert selection.keep.tolist() == list(range(tokens))
    assert selection.mix is None


@pytest.mark.parametrize(("rows", "columns"), [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)])
@pytest.mark.parametrize(("side", "dominant", "contextual"), [(6, 7, 3), (12, 27, 5), (12, 20, 0), (6, 37, 0)])
def test_tiles_are_reduced_alike_and_packed_by_kind(
    rows: int, columns: int, side: int, dominant: int, contextual: int
) -> None:
    layout = ImageLayout((side, side), (rows, columns), window=(1, 0, rows * side - 1, columns * side), has_cls=True)
    parts = [random_signals(side * side, seed=tile) for tile in range(layout.tiles)]
    signals = Signals(
        layout.tiles * side * side,
        has_cls=True,
        layout=layout,
        salience=torch.cat([part.require(Signal.SALIENCE) for part, _ in parts], dim=1),
        encoder_keys=torch.cat([part.require(Signal.ENCODER_KEYS) for part, _ in parts]),
    )
    selection = VisionZip(dominant=dominant, contextual=contextual).select(signals, Site())
    size = side * side + 1
    base: list[int] = []
    patches: dict[tuple[int, int], int] = {}
    cls, merged, slots = [], [], {}
    for tile, (part, hidden) in enumerate(parts):
        kept, targets, output = reference(
            part.require(Signal.SALIENCE).double().numpy(),
            part.require(Signal.ENCODER_KEYS).double().numpy(),
            hidden.double().numpy(),
            dominant,
            max(1, contextual),
        )
        targets = targets if contextual else []
        for row, slot in zip(kept + targets, output, strict=False):
            slots[tile * size + row] = slot
        if tile == 0:
            base = kept + targets
            continue
        cls.append(tile * size)
        merged += [tile * size + row for row in targets]
        for row in kept[1:]:
            down, across = divmod(row - 1, side)
            place = ((tile - 1) // columns * side + down, (tile - 1) % columns * side + across)
            patches[place] = tile * size + row
    order = base + [patches[place] for place in sorted(patches)] + cls + merged
    assert selection.keep.tolist() == order
    output = apply(selection, torch.cat([hidden for _, hidden in parts])).numpy()
    np.testing.assert_allclose(output, np.stack([slots[row] for row in order]), atol=1e-5)


def test_families_without_cls_are_named_as_equivalents() -> None:
    method = VisionZip()
    assert isinstance(method, FamilyAware)
    assert set(method.equivalents) == {"qwen2_vl", "qwen2_5_vl"}
    assert not method.refusals


@pytest.mark.parametrize(("options", "named"), [({"dominant": 0}, "dominant=0"), ({"contextual": -1}, "contextual=-1")])
def test_impossible_budgets_are_refused_on_construction(options: dict[str, int], named: str) -> None:
    with pytest.raises(InvalidOption, match=named):
        VisionZip(**options)


def test_it_acts_after_the_encoder_and_compacts() -> None:
    assert VisionZip().sites(12) == (Site(None),)
    assert VisionZip().needs == {Signal.SALIENCE, Signal.ENCODER_KEYS}
    assert VisionZip().compact_positions


def test_without_an_image_it_keeps_nothing() -> None:
    assert VisionZip().select(Signals(0), Site()).keep.numel() == 0
