"""Plain JSON to frozen dataclasses and back, with nothing guessed: unknown, missing and misshapen fields are refused.

The file may come from anywhere, so its size is bounded, no name is given twice, and no number is infinite or NaN.
Ratios are written as texts of 17 significant digits: exactly the number, in every language that reads them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from steadyvlm.errors import CheckpointError

LARGEST = 1 << 20
"""Bytes of the largest file that is read."""

RATIO = "ratio"
"""Metadata of a field whose numbers are written as texts."""

Kind = TypeVar("Kind")


def read(path: Path) -> Any:
    """Return the JSON in a file.

    Raises:
        CheckpointError: when there is none, it is too large, or it is no JSON.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"'{path}' has more than {LARGEST:,} bytes; a recipe is far smaller.")
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except FileNotFoundError:
        raise CheckpointError(f"there is no '{path}'. Make one with `steadyvlm calibrate`.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' cannot be read as JSON: {error}") from None


def decode(kind: type[Kind], value: Any, where: str = "recipe") -> Kind:
    """Return `value` as the dataclass `kind`, its fields with the types they declare.

    Raises:
        CheckpointError: naming the first field that does not fit.
    """
    if not isinstance(value, dict):
        raise _misshapen(where, "an object", value)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # callers give dataclasses
    missing, unknown = sorted(fields.keys() - value.keys()), sorted(value.keys() - fields.keys())
    if missing or unknown:
        found = "; ".join(
            f"{what}: {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names
        )
        raise CheckpointError(f"{where} does not have the fields of this version ({found}). Make it anew.")
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            name: _value(hints[name], value[name], f"{where}.{name}", ratio=bool(item.metadata.get(RATIO)))
            for name, item in fields.items()
        }
    )


def encode(value: Any) -> Any:
    """Return a dataclass as plain data, ratios as texts."""
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    plain = {}
    for item in dataclasses.fields(value):
        part = getattr(value, item.name)
        plain[item.name] = [format(number, ".17g") for number in part] if item.metadata.get(RATIO) else encode(part)
    return plain


def dumps(value: Any) -> str:
    """Return the one text of a dataclass: sorted names, one field per line, no trailing blanks.

    Raises:
        ValueError: for a number that is not finite.
    """
    return json.dumps(encode(value), sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _value(hint: Any, value: Any, where: str, *, ratio: bool = False) -> Any:
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type[Any], hint), value, where)
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # only "this or None" is used
        return None if value is None else _value(inside[0], value, where)
    if origin is typing.Literal:
        if not isinstance(value, type(inside[0])) or value not in inside:
            raise _misshapen(where, " or ".join(map(repr, inside)), value)
        return value
    if origin is tuple:
        if not isinstance(value, list) or (inside[1] is not Ellipsis and len(value) != len(inside)):
            raise _misshapen(where, "a list" if inside[1] is Ellipsis else f"a list of {len(inside)}", value)
        return tuple(
            _ratio(item, where) if ratio else _value(inside[0], item, f"{where}[{place}]")
            for place, item in enumerate(value)
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < _EXACT:
        value = float(value)
    infinite = isinstance(value, float) and not math.isfinite(value)  # 1e999 is JSON
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool) or infinite:
        raise _misshapen(where, _NAMES[hint], value)
    return value


_NAMES = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
_EXACT = 2**53


def _ratio(text: Any, where: str) -> float:
    try:
        number = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or format(number, ".17g") != text:
        raise _misshapen(where, "numbers as texts of 17 digits", text)
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _misshapen(where: str, expected: str, value: Any) -> CheckpointError:
    return CheckpointError(
        f"{where} is {str(value)[:60]!r}, expected {expected}. The file is damaged or edited; make it anew."
    )
