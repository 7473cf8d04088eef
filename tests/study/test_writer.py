"""One writer at a time, nothing half-written in sight, nothing damaged ever thrown away."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadyvlm.errors import StoreError
from steadyvlm.records import Failure, Prediction
from steadyvlm.study.journal import encode_batch
from steadyvlm.study.store import CellEntry, Manifest, ResultStore, schema
from steadyvlm.study.table import read_about
from steadyvlm.study.writer import StoreWarning, StoreWriter, writing

HERE = {"device": "here"}
ABOUT = {"arm": "half", "recipe": "r", "provenance": [HERE, {"device": "there"}], "model_s": 2.5}


def row(number: int, failure: Failure | None = None) -> Prediction:
    return Prediction(f"s{number}", "t", "open", "q", "p", (), ("yes",), (), "", "", "", "", 0.0, failure=failure)


ROWS = [row(1), row(2, Failure("ImageError", "gone")), row(3)]
MANIFEST = Manifest({"study": "mine"}, (CellEntry("k", "half", "t", "r", 3), CellEntry("l", "few", "t", "r2", 2)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "run"


@pytest.fixture
def store(folder: Path) -> Iterator[StoreWriter]:
    with writing(folder, "mine") as opened:
        opened.write_manifest(MANIFEST)
        yield opened


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "quarantine").iterdir())


def test_a_finished_cell_is_there_for_everyone(store: StoreWriter, folder: Path) -> None:
    store.finish("k", ROWS, ABOUT)
    reader = ResultStore(folder)
    assert reader.predictions("k") == ROWS == reader.arm("half") == store.load("k")
    about = reader.about("k")
    assert about == {"schema": schema(), **ABOUT, "key": "k", "samples": 3, "failures": 1}
    assert json.loads((folder / "about" / "k.json").read_text(encoding="utf-8")) == about
    assert [path.name for path in (folder / "cells").iterdir()] == ["k.parquet"]


def test_a_cell_is_absent_until_it_is_complete(store: StoreWriter, folder: Path) -> None:
    with store.journal("k") as journal:
        journal.append(ROWS[:2], 0.1, HERE)
    assert store.load("k") is None
    assert not store.complete("k")
    with pytest.raises(StoreError, match="no complete cell k"):
        ResultStore(folder).predictions("k")
    with pytest.raises(StoreError, match=r"arm 'half' .* is unfinished on t"):
        ResultStore(folder).arm("half")
    assert store.partial("k").predictions == ROWS[:2]
    store.finish("k", ROWS, ABOUT)
    assert list((folder / "parts").iterdir()) == []


def test_status_counts_without_a_lock(store: StoreWriter, folder: Path) -> None:
    store.finish("k", ROWS, ABOUT)
    with store.journal("l") as journal:
        journal.append(ROWS[:2], 0.1, HERE)
    done, open_ = ResultStore(folder).status()
    assert (done.entry.arm, done.done, done.failures, done.complete) == ("half", 3, 1, True)
    assert (open_.entry.arm, open_.done, open_.failures, open_.complete) == ("few", 1, 1, False)


def test_arms_are_named_in_errors(store: StoreWriter) -> None:
    assert list(store.arms()) == ["half", "few"]
    with pytest.raises(StoreError, match=r"no arm called 'none'. It has: half, few"):
        store.arm("none")


def test_two_writers_never_meet(store: StoreWriter, folder: Path) -> None:
    with pytest.raises(StoreError, match=rf"another run is writing to .* \(process {os.getpid()}\)"):
        writing(folder, "mine").__enter__()
    store.finish("k", ROWS, ABOUT)
    assert store.load("k") == ROWS


def test_the_lock_goes_with_its_writer(folder: Path) -> None:
    for _ in range(2):
        with writing(folder, "mine"):
            pass


def test_a_damaged_cell_is_set_aside_and_computed_again(store: StoreWriter, folder: Path) -> None:
    store.finish("k", ROWS, ABOUT)
    path = store.cell_path("k")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match="cannot be read"):
        ResultStore(folder).predictions("k")
    with pytest.warns(StoreWarning, match="k.parquet .* was set aside as quarantine/k.parquet"):
        assert store.load("k") is None
    assert kept(folder) == ["k.parquet"]
    assert not store.complete("k")
    store.finish("k", ROWS, ABOUT)
    path.write_bytes(b"again")
    with pytest.warns(StoreWarning, match=r"quarantine/k.parquet.1"):
        store.load("k")
    assert kept(folder) == ["k.parquet", "k.parquet.1"]


def test_a_cell_under_the_wrong_name_is_not_believed(store: StoreWriter, folder: Path) -> None:
    store.finish("k", ROWS, ABOUT)
    os.rename(store.cell_path("k"), store.cell_path("l"))
    with pytest.raises(StoreError, match="it holds another cell"):
        ResultStore(folder).predictions("l")
    with pytest.warns(StoreWarning):
        assert store.load("l") is None


def test_half_a_batch_is_set_aside_and_the_rest_is_kept(store: StoreWriter, folder: Path) -> None:
    whole = encode_batch("k", ROWS[:2], 0.5, HERE)
    half = encode_batch("k", ROWS[2:], 0.5, HERE)[:-40]
    store.journal_path("k").write_bytes(whole + half)
    with pytest.warns(StoreWarning, match="1 of its batches are half-written"):
        partial = store.partial("k")
    assert partial.predictions == ROWS[:2]
    assert (folder / "quarantine" / "k.journal").read_bytes() == whole + half
    assert store.journal_path("k").read_bytes() == whole
    with store.journal("k") as journal:
        journal.append(ROWS[2:], 0.5, HERE)
    assert store.partial("k").predictions == ROWS


def test_leftovers_of_an_interrupted_writer_are_set_aside(folder: Path) -> None:
    with writing(folder, "mine") as store:
        store.write_manifest(MANIFEST)
    for name in (".study.json.tmp", "cells/.k.parquet.tmp", "parts/.k.journal.tmp", "about/.k.json.tmp"):
        (folder / name).write_bytes(b"half")
    with pytest.warns(StoreWarning) as caught, writing(folder, "mine"):
        pass
    assert len(caught) == 4
    assert kept(folder) == [".k.journal.tmp", ".k.json.tmp", ".k.parquet.tmp", ".study.json.tmp"]


def test_stopped_between_the_last_two_steps(store: StoreWriter, folder: Path) -> None:
    store.finish("k", ROWS, ABOUT)
    (folder / "about" / "k.json").unlink()
    store.journal_path("k").write_bytes(encode_batch("k", ROWS[:1], 0.5, HERE))
    assert store.load("k") == ROWS
    assert not store.journal_path("k").exists()
    assert (folder / "about" / "k.json").is_file()


def test_reopening_keeps_answers_and_forgets_failures(store: StoreWriter) -> None:
    store.finish("k", ROWS, ABOUT)
    store.reopen("k")
    assert store.load("k") is None
    partial = store.partial("k")
    assert partial.predictions == [ROWS[0], ROWS[2]]
    assert partial.model_s == 2.5
    assert partial.provenances == ABOUT["provenance"]


def test_another_study_is_refused(store: StoreWriter, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with writing(other, "mine") as first:
        first.write_manifest(MANIFEST)
    with pytest.raises(StoreError, match="holds the study 'mine', and 'yours' was asked for"):
        writing(other, "yours").__enter__()
    with writing(other, "mine"):
        pass


def test_another_version_is_refused_untouched(folder: Path) -> None:
    with writing(folder, "mine") as store:
        store.write_manifest(MANIFEST)
    path = folder / "study.json"
    path.write_text(path.read_text().replace('"store": 1', '"store": 2'))
    with pytest.raises(StoreError, match="was written with schema"):
        writing(folder, "mine").__enter__()
    with pytest.raises(StoreError, match="use the version that wrote it"):
        ResultStore(folder).status()
    assert kept(folder) == []


@pytest.mark.parametrize("text", ["{half", "[]", "null"])
def test_a_damaged_manifest_is_set_aside(folder: Path, text: str) -> None:
    with writing(folder, "mine") as store:
        store.write_manifest(MANIFEST)
        store.finish("k", ROWS, ABOUT)
    (folder / "study.json").write_text(text)
    with pytest.raises(StoreError, match="is damaged"):
        ResultStore(folder).manifest()
    with pytest.warns(StoreWarning, match=r"study\.json"), writing(folder, "mine"):
        pass
    with writing(folder, "mine") as store:
        assert not store.exists()
        assert store.load("k") == ROWS


def test_manifests_with_strange_content_are_damaged(folder: Path) -> None:
    folder.mkdir(parents=True)
    for value in ({}, {"study": {}, "cells": []}, {"study": {"study": "mine"}, "cells": [{"a": 1}]}):
        (folder / "study.json").write_text(json.dumps({"schema": schema(), **value}))
        with pytest.raises(StoreError, match="is damaged: unexpected content"):
            ResultStore(folder).manifest()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match=r"is not a result folder: it holds thesis.tex"):
        writing(tmp_path, "mine").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreError, match="is a file"):
        writing(tmp_path / "thesis.tex", "mine").__enter__()
    with pytest.raises(StoreError, match="cannot write to"):
        writing(tmp_path / "thesis.tex" / "below", "mine").__enter__()
    with pytest.raises(StoreError, match="holds no study"):
        ResultStore(tmp_path).manifest()


def test_a_folder_that_was_only_begun_is_taken_over(folder: Path) -> None:
    with writing(folder, "another"):
        pass  # stopped before anything was asked
    with writing(folder, "mine") as store:
        store.write_manifest(MANIFEST)
    assert ResultStore(folder).manifest() == MANIFEST


def test_about_needs_no_rows(store: StoreWriter) -> None:
    store.finish("k", ROWS, ABOUT)
    assert read_about(store.cell_path("k"))["arm"] == "half"


def test_a_disk_that_fails_leaves_the_cell_absent(store: StoreWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("steadyvlm.study.writer.os.fsync", fail)
        with pytest.raises(StoreError, match="No space left"):
            store.finish("k", ROWS, ABOUT)
        with pytest.raises(StoreError, match=r"study\.json: No space left"):
            store.write_manifest(MANIFEST)
    assert not store.complete("k")
    store.finish("k", ROWS, ABOUT)
    assert store.load("k") == ROWS
