"""Reading predictions that steadyvlm itself wrote: one `Prediction` as JSON per line.

Logs of other tools are read by `steadyvlm.tasks.logs`; the public `steadyvlm.compare` takes both.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from steadyvlm.errors import LogError
from steadyvlm.records import Prediction

Run = Sequence[Prediction] | str | Path
"""One run: its predictions, or the path of a file with them."""


def predictions_of(run: Run) -> Sequence[Prediction]:
    """Return the predictions of `run`, reading them if a path was given.

    Raises:
        LogError: when the file cannot be read or a line is not a prediction.

    >>> predictions_of([])
    []
    """
    return read_predictions(run) if isinstance(run, (str, Path)) else run


def read_predictions(path: str | Path) -> list[Prediction]:
    """Return the predictions in a JSON-lines file written from `Prediction.to_json`; blank lines are skipped.

    Raises:
        LogError: when the file cannot be read or a line is not a prediction; names the line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"cannot read predictions from '{path}': {error}.") from error
    return [_prediction(line, number, path) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _prediction(line: str, number: int, path: str | Path) -> Prediction:
    try:
        found = Prediction.from_json(json.loads(line))
        if not (
            isinstance(found.score, (int, float)) and isinstance(found.text, str) and isinstance(found.answer, str)
        ):
            raise TypeError("text and answer must be strings, score a number")
        return found
    except (ValueError, TypeError, KeyError) as error:
        raise LogError(
            f"line {number:,} of '{path}' is not a prediction ({type(error).__name__}: {error}). "
            "Each line must hold one steadyvlm prediction as JSON; for logs of other tools use steadyvlm.compare."
        ) from error
