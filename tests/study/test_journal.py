"""Appended batches come back; damaged lines are recognised and cost only themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadyvlm.errors import StoreError
from steadyvlm.records import Failure, Prediction
from steadyvlm.study import journal as journals
from steadyvlm.study.backends.scripted import generation
from steadyvlm.study.journal import Journal, encode_batch, read_journal

HERE = {"device": "here"}
THERE = {"device": "there"}


def row(number: int, text: str = "yes", failure: Failure | None = None) -> Prediction:
    return Prediction(
        f"s{number}",
        "t",
        "open",
        "q\u2028\n'\"🦜",
        "prompt",
        ("image",),
        ("yes",),
        (),
        "c",
        "f",
        text,
        text,
        1.0,
        generation=None if failure else generation(text),
        failure=failure,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cell.journal"


def write(path: Path) -> list[Prediction]:
    rows = [row(1), row(2, "été 猫"), row(3, "", Failure("ImageError", "gone\r\n")), row(4)]
    with Journal(path, "cell") as journal:
        journal.append(rows[:2], 0.5, HERE)
        journal.append(rows[2:3], 0.25, HERE)
    with Journal(path, "cell") as journal:
        journal.append(rows[3:], 1.0, THERE)
    return rows


def test_batches_come_back(path: Path) -> None:
    rows = write(path)
    partial = read_journal(path, "cell")
    assert partial.predictions == rows
    assert partial.model_s == 1.75
    assert partial.provenances == [HERE, THERE]
    assert partial.damaged == 0
    assert b"".join(partial.lines) == path.read_bytes()


def test_nothing_is_an_empty_journal(path: Path) -> None:
    assert read_journal(path, "cell").predictions == []
    path.write_bytes(b"")
    assert read_journal(path, "cell").damaged == 0


def test_cut_anywhere_only_the_last_batch_is_lost(path: Path) -> None:
    rows = write(path)
    data = path.read_bytes()
    ends = [index + 1 for index, byte in enumerate(data) if byte == ord("\n")]
    near_ends = {end + step for end in ends for step in (-2, -1, 0, 1)}
    for cut in sorted({*range(0, len(data), 97), *near_ends} & set(range(len(data)))):
        path.write_bytes(data[:cut])
        partial = read_journal(path, "cell")
        whole = sum(end <= cut for end in ends)
        assert len(partial.lines) == whole
        assert partial.damaged == (cut not in (0, *ends))
        assert partial.predictions == rows[: (0, 2, 3, 4)[whole]]


@pytest.mark.parametrize("position", [0, 10, 17, 60, -2])
def test_a_flipped_byte_costs_one_batch(path: Path, position: int) -> None:
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = bytearray(lines[1])
    damaged[position] ^= 1
    path.write_bytes(lines[0] + bytes(damaged) + lines[2])
    partial = read_journal(path, "cell")
    assert [item.sample_id for item in partial.predictions] == ["s1", "s2", "s4"]
    assert partial.damaged >= 1


def test_another_cells_batch_is_not_ours(path: Path) -> None:
    write(path)
    assert read_journal(path, "another").predictions == []
    assert read_journal(path, "another").damaged == 3


def test_an_intact_line_of_unknown_content_is_set_aside(path: Path) -> None:
    line = (
        encode_batch("cell", [], 0.0, HERE).partition(b" ")[2][:-1].replace(b'"predictions":[]', b'"predictions":[{}]')
    )
    path.write_bytes(journals._checksum(line) + b" " + line + b"\n")
    assert read_journal(path, "cell").damaged == 1


def test_the_later_of_two_answers_counts(path: Path) -> None:
    with Journal(path, "cell") as journal:
        journal.append([row(1, "", Failure("RunError", "out of memory")), row(2)], 0.1, HERE)
        journal.append([row(1, "yes")], 0.1, HERE)
    assert read_journal(path, "cell").predictions == [row(1, "yes"), row(2)]


def test_only_an_open_journal_takes_batches(path: Path) -> None:
    with pytest.raises(StoreError, match="is not open"):
        Journal(path, "cell").append([row(1)], 0.0, HERE)


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        read_journal(tmp_path, "cell")


def test_the_disk_is_asked_to_keep_batches_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(journals.os, "fsync", synced.append)
    monkeypatch.setattr(journals, "SYNC_EVERY_S", 0.0)
    with Journal(path, "cell") as journal:
        journal.append([row(1)], 0.1, HERE)
        assert len(synced) == 1
    assert len(synced) == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_with_a_next_step() -> None:
    with pytest.raises(StoreError, match=r"cannot write /dev/full: No space left.*every batch finished so far is kept"):
        append_to(Path("/dev/full"))


def append_to(path: Path) -> None:
    with Journal(path, "cell") as journal:
        journal.append([row(1)], 0.1, HERE)


def test_a_disk_that_does_not_keep_what_it_took_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(journals.os, "fsync", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        append_to(path)
