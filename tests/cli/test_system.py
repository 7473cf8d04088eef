from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from low_bit_models import save_source
from steadyvlm.cli import system_child, system_data
from steadyvlm.cli.system_child import measure
from steadyvlm.cli.system_data import PUBLISHED, Measured, system_lines
from steadyvlm.models.load import load
from steadyvlm.recipes import accelerate
from steadyvlm.recipes.saving import save


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    source = save_source(folder / "source", "llava")
    save(accelerate(load(source, device="cpu"), "rtn_w4a4"), folder / "packed")
    return source, folder / "packed"


def here(asked: str) -> subprocess.CompletedProcess[str]:
    """What a child would answer, without the seconds a new process takes to import its libraries."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(asked))
        system_child.main()
    return subprocess.CompletedProcess([], 0, output.getvalue(), "")


def test_two_models_are_measured(steadyvlm, models, questions, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(system_data.subprocess, "run", lambda command, input, **options: here(input))
    command = ["system", *models, "--task", f"folder(path={str(questions)!r})", "--limit", 3, "--device", "cpu"]
    done = steadyvlm(*command, "--no-published", "--json", tmp_path / "figures.json")
    assert done.code == 0, done.err
    original, packed = json.loads((tmp_path / "figures.json").read_text())
    assert original["disk_bytes"] == (models[0] / "model.safetensors").stat().st_size
    assert packed["tensors_bytes"] < original["tensors_bytes"]
    assert original["samples"] == packed["samples"] == 3
    assert original["before_bytes"] > 0
    assert 0 < original["resident_bytes"] <= original["peak_bytes"]
    assert original["gpu_peak_bytes"] is None
    assert 0 < packed["cache_bytes"] < original["cache_bytes"]
    assert f"Wrote {tmp_path / 'figures.json'}" in done.out
    refused = steadyvlm(*command, "--recipe", "fastvv")
    assert refused.code == 2
    assert "Did you mean 'fastv'" in refused.err


def test_a_child_that_dies(steadyvlm, models, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    dead = steadyvlm("system", models[0])
    assert dead.code == 3
    assert "failed: exit code 1" in dead.err


def test_the_table_puts_precisions_side_by_side():
    def measured(model: str, task: str, **more: Any) -> Measured:
        figures = {
            "device": "cuda",
            "dtype": "float16",
            "score": 50.0,
            "before_bytes": 1_000_000,
            "tensors_bytes": 2_000_000,
            "resident_bytes": 4_000_000,
            "peak_bytes": 9_000_000,
            "gpu_peak_bytes": 14_750_000_000,
            "watts": 385.0,
            "energy_source": "NVML, whole GPU",
        }
        return Measured(model, task, 14_130_000_000, figures | more)

    found = [measured("a", "x"), measured("b", "x", watts=None), measured("a", "y"), measured("b", "y", score=1.0)]
    lines = list(system_lines(found, published=True))
    assert lines[0].startswith("a: 14.13 GB on disk, 2.0 MB of tensors (what is not packed in float16) on cuda; after")
    assert lines[0].endswith("3.0 MB resident beyond Python and its libraries")
    assert lines[3] == "Peak memory: GPU. Power: NVML, whole GPU."
    assert lines[4].split() == [
        "task",
        "score",
        "a",
        "score",
        "b",
        "peak",
        "a",
        "peak",
        "b",
        "power",
        "a",
        "power",
        "b",
    ]
    assert lines[5].split() == ["x", "50.00", "50.00", "14.75", "GB", "14.75", "GB", "385.0", "W", "-"]
    assert lines[6].split()[:3] == ["y", "50.00", "1.00"]
    assert sum("MMBench" in line for line in lines) == len(PUBLISHED) == 2
    process = measured("a", "x", gpu_peak_bytes=None)
    assert process.peak_bytes == 8_000_000
    assert "process, beyond Python" in list(system_lines([process], published=False))[2]


def test_a_failed_answer_scores_nothing(models, questions):
    asked = {"task": f"folder(path={str(questions)!r})", "limit": 2, "batch": 1, "device": "cpu", "dtype": "auto"}
    figures = measure({"model": str(models[1]), "recipe": "fastv(layer=1, keep_ratio=0.5)", **asked})
    assert figures["samples"] == 2
    assert 0 <= figures["score"] <= 100


def test_a_real_child(models, questions, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
    task = f"folder(path={str(questions)!r})"
    options = {"recipe": "keep_all", "limit": 1, "batch": 1, "device": "cpu", "dtype": "auto"}
    said: list[str] = []
    (found,) = system_data.measure_all([str(models[1])], [task], options, said.append)
    assert said == [f"{models[1]} on {task}"]
    assert found.figures["samples"] == 1
    assert found.peak_bytes > 0
