"""Predictions as a plain table that pandas, DuckDB and people can read, and back again without loss.

One row per prediction, one column per field; lists stay lists. A generation is spread over columns (`token_ids`,
`margin`, `time_ms`, …) that are null for a failure. What belongs to the whole cell (its address, provenance, times)
is JSON in the file's metadata under the key "steadyvlm", and three columns say which arm a row belongs to, so that
all cells of a study can be read at once:

    SELECT arm, task, avg(score) FROM 'runs/pocket-demo/cells/*.parquet' GROUP BY ALL
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steadyvlm.errors import StoreError
from steadyvlm.records import Prediction
from steadyvlm.study.journal import as_dict

METADATA_KEY = b"steadyvlm"

_TEXTS = pa.list_(pa.string())
_INTS = pa.list_(pa.int32())
_PLAIN = (
    ("task", pa.string()),
    ("sample_id", pa.string()),
    ("perturbation", pa.string()),
    ("parent", pa.string()),
    ("family", pa.string()),
    ("cluster", pa.string()),
    ("group", pa.string()),
    ("kind", pa.string()),
    ("question", pa.string()),
    ("choices", _TEXTS),
    ("references", _TEXTS),
    ("text", pa.string()),
    ("answer", pa.string()),
    ("score", pa.float64()),
    ("prompt_sha256", pa.string()),
    ("image_sha256", _TEXTS),
)
_GENERATION = (
    ("stop_reason", pa.string()),
    ("margin", pa.float64()),
    ("token_ids", _INTS),
    ("top", pa.list_(pa.struct([("token_id", pa.int32()), ("token", pa.string()), ("logprob", pa.float64())]))),
    (
        "kept",
        pa.list_(pa.struct([("layer", pa.int32()), ("image", pa.int32()), ("indices", _INTS), ("merged", _INTS)])),
    ),
)
_COST = (
    ("time_ms", pa.float64()),
    ("prompt_tokens", pa.int32()),
    ("generated_tokens", pa.int32()),
    ("visual_tokens_per_layer", _INTS),
    ("cache_bytes", pa.int64()),
    ("image_grids", pa.list_(_INTS)),
    ("connector_tokens", pa.int32()),
    ("text_tokens", pa.int32()),
    ("image_cuts", pa.list_(_INTS)),
)
_CELL = (("arm", pa.string()), ("recipe", pa.string()), ("cell", pa.string()))
_FAILURE = (("failure_kind", pa.string()), ("failure_message", pa.string()))
SCHEMA = pa.schema([*_CELL, *_PLAIN, *_FAILURE, *_GENERATION, *_COST])


def write_table(path: Path, predictions: Sequence[Prediction], about: Mapping[str, Any]) -> None:
    """Write predictions to a Parquet file; `about` holds at least "arm", "recipe" and "key"."""
    rows = [_row(prediction, about) for prediction in predictions]
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(dict(about), ensure_ascii=False).encode("utf-8")})
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, path, compression="zstd", write_page_checksum=True)


def read_table(path: Path) -> list[Prediction]:
    """Read back what `write_table` wrote.

    Raises:
        StoreError: if the file is not one of ours, is damaged, or holds fewer rows than it says.
    """
    about = read_about(path)
    try:
        rows = pq.read_table(path, page_checksum_verification=True, partitioning=None).to_pylist()
        predictions = [_prediction(row) for row in rows]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if len(predictions) != about.get("samples"):
        raise _damaged(path, f"it says it holds {about.get('samples')} samples and has {len(predictions)}")
    return predictions


def read_about(path: Path) -> dict[str, Any]:
    """Read only the JSON that describes the whole cell.

    Raises:
        StoreError: if the file is not one of ours or is damaged.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, str(error)) from None
    if METADATA_KEY not in metadata:
        raise StoreError(f"{path} is a Parquet file, but steadyvlm did not write it.")
    try:
        about = json.loads(metadata[METADATA_KEY])
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    return dict(about)


def _row(prediction: Prediction, about: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: getattr(prediction, name) for name, _ in _PLAIN}
    row |= {"arm": about["arm"], "recipe": about["recipe"], "cell": about["key"]}
    generation, failure = prediction.generation, prediction.failure
    if generation is not None:
        if generation.text != prediction.text:
            raise StoreError(f"the text of prediction '{prediction.sample_id}' is not the text that was generated.")
        row |= {name: getattr(generation, name) for name, _ in _GENERATION} | as_dict(generation.cost)
        row |= {"top": [as_dict(item) for item in generation.top], "kept": [as_dict(item) for item in generation.kept]}
    if failure is not None:
        row |= {"failure_kind": failure.kind, "failure_message": failure.message}
    return row


def _prediction(row: Mapping[str, Any]) -> Prediction:
    value = {name: row[name] for name, _ in _PLAIN}
    if row["token_ids"] is not None:
        value["generation"] = {name: row[name] for name, _ in _GENERATION}
        known = {name: row[name] for name, _ in _COST if name in row}  # older tables lack what is counted since
        value["generation"] |= {"text": row["text"], "cost": known}
    if row["failure_kind"] is not None:
        value["failure"] = {"kind": row["failure_kind"], "message": row["failure_message"]}
    return Prediction.from_json(value)


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"{path} cannot be read: {' '.join(reason.split())[:300]}. "
        "Run the study again: it sets the damaged file aside and computes the cell anew."
    )
