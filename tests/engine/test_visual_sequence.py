"""One selection moves hidden states, positions, kinds and provenance together; checked by hand."""

from __future__ import annotations

import pytest
import torch

from steadyvlm.engine.selections import apply_selection, check_selection, merged_slots
from steadyvlm.engine.slots import Slots
from steadyvlm.engine.visual_sequence import VisualSequence
from steadyvlm.errors import RunError
from steadyvlm.records import KeptTokens
from steadyvlm.reduction.base import Selection


def slots_of(num_images: int, image: list[int], token: list[int], merged: list[int]) -> Slots:
    return Slots(num_images, *(torch.tensor(part, dtype=torch.int64) for part in (image, token, merged)))


def facts(slots: Slots) -> tuple[int, list[int], list[int], list[int]]:
    return slots.num_images, slots.image.tolist(), slots.token.tolist(), slots.merged.tolist()


def two_prompts(*, axes: int = 1) -> VisualSequence:
    """[text, v0, v1, v2, text] and [v0, text, v1 of a second image, padding, padding]; hidden = 10 * row + column."""
    visual = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 1, 0, 0]]).bool()
    hidden = torch.arange(5.0)[None, :, None] + torch.tensor([0.0, 10.0])[:, None, None]
    positions = torch.arange(5).expand(2, 5)
    return VisualSequence(
        hidden=hidden.repeat(1, 1, 2),
        positions=positions if axes == 1 else torch.stack([positions, positions + 1, positions * 2], dim=-1),
        visual=visual,
        question=torch.tensor([[0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]).bool(),
        lengths=[5, 3],
        next_positions=[5, 3],
        slots=[slots_of(1, [0, 0, 0], [0, 1, 2], [0, 0, 0]), slots_of(2, [0, 1], [4, 7], [0, 2])],
        originals=[(3,), (2,)],
    )


def pick(*keep: int) -> Selection:
    return Selection(torch.tensor(keep, dtype=torch.int64))


def test_unequal_selections_move_everything_together() -> None:
    reduced = two_prompts().reduce([pick(0, 2), pick(1)], compact=False)
    assert reduced.lengths == [4, 2]
    assert reduced.hidden[0, :, 0].tolist() == [0, 1, 3, 4]
    assert reduced.hidden[1, :2, 0].tolist() == [11, 12]
    assert reduced.positions[0].tolist() == [0, 1, 3, 4]
    assert reduced.positions[1, :2].tolist() == [1, 2]
    assert reduced.visual.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert reduced.next_positions == [5, 3]
    assert facts(reduced.slots[0]) == (1, [0, 0], [0, 2], [0, 0])
    assert facts(reduced.slots[1]) == (2, [1], [7], [2])
    assert reduced.counts == [2, 1]
    assert reduced.valid().tolist() == [[True] * 4, [True, True, False, False]]


def test_compact_positions_are_renumbered() -> None:
    reduced = two_prompts().reduce([pick(2), pick()], compact=True)
    assert reduced.positions.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert reduced.next_positions == [3, 1]
    assert reduced.lengths == [3, 1]


def test_no_selection_keeps_a_sequence_as_it_is() -> None:
    before = two_prompts()
    reduced = before.reduce([None, pick(0)], compact=False)
    assert torch.equal(reduced.hidden[0], before.hidden[0])
    assert reduced.slots[0] is before.slots[0]
    assert reduced.lengths == [5, 2]


def test_mixing_writes_weighted_sums_and_counts_what_was_merged() -> None:
    mix = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    reduced = two_prompts().reduce([Selection(torch.tensor([0, 2]), mix), pick(0, 1)], compact=False)
    assert reduced.hidden[0, :, 0].tolist() == [0, 1.5, 3, 4]
    assert reduced.hidden[1, :3, 0].tolist() == [10, 11, 12]
    assert reduced.slots[0].merged.tolist() == [1, 0]
    onto = Selection(torch.tensor([1]), torch.tensor([[1.0, 1.0]]))
    assert two_prompts().reduce([None, onto], compact=False).slots[1].merged.tolist() == [3]  # 1 + 2 + 1


def test_slots_stand_in_the_order_of_the_selection_at_the_place_of_their_image() -> None:
    mix = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]])
    reduced = two_prompts().reduce([Selection(torch.tensor([2, 0]), mix), pick(1, 0)], compact=True)
    assert reduced.hidden[0, :, 0].tolist() == [0, 3, 1.5, 4]
    assert reduced.hidden[1, :3, 0].tolist() == [10, 11, 12], "each image keeps its place"
    assert facts(reduced.slots[0]) == (1, [0, 0], [2, 0], [0, 1])
    assert facts(reduced.slots[1]) == (2, [0, 1], [4, 7], [0, 2])
    assert reduced.positions[0].tolist() == [0, 1, 2, 3]
    assert reduced.question.tolist() == [[False, False, False, True], [False, True, False, False]]


def test_positions_on_a_grid_are_never_renumbered() -> None:
    reduced = two_prompts(axes=3).reduce([pick(2, 0), pick()], compact=True)
    assert reduced.positions[0].tolist() == [[0, 1, 0], [3, 4, 6], [1, 2, 2], [4, 5, 8]]
    assert reduced.positions[1, :1].tolist() == [[1, 2, 2]]
    assert reduced.next_positions == [5, 3]


