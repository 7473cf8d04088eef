"""A cell is a plain table for pandas and DuckDB, and comes back without loss."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steadyvlm.errors import StoreError
from steadyvlm.records import Cost, Failure, Generation, KeptTokens, Prediction, TokenLogprob
from steadyvlm.study.table import SCHEMA, read_about, read_table, write_table

FULL = Prediction(
    sample_id="été-猫",
    task="t",
    kind="choice",
    question="What\u2028is 'it'? 🦜\x00",
    prompt_sha256="p",
    image_sha256=("a", "b"),
    references=("A",),
    choices=("red", "blue"),
    cluster="scene",
    family="colour",
    text="A) red",
    answer="A",
    score=0.3,
    group="g",
    perturbation="blur-3",
    parent="p1",
    generation=Generation(
        text="A) red",
        token_ids=(5, 2),
        stop_reason="eos",
        top=(TokenLogprob(5, "A", -0.1), TokenLogprob(6, "▁B", -math.inf)),
        margin=math.inf,
        kept=(KeptTokens(3, 0, (0, 4, -1), (1, 0, 2)), KeptTokens(5, 1, ())),
        cost=Cost(
            12.5, 160, 2, (144, 144, 72), 2**40, ((1, 12, 12), (5, 24, 24)), 64, 16, ((0,) * 6, (2, 2, 3, 0, 21, 24))
        ),
    ),
)
FAILED = dataclasses.replace(
    FULL,
    sample_id="2",
    text="",
    answer="<unparsed>",
    score=0.0,
    choices=(),
    generation=None,
    failure=Failure("ImageError", "gone"),
)
EMPTY = dataclasses.replace(
    FULL,
    sample_id="3",
    text="",
    image_sha256=(),
    generation=Generation("", (), "length", (), 0.0, (), Cost(0.0, 0, 0, (), 0)),
)
IMPORTED = dataclasses.replace(FULL, sample_id="4", generation=None)
ROWS = [FULL, FAILED, EMPTY, IMPORTED]
ABOUT = {"arm": "half", "recipe": "fastv(layer=3)", "key": "k", "samples": 4, "note": "№"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_table(tmp_path / "cell.parquet", ROWS, ABOUT)
    return tmp_path / "cell.parquet"


def test_predictions_come_back_exactly(path: Path) -> None:
    assert read_table(path) == ROWS
    assert read_about(path) == ABOUT


def test_every_field_of_a_prediction_has_a_column(path: Path) -> None:
    def names(value: object) -> set[str]:
        return {field.name for field in dataclasses.fields(value)}  # type: ignore[arg-type]

    expected = names(Prediction) | names(Generation) | names(Cost)
    expected -= {"generation", "failure", "cost"}
    assert set(SCHEMA.names) == expected | {"arm", "recipe", "cell", "failure_kind", "failure_message"}


def test_tables_written_before_a_cost_was_counted_are_read(path: Path) -> None:
    younger = ["image_grids", "connector_tokens", "text_tokens", "image_cuts"]
    pq.write_table(pq.read_table(path).drop_columns(younger), path)
    first = read_table(path)[0].generation
    assert first is not None
    assert first.cost == Cost(12.5, 160, 2, (144, 144, 72), 2**40)


def test_pandas_reads_it(path: Path) -> None:
    frame = pd.read_parquet(path)
    assert list(frame["sample_id"]) == ["été-猫", "2", "3", "4"]
    assert frame["score"].tolist() == [0.3, 0.0, 0.3, 0.3]
    assert frame["failure_kind"].isna().tolist() == [True, False, True, True]
    assert frame["token_ids"][0].tolist() == [5, 2]


def test_duckdb_reads_it(path: Path) -> None:
    query = f"SELECT arm, choices[1], len(token_ids), kept[1].indices[3], top[1].token FROM '{path}' LIMIT 1"
    assert duckdb.sql(query).fetchall()[0] == ("half", "red", 2, -1, "A")
    counted = duckdb.sql(f"SELECT recipe, cell, count(*), count(failure_kind) FROM '{path}' GROUP BY ALL").fetchall()
    assert counted == [("fastv(layer=3)", "k", 4, 1)]


def test_an_empty_table_is_a_table(tmp_path: Path) -> None:
    write_table(tmp_path / "none.parquet", [], {**ABOUT, "samples": 0})
    assert read_table(tmp_path / "none.parquet") == []


def test_a_text_that_was_not_generated_is_refused(tmp_path: Path) -> None:
    wrong = dataclasses.replace(FULL, text="something else")
    with pytest.raises(StoreError, match="is not the text that was generated"):
        write_table(tmp_path / "x.parquet", [wrong], ABOUT)


def test_every_damage_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for cut in (0, 3, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(StoreError, match="cannot be read"):
            read_table(path)
    column = data.index("été-猫".encode()) if "été-猫".encode() in data else 200
    path.write_bytes(data[:column] + bytes([data[column] ^ 0xFF]) + data[column + 1 :])
    with pytest.raises(StoreError, match="cannot be read"):
        read_table(path)


def test_missing_rows_are_noticed(path: Path) -> None:
    write_table(path, ROWS[:2], ABOUT)
    with pytest.raises(StoreError, match="it says it holds 4 samples and has 2"):
        read_table(path)


def test_other_peoples_files_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(StoreError, match="steadyvlm did not write it"):
        read_table(tmp_path / "other.parquet")
    strange = pa.table({"a": [1]}).replace_schema_metadata({b"steadyvlm": b"{not json"})
    pq.write_table(strange, tmp_path / "strange.parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        read_about(tmp_path / "strange.parquet")
    bare = pa.table({"a": [1]}).replace_schema_metadata({b"steadyvlm": b"{}"})
    pq.write_table(bare, tmp_path / "bare.parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        read_table(tmp_path / "bare.parquet")
