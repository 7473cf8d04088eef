"""Pack a model that does not fit into memory: one block after the other, from file to file.

The model is built without weights. Each block in turn is given its own, quantised in place by the same code as a model
in memory, written, and emptied again; everything else passes through tensor by tensor. What is held at any moment is
one block in full precision and one unfinished file, so the largest LLaVA needs no more memory than its largest block.
The folder is the one `recipes.saving.save` writes, bit for bit.

Layers of a CLIP tower behind the one the connector reads never run, and a model in memory leaves them as they are. Here
they are packed with the rest unless told otherwise, which is how the published sizes count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from steadyvlm.calibration.weight_sources import WeightSource, checkpoint_weights
from steadyvlm.errors import CheckpointError
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import find_folder, outline
from steadyvlm.models.low_bit_config import rows_under
from steadyvlm.models.low_bit_files import About, write_config
from steadyvlm.models.new_folder import new_folder
from steadyvlm.models.placement import DTYPES
from steadyvlm.models.processors import read_json
from steadyvlm.models.settings_files import CONFIG
from steadyvlm.models.shards import SHARD_BYTES, ShardWriter
from steadyvlm.models.skeleton import assign, tensors_of
from steadyvlm.quantization.base import BlockQuantizer, QuantizationReport, QuantizedLayer, SkippedLayer
from steadyvlm.quantization.install import install, report
from steadyvlm.quantization.settings import LowBitSettings
from steadyvlm.quantization.state import BlockState
from steadyvlm.quantization.structure import Block


@dataclass(frozen=True, slots=True)
class Streamed:
    """What was packed, and how long each part of the work took.

    Attributes:
        report: what was quantised.
        numbers_bytes: of all tensors written, file headers not counted.
        reading_seconds, packing_seconds, writing_seconds: drawing or reading weights; quantising; writing files.
    """

    report: QuantizationReport
    numbers_bytes: int
    reading_seconds: float
    packing_seconds: float
    writing_seconds: float


@dataclass(frozen=True, slots=True)
class Decided:
    """A block quantiser whose decisions were made before, by calibration: states by path, missing ones rounded."""

    states: Mapping[str, BlockState]
    settings: LowBitSettings = field(default_factory=LowBitSettings)

    @property
    def modules(self) -> tuple[str, ...]:
        """Parts of the model it wants."""
        return self.settings.modules

    def check_available(self) -> None:
        """Nothing beyond torch is needed."""

    def quantize_blocks(self, blocks: Sequence[Block], root: nn.Module) -> QuantizationReport:
        """Quantise `blocks` inside `root`."""
        states = {block.path: self.states[block.path] for block in blocks if block.path in self.states}
        layers, skipped = install(blocks, states, root, self.settings)
        return report(self.settings.method, layers, skipped, self.settings)


def pack(
    source: str | Path,
    quantizer: BlockQuantizer,
    out: str | Path,
    *,
    text: str,
    weights: WeightSource | None = None,
    dtype: str = "source",
    unused: bool = True,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = lambda text: None,
) -> Streamed:
    """Write the packed checkpoint of a model that is never loaded.

    Args:
        source: folder or hub id; with `weights` only its settings are read.
        quantizer: makes or knows its decisions block by block.
        out: a place where nothing is yet.
        text: the quantiser as a recipe names it, for the record.
        weights: where they come from; None for the folder's own files.
        dtype: precision in which blocks are folded, and in which what is not packed is stored: "float16", "bfloat16",
            "float32", or "source" for the one config.json names (float16 if it names none).
        unused: pack layers of the vision tower that never run, too.
        shard_bytes: of one file.
        say: is told about progress.

    Raises:
        CheckpointError: when weights and configuration do not belong together, or the source is quantised already.
        UsageError: when `out` exists, or cannot be written.
        Unsupported: as `load.outline`.

    >>> pack("llava-hf/llava-1.5-7b-hf", RTNW4A4(), "llava-int4", text="rtn_w4a4()")   # doctest: +SKIP
    """
    folder = find_folder(source)
    settings = read_json(folder / CONFIG)
    if settings.get("quantization_config"):
        raise CheckpointError(f"'{folder}' is quantised already; pack the original it was made from.")
    model: Any = outline(folder, dtype=_named_in(settings) if dtype == "source" else dtype)
    expected = dict(tensors_of(model.module))
    tied = len(expected) < len(model.module.state_dict())
    with new_folder(Path(out)) as partial, contextlib.ExitStack() as stack:
        given = weights or stack.enter_context(checkpoint_weights(folder))
        given.check(expected)
        sha = folder_sha256(folder) if weights is None else f"not a checkpoint: {weights}"
        config = model.write_settings(partial)
        work = _Work(model.module, given, ShardWriter(partial, shard_bytes=shard_bytes))
        used = model.blocks(quantizer.modules)
        blocks = [*_with_edges(quantizer, used, _unused(model, used) if unused else [])]
        for number, (block, own) in enumerate(blocks, start=1):
            work.block(block, own)
            say(f"block {number} of {len(blocks)}: {block.path}")
        total = work.rest(expected)
        about = About(text, str(source), sha)
        whole = {**config, "tie_word_embeddings": tied}
        write_config(partial, whole, about, type(model.module).__name__, model.dtype, work.table)
    found = QuantizationReport(text, tuple(work.layers), tuple(work.skipped))
    return Streamed(found, total, work.seconds["read"], work.seconds["pack"], work.seconds["write"])


class _Work:
    """One pass over a model: blocks are filled, quantised, written and emptied."""

    def __init__(self, root: Any, weights: WeightSource, writer: ShardWriter) -> None:
        self.root, self.weights, self.writer = root, weights, writer
        self.table: dict[str, Any] = {}
        self.layers: list[QuantizedLayer] = []
        self.skipped: list[SkippedLayer] = []
        self.seconds = {"read": 0.0, "pack": 0.0, "write": 0.0}
        self._done: set[str] = set()

    def block(self, block: Block, quantizer: BlockQuantizer) -> None:
        """Pack one block."""
        before = [name for name in tensors_of(self.root) if name.startswith(f"{block.path}.")]
        with self._clock("read"):
            for name in before:
                self._fill(name)
        with self._clock("pack"):
            found = quantizer.quantize_blocks([block], self.root)
        self.layers += found.layers
        self.skipped += found.skipped
        self.table |= rows_under(self.root.get_submodule(block.path), block.path)
        with self._clock("write"):
            for name, tensor in tensors_of(self.root.get_submodule(block.path)).items():
                self.writer.add(f"{block.path}.{name}", tensor)
                assign(self.root, f"{block.path}.{name}", tensor.to("meta"))
        self._done |= set(before)

    def rest(self, expected: Mapping[str, Any]) -> int:
        """Pass everything else through, finish the files, and return the bytes of all numbers."""
        for name in expected:
            if name not in self._done:
                with self._clock("read"):
                    tensor = self.weights.read(name).to(expected[name].dtype)
                with self._clock("write"):
                    self.writer.add(name, tensor)
        with self._clock("write"):
            return self.writer.finish()

    def _fill(self, name: str) -> None:
        dtype = self.root.get_parameter(name).dtype
        assign(self.root, name, self.weights.read(name).to(dtype))

    @contextlib.contextmanager
    def _clock(self, what: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - started


def _named_in(settings: Mapping[str, Any]) -> str:
    """Return the precision a config.json names, under any of the keys transformers has used."""
    named = settings.get("dtype") or settings.get("torch_dtype")
    return named if named in DTYPES else "float16"


def _unused(model: Any, used: Sequence[Block]) -> list[Block]:
    """Return the blocks of the tower behind the last that takes part in an answer, if the tower is wanted."""
    tower = [block for block in used if block.part == "vision"]
    if not tower:
        return []
    stem = tower[-1].path.rpartition(".")[0]
    count = len(model.module.get_submodule(stem))
    return [_moved(tower[-1], f"{stem}.{index}", index) for index in range(len(tower), count)]


def _moved(block: Block, path: str, index: int) -> Block:
    """Return the description of a block of the same kind at another place."""

    def there(name: str) -> str:
        return path + name.removeprefix(block.path)

    readers = tuple(
        dataclasses.replace(
            reader,
            linears=tuple(map(there, reader.linears)),
            norm=None if reader.norm is None else there(reader.norm),
            scaled_by=None if reader.scaled_by is None else there(reader.scaled_by),
        )
        for reader in block.readers
    )
    assert block.heads is not None, "a block of a tower has attention"
    heads = dataclasses.replace(
        block.heads, path=there(block.heads.path), value=there(block.heads.value), output=there(block.heads.output)
    )
    return Block(path, block.part, index, readers, heads)


def _with_edges(quantizer: Any, used: Sequence[Block], unused: Sequence[Block]) -> Iterator[tuple[Block, Any]]:
    """Pair each block with its quantiser: asked about one block only, it cannot know which is the first or last."""
    edge = getattr(quantizer, "vision_edge_bits", None)
    plain = wide = quantizer
    if edge is not None:
        plain = dataclasses.replace(quantizer, vision_edge_bits=None)
        wide = dataclasses.replace(plain, weight_bits=edge, activation_bits=edge)
    tower = [block.path for block in used if block.part == "vision"]
    for block in (*used, *unused):
        yield block, wide if block.path in (tower[:1] + tower[-1:]) else plain
