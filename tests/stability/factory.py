"""Predictions for tests: one line per sample, everything else filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from steadyvlm.records import Cost, Failure, Generation, Prediction, StopReason


def prediction(
    sample_id: str = "q1",
    answer: str = "red",
    score: float | None = None,
    *,
    reference: str = "red",
    text: str | None = None,
    **changes: Any,
) -> Prediction:
    """Return an open question's prediction; the score defaults to `answer == reference`."""
    base = Prediction(
        sample_id=sample_id,
        task="toy",
        kind="open",
        question="Which colour?",
        prompt_sha256=f"prompt of {sample_id}",
        image_sha256=(f"image of {sample_id}",),
        references=(reference,),
        choices=(),
        cluster="",
        family="colour",
        text=answer if text is None else text,
        answer=answer,
        score=float(answer == reference) if score is None else score,
    )
    return dataclasses.replace(base, **changes)


def failed(sample_id: str, kind: str = "ImageError", message: str = "cannot read it", **changes: Any) -> Prediction:
    """Return a failed sample."""
    return prediction(sample_id, answer="", score=0.0, failure=Failure(kind, message), **changes)


def two_runs(
    cells: Sequence[int], *, per_cluster: int = 1, **changes: Any
) -> tuple[list[Prediction], list[Prediction]]:
    """Return two runs with the given numbers of samples per kind of flip.

    Args:
        cells: right_to_wrong, wrong_to_right, wrong_to_other_wrong, right_to_other_right, format_only, unchanged.
        per_cluster: consecutive samples that share an image.
        changes: fields of every prediction.
    """
    patterns = [
        (("red", 1.0, "red"), ("blue", 0.0, "blue")),
        (("blue", 0.0, "blue"), ("red", 1.0, "red")),
        (("blue", 0.0, "blue"), ("green", 0.0, "green")),
        (("red", 1.0, "red"), ("crimson", 1.0, "crimson")),
        (("red", 1.0, "red"), ("red", 1.0, "It is red.")),
        (("red", 1.0, "red"), ("red", 1.0, "red")),
    ]
    original, accelerated = [], []
    row = 0
    for pattern, count in zip(patterns, cells, strict=True):
        for _ in range(count):
            cluster = f"image {row // per_cluster}" if per_cluster > 1 else ""
            for side, (answer, score, text) in zip((original, accelerated), pattern, strict=True):
                side.append(prediction(f"q{row:05d}", answer, score, text=text, **{"cluster": cluster, **changes}))
            row += 1
    return original, accelerated


def generation(text: str, stop_reason: StopReason = "eos") -> Generation:
    """Return a generation record around `text`."""
    return Generation(text, (1, 2), stop_reason, (), 1.0, (), Cost(1.0, 10, 2, (4, 4), 64))
