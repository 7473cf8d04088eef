"""Where the weights of a model that is never held whole come from: a checkpoint's files, or chance.

A source is asked for one tensor after the other, by its path in the module transformers builds. Random weights stand in
for a checkpoint where time, memory and size are measured and answers do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from steadyvlm.errors import CheckpointError
from steadyvlm.models.checkpoint_names import name_in_module
from steadyvlm.models.shards import ShardReader, open_shards
from steadyvlm.seeding import stable_seed

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"


class WeightSource(Protocol):
    """Gives tensors by name."""

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Return quietly when it can give all of `expected`, in these shapes; they may lie on "meta".

        Raises:
            CheckpointError: naming what is missing, left over or of another shape.
        """

    def read(self, name: str) -> Tensor:
        """Return one tensor on the CPU, in whatever precision the source has it."""


class CheckpointWeights:
    """The files of a checkpoint; open them with `checkpoint_weights`."""

    def __init__(self, folder: Path, reader: ShardReader) -> None:
        """Translate the names of the files' headers."""
        self._folder, self._reader = folder, reader
        named = {name_in_module(name): name for name in reader.table}
        self._names = {ours: name for ours, name in named.items() if ours is not None}

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Return quietly when the files hold exactly these tensors; a copy of a tied head may lie there too."""
        missing = sorted(expected.keys() - self._names.keys())
        extra = sorted(self._names.keys() - expected.keys() - self._copies())
        for names, what in ((missing, "lack"), (extra, "hold beyond the model's")):
            if names:
                raise CheckpointError(
                    f"the weights in '{self._folder}' {what} {len(names)} tensors ({', '.join(names[:3])}, …); they "
                    "belong to another architecture, or a download was not finished."
                )
        for name, tensor in expected.items():
            found = self._reader.table[self._names[name]]
            if found.shape != tuple(tensor.shape) or not found.dtype.is_floating_point:
                raise CheckpointError(
                    f"tensor '{name}' in '{self._folder / found.file}' is {found.dtype} {list(found.shape)}; "
                    f"config.json describes {list(tensor.shape)} floating-point numbers."
                )

    def read(self, name: str) -> Tensor:
        """Return one tensor as it is stored."""
        return self._reader.read(self._names[name])

    def _copies(self) -> set[str]:
        """Return the name of the head where it is the same as the embedding."""
        pair = [name for name in (_HEAD, _EMBEDDING) if name in self._names]
        return {_HEAD} if len(pair) == 2 and torch.equal(*map(self.read, pair)) else set()


@contextmanager
def checkpoint_weights(folder: Path) -> Iterator[CheckpointWeights]:
    """Open the weight files of a checkpoint folder.

    Raises:
        CheckpointError: for files that are missing or damaged.
    """
    with open_shards(folder) as reader:
        yield CheckpointWeights(folder, reader)


@dataclass
class RandomWeights:
    """Normal weights of a width that keeps a deep model's numbers finite; norms that change nothing; no biases.

    Attributes:
        seed: every tensor depends on it and on its own name only.
        deviation: standard deviation of matrices.

    >>> source = RandomWeights(seed=1)
    >>> source.check({"norm.weight": torch.empty(2), "up.weight": torch.empty(2, 3)})
    >>> source.read("norm.weight"), source.read("up.weight").shape
    (tensor([1., 1.]), torch.Size([2, 3]))
    """

    seed: int = 0
    deviation: float = 0.02

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Remember the shapes; anything can be drawn."""
        self._shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}

    def read(self, name: str) -> Tensor:
        """Draw one tensor, float32."""
        shape = self._shapes[name]
        if len(shape) == 1:
            return torch.full(shape, float(name.endswith("weight")))
        generator = torch.Generator().manual_seed(stable_seed("random weights", self.seed, name))
        return torch.randn(shape, generator=generator).mul_(self.deviation)
