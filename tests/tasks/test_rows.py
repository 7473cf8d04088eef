"""Files from other people's tools: what is read, and what is refused with a line number."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyvlm.errors import LogError, SampleError
from steadyvlm.tasks.rows import read_table, shown

TWO = [{"id": 1, "x": "a"}, {"id": 2, "x": "b"}]


def values(path: Path, content: bytes | str) -> list[dict[str, Any]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [row.values for row in read_table(path, error=LogError).rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"id": 1, "x": "a"}\n{"id": 2, "x": "b"}\n'),
        ("no-final-newline.jsonl", '{"id": 1, "x": "a"}\n{"id": 2, "x": "b"}'),
        ("windows.ndjson", '{"id": 1, "x": "a"}\r\n{"id": 2, "x": "b"}\r\n'),
        ("mark.jsonl", b'\xef\xbb\xbf{"id": 1, "x": "a"}\n{"id": 2, "x": "b"}'),
        ("lines.json", '{"id": 1, "x": "a"}\n{"id": 2, "x": "b"}'),
        ("list.json", json.dumps(TWO, indent=1)),
        ("list.JSONL", "\n  " + json.dumps(TWO)),
        ("marked-list.json", b"\xef\xbb\xbf" + json.dumps(TWO).encode()),
    ],
)
def test_json_in_many_coats(name: str, content: bytes | str, tmp_path: Path) -> None:
    assert values(tmp_path / name, content) == TWO


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "id,x\n1,a\n2,b\n"),
        ("windows.csv", "\ufeffid, x\r\n1,a\r\n\r\n2,b"),
        ("a.tsv", "id\tx\n1\ta\n2\tb\n"),
    ],
)
def test_delimited_text(name: str, content: str, tmp_path: Path) -> None:
    assert values(tmp_path / name, content) == [{"id": "1", "x": "a"}, {"id": "2", "x": "b"}]


def test_quoted_cells_may_hold_commas_quotes_and_newlines(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text('id,x\n1,"a, ""b""\nc"\n2,d\n')
    rows = read_table(tmp_path / "q.csv", error=LogError).rows
    assert [row.values["x"] for row in rows] == ['a, "b"\nc', "d"]
    assert [row.place for row in rows] == [f"{tmp_path}/q.csv:3", f"{tmp_path}/q.csv:4"]


def test_empty_lines_are_counted_and_keep_the_line_numbers_right(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"id": 1}\n  \r\n{"id": 2}\n')
    table = read_table(tmp_path / "a.jsonl", error=LogError)
    assert table.empty_lines == 2
    assert [row.place.rsplit(":", 1)[1] for row in table.rows] == ["2", "4"]
    (tmp_path / "a.csv").write_text("\nid,x\n1,a\n ,\n2,b\n")
    assert read_table(tmp_path / "a.csv", error=LogError).empty_lines == 2
    (tmp_path / "l.json").write_text("[{}, {}]")
    assert [row.place[-6:] for row in read_table(tmp_path / "l.json", error=LogError).rows] == ["item 1", "item 2"]


def test_bare_nan_and_infinity_are_no_value(tmp_path: Path) -> None:
    assert values(tmp_path / "n.jsonl", '{"a": NaN, "b": [-Infinity], "c": 1.5}') == [
        {"a": None, "b": [None], "c": 1.5}
    ]


def test_half_a_surrogate_pair_becomes_a_question_mark_and_a_whole_one_stays(tmp_path: Path) -> None:
    [row] = values(tmp_path / "s.jsonl", '{"half": "a\\ud83d", "whole": "\\uD83D\\uDE00", "n": NaN}')
    assert row == {"half": "a?", "whole": "\U0001f600", "n": None}
    json.dumps(row, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"id": 1}\n{"id": 2, "x": "unfini', r"a.jsonl:2: not valid JSON .*unfini.*; fix it, or finish"),
        ("a.jsonl", "{\n}\n", "a.jsonl:1: not valid JSON"),
        ("a.jsonl", '{"id": 1}\n7\n', "a.jsonl:2: 7 is not an object; write"),
        ("a.jsonl", '{"id": 1, "id": 2}', "the key 'id' occurs twice in one object"),
        ("a.jsonl", b'{"id": 1}\n{"id": "\xff"}', "a.jsonl:2: not UTF-8 .*invalid start byte at byte 8.*; save"),
        ("a.jsonl", '{"id": 1}'.encode("utf-16"), "a.jsonl:1: the file is UTF-16; save the file as UTF-8"),
        ("a.csv", "id,x\n1,a".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"a":' * 100_000, "a.jsonl:1: JSON nested too deeply"),
        ("a.jsonl", '{"id": ' + "9" * 5000 + "}", "a.jsonl:1: not valid JSON .*digits"),
        ("a.json", "[" * 100_000, "a.json: JSON nested too deeply"),
        ("a.json", '[{"id": 1}, 5]', "a.json, item 2: 5 is not an object"),
        ("a.json", '[{"id": 1},', "a.json: not valid JSON"),
        ("a.json", "[]", "has no rows"),
        ("a.jsonl", "", "has no rows"),
        ("a.csv", "id,x\n", "has no rows"),
        ("a.csv", "id,x\n1\n", "a.csv:2: 1 cells under 2 columns; quote"),
        ("a.csv", "id,x\n1,a,b\n", "a.csv:2: 3 cells under 2 columns"),
        ("a.csv", "id,id\n1,2\n", r"a.csv:1: column names \['id', 'id'\] are not unique"),
        ("a.csv", "id,\n1,2\n", "a.csv:1: column names"),
        ("a.csv", 'id,x\n1,"a"b\n', "a.csv:2: not valid CSV"),
        ("a.csv", 'id,x\n1,"a\n', "a.csv:2: not valid CSV .unexpected end of data"),
        ("a.csv", "id,x\n1," + "y" * 200_000, "field larger than field limit"),
        ("a.xlsx", "PK", "ends in '.xlsx'; give a file that ends in one of .jsonl"),
        ("a", "PK", "ends in ''"),
    ],
)
def test_what_cannot_be_read_with_certainty_is_refused(
    name: str, content: bytes | str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(LogError, match=message):
        values(tmp_path / name, content)


def test_the_error_class_is_the_callers(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="is not a file; check the path"):
        read_table(tmp_path / "gone.jsonl", error=SampleError)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("folder.json", "pipe.json", "nul\0.json"):
        with pytest.raises(LogError, match="is not a file"):
            read_table(tmp_path / name, error=LogError)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.json").write_text("[]")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(LogError, match=r"a.json cannot be read .*Permission denied"):
        read_table(tmp_path / "a.json", error=LogError)


def test_lines_and_files_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"id": 234567}\n')
    assert len(read_table(tmp_path / "a.jsonl", error=LogError, max_line_bytes=15).rows) == 2
    with pytest.raises(LogError, match=r"a.jsonl:2: a line of more than 14 bytes; remove embedded data"):
        read_table(tmp_path / "a.jsonl", error=LogError, max_line_bytes=14)
    with pytest.raises(LogError, match="has 25 bytes, more than the 24 allowed; split it"):
        read_table(tmp_path / "a.jsonl", error=LogError, max_file_bytes=24)


def test_messages_show_values_on_one_line_and_short() -> None:
    assert shown("a\n\x1b[31m") == r"'a\n\x1b[31m'"
    assert shown("x" * 500) == "'" + "x" * 79 + "… (502 characters)"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["f.jsonl", "f.json", "f.csv", "f.tsv"]),
    content=st.one_of(st.binary(max_size=60), st.text('{}[]":,\\udNa1\n\r\t "', max_size=60).map(str.encode)),
)
def test_any_bytes_give_rows_or_a_log_error(name: str, content: bytes, tmp_path: Path) -> None:
    refusal, rows = name, []
    try:
        rows = values(tmp_path / name, content)
    except LogError as error:
        refusal = str(error)
    assert name in refusal
    assert all(isinstance(row, dict) for row in rows)
