"""Nearest neighbours among word vectors that the user has: GloVe, word2vec, fastText in text format.

No package we know ships English word vectors. From a file of them the 20 nearest of each of its first 20,000 words are
found once, by cosine, and kept beside the file with its checksum.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from steadyvlm.errors import InputError
from steadyvlm.perturb.text.work import Resources

NEAREST = 20
MOST_FREQUENT = 20_000
_BLOCK = 512

Matrix = NDArray[np.float32]


class Neighbours(Protocol):
    """The neighbours of words, nearest first."""

    def get(self, word: str, default: tuple[str, ...], /) -> Sequence[str]:
        """Return the neighbours of a word, or `default` where there are none."""


def neighbours(resources: Resources) -> Neighbours | None:
    """Return the neighbours of each word, or None where no vectors are named or their file is not there.

    Raises:
        InputError: if the file cannot be read.
    """
    path = resources.vectors
    return _of_file(path.resolve()) if path is not None and path.is_file() else None


def nearest(matrix: Matrix, rows: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Return for some rows of unit vectors the `count` others with the largest cosine, ties to the lower row.

    >>> nearest(np.eye(3, dtype=np.float32)[[0, 0, 1]], np.array([0]), 1).tolist()
    [[1]]
    """
    cosine = matrix[rows] @ matrix.T
    cosine[np.arange(len(rows)), rows] = -np.inf
    return np.argsort(-cosine, axis=1, kind="stable")[:, : min(count, len(matrix) - 1)]


def unit(matrix: Matrix) -> Matrix:
    """Return rows of length one; a row of zeros stays."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(length > 0, length, 1), dtype=np.float32)


@lru_cache(maxsize=2)
def _of_file(path: Path) -> Neighbours:
    checksum = _checksum(path)
    kept = path.with_name(path.name + ".neighbours.json")
    if kept.is_file():
        found = json.loads(kept.read_text("utf-8"))
        if found["checksum"] == checksum:
            return dict(found["neighbours"])
    words, matrix = _read(path)
    table: dict[str, list[str]] = {}
    for start in range(0, len(words), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(words)))
        for row, others in zip(rows, nearest(matrix, rows, NEAREST), strict=True):
            table[words[row]] = [words[other] for other in others]
    # A folder that may only be read: found again next time.
    with suppress(OSError):
        kept.write_text(json.dumps({"checksum": checksum, "neighbours": table}), "utf-8")
    return table


def _read(path: Path) -> tuple[list[str], Matrix]:
    words: list[str] = []
    rows: list[Matrix] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            word, *values = line.rstrip("\n").split(" ")
            if number == 0 and len(values) == 1:
                continue  # word2vec's first line: how many words, how long
            try:
                row = np.array([value for value in values if value], dtype=np.float32)
            except ValueError:
                row = np.zeros(0, np.float32)
            if not row.size or (rows and row.size != rows[0].size):
                raise InputError(
                    f"line {number + 1} of '{path}' is no word vector; give the text format of GloVe or word2vec: "
                    "a word and its numbers, the same count on every line, divided by spaces."
                )
            words.append(word)
            rows.append(row)
            if len(words) == MOST_FREQUENT:
                break
    if len(words) < 2:
        raise InputError(f"'{path}' holds {len(words)} word vectors; neighbours need at least two.")
    return words, unit(np.stack(rows))


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
