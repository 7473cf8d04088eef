"""Weights in several files: written one after the other, read tensor by tensor, so that a model is never held twice.

The layout is that of the Hugging Face hub: `model.safetensors`, or `model-00001-of-00003.safetensors` and so on beside
`model.safetensors.index.json`, which says what lies where. Files of others are not trusted: only safetensors are
opened, names of files may not leave the folder, and everything that can be refused is refused from the headers, before
a single number is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import CheckpointError
from steadyvlm.models.processors import read_json

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 1_000_000_000
"""Numbers in one file at most, unless a single tensor is larger."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies and what it is, from a file's header."""

    file: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class ShardWriter:
    """Writes tensors into numbered files as they come; `finish` names them and writes the index."""

    def __init__(self, folder: Path, *, shard_bytes: int = SHARD_BYTES) -> None:
        """Write into `folder`, which exists."""
        self._folder, self._limit = folder, shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._files: list[list[str]] = []
        self._seen: set[str] = set()
        self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Take a tensor; its memory may be let go of once the file it belongs to is full."""
        if name in self._seen:
            raise RuntimeError(f"tensor '{name}' was written before.")
        size = tensor.numel() * tensor.element_size()
        if self._waiting and sum(map(_bytes, self._waiting.values())) + size > self._limit:
            self._flush()
        self._seen.add(name)
        self._waiting[name] = tensor.detach().cpu().contiguous()
        self._total += size

    def finish(self) -> int:
        """Write what waits, name the files by their number, write the index, and return the bytes of all numbers."""
        self._flush()
        count = len(self._files)
        places: dict[str, str] = {}
        for number, names in enumerate(self._files, start=1):
            name = "model.safetensors" if count == 1 else f"model-{number:05d}-of-{count:05d}.safetensors"
            (self._folder / _unnamed(number)).rename(self._folder / name)
            places |= dict.fromkeys(names, name)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(places.items()))}
            (self._folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        return self._total

    def _flush(self) -> None:
        from safetensors.torch import save_file

        if self._waiting:
            self._files.append(list(self._waiting))
            save_file(self._waiting, self._folder / _unnamed(len(self._files)), metadata={"format": "pt"})
            self._waiting = {}


class ShardReader:
    """The tensors of a folder; open it with `open_shards`.

    Attributes:
        table: name -> where and what, of every tensor.
    """

    def __init__(self, folder: Path, opened: Mapping[str, Any]) -> None:
        """Read the headers of files that are open."""
        self._folder, self._opened = folder, opened
        self.table: dict[str, Place] = {}
        for file, reader in opened.items():
            for name in reader.keys():  # noqa: SIM118  # not a dict
                if name in self.table:
                    raise CheckpointError(f"'{folder}' holds tensor '{name}' in {self.table[name].file} and in {file}.")
                part = reader.get_slice(name)
                kind = part.get_dtype()
                if kind not in _DTYPES:
                    raise CheckpointError(
                        f"'{folder / file}' holds '{name}' in a format that is not known here: {kind}."
                    )
                self.table[name] = Place(file, _DTYPES[kind], tuple(part.get_shape()))

    def read(self, name: str) -> Tensor:
        """Return one tensor on the CPU.

        Raises:
            CheckpointError: when there is none of this name, or it cannot be read.
        """
        from safetensors import SafetensorError

        if name not in self.table:
            raise CheckpointError(f"'{self._folder}' holds no tensor '{name}'.")
        file = self.table[name].file
        try:
            tensor: Tensor = self._opened[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{self._folder / file}' cannot be read: {error}. Copy it again.") from error
        return tensor


@contextmanager
def open_shards(folder: Path) -> Iterator[ShardReader]:
    """Open all weight files of a folder.

    Raises:
        CheckpointError: for a file that is missing, cut short or not safetensors, and for tensors that lie elsewhere
            than the index says.
    """
    from safetensors import SafetensorError, safe_open

    places = _index(folder)
    names = sorted(set(places.values())) if places else sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"'{folder}' holds no weights; expected *.safetensors beside config.json.")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"'{folder}' lacks {len(missing)} of {len(names)} weight files ({', '.join(missing[:3])}); "
            "the download or copy is not finished."
        )
    with ExitStack() as stack:
        opened = {}
        for name in names:
            try:
                opened[name] = stack.enter_context(safe_open(folder / name, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"'{folder / name}' cannot be read: {str(error).strip()}. Damaged or cut short; copy it again."
                ) from error
        reader = ShardReader(folder, opened)
        strayed = [name for name, file in places.items() if name not in reader.table or reader.table[name].file != file]
        if strayed:
            raise CheckpointError(
                f"'{folder}' lacks {len(strayed)} tensors where {INDEX} says they are ({', '.join(strayed[:3])}, …); "
                "files of two checkpoints are mixed, or one was not finished."
            )
        yield reader


def _index(folder: Path) -> dict[str, str]:
    if not (folder / INDEX).is_file():
        return {}
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places or not all(map(_plain, places.values())):
        raise CheckpointError(f"'{folder / INDEX}' does not say which file each tensor lies in; copy it again.")
    return places


def _plain(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name


def _unnamed(number: int) -> str:
    return f"part-{number:05d}.safetensors"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
