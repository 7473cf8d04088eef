"""A whole low-bit model as a folder: packed weights, configuration, tokenizer, image processor. Loads in one call.

`config.json` is the original's with a `quantization_config` of method "steadyvlm": a version, what was done, the hash
of the original weights, and a row per low-bit module. Loading builds the model without weights, puts empty modules in
place for these rows, compares every name, shape and format with the headers of the files, and only then reads the
numbers, each to where it stays: 16-bit copies of packed weights never exist. The answers are, bit for bit, those of the
model that was saved.

Nothing is overwritten: a folder is written beside its place and renamed when it is complete (`new_folder`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported
from steadyvlm.models.low_bit_config import describe, digest, owner_test, place
from steadyvlm.models.placement import DTYPES
from steadyvlm.models.processors import optional_json, read_json
from steadyvlm.models.settings_files import CONFIG
from steadyvlm.models.shards import SHARD_BYTES, ShardReader, ShardWriter, open_shards
from steadyvlm.models.skeleton import assign, skeleton, tensors_of

METHOD = "steadyvlm"
VERSION = 1
_GENERATION = "generation_config.json"


@dataclass(frozen=True, slots=True)
class About:
    """What a packed checkpoint says about itself.

    Attributes:
        quantizer: the quantiser's text, as in a recipe; for a reader, the rows of the modules are what counts.
        source: name of the original.
        weights_sha256: of the original.
    """

    quantizer: str
    source: str
    weights_sha256: str


def is_packed(folder: Path) -> bool:
    """Return whether a folder holds a checkpoint in this format."""
    settings = optional_json(folder / CONFIG).get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == METHOD


def saved_table(folder: Path) -> dict[str, Any]:
    """Return the rows of a packed checkpoint's modules, by path."""
    table: dict[str, Any] = read_json(folder / CONFIG)["quantization_config"]["modules"]
    return table


def float_format(dtype: str) -> torch.dtype | None:
    """Return the format called `dtype` that numbers are stored in; None for "model", the one they are held in.

    Raises:
        InvalidOption: for any other name.
    """
    if dtype != "model" and dtype not in DTYPES:
        raise InvalidOption(f"dtype '{dtype}' is unknown. Use model, {', '.join(DTYPES)}.")
    return DTYPES.get(dtype)


def write_module(
    module: Any,
    config: Mapping[str, Any],
    about: About,
    out: Path,
    *,
    dtype: str = "model",
    shard_bytes: int = SHARD_BYTES,
) -> int:
    """Write weights and config.json of a low-bit model into an existing folder.

    Args:
        module: the Hugging Face model with low-bit modules in it.
        config: what config.json says of the original.
        about: what was done.
        out: the folder.
        dtype: format of everything that is not packed: "model" for the one it is held in, "float16" or "bfloat16" for
            half of float32, which loads as slightly other numbers.
        shard_bytes: of one file.

    Returns:
        The bytes of all numbers.

    Raises:
        Unsupported: for a module without a saved form, and for a model of mixed precision.
        InvalidOption: for an unknown dtype.
    """
    stored = float_format(dtype)
    table = describe(module, skeleton(module.config, type(module).__name__, module.dtype))
    writer = ShardWriter(out, shard_bytes=shard_bytes)
    low_bit, tensors = owner_test(table), tensors_of(module)
    _refuse_mixed(tensors, module.dtype, low_bit)
    for name, tensor in tensors.items():
        writer.add(name, as_stored(name, tensor, stored, low_bit))
    total = writer.finish()
    tied = len(tensors) < len(module.state_dict())
    if stored is not None:
        name = str(stored).removeprefix("torch.")
        table = {path: {**row, "bias": name} if row.get("bias") else row for path, row in table.items()}
    whole = {**config, "tie_word_embeddings": tied}
    write_config(out, whole, about, type(module).__name__, stored or module.dtype, table)
    return total


def as_stored(name: str, tensor: Tensor, stored: torch.dtype | None, low_bit: Callable[[str], bool]) -> Tensor:
    """Return a tensor in the format it is stored in: codes, scales and transforms as they are, all else as `stored`."""
    if stored is None or not tensor.is_floating_point() or (low_bit(name) and not name.endswith(".bias")):
        return tensor
    return tensor.to(stored)


