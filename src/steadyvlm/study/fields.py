"""Read a small YAML file without trusting it, and name the exact key when something is wrong.

A study file is written by hand, often copied from somewhere. So it is read with YAML's safe loader only, may not be
large or deep, may not use anchors and aliases (a few lines of them can describe billions of nodes), and may not give
the same key twice (YAML would silently keep the last). `Fields` then takes keys one by one with the type that is
expected and, at the end, refuses whatever nobody asked for.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from steadyvlm.errors import ConfigError, UnknownName

MAX_BYTES = 256 * 1024
MAX_DEPTH = 16

_MISSING = object()


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping a YAML file holds.

    Raises:
        ConfigError: if the file is missing, too large, too deep, not UTF-8, not YAML, uses aliases, repeats a key, or
            does not hold a mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is larger than {MAX_BYTES // 1024} KiB; a study file is a page of text.")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the study file {path}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the mapping that YAML `text` holds; `source` is named in errors, as in `read_yaml`.

    >>> parse_yaml("study: mine", "mine.yaml")
    {'study': 'mine'}
    """
    try:
        _refuse_bombs(text, source)
        value = yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: plain values only
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{source} holds a value YAML cannot read: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{source} must hold keys such as 'model:' and 'tasks:', found {_kind(value)}.")
    return value


class Fields:
    """The keys of one mapping, taken one by one.

    >>> fields = Fields({"limit": 5}, "mine.yaml")
    >>> fields.integer("limit", low=1)
    5
    >>> fields.done()
    """

    def __init__(self, value: Any, source: str, at: str = "") -> None:
        self.source, self.at = source, at
        if not isinstance(value, Mapping):
            raise self._wrong(at or "the file", "a mapping of keys to values", value)
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{source}: {at or 'the file'} has the key {key!r}; keys must be text, quote it.")
        self._left: dict[str, Any] = dict(value)
        self._known: list[str] = []

    def text(self, key: str, default: Any = _MISSING) -> str:
        """Take a non-empty text value."""
        value = self._take(key, default)
        if value is default:
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(self._path(key), "non-empty text", value)
        return value.strip()

    def integer(self, key: str, default: Any = _MISSING, *, low: int, high: int = 2**63 - 1) -> Any:
        """Take a whole number in [low, high]; `default` may be None."""
        value = self._take(key, default)
        if value is default:
            return value
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            limits = f"of at least {low}" if high == 2**63 - 1 else f"from {low} to {high}"
            raise self._wrong(self._path(key), f"a whole number {limits}", value)
        return value

    def one_of(self, key: str, known: tuple[str, ...], default: str) -> str:
        """Take one of a few words."""
        value = self.text(key, default)
        if value not in known:
            raise UnknownName.among(f"value of '{self._path(key)}' in {self.source}", value, known)
        return value

    def items(self, key: str, default: Any = _MISSING) -> list[Fields]:
        """Take a list of mappings, each as its own `Fields`."""
        value = self._take(key, default)
        if not isinstance(value, list):
            raise self._wrong(self._path(key), "a list (lines that begin with '-')", value)
        return [Fields(item, self.source, f"{self._path(key)}[{index}]") for index, item in enumerate(value)]

    def texts(self, key: str, default: Any = _MISSING) -> list[str]:
        """Take a list of non-empty texts."""
        value = self._take(key, default)
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            raise self._wrong(self._path(key), "a list of texts", value)
        return [item.strip() for item in value]

    def integers(self, key: str, default: Any = _MISSING) -> list[int]:
        """Take a list of whole numbers from 0, each once."""
        value = self._take(key, default)
        whole = isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
        if not whole or len(set(value)) < len(value):
            raise self._wrong(self._path(key), "a list of different whole numbers, such as [0, 1, 2]", value)
        return list(value)

    def lists(self, key: str, default: Any = _MISSING) -> list[list[Any]]:
        """Take a list of lists."""
        value = self._take(key, default)
        if not isinstance(value, list) or not all(isinstance(item, list) for item in value):
            raise self._wrong(self._path(key), "a list of lists, such as [[first, second]]", value)
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """Take true or false."""
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self._wrong(self._path(key), "true or false", value)
        return value

    def peek(self, key: str) -> Any:
        """Return a value without taking it; None if it is not there."""
        return self._left.get(key)

    def section(self, key: str) -> Fields | None:
        """Take a mapping if it is there."""
        value = self._take(key, None)
        return None if value is None else Fields(value, self.source, self._path(key))

    def rest(self) -> dict[str, Any]:
        """Take all keys that are left: options whose names only their owner knows."""
        left, self._left = self._left, {}
        for key, value in left.items():
            left[key] = _literal(value)
            if left[key] is _MISSING:
                raise self._wrong(self._path(key), "a plain value or a list of plain values", value)
        return left

    def done(self) -> None:
        """Refuse keys that nobody took.

        Raises:
            UnknownName: with the nearest key that exists here.
        """
        for key in self._left:
            raise UnknownName.among(f"key of {self.at or 'a study'} in {self.source}", key, self._known)

    def _take(self, key: str, default: Any) -> Any:
        self._known.append(key)
        value = self._left.pop(key, default)
        if value is _MISSING:
            raise ConfigError(f"{self.source}: the key '{self._path(key)}' is missing.")
        return value

    def _path(self, key: str) -> str:
        return f"{self.at}.{key}" if self.at else key

    def _wrong(self, path: str, wanted: str, found: Any) -> ConfigError:
        return ConfigError(f"{self.source}: {path} must be {wanted}, found {_kind(found)}.")


class _StrictLoader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """The safe loader, minus its silence about repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' is given twice", problem_mark=node.start_mark)
        return dict(super().construct_mapping(node, deep=deep))


def _refuse_bombs(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{source} uses a YAML alias (*{event.anchor}); write the value out instead.")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError(f"{source} is nested deeper than {MAX_DEPTH} levels.")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _literal(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        items = [_literal(item) for item in value]
        return _MISSING if _MISSING in items else tuple(items)
    return value if isinstance(value, (str, int, float, bool, type(None))) else _MISSING


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = {str: "the text", bool: "the yes/no value", int: "the number", float: "the number", list: "a list"}
    name = names.get(type(value), "a mapping" if isinstance(value, Mapping) else f"a {type(value).__name__}")
    return name if isinstance(value, (list, Mapping)) else f"{name} {str(value)[:80]!r}"
