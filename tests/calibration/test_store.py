"""What was learned comes back as it was, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from steadyvlm.calibration.store import BlockStore, cache_folder, from_tensors, to_tensors
from steadyvlm.quantization.hadamard_w4a4 import HadamardW4A4
from steadyvlm.quantization.state import BlockState, Clip, ReaderState, Transform
from steadyvlm.quantization.structure import Block
from tiny import tiny_llava

MODEL = tiny_llava()
BLOCK: Block = MODEL.blocks()[1]
KEY = "k" * 64


def some_state() -> BlockState:
    """A rotation with clips of every kind."""
    rotated = HadamardW4A4(seed=3).state(BLOCK, MODEL.module)
    path = BLOCK.readers[0].linears[0]
    readers = dict(rotated.readers)
    clip = Clip(torch.full((32, 1), 0.9), torch.full((32, 1), 0.8))
    first = readers["attention_input"]
    readers["attention_input"] = ReaderState(first.transform, Clip(0.7, 0.6), {path: clip})
    readers["mlp_output"] = ReaderState(None, Clip(0.5, 1.0))
    return BlockState(readers, rotated.keys, rotated.values, Clip(0.95, 0.9), Clip())


def same(a: BlockState, b: BlockState) -> bool:
    ours, theirs = to_tensors(a), to_tensors(b)
    return ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours
    )


def test_a_state_survives_tensors() -> None:
    state = some_state()
    again = from_tensors(to_tensors(state))
    assert same(state, again)
    assert again.key_clip == Clip(0.95, 0.9)
    assert again.value_clip == Clip()
    assert again.readers["mlp_output"] == ReaderState(None, Clip(0.5, 1.0))
    assert isinstance(again.readers["attention_input"].activation.high, float)
    assert again.readers["attention_input"].weights.keys() == {BLOCK.readers[0].linears[0]}
    assert same(from_tensors({}), BlockState())


def test_mixed_clips_and_scales_survive() -> None:
    transform = Transform(torch.eye(2), torch.eye(16), torch.ones(32))
    state = BlockState({"attention_input": ReaderState(transform, Clip(), {"a.b": Clip(torch.ones(3, 1), 0.5)})})
    again = from_tensors(to_tensors(state)).readers["attention_input"]
    assert again.transform is not None
    assert again.transform.scale is not None
    assert again.weights["a.b"].low == 0.5
    assert torch.equal(again.weights["a.b"].high, torch.ones(3, 1))  # type: ignore[arg-type]  # a tensor went in


@pytest.mark.parametrize("names", [["other"], ["keys/left"], ["attention_input/middle"], ["key_clip/high"]])
def test_other_tensors_are_no_state(names: list[str]) -> None:
    with pytest.raises((ValueError, KeyError)):
        from_tensors({name: torch.ones(()) for name in names})


def test_a_block_is_written_and_read(tmp_path: Path) -> None:
    store, state = BlockStore(tmp_path), some_state()
    assert store.read(KEY, BLOCK, MODEL.module) is None
    store.write(KEY, BLOCK, state, {"error": 0.5})
    found = store.read(KEY, BLOCK, MODEL.module)
    assert found is not None
    assert same(found[0], state)
    assert found[1] == {"error": 0.5}
    assert [path.name for path in (tmp_path / KEY).iterdir()] == ["0001.safetensors"]
    assert store.notices == []
    assert store.read("other", BLOCK, MODEL.module) is None


def about(**changes: str) -> dict[str, str]:
    known = {"format": "steadyvlm-block", "version": "1", "key": KEY, "block": BLOCK.path, "measured": "{}"}
    return {**known, **changes}


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({}, about(key="x")),
        ({}, about(block="model.language_model.layers.2")),
        ({}, about(version="2")),
        ({}, about(format="pt")),
        ({}, about(measured="{")),
        ({}, None),
        ({"keys": torch.eye(7)}, about()),
        ({"keys": torch.full((8, 8), torch.nan)}, about()),
        ({"keys": torch.zeros(8, 8)}, about()),
        ({"key_clip/high": torch.tensor(2.0), "key_clip/low": torch.tensor(1.0)}, about()),
        ({"key_clip/high": torch.tensor(0.5)}, about()),
        ({"mlp_output/left": torch.eye(4)}, about()),
        ({"something": torch.eye(4)}, about()),
    ],
)
def test_what_does_not_fit_is_refused_and_said(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    (tmp_path / KEY).mkdir()
    save_file(tensors, tmp_path / KEY / "0001.safetensors", metadata=metadata)
    store = BlockStore(tmp_path)
    assert store.read(KEY, BLOCK, MODEL.module) is None
    assert len(store.notices) == 1
    assert f"'{BLOCK.path}' before could not be used" in store.notices[0]


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"\xff" * 64])
def test_other_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "0001.safetensors").write_bytes(content)
    store = BlockStore(tmp_path)
    assert store.read(KEY, BLOCK, MODEL.module) is None
    assert len(store.notices) == 1


def test_a_file_far_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(tmp_path)
    store.write(KEY, BLOCK, some_state(), {})
    monkeypatch.setattr("steadyvlm.calibration.store.MAX_BYTES", 10)
    assert store.read(KEY, BLOCK, MODEL.module) is None
    assert "more than 10 bytes" in store.notices[0]


def test_a_place_that_cannot_be_written_to_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = BlockStore(tmp_path / "file")
    for _ in range(2):
        store.write(KEY, BLOCK, some_state(), {})
    assert len(store.notices) == 1
    assert "could not be kept" in store.notices[0]


def test_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYVLM_CACHE", str(tmp_path))
    assert BlockStore().folder == tmp_path / "blocks"
    monkeypatch.delenv("STEADYVLM_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "steadyvlm"


def test_what_was_measured_is_plain_json(tmp_path: Path) -> None:
    store = BlockStore(tmp_path)
    store.write(KEY, BLOCK, BlockState(), {"b": 1, "a": 1e-7})
    found: Any = store.read(KEY, BLOCK, MODEL.module)
    assert json.loads(json.dumps(found[1])) == {"a": 1e-7, "b": 1}
