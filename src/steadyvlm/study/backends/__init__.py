"""Who runs a cell. A backend changes where the work happens, never what a cell contains.

A `Loader` is called with the model, device and dtype of a study and returns a `Session`, which can say what the
original is (without loading it, so that a finished study is recognised at once) and can turn it into any arm.
`backends.local` runs in this process; another backend provides these protocols and nothing else, and a test double
needs a dozen lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from steadyvlm.records import Failure, Generation, Sample


class Answerer(Protocol):
    """One arm, ready to answer."""

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int, stop: tuple[str, ...]
    ) -> Sequence[Generation | Failure]:
        """Return one outcome per sample, in order."""

    def provenance(self) -> Mapping[str, Any]:
        """Return device, dtype, attention, versions and extra, as in `records.Provenance`."""

    def sizes(self) -> Mapping[str, Any] | None:
        """Return the sizes of the model that answers (`cost.ModelSizes` as JSON), or None where they are not known."""


class Session(Protocol):
    """An original that can be opened when it is needed."""

    @property
    def dtype(self) -> str:
        """The precision "auto" stands for here, or the one asked for."""

    def resolve(self, recipe: str) -> str:
        """Return the canonical recipe the model runs in place of one with a preset; asked for no other."""

    def weights_sha256(self, recipe: str) -> str:
        """Return the hash of the weights `recipe` runs on: the model's own, or those of its checkpoint."""

    def arm(self, recipe: str) -> Answerer:
        """Return the model under `recipe`; "keep_all" is the original."""


class Loader(Protocol):
    """Opens a session."""

    def __call__(self, model: str, *, device: str, dtype: str) -> Session:
        """Find `model` and refuse what cannot run here, before anything is computed."""
