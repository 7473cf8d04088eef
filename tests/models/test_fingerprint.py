"""Content hashes change with what shapes an answer and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from steadyvlm.models import fingerprint
from steadyvlm.models.fingerprint import folder_sha256, library_versions, module_sha256


def test_a_folder_hash_follows_names_and_bytes_of_what_is_read(tmp_path: Path) -> None:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return folder_sha256(tmp_path)

    first = write("model.safetensors", "weights")
    config = write("config.json", "{}")
    assert len({first, config, write("chat_template.jinja", "x"), write("config.json", "{ }")}) == 4
    before = folder_sha256(tmp_path)
    assert write("README.md", "a model card") == before
    assert write("trainer_state.json", "{}") == before
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert folder_sha256(tmp_path) != before


def test_a_module_hash_follows_values_dtype_and_extra() -> None:
    linear = nn.Linear(2, 2)
    first = module_sha256(linear)
    assert module_sha256(linear) == first
    assert module_sha256(linear, extra="config") != first
    with torch.no_grad():
        linear.weight[0, 0] += 1
    assert module_sha256(linear) != first
    empty = nn.ParameterList([torch.zeros(0, 2)])
    assert module_sha256(empty) != module_sha256(nn.ParameterList([torch.zeros(0, 3)]))
    assert module_sha256(linear.to(torch.bfloat16)) != first


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "_LIBRARIES", ("torch", "no-such-library"))
    versions = library_versions()
    assert "no-such-library" not in versions
    assert versions["torch"].startswith("2.") or versions["torch"][0].isdigit()
    assert all(versions.values())