def test_unmerged_slots_are_copied_bit_by_bit() -> None:
    sequence = two_prompts()
    sequence.hidden = torch.full_like(sequence.hidden, 0.1).to(torch.bfloat16)
    sequence.hidden[0, 1] = float("inf")  # a product with zero would make it NaN
    mix = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    selection = Selection(torch.tensor([0, 2]), mix)
    assert merged_slots(selection).tolist() == [1]
    reduced = sequence.reduce([selection, None], compact=False)
    assert reduced.hidden[0, :, 0].tolist() == [sequence.hidden[0, 0, 0], float("inf")] + [sequence.hidden[0, 0, 0]] * 2


def test_a_reduced_sequence_knows_where_its_tokens_stood() -> None:
    before = two_prompts()
    assert before.origin is None
    reduced = before.reduce([pick(0, 2), pick(1)], compact=False)
    assert reduced.origin is not None
    assert [row[:length] for row, length in zip(reduced.origin.tolist(), reduced.lengths, strict=True)] == [
        [0, 1, 3, 4],
        [1, 2],
    ]
    again = reduced.reduce([pick(1), pick()], compact=False)
    assert again.origin is not None
    assert again.origin[0].tolist() == [0, 2, 3], "counted in the sequence just before"


def test_the_question_asks_and_without_text_behind_the_pictures_the_last_token() -> None:
    sequence = two_prompts()
    assert torch.equal(sequence.askers()[0], sequence.question[0])
    assert sequence.askers()[1].nonzero().tolist() == [[2]], "the text between the pictures sees nothing of the second"
    first = sequence.reduce([None, pick(0)], compact=False)
    assert first.askers()[1].nonzero().tolist() == [[1]], "once the second picture is gone, the text sees all there is"
    sequence.question[1] = False
    assert sequence.askers()[1].nonzero().tolist() == [[2]]
    plain = two_prompts()
    plain.visual[:] = False
    assert torch.equal(plain.askers(), plain.question), "without pictures all text asks"


def test_raters_move_with_their_tokens() -> None:
    sequence = two_prompts()
    sequence.raters = torch.tensor([[1, 0, 0, 0, 1], [0, 1, 0, 0, 0]]).bool()
    columns, counts = sequence.reduce([pick(1), pick(1)], compact=False).rater_columns()
    assert (columns.tolist(), counts) == ([[0, 2], [0, 0]], [2, 1])


def test_nothing_chosen_changes_nothing() -> None:
    sequence = two_prompts()
    assert sequence.reduce([None, None], compact=True) is sequence


def test_the_input_is_not_changed() -> None:
    before = two_prompts()
    copy = before.hidden.clone()
    before.reduce([pick(0), pick(0)], compact=True)
    assert torch.equal(before.hidden, copy)
    assert before.lengths == [5, 3]


def test_last_row_and_visual_columns() -> None:
    sequence = two_prompts()
    assert sequence.last(sequence.hidden)[:, 0, 0].tolist() == [4, 12]
    rows = sequence.hidden[..., 0][:, None, :].expand(2, 3, 5)
    first, second = sequence.visual_columns(rows)
    assert first.tolist() == [[1, 2, 3]] * 3
    assert second.tolist() == [[10, 12]] * 3
    assert [part[:, 0].tolist() for part in sequence.question_rows(sequence.hidden)] == [[4], [11]]


def test_records_name_every_image_even_when_nothing_of_it_is_left() -> None:
    slots = slots_of(3, [0, 2, 2], [5, 1, 3], [0, 0, 4])
    assert slots.records(6) == [
        KeptTokens(6, 0, (5,)),
        KeptTokens(6, 1, ()),
        KeptTokens(6, 2, (1, 3), (0, 4)),
    ]
    assert len(slots) == 3


def test_selection_is_applied_in_float32_and_cast_back() -> None:
    rows = torch.tensor([[1.0, 3.0], [2.0, 5.0]], dtype=torch.bfloat16)
    mixed = apply_selection(rows, Selection(torch.tensor([0]), torch.tensor([[0.25, 0.75]])))
    assert mixed.dtype is torch.bfloat16
    assert mixed.tolist() == [[1.75, 4.5]]
    assert apply_selection(rows, pick(1)).tolist() == [[2.0, 5.0]]


@pytest.mark.parametrize(
    ("selection", "ascending", "message"),
    [
        (Selection(torch.tensor([[0, 1]])), True, "one dimension of int64"),
        (Selection(torch.tensor([0, 1], dtype=torch.int32)), True, "one dimension of int64"),
        (pick(0, 4), True, "there are 4 rows"),
        (pick(-1, 2), False, "there are 4 rows"),
        (pick(2, 1), True, "strictly ascending"),
        (pick(1, 1), True, "strictly ascending"),
        (pick(1, 2, 1), False, "more than once"),
        (Selection(torch.tensor([0, 1]), torch.eye(2)), False, r"expected \(2, 4\)"),
    ],
)
def test_a_selection_that_does_not_fit_names_the_method(selection: Selection, ascending: bool, message: str) -> None:
    with pytest.raises(RunError, match=message) as caught:
        check_selection(selection, 4, method="Mine", ascending=ascending)
    assert "'Mine'" in str(caught.value)


def test_fitting_selections_pass() -> None:
    check_selection(pick(), 4, method="Mine", ascending=True)
    check_selection(pick(3, 1), 4, method="Mine", ascending=False)
    check_selection(Selection(torch.tensor([0, 3]), torch.zeros(2, 4)), 4, method="Mine", ascending=True)
