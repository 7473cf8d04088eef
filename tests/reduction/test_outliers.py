from __future__ import annotations

import numpy as np
import pytest
import torch

from steadyvlm.reduction.outliers import outlier_ratio


@pytest.mark.parametrize("tokens", [1, 2, 5, 36, 144, 441, 576])
@pytest.mark.parametrize("factor", [0.0, 1.5, 3.0])
def test_it_counts_what_numpy_counts(tokens: int, factor: float) -> None:
    for seed in range(5):
        logits = torch.randn(tokens, generator=torch.Generator().manual_seed(seed)) * 2
        scores = logits.softmax(0)
        q1, q3 = np.percentile(scores.double().numpy(), [25, 75])
        count = int((scores.double().numpy() > q3 + factor * (q3 - q1)).sum())
        assert outlier_ratio(scores, factor) == count / tokens


def test_equal_scores_have_no_outliers() -> None:
    assert outlier_ratio(torch.full((576,), 0.1)) == 0.0


def test_low_precision_is_widened_first() -> None:
    scores = torch.randn(144, generator=torch.Generator().manual_seed(1)).mul(2).softmax(0).half()
    assert outlier_ratio(scores) == outlier_ratio(scores.float()) > 0
