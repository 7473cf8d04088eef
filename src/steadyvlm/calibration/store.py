"""What was learned about blocks, kept by content so that nothing is ever learned twice.

    STEADYVLM_CACHE (or ~/.cache/steadyvlm)
    └── blocks/
        └── 3f9c…e1/                 one folder per part: the hash of all that its learning depends on
            ├── 0000.safetensors     a file per block, written whole or not at all
            └── 0001.safetensors

A folder's name is made of the model's weights, the quantiser's settings, the examples and the part, so module
ablations share the parts they have in common, and a calibration that was interrupted goes on where it stopped. Only
safetensors are read. A file that is damaged, or that does not fit its block, is computed again, and said.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from steadyvlm.errors import CheckpointError
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.state_checks import check_states
from steadyvlm.quantization.structure import Block

FORMAT = "steadyvlm-block"
VERSION = "1"
MAX_BYTES = 1 << 30
"""Largest file that is read; the transforms of a 7B model's block have about a megabyte."""


def cache_folder() -> Path:
    """Return where what can be computed again is kept: $STEADYVLM_CACHE, or ~/.cache/steadyvlm."""
    named = os.environ.get("STEADYVLM_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "steadyvlm"


@dataclass(slots=True)
class BlockStore:
    """Learned blocks on disk.

    Attributes:
        folder: holds one folder per part.
        notices: what could not be read or written, for the report.
    """

    folder: Path = field(default_factory=lambda: cache_folder() / "blocks")
    notices: list[str] = field(default_factory=list)

    def read(self, key: str, block: Block, root: nn.Module) -> tuple[BlockState, dict[str, Any]] | None:
        """Return what was learned about a block and what was measured meanwhile; None when there is nothing usable.

        Args:
            key: of the part.
            block: which block.
            root: the Hugging Face module, to see whether it fits.
        """
        path = self._path(key, block)
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > MAX_BYTES:
                raise CheckpointError(f"it has more than {MAX_BYTES:,} bytes")
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                expected = {"format": FORMAT, "version": VERSION, "key": key, "block": block.path}
                if {name: about.get(name) for name in expected} != expected:
                    raise CheckpointError("it belongs to another calibration")
                state = from_tensors({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (it is no mapping)
            measured = json.loads(about["measured"])
            check_states([block], {block.path: state}, root)
        except (SafetensorError, CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            self.notices.append(f"What was learned about '{block.path}' before could not be used ({error}).")
            return None
        return state, measured

    def write(self, key: str, block: Block, state: BlockState, measured: Mapping[str, Any]) -> None:
        """Keep what was learned about a block; a folder that cannot be written to costs time later and no more."""
        path = self._path(key, block)
        about = {"format": FORMAT, "version": VERSION, "key": key, "block": block.path}
        data = save(to_tensors(state), metadata={**about, "measured": json.dumps(measured, sort_keys=True)})
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            note = f"What was learned could not be kept in '{self.folder}' ({error.strerror or error})."
            self.notices += [] if note in self.notices else [note]

    def _path(self, key: str, block: Block) -> Path:
        return self.folder / key / f"{block.index:04d}.safetensors"


def to_tensors(state: BlockState) -> dict[str, Tensor]:
    """Return a state as named tensors; what is None, or clips nothing, has no name.

    >>> sorted(to_tensors(BlockState(key_clip=Clip(0.9, 0.8))))
    ['key_clip/high', 'key_clip/low']
    """
    found = {**_clip("key_clip", state.key_clip), **_clip("value_clip", state.value_clip)}
    for name, matrix in (("keys", state.keys), ("values", state.values)):
        found |= {} if matrix is None else {name: matrix}
    for feed, reader in state.readers.items():
        found |= _clip(f"{feed}/activation", reader.activation)
        for path, clip in reader.weights.items():
            found |= _clip(f"{feed}/weights/{path}", clip)
        if reader.transform is not None:
            sides = ((side, getattr(reader.transform, side)) for side in ("left", "right", "scale"))
            found |= {f"{feed}/{side}": value for side, value in sides if value is not None}
    return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}


def from_tensors(tensors: Mapping[str, Tensor]) -> BlockState:
    """Undo `to_tensors`.

    Raises:
        KeyError: when half of a pair is missing.
        ValueError: for a name that no state has.
    """
    readers: dict[Any, ReaderState] = {}
    for name in sorted(tensors):
        head, _, rest = name.partition("/")
        if rest and head not in _CLIPS:
            readers[head] = _read_reader(readers.get(head, ReaderState()), tensors, head, rest)
        elif name not in _KNOWN:
            raise ValueError(f"'{name}' is no part of a state")
    clips = {name: _read_clip(tensors, name) for name in _CLIPS if f"{name}/high" in tensors}
    return BlockState(readers, tensors.get("keys"), tensors.get("values"), **clips)


_CLIPS = ("key_clip", "value_clip")
_KNOWN = {"keys", "values", *(f"{name}/{side}" for name in _CLIPS for side in ("high", "low"))}


def _read_reader(reader: ReaderState, tensors: Mapping[str, Tensor], feed: str, rest: str) -> ReaderState:
    if rest in ("left", "right", "scale"):
        sides = tensors[f"{feed}/left"], tensors[f"{feed}/right"], tensors.get(f"{feed}/scale")
        return dataclasses.replace(reader, transform=Transform(*sides))
    kind = rest.rpartition("/")[0]
    if kind == "activation":
        return dataclasses.replace(reader, activation=_read_clip(tensors, f"{feed}/activation"))
    if kind.startswith("weights/"):
        linear = kind.removeprefix("weights/")
        clip = _read_clip(tensors, f"{feed}/{kind}")
        return dataclasses.replace(reader, weights={**reader.weights, linear: clip})
    raise ValueError(f"'{feed}/{rest}' is no part of a state")


def _clip(name: str, clip: Clip) -> dict[str, Tensor]:
    if not isinstance(clip.high, Tensor) and not isinstance(clip.low, Tensor) and clip == Clip():
        return {}
    return {f"{name}/{side}": _as_tensor(getattr(clip, side)) for side in ("high", "low")}


def _as_tensor(share: Tensor | float) -> Tensor:
    return share if isinstance(share, Tensor) else torch.tensor(share, dtype=torch.float64)


def _read_clip(tensors: Mapping[str, Tensor], name: str) -> Clip:
    high, low = (tensors[f"{name}/{side}"] for side in ("high", "low"))
    return Clip(*(float(share) if share.dim() == 0 else share for share in (high, low)))
