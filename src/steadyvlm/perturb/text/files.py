"""Data files: those shipped beside this module, and those in the wheels of other projects, which stay unimported."""

from __future__ import annotations

import gzip
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "data"


@cache
def lines(name: str) -> tuple[str, ...]:
    """Return the lines of a shipped list."""
    return tuple((FOLDER / name).read_text("utf-8").splitlines())


def shipped_table(name: str) -> Any:
    """Return a shipped table, stored as compressed JSON; None where the file was left out."""
    path = FOLDER / name
    return json.loads(gzip.decompress(path.read_bytes())) if path.is_file() else None


def version_of(name: str) -> str:
    """Return the version of an installed distribution, or "missing"."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return "missing"


@cache
def of_distribution(name: str, path: str) -> Path | None:
    """Return a file of an installed distribution, or None where it is not installed.

    Importing some of them would bring in what they need for other things: NLTK, pandas, tools for downloading.
    """
    try:
        found = Path(str(distribution(name).locate_file(path)))
    except PackageNotFoundError:
        return None
    return found if found.is_file() else None
