"""What an unfinished cell has so far: one line per completed batch, only ever appended.

Each line is a checksum and a JSON text. A line reaches the operating system in one write before the next batch
begins, so a killed process loses at most the batch in flight; the disk is asked to keep it about once a second, which
bounds what a power cut can take. A line whose checksum does not hold (the last one of a killed process, a damaged
sector) is recognised, and every other line is still good.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from steadyvlm.errors import StoreError
from steadyvlm.records import Prediction

SYNC_EVERY_S = 1.0


@dataclass(slots=True)
class Partial:
    """What a journal holds.

    Attributes:
        predictions: of completed batches, each sample once; of two for one sample the later one.
        model_s: seconds the model took for them.
        provenances: the distinct circumstances they were computed under.
        lines: the intact lines as they stand in the file.
        damaged: lines whose checksum or content does not hold.
    """

    predictions: list[Prediction] = field(default_factory=list)
    model_s: float = 0.0
    provenances: list[dict[str, Any]] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)
    damaged: int = 0


class Journal:
    """An open journal; append batches to it, then close it."""

    def __init__(self, path: Path, cell: str) -> None:
        self._path, self._cell = path, cell
        self._file: BinaryIO | None = None
        self._synced = time.monotonic()

    def __enter__(self) -> Journal:
        self._file = open(self._path, "ab", buffering=0)  # closed in __exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        file, self._file = self._file, None
        if file is not None:
            with file, disk_errors(self._path) if error is None else suppress(OSError):
                os.fsync(file.fileno())

    def append(self, predictions: Sequence[Prediction], model_s: float, provenance: Mapping[str, Any]) -> None:
        """Add one completed batch.

        Raises:
            StoreError: if the disk does not take it.
        """
        if self._file is None:
            raise StoreError(f"the journal {self._path} is not open.")
        line = encode_batch(self._cell, predictions, model_s, provenance)
        with disk_errors(self._path):
            while line:  # a raw write may take less than it was given
                line = line[self._file.write(line) :]
            if time.monotonic() - self._synced >= SYNC_EVERY_S:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()


def read_journal(path: Path, cell: str) -> Partial:
    """Read every intact batch of the journal of `cell`; a missing file is an empty journal."""
    partial = Partial()
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return partial
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}.") from None
    found: dict[tuple[str, str, str], Prediction] = {}
    for line in data.splitlines(keepends=True):
        content = _decode(line, cell)
        if content is None:
            partial.damaged += 1
            continue
        predictions, model_s, provenance = content
        partial.lines.append(line)
        found.update((prediction.key, prediction) for prediction in predictions)
        partial.model_s += model_s
        if provenance not in partial.provenances:
            partial.provenances.append(provenance)
    partial.predictions = list(found.values())
    return partial


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk refuses (no space, no permission) into a StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}. "
            "Mend that and run the study again; every batch finished so far is kept."
        ) from error


def encode_batch(cell: str, predictions: Sequence[Prediction], model_s: float, provenance: Mapping[str, Any]) -> bytes:
    """Return the line that stands for one batch."""
    content = {"cell": cell, "model_s": model_s, "provenance": dict(provenance), "predictions": list(predictions)}
    # Plain ASCII with everything else escaped: no line break of any alphabet can stand inside a line.
    body = json.dumps(content, separators=(",", ":"), default=as_dict).encode("ascii")
    return _checksum(body) + b" " + body + b"\n"


def as_dict(record: Any) -> dict[str, Any]:
    """Return the fields of one record, without descending: several times faster than `dataclasses.asdict`."""
    return {name: getattr(record, name) for name in record.__slots__}


def _decode(line: bytes, cell: str) -> tuple[list[Prediction], float, dict[str, Any]] | None:
    checksum, _, body = line.partition(b" ")
    if not body.endswith(b"\n") or checksum != _checksum(body[:-1]):
        return None
    try:
        content = json.loads(body)
        predictions = [Prediction.from_json(row) for row in content["predictions"]]
        return (predictions, float(content["model_s"]), content["provenance"]) if content["cell"] == cell else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # an intact line that another version wrote; its samples are computed again


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode("ascii")
