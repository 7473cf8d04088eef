"""The folder a study leaves behind, for those who only read it.

    runs/pocket-demo/
      study.json             what was asked, and which cell belongs to which arm
      cells/<key>.parquet    a complete cell, one row per answer; read it with pandas, DuckDB or `ResultStore`
      about/<key>.json       that cell described for people: provenance, times, counts
      parts/<key>.journal    the batches of a cell that is not complete yet
      perturbations.json     every perturbed input with its hash and what became of it, if the study has any
      quarantine/            whatever was found damaged; nothing is ever deleted because it could not be read

A cell is absent or complete: its Parquet file appears under its name in one step. Reading takes no lock and repairs
nothing, so a report can be drawn while a study runs. Writing is in `steadyvlm.study.writer`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvlm.errors import StoreError
from steadyvlm.perturb.manifest import Manifest as Perturbations
from steadyvlm.records import SCHEMA_VERSION, Prediction
from steadyvlm.study.journal import read_journal
from steadyvlm.study.table import read_about, read_table

STORE_VERSION = 1
"""Version of the layout above; the version of the records inside is `records.SCHEMA_VERSION`."""

MANIFEST = "study.json"
PERTURBATIONS = "perturbations.json"


@dataclass(frozen=True, slots=True)
class CellEntry:
    """One line of the manifest: which cell answers which arm on which task, and how many samples it has."""

    key: str
    arm: str
    task: str
    recipe: str
    samples: int


@dataclass(frozen=True, slots=True)
class CellStatus:
    """How far a cell is."""

    entry: CellEntry
    done: int
    failures: int

    @property
    def complete(self) -> bool:
        """Whether every sample has an answer or a recorded failure, in a finished file."""
        return self.done == self.entry.samples


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was asked: the study as a mapping (see `Study.to_mapping`) and its cells in the order they run."""

    study: Mapping[str, Any]
    cells: tuple[CellEntry, ...]

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.study["study"])

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready types."""
        cells = [
            {"key": c.key, "arm": c.arm, "task": c.task, "recipe": c.recipe, "samples": c.samples} for c in self.cells
        ]
        return {"schema": schema(), "study": dict(self.study), "cells": cells}


class ResultStore:
    """Read access to a study's folder.

    >>> store = ResultStore("runs/pocket-demo")              # doctest: +SKIP
    >>> store.arm("fastv-50")[0].text                        # doctest: +SKIP
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def exists(self) -> bool:
        """Whether a study has begun here."""
        return (self.folder / MANIFEST).is_file()

    def manifest(self) -> Manifest:
        """Return what was asked.

        Raises:
            StoreError: if nothing was begun here, the file is damaged, or another version wrote it.
        """
        path = self.folder / MANIFEST
        try:
            value = json.loads(path.read_bytes())
        except OSError:
            raise StoreError(
                f"{self.folder} holds no study (there is no {MANIFEST}); begin one with `steadyvlm run`."
            ) from None
        except ValueError as error:
            raise _damaged(path, str(error)) from None
        found = value.get("schema") if isinstance(value, dict) else None
        if found is not None and found != schema():
            raise StoreError(
                f"{self.folder} was written with schema {found}, this version of steadyvlm reads {schema()}; "
                "use the version that wrote it, or choose another folder."
            )
        try:
            manifest = Manifest(value["study"], tuple(CellEntry(**cell) for cell in value["cells"]))
            manifest.name  # noqa: B018  # a manifest without a name is damaged too
        except (KeyError, TypeError) as error:
            raise _damaged(path, f"unexpected content ({error})") from None
        return manifest

    def perturbations(self) -> Perturbations | None:
        """Return what became of every perturbed input; None if the study has none.

        Raises:
            StoreError: if the file is damaged.
        """
        path = self.folder / PERTURBATIONS
        if not path.is_file():
            return None
        try:
            return Perturbations.from_json(json.loads(path.read_bytes()))
        except (OSError, ValueError) as error:
            raise _damaged(path, str(error)) from None

    def complete(self, key: str) -> bool:
        """Whether the cell has a finished file."""
        return self.cell_path(key).is_file()

    def predictions(self, key: str) -> list[Prediction]:
        """Return the answers of a complete cell.

        Raises:
            StoreError: if the cell is not complete or its file is damaged.
        """
        if not self.complete(key):
            raise StoreError(f"{self.folder} has no complete cell {key[:12]}; run the study to the end first.")
        about = self.about(key)
        if about.get("key") != key:
            raise _damaged(self.cell_path(key), f"it holds another cell ({str(about.get('key'))[:12]})")
        return read_table(self.cell_path(key))

    def about(self, key: str) -> dict[str, Any]:
        """Return what is known of a complete cell besides its rows: provenance, decoding, counts, times."""
        return read_about(self.cell_path(key))

    def arms(self) -> dict[str, list[CellEntry]]:
        """Return the cells of each arm, arms in the order they run."""
        arms: dict[str, list[CellEntry]] = {}
        for entry in self.manifest().cells:
            arms.setdefault(entry.arm, []).append(entry)
        return arms

    def arm(self, name: str) -> list[Prediction]:
        """Return all answers of one arm.

        Raises:
            StoreError: if there is no such arm or it is not complete.
        """
        arms = self.arms()
        if name not in arms:
            raise StoreError(f"{self.folder} has no arm called '{name}'. It has: {', '.join(arms)}.")
        missing = [entry.task for entry in arms[name] if not self.complete(entry.key)]
        if missing:
            raise StoreError(
                f"arm '{name}' in {self.folder} is unfinished on {', '.join(missing)}; "
                "complete it with `steadyvlm run`."
            )
        return [prediction for entry in arms[name] for prediction in self.predictions(entry.key)]

    def status(self) -> list[CellStatus]:
        """Return how far every cell is, in the order they run."""
        return [self._status(entry) for entry in self.manifest().cells]

    def cell_path(self, key: str) -> Path:
        """Where the finished file of a cell is or will be."""
        return self.folder / "cells" / f"{key}.parquet"

    def journal_path(self, key: str) -> Path:
        """Where the batches of an unfinished cell are collected."""
        return self.folder / "parts" / f"{key}.journal"

    def _status(self, entry: CellEntry) -> CellStatus:
        if self.complete(entry.key):
            return CellStatus(entry, entry.samples, int(self.about(entry.key).get("failures", 0)))
        rows = read_journal(self.journal_path(entry.key), entry.key).predictions
        # All rows may be there before the finished file is: a cell is complete only with its file.
        return CellStatus(entry, min(len(rows), entry.samples - 1), count_failures(rows))


def schema() -> dict[str, int]:
    """Return the versions a store must have been written with to be read."""
    return {"store": STORE_VERSION, "records": SCHEMA_VERSION}


def count_failures(predictions: Sequence[Prediction]) -> int:
    """Return how many samples have a failure instead of an answer."""
    return sum(prediction.failure is not None for prediction in predictions)


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(f"{path} is damaged: {reason}. Run the study again: it sets the file aside and goes on.")
