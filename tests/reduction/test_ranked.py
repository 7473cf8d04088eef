from __future__ import annotations

import pytest
import torch

from steadyvlm.reduction.base import Selection, Signal, Signals
from steadyvlm.reduction.ranked import RankedOnce, keep_ranked
from steadyvlm.reduction.tensor_ops import bottom_k


def ranked(budget: int, **signals: torch.Tensor) -> list[int]:
    return keep_ranked(Signals(4, **signals), Signal.FRESH_QUERY_ATTENTION, budget).keep.tolist()


def test_it_reads_the_named_signal_and_no_other() -> None:
    attention = torch.tensor([[0.4, 0.1, 0.2, 0.3]])
    assert ranked(2, fresh_query_attention=attention, last_query_attention=-attention) == [0, 3]
    with pytest.raises(RuntimeError, match="fresh_query_attention"):
        ranked(2, last_query_attention=attention)


@pytest.mark.parametrize(("budget", "kept"), [(0, []), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])])
def test_budgets_at_the_ends(budget: int, kept: list[int]) -> None:
    assert ranked(budget, fresh_query_attention=torch.rand(3, 4)) == kept


def test_either_end_of_the_ranking_may_stay() -> None:
    signals = Signals(4, last_query_attention=torch.tensor([[0.4, 0.1, 0.2, 0.3]]))
    assert keep_ranked(signals, Signal.LAST_QUERY_ATTENTION, 2, bottom_k).keep.tolist() == [1, 2]
    assert RankedOnce.pick(torch.tensor([1.0, 3.0, 2.0]), 2).tolist() == [1, 2]


def test_a_prompt_without_image_needs_no_signal() -> None:
    selection = keep_ranked(Signals(0), Signal.LAST_QUERY_ATTENTION, 3)
    assert selection.keep.tolist() == Selection.nothing(torch.device("cpu")).keep.tolist() == []
