from __future__ import annotations

from pathlib import Path

import pytest

from low_bit_models import answers, save_source
from steadyvlm.models.load import load
from steadyvlm.recipes import accelerate


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_source(tmp_path_factory.mktemp("models") / "source", "llava")


def test_a_model_is_quantised_written_and_used(steadyvlm, model: Path, tmp_path: Path):
    out = tmp_path / "out"
    command = ("quantize", "--model", model, "--out", out, "--device", "cpu", "--quantizer")
    done = steadyvlm(*command, "hadamard_w4a4(seed=2)")
    assert done.code == 0, done.err
    said = done.out.splitlines()
    assert said[0].startswith("hadamard_w4a4: ")
    assert "to load and quantise" in said[1]
    assert "bytes in float32; written: " in said[2]
    assert "as counted beforehand" in said[3]
    assert said[-1] == f"Use it: steadyvlm.load({str(out)!r}), or in a recipe: checkpoint(path={str(out)!r})"
    original = load(model, device="cpu")
    saved = accelerate(original, said[-1].rpartition(" recipe: ")[2])
    assert answers(saved.model) == answers(accelerate(original, "hadamard_w4a4(seed=2)").model)
    again = steadyvlm(*command, "hadamard_w4a4(seed=2)")
    assert again.code == 2
    assert "exists already, and nothing is overwritten" in again.err


def test_a_model_is_packed_block_by_block(steadyvlm, model: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = steadyvlm("quantize", "--model", model, "--out", out, "--quantizer", "rtn_w4a4", "--stream")
    assert done.code == 0, done.err
    assert "block 1 of 8: model.language_model.layers.0" in done.err
    assert "as counted beforehand" in done.out
    assert answers(load(out, device="cpu")) == answers(accelerate(load(model, device="cpu"), "rtn_w4a4").model)


@pytest.mark.parametrize(
    ("quantizer", "more", "message"),
    [
        ("rtn(bits=4)", (), "models of 'rtn' have no saved form"),
        ("rtn_w4a4 + fastv", (), "is not a quantiser alone"),
        ("fastv", (), "is not a quantiser alone"),
        ("rtn_w4a4(weight_bits=1)", (), "weight_bits=1 is not allowed"),
        ("rtn_w5a5", (), "Did you mean"),
        ("flatquant", ("--stream",), "cannot be streamed"),
    ],
)
def test_requests_that_cannot_be_met(steadyvlm, quantizer: str, more: tuple[str, ...], message: str, tmp_path: Path):
    out = tmp_path / "out"
    done = steadyvlm("quantize", "--model", "no/such-model", "--out", out, "--quantizer", quantizer, *more)
    assert done.code == 2
    assert message in done.err
    assert not out.exists()
