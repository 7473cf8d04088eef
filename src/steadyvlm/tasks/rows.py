"""Rows out of JSON lines, a JSON list, CSV or TSV, with every limit and every complaint in one place.

Files come from other people's tools: with a byte-order mark, Windows newlines, no final newline, empty lines, bare NaN
tokens, a list saved as `.jsonl`, JSON lines saved as `.json`. All of that is read. What cannot be read with certainty
is refused with the line number: text that is not UTF-8, a line cut off in the middle, a key that occurs twice in one
object, a CSV row of another width. Lines and files have a maximal size, so that a hostile file cannot fill the memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from steadyvlm.errors import InputError

MAX_LINE_BYTES = 16 * 1024 * 1024
MAX_FILE_BYTES = 1024 * 1024 * 1024
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file.

    Attributes:
        place: where it stands, for error messages: "log.jsonl:12" or "log.json, item 3".
        values: field names to JSON values; every value of a CSV row is a string.
    """

    place: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Table:
    """All rows of a file, in order, and how many empty lines were skipped."""

    rows: tuple[Row, ...]
    empty_lines: int


def read_table(
    path: str | Path,
    *,
    error: type[InputError],
    max_line_bytes: int = MAX_LINE_BYTES,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Table:
    """Return the rows of a `.jsonl`, `.ndjson`, `.json`, `.csv` or `.tsv` file.

    Args:
        path: the file.
        error: class of what is raised, `LogError` or `SampleError`.
        max_line_bytes: refuse a longer line (a longer item, in a JSON list, is bounded by the file).
        max_file_bytes: refuse a larger file.

    Raises:
        InputError: of class `error`, naming file and line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise error(f"{path} ends in '{suffix}'; give a file that ends in one of {', '.join(SUFFIXES)}.")
    reader = _Reader(str(path), error, max_line_bytes)
    try:
        if not path.is_file():
            raise error(f"{path} is not a file; check the path.")
        size = path.stat().st_size
        if size > max_file_bytes:
            raise error(f"{path} has {size:,} bytes, more than the {max_file_bytes:,} allowed; split it.")
        with path.open("rb") as handle:
            if suffix in (".csv", ".tsv"):
                table = reader.delimited(handle, "," if suffix == ".csv" else "\t")
            elif _starts_list(handle):
                table = reader.json_list(handle.read(max_file_bytes))
            else:
                table = reader.json_lines(handle)
    except OSError as problem:
        raise error(f"{path} cannot be read ({problem}); check the path and its permissions.") from None
    if not table.rows:
        raise error(f"{path} has no rows; give a file with one object or line per question.")
    return table


def shown(value: object, limit: int = 80) -> str:
    """Return `value` as it may stand in a message: quoted, on one line, control characters escaped, shortened."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"


@dataclass(frozen=True, slots=True)
class _Reader:
    name: str
    error: type[InputError]
    max_line_bytes: int

    def json_lines(self, handle: BinaryIO) -> Table:
        rows: list[Row] = []
        empty = 0
        for number, line in self._lines(handle):
            place = f"{self.name}:{number}"
            if not line.strip():
                empty += 1
                continue
            rows.append(Row(place, self._object(self._json(line, place), place)))
        return Table(tuple(rows), empty)

    def json_list(self, data: bytes) -> Table:
        items = self._json(self._text(data, self.name), self.name)
        places = (f"{self.name}, item {number}" for number in range(1, len(items) + 1))
        return Table(tuple(Row(place, self._object(item, place)) for place, item in zip(places, items, strict=True)), 0)

    def delimited(self, handle: BinaryIO, delimiter: str) -> Table:
        rows: list[Row] = []
        header: list[str] = []
        empty = 0
        reader = csv.reader((line for _, line in self._lines(handle)), delimiter=delimiter, strict=True)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as problem:
                self._refuse(f"{self.name}:{reader.line_num}", f"not valid CSV ({problem})", "fix the quoting")
            if cells is None:
                return Table(tuple(rows), empty)
            place = f"{self.name}:{reader.line_num}"
            if not any(cell.strip() for cell in cells):
                empty += 1
            elif not header:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header) or "" in header:
                    self._refuse(
                        place, f"column names {shown(header)} are not unique", "name each column, and each only once"
                    )
            elif len(cells) != len(header):
                self._refuse(place, f"{len(cells)} cells under {len(header)} columns", "quote cells with commas")
            else:
                rows.append(Row(place, dict(zip(header, cells, strict=True))))

    def _lines(self, handle: BinaryIO) -> Iterator[tuple[int, str]]:
        number = 0
        while line := handle.readline(self.max_line_bytes + 1):
            number += 1
            place = f"{self.name}:{number}"
            if len(line) > self.max_line_bytes:
                self._refuse(place, f"a line of more than {self.max_line_bytes:,} bytes", "remove embedded data")
            yield number, self._text(line, place, first=number == 1)

    def _text(self, data: bytes, place: str, *, first: bool = True) -> str:
        if first and data.startswith(_UTF16):
            self._refuse(place, "the file is UTF-16", "save the file as UTF-8")
        try:
            return (data.removeprefix(_BOM) if first else data).decode("utf-8")
        except UnicodeDecodeError as problem:
            self._refuse(place, f"not UTF-8 ({problem.reason} at byte {problem.start})", "save the file as UTF-8")

    def _json(self, text: str, place: str) -> Any:
        try:
            value = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_unique_keys)
            if "\\ud" in text.lower():  # half of a surrogate pair is not text: it becomes a question mark
                value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        except RecursionError:
            self._refuse(place, "JSON nested too deeply", "remove the nested data")
        except ValueError as problem:
            self._refuse(place, f"not valid JSON ({problem}): {shown(text)}", "fix it, or finish the run that wrote it")
        return value

    def _object(self, value: Any, place: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(place, f"{shown(value)} is not an object", 'write {"id": …, …}')
        return value

    def _refuse(self, place: str, problem: str, step: str) -> NoReturn:
        raise self.error(f"{place}: {problem}; {step}.")


def _starts_list(handle: BinaryIO) -> bool:
    """Whether the first visible character is an opening bracket; leaves the position at the start."""
    start = handle.read(4096).removeprefix(_BOM).lstrip()
    handle.seek(0)
    return start.startswith(b"[")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return values
