"""The one process that may write to a study's folder.

A writer holds a lock for as long as it lives, so two runs cannot mix their answers; the operating system drops the
lock with the process, however it ends. Every finished file is written beside its place, flushed to disk and then
renamed, which is why nobody ever sees half of one. What an earlier, interrupted writer left half done is moved to
`quarantine/` with a warning and computed again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steadyvlm.errors import StoreError
from steadyvlm.perturb.manifest import Manifest as Perturbations
from steadyvlm.records import Prediction
from steadyvlm.study.journal import Journal, Partial, disk_errors, encode_batch, read_journal
from steadyvlm.study.store import MANIFEST, PERTURBATIONS, Manifest, ResultStore, count_failures, schema
from steadyvlm.study.table import write_table

_LOCK = ".lock"
_FOLDERS = ("about", "cells", "parts", "quarantine")
_TMP = ".tmp"


class StoreWarning(UserWarning):
    """Something in a store was damaged and has been set aside; its answers are computed again."""


class StoreWriter(ResultStore):
    """Read and write access; obtained from `writing`, never built directly."""

    def write_manifest(self, manifest: Manifest) -> None:
        """Record what is asked."""
        _write_text(self.folder / MANIFEST, manifest.to_json())

    def write_perturbations(self, perturbations: Perturbations) -> None:
        """Record what became of every perturbed input."""
        value = perturbations.to_json()
        inputs = ",\n".join(json.dumps(row, ensure_ascii=False) for row in value.pop("inputs"))
        text = f'{json.dumps(value)[:-1]}, "inputs": [\n{inputs}\n]}}\n'
        _write_bytes(self.folder / PERTURBATIONS, text.encode("utf-8"))

    def load(self, key: str) -> list[Prediction] | None:
        """Return the answers of a complete cell, or None if it has to be computed.

        A damaged file is set aside first.
        """
        if not self.complete(key):
            return None
        try:
            predictions = self.predictions(key)
        except StoreError as error:
            self._set_aside(self.cell_path(key), str(error))
            return None
        self._drop_journal(key)  # the run before this one was stopped between its last two steps
        if not self._sidecar(key).is_file():
            _write_text(self._sidecar(key), self.about(key))
        return predictions

    def partial(self, key: str) -> Partial:
        """Return what an unfinished cell already has; damaged batches are set aside first."""
        path = self.journal_path(key)
        partial = read_journal(path, key)
        if partial.damaged:
            self._set_aside(path, f"{partial.damaged} of its batches are half-written or damaged", copy=True)
            _write_bytes(path, b"".join(partial.lines))
        return partial

    def journal(self, key: str) -> Journal:
        """Return the journal of a cell, to be opened with `with`."""
        return Journal(self.journal_path(key), key)

    def finish(self, key: str, predictions: Sequence[Prediction], about: Mapping[str, Any]) -> None:
        """Make a cell complete in one step, then let go of its journal."""
        counts = {"key": key, "samples": len(predictions), "failures": count_failures(predictions)}
        about = {"schema": schema(), **about, **counts}
        path = self.cell_path(key)
        temporary = _temporary(path)
        with disk_errors(path):
            write_table(temporary, predictions, about)
            _replace(temporary, path)
        _write_text(self._sidecar(key), about)
        self._drop_journal(key)

    def reopen(self, key: str) -> None:
        """Make a complete cell unfinished again, without its failures; its answers are kept."""
        about = self.about(key)
        kept = [prediction for prediction in self.predictions(key) if prediction.failure is None]
        first, *others = about["provenance"]
        lines = [encode_batch(key, kept, about["model_s"], first)]
        lines += [encode_batch(key, (), 0.0, provenance) for provenance in others]
        _write_bytes(self.journal_path(key), b"".join(lines))
        # Stopped here, the cell is still complete and the journal is dropped when it is next loaded.
        self.cell_path(key).unlink()
        self._sidecar(key).unlink(missing_ok=True)

    def _sidecar(self, key: str) -> Path:
        return self.folder / "about" / f"{key}.json"

    def _drop_journal(self, key: str) -> None:
        self.journal_path(key).unlink(missing_ok=True)

    def _prepare(self, study: str) -> None:
        for name in _FOLDERS:
            (self.folder / name).mkdir(exist_ok=True)
        leftovers = [path for name in ("", *_FOLDERS[:3]) for path in (self.folder / name).glob(f".*{_TMP}")]
        for path in sorted(leftovers):
            self._set_aside(path, "an interrupted run left it half-written")
        if not self.exists():
            return
        try:
            found = self.manifest()
        except StoreError as error:
            if _is_json(self.folder / MANIFEST):
                raise
            self._set_aside(self.folder / MANIFEST, str(error))
            return
        if found.name != study:
            raise StoreError(
                f"{self.folder} holds the study '{found.name}', and '{study}' was asked for; choose another folder."
            )

    def _set_aside(self, path: Path, reason: str, *, copy: bool = False) -> None:
        target = self.folder / "quarantine" / path.name
        number = 0
        while target.exists():
            number += 1
            target = target.with_name(f"{path.name}.{number}")
        if copy:
            shutil.copyfile(path, target)
        else:
            os.replace(path, target)
        warnings.warn(
            f"{path.name} in {self.folder} was set aside as quarantine/{target.name}: {reason}", StoreWarning, 2
        )


@contextmanager
def writing(folder: str | Path, study: str) -> Iterator[StoreWriter]:
    """Open `folder` for the one study called `study`.

    Raises:
        StoreError: if another run is writing there, it holds another study or another version's, or it is not a
            store at all.
    """
    writer = StoreWriter(folder)
    _refuse_foreign(writer)
    try:
        writer.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(writer.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"cannot write to {writer.folder}: {error.strerror or error}.") from None
    try:
        if not _try_lock(lock):
            holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"another run is writing to {writer.folder} (process {holder}); "
                "wait for it to end, or choose another folder."
            )
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode("ascii"))
        writer._prepare(study)
        yield writer
    finally:
        os.close(lock)  # releases the lock


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":  # pragma: no cover  # the suite runs on POSIX systems
        import msvcrt

        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refuse_foreign(store: ResultStore) -> None:
    if store.folder.exists() and not store.folder.is_dir():
        raise StoreError(f"{store.folder} is a file; results need a folder.")
    if store.exists() or not store.folder.exists():
        return
    ours = {_LOCK, MANIFEST, _temporary(store.folder / MANIFEST).name, *_FOLDERS}
    foreign = sorted(path.name for path in store.folder.iterdir() if path.name not in ours)
    if foreign:
        raise StoreError(
            f"{store.folder} is not a result folder: it holds {', '.join(foreign[:3])}. "
            "Choose a new or empty folder, so that nothing of yours is mixed with results."
        )


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False


def _write_text(path: Path, value: Mapping[str, Any]) -> None:
    _write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))


def _write_bytes(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    with disk_errors(path):
        temporary.write_bytes(data)
        _replace(temporary, path)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}{_TMP}")  # hidden, so that readers of a whole folder pass over it


def _replace(temporary: Path, path: Path) -> None:
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    if sys.platform == "win32":  # pragma: no cover  # folders cannot be flushed there
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)
