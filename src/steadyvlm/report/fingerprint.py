"""What might have changed an answer besides the acceleration: the circumstances of every run, differences first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadyvlm.report.text import DASH, one_line

_LONGEST = 300
_DIGEST = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True, slots=True)
class Fact:
    """One circumstance: its value in each run; `differs` when they are not all the same."""

    name: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All circumstances; `runs` is empty when the facts are about everything."""

    runs: tuple[str, ...]
    facts: tuple[Fact, ...]


def fingerprint(provenance: Mapping[str, Any]) -> Fingerprint:
    """Return the facts, those that differ between runs first.

    Args:
        provenance: run name to facts, or facts about everything. Facts may be nested; lists become one value.

    >>> fingerprint({"a": {"dtype": "float32"}, "b": {"dtype": "bfloat16"}}).facts
    (Fact(name='dtype', values=('float32', 'bfloat16'), differs=True),)
    """
    per_run = bool(provenance) and all(isinstance(value, Mapping) for value in provenance.values())
    if not per_run:
        return Fingerprint((), tuple(Fact(name, (value,), False) for name, value in _flat(provenance).items()))
    tables = [_flat(facts) for facts in provenance.values()]
    facts = []
    for name in dict.fromkeys(name for table in tables for name in table):
        values = tuple(table.get(name, DASH) for table in tables)
        facts.append(Fact(name, values, len(set(values)) > 1))
    facts.sort(key=lambda fact: not fact.differs)
    return Fingerprint(tuple(one_line(run, 80) for run in provenance), tuple(facts))


def short_hash(value: str) -> str:
    """Return a long hexadecimal digest by its first digits, anything else as it is.

    >>> short_hash("9f" * 32), short_hash("2.13.0")
    ('9f9f9f9f9f9f…', '2.13.0')
    """
    return f"{value[:12]}…" if _DIGEST.fullmatch(value) else value


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = one_line(f"{prefix}{key}", 120)
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{name}."))
        else:
            flat[name] = _value(value)
    return flat


def _value(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return one_line(", ".join(str(item) for item in value), _LONGEST) or DASH
    return DASH if value is None or value == "" else one_line(str(value), _LONGEST)
