"""Layer-wise inner disruption of a study's arms, measured once and kept beside the answers.

    inside/lid-<key>.json     one arm: mean with interval, value of every question, mean per layer
    inside/arms.json          which of them belongs to which arm

Like a cell, a measurement has an address made of what could change it: weights, recipes, questions, options. It is
written in one step; running the study again reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from steadyvlm.errors import StoreError, Unsupported
from steadyvlm.records import Sample
from steadyvlm.seeding import content_hash

INDEX = "arms.json"
Scope = Literal["all", "visual"]
VERSION = 1
"""Of what is measured; results of another version are measured again."""


@runtime_checkable
class Inspector(Protocol):
    """A session that can look inside its model."""

    def disruption(self, recipe: str, samples: Sequence[Sample], *, scope: Scope) -> Mapping[str, Any]:
        """Return the inner disruption of `recipe` against the original, as JSON types.

        Keys: value, low, high, per_layer, values (sample id to value), rank, scope, tensor, resamples and failed.
        """


@dataclass(frozen=True, slots=True)
class Asked:
    """What is measured of one arm.

    Attributes:
        arm: its name in the study.
        recipe: its concrete recipe.
        address: of recipe and weights, the original's included.
        key: address of the measurement, from `with_key`.
    """

    arm: str
    recipe: str
    address: tuple[str, ...]

    key: str = ""

    def with_key(self, samples: Sequence[Sample], identities: Sequence[str], scope: str) -> Asked:
        """Return this with the address of its measurement.

        Args:
            samples: the questions, in order.
            identities: hash of each question and its pictures.
            scope: columns of the spectra.
        """
        ids = [sample.id for sample in samples]
        return replace(self, key=content_hash(["lid", VERSION, *self.address, scope, ids, list(identities)]))


class InsideStore:
    """The measurements in a study's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "inside"

    def remember(self, arms: Sequence[Asked]) -> None:
        """Write down which measurement belongs to which arm."""
        self._write(self._folder / INDEX, {asked.arm: asked.key for asked in arms})

    def measured(self) -> dict[str, dict[str, Any]]:
        """Return the measurements that are there, by arm.

        Raises:
            StoreError: if one is damaged.
        """
        index = self._read(self._folder / INDEX) or {}
        found = {arm: self.load(str(key)) for arm, key in index.items()}
        return {arm: value for arm, value in found.items() if value is not None}

    def load(self, key: str) -> dict[str, Any] | None:
        """Return a measurement, or None when it is not there.

        Raises:
            StoreError: if it is there and cannot be read.
        """
        value = self._read(self._path(key))
        if value is not None and "value" not in value:
            raise StoreError(f"{self._path(key)} holds no measurement; move it away to measure it again.")
        return value

    def save(self, key: str, value: Mapping[str, Any]) -> None:
        """Write a measurement in one step.

        Raises:
            StoreError: when the folder cannot be written to.
        """
        self._write(self._path(key), value)

    def _path(self, key: str) -> Path:
        return self._folder / f"lid-{key}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read ({error}); move it away to measure it again.") from None
        if not isinstance(value, dict):
            raise StoreError(f"{path} is damaged: it holds no mapping; move it away to measure it again.")
        return value

    def _write(self, path: Path, value: Mapping[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror or error}.") from None


def measure(
    session: object, asked: Asked, samples: Sequence[Sample], *, scope: Scope, store: InsideStore
) -> dict[str, Any]:
    """Return a measurement, from the store or anew.

    Raises:
        Unsupported: when the backend cannot look inside its model.
        StoreError: when the store cannot be read or written.
        SteadyVLMError: when the model cannot be read.
    """
    known = store.load(asked.key)
    if known is not None:
        return known
    if not isinstance(session, Inspector):
        raise Unsupported(
            "this backend cannot look inside its model; leave 'lid' out of the study, or run it on this machine."
        )
    found = dict(session.disruption(asked.recipe, samples, scope=scope))
    store.save(asked.key, found | {"arm": asked.arm, "recipe": asked.recipe, "version": VERSION})
    return found
