from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from steadyvlm.errors import CheckpointError
from steadyvlm.models.shards import INDEX, ShardWriter, open_shards

FORMATS = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int8,
    torch.uint8,
    torch.bool,
)


def test_every_tensor_comes_back(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.arange(7 + index).to(dtype) for index, dtype in enumerate(FORMATS)}
    tensors["empty"] = torch.zeros(0, 3)
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).T
    writer = ShardWriter(tmp_path, shard_bytes=100)
    for name, tensor in tensors.items():
        writer.add(name, tensor)
    assert writer.finish() == sum(tensor.nbytes for tensor in tensors.values())
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["weight_map"].keys() == tensors.keys()
    with open_shards(tmp_path) as reader:
        assert reader.table.keys() == tensors.keys()
        for name, tensor in tensors.items():
            found = reader.read(name)
            assert found.dtype == tensor.dtype == reader.table[name].dtype
            assert torch.equal(found, tensor)
            assert reader.table[name].shape == tuple(tensor.shape)
        with pytest.raises(CheckpointError, match="holds no tensor 'other'"):
            reader.read("other")


def test_a_small_model_is_one_file_without_an_index(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path)
    writer.add("a", torch.ones(2))
    with pytest.raises(RuntimeError, match="'a' was written before"):
        writer.add("a", torch.ones(2))
    writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_file_never_outgrows_its_limit(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, shard_bytes=64)
    for number in range(8):
        writer.add(str(number), torch.zeros(6 if number else 40, dtype=torch.float32))
    writer.finish()
    with open_shards(tmp_path) as reader:
        held: dict[str, int] = {}
        for name, place in reader.table.items():
            held[place.file] = held.get(place.file, 0) + reader.read(name).nbytes
    assert sorted(held.values()) == [24, 48, 48, 48, 160]


def test_folders_that_cannot_be_trusted(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(CheckpointError, match=match), open_shards(tmp_path):
            pass

    refused("holds no weights")
    save_file({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    for places in ({}, {"a": "../one.safetensors"}, {"a": 3}, {"a": "one.bin"}, []):
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
        refused("does not say which file each tensor lies in")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"b": "one.safetensors"}}))
    refused(r"lacks 1 tensors where .* says they are \(b")
    (tmp_path / INDEX).unlink()
    save_file({"a": torch.ones(1)}, tmp_path / "two.safetensors")
    refused("holds tensor 'a' in one.safetensors and in two.safetensors")
    (tmp_path / "two.safetensors").write_bytes(b"no header at all")
    refused("cannot be read")


def test_a_format_nobody_knows_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match="a format that is not known here: F8_E4M3"), open_shards(tmp_path):
        pass
