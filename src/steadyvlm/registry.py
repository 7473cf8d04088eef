"""Names to classes without importing them, and the spec strings users write.

A table maps a name to `"package.module:Class"`. Looking a name up imports that one module; listing names imports
nothing. Other packages can add rows through the entry-point groups `steadyvlm.reductions`, `steadyvlm.quantizers`,
`steadyvlm.tasks` and `steadyvlm.models`; a name of ours cannot be replaced that way.

Spec strings such as `fastv(layer=3, keep_ratio=0.5)` are parsed as literals: no expression is ever evaluated.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from steadyvlm.errors import ConfigError, InvalidOption, UnknownName

Literal = str | int | float | bool | None | tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """A name with keyword options, as written by a user.

    >>> Spec.parse("fastv(layer=3, keep_ratio=0.5)")
    Spec(name='fastv', options={'layer': 3, 'keep_ratio': 0.5})
    """

    name: str
    options: Mapping[str, Literal]

    @staticmethod
    def parse(text: str) -> Spec:
        """Read `name` or `name(option=literal, …)`.

        Raises:
            ConfigError: if the text is anything else (positional values, expressions, nested calls).
        """
        try:
            node = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise _unreadable(text) from None
        if isinstance(node, ast.Name):
            return Spec(node.id, {})
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
            raise _unreadable(text)
        options: dict[str, Literal] = {}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg in options:
                raise _unreadable(text)
            options[keyword.arg] = _literal(keyword.value, text)
        return Spec(node.func.id, options)

    def __str__(self) -> str:
        """Canonical text: options sorted by name."""
        if not self.options:
            return self.name
        inside = ", ".join(f"{key}={self.options[key]!r}" for key in sorted(self.options))
        return f"{self.name}({inside})"


class Registry(Mapping[str, str]):
    """A table of one kind of thing ("reduction", "quantizer", …)."""

    def __init__(self, kind: str, table: Mapping[str, str], *, group: str) -> None:
        self.kind = kind
        self._own = dict(table)
        self._group = group

    def _table(self) -> dict[str, str]:
        found = {point.name: point.value for point in entry_points(group=self._group)}
        return {**found, **self._own}

    def __getitem__(self, name: str) -> str:
        return self._table()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table()))

    def __len__(self) -> int:
        return len(self._table())

    def load(self, name: str) -> Any:
        """Import and return the class or function called `name`.

        Raises:
            UnknownName: with the closest known name.
        """
        table = self._table()
        if name not in table:
            raise UnknownName.among(self.kind, name, table)
        module, _, attribute = table[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def create(self, spec: Spec | str) -> Any:
        """Build the frozen dataclass a spec describes.

        Raises:
            UnknownName: for an unknown name or option.
            InvalidOption: when the class refuses a value.
        """
        spec = Spec.parse(spec) if isinstance(spec, str) else spec
        factory = self.load(spec.name)
        if dataclasses.is_dataclass(factory):
            known = [item.name for item in dataclasses.fields(factory) if item.init]
            for option in spec.options:
                if option not in known:
                    raise UnknownName.among(f"option of {self.kind} '{spec.name}'", option, known)
        try:
            return factory(**spec.options)
        except TypeError as error:
            raise InvalidOption(f"{self.kind} '{spec.name}' could not be built from '{spec}': {error}") from None


def spec_of(value: Any, name: str) -> Spec:
    """Return the spec that rebuilds the frozen dataclass `value`, defaults spelled out."""
    options = {item.name: getattr(value, item.name) for item in dataclasses.fields(value) if item.init}
    return Spec(name, options)


def _literal(node: ast.expr, text: str) -> Literal:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise _unreadable(text) from None
    if isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, (str, int, float, bool, tuple, type(None))):
        raise _unreadable(text)
    return value


def _unreadable(text: str) -> ConfigError:
    return ConfigError(
        f"cannot read '{text[:200]}'. Write a name with keyword options of plain values, "
        "for example 'fastv(layer=3, keep_ratio=0.5)'."
    )
