"""The work behind `steadyvlm system`: one child process per model and task, and a table in the layout of the paper.

Source of the published rows: Li et al. 2026, arXiv 2604.17320, Table 7 (custom CUDA kernels, GPU memory in GB, average
power in W). They stand beside ours to show the layout and the ratios; models, data and machine are others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvlm import errors
from steadyvlm.errors import RunError, SteadyVLMError
from steadyvlm.models.load import find_folder

PUBLISHED: Mapping[str, Mapping[str, tuple[float, ...]]] = {
    "LLaVA-1.5-7B (14.13 GB FP16, 3.97 GB INT4)": {
        "MMBench": (62.37, 57.90, 15.59, 6.12, 384.77, 195.39),
        "SEED-I": (63.94, 62.21, 15.48, 6.17, 314.77, 95.76),
        "SQA-I": (66.24, 63.16, 15.74, 6.27, 315.45, 221.89),
        "MME": (1767.46, 1714.72, 14.75, 5.45, 324.37, 196.80),
        "POPE": (85.59, 85.42, 14.75, 5.45, 385.00, 221.08),
        "GQA": (60.65, 59.81, 15.52, 6.22, 345.10, 194.31),
    },
    "Qwen2.5-VL-7B (16.6 GB FP16, 5.86 GB INT4)": {
        "MMBench": (83.68, 81.87, 17.36, 7.06, 329.46, 209.60),
        "SEED-I": (77.53, 77.46, 17.78, 7.39, 347.64, 293.21),
        "SQA-I": (88.25, 86.56, 17.48, 7.43, 322.56, 180.72),
        "MME": (2332.35, 2265.62, 17.73, 7.33, 316.69, 251.21),
        "POPE": (87.76, 86.84, 17.47, 7.25, 331.91, 218.30),
        "GQA": (60.65, 59.41, 17.44, 7.25, 325.62, 213.43),
    },
}
"""Score, peak memory and power, each in FP16 and INT4, by model and task."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model needed on one task.

    Attributes:
        model: as it was named.
        task: as it was named.
        disk_bytes: of its weight files.
        figures: from `cli.system_child`.
    """

    model: str
    task: str
    disk_bytes: int
    figures: Mapping[str, Any]

    @property
    def peak_bytes(self) -> int:
        """Peak while answering: of the GPU where there is one, else of the process beyond what it held before."""
        gpu = self.figures["gpu_peak_bytes"]
        return int(self.figures["peak_bytes"] - self.figures["before_bytes"] if gpu is None else gpu)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"model": self.model, "task": self.task, "disk_bytes": self.disk_bytes, **self.figures}


_CELL = 14
"""Columns of a number, or more where a heading needs more."""


def measure_all(
    models: Sequence[str], tasks: Sequence[str], options: Mapping[str, Any], say: Callable[[str], None]
) -> list[Measured]:
    """Measure every model on every task, each in a process of its own.

    Args:
        models: registered names, folders or hub ids.
        tasks: as in a study.
        options: "recipe", "limit", "batch", "device" and "dtype".
        say: is told which is at work.

    Raises:
        SteadyVLMError: of the kind the child met with; RunError when it died.
    """
    disk = {model: _disk_bytes(find_folder(model)) for model in models}
    found = []
    for task in tasks:
        for model in models:
            say(f"{model} on {task}")
            figures = _child({"model": model, "task": task, **options})
            found.append(Measured(model, task, disk[model], figures))
    return found


def system_lines(found: Sequence[Measured], published: bool) -> Iterator[str]:
    """Yield the table: scores, peak memory and power side by side, then what each model occupies."""
    models = list(dict.fromkeys(item.model for item in found))
    for item in found[: len(models)]:
        held = item.figures
        yield (
            f"{item.model}: {_size(item.disk_bytes)} on disk, {_size(held['tensors_bytes'])} of tensors (what is not "
            f"packed in {held['dtype']}) on {held['device']}; after answering "
            f"{_size(held['resident_bytes'] - held['before_bytes'])} resident beyond Python and its libraries"
        )
    first = found[0].figures
    where = "GPU" if first["gpu_peak_bytes"] is not None else "process, beyond Python and libraries"
    yield ""
    yield f"Peak memory: {where}. Power: {first['energy_source']}."
    heads = [f"{what} {model}" for what in ("score", "peak", "power") for model in models]
    width = max(_CELL, *map(len, heads))
    yield _row("task", heads, width)
    for task in dict.fromkeys(item.task for item in found):
        row = [item for item in found if item.task == task]
        cells = [f"{item.figures['score']:.2f}" for item in row]
        cells += [_size(item.peak_bytes) for item in row]
        cells += ["-" if item.figures["watts"] is None else f"{item.figures['watts']:.1f} W" for item in row]
        yield _row(task, cells, width)
    if published:
        yield ""
        yield "Published (QUOTA, Table 7; other models, data and machines): score, peak GPU memory in GB, power in W"
        for model, rows in PUBLISHED.items():
            yield _row(model, ["score FP16", "score INT4", "peak FP16", "peak INT4", "power FP16", "power INT4"])
            for task, values in rows.items():
                yield _row(f"  {task}", [f"{value:.2f}" for value in values])


def _child(asked: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "steadyvlm.cli.system_child"]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(f"measuring '{asked['model']}' on '{asked['task']}' failed: {reason}")
    answer: dict[str, Any] = json.loads(lines[-1])
    if "error" in answer:
        kind = getattr(errors, answer["error"], RunError)
        raise (kind if issubclass(kind, SteadyVLMError) else RunError)(answer["message"])
    return answer


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _row(name: str, cells: Sequence[str], width: int = _CELL) -> str:
    return f"{name:<46}" + "".join(f"  {cell:>{width}}" for cell in cells)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