def write_config(
    out: Path,
    config: Mapping[str, Any],
    about: About,
    architecture: str,
    stored: torch.dtype,
    table: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write config.json: the original's, and what was done to it."""
    held = str(stored).removeprefix("torch.")
    done = {
        "quant_method": METHOD,
        "version": VERSION,
        "architecture": architecture,
        "dtype": held,
        **dataclasses.asdict(about),
        "modules": table,
    }
    whole = {**config, "architectures": [architecture], "dtype": held}
    whole["quantization_config"] = {**done, "sha256": digest(done)}
    (out / CONFIG).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def read_module(folder: Path, architecture: str, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the Hugging Face model of a packed checkpoint.

    Args:
        folder: for which `is_packed` holds.
        architecture: class of the model.
        config: its Hugging Face configuration.
        device: where the numbers go.
        dtype: precision of everything that is not packed.

    Raises:
        CheckpointError: when anything about it does not fit; no number has been read then.
    """
    settings = _checked(folder, architecture)
    del config.quantization_config  # transformers knows no method of this name
    module = skeleton(config, architecture, dtype)
    place(settings["modules"], module)
    low_bit = owner_test(settings["modules"])
    empty = tensors_of(module)
    with open_shards(folder) as reader:
        _compare(folder, reader, empty, DTYPES[settings["dtype"]], low_bit)
        for name, tensor in empty.items():
            assign(module, name, reader.read(name).to(device, tensor.dtype))
    module.tie_weights()
    if (folder / _GENERATION).is_file():
        from transformers import GenerationConfig

        module.generation_config = GenerationConfig.from_pretrained(str(folder))
    return module.to(device)


def _checked(folder: Path, architecture: str) -> dict[str, Any]:
    """Return what config.json says was done, if it is whole and of a version that is known."""
    settings: dict[str, Any] = read_json(folder / CONFIG)["quantization_config"]
    version = settings.get("version")
    if version != VERSION:
        raise CheckpointError(
            f"'{folder}' is a packed checkpoint of version {version!r}; this steadyvlm reads version {VERSION}. "
            "Use the version that wrote it, or make it again with `steadyvlm quantize`."
        )
    if settings.get("sha256") != digest({key: value for key, value in settings.items() if key != "sha256"}):
        raise CheckpointError(
            f"the quantization_config of '{folder}' was edited after it was written (bits, shapes or clips no longer "
            "belong to the weights). Restore config.json, or make the checkpoint again with `steadyvlm quantize`."
        )
    if settings.get("architecture") != architecture:
        raise CheckpointError(
            f"'{folder}' was packed from a {settings.get('architecture')}, and its config.json describes a "
            f"{architecture}. Restore config.json."
        )
    if settings.get("dtype") not in DTYPES or not isinstance(settings.get("modules"), dict):
        raise CheckpointError(
            f"the quantization_config of '{folder}' lacks its dtype or its modules; restore config.json."
        )
    return settings


def _refuse_mixed(tensors: Mapping[str, Tensor], dtype: torch.dtype, low_bit: Callable[[str], bool]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype != dtype and not low_bit(name):
            raise Unsupported(
                f"'{name}' is held in {tensor.dtype} and the model in {dtype}, a mixture that is not saved. "
                "Load the model with one dtype and apply the recipe again."
            )


def _compare(
    folder: Path,
    reader: ShardReader,
    empty: Mapping[str, Tensor],
    stored: torch.dtype,
    low_bit: Callable[[str], bool],
) -> None:
    """Refuse files whose tensors are not exactly those of the model."""
    missing = [name for name in empty if name not in reader.table]
    extra = [name for name in reader.table if name not in empty]
    for names, what in (
        (missing, "lack {} tensors of the model"),
        (extra, "hold {} tensors the model has no place for"),
    ):
        if names:
            raise CheckpointError(
                f"the weights in '{folder}' {what.format(len(names))} ({', '.join(sorted(names)[:3])}, …). They belong "
                "to a model of other sizes or another number of layers, or a file was not finished."
            )
    for name, tensor in empty.items():
        found = reader.table[name]
        keeps = low_bit(name) or not tensor.is_floating_point()
        expected = _text(tensor.dtype if keeps else stored, tuple(tensor.shape))
        if _text(found.dtype, found.shape) != expected:
            raise CheckpointError(
                f"tensor '{name}' in '{folder / found.file}' is {_text(found.dtype, found.shape)}; config.json "
                f"describes {expected}. One of the two belongs to another checkpoint."
            )


def _text(dtype: torch.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"
