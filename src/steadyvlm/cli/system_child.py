"""One measurement in a process of its own: load a model, answer questions, say what it occupied and drew.

Run by `cli.system_data`, once per model, so that nothing of another model is in the numbers. Reads one JSON object from
standard input, writes one to standard output.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from steadyvlm.errors import SteadyVLMError
from steadyvlm.models.load import load, outline
from steadyvlm.recipes import accelerate
from steadyvlm.recipes.resources import EnergyMeter, memory, reset_peak
from steadyvlm.records import Failure
from steadyvlm.tasks import TASKS
from steadyvlm.tasks.base import checked_samples


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of one model on one task.

    Args:
        asked: "model", "recipe" (a token reduction, or keep_all), "task", "limit", "batch", "device" and "dtype".
    """
    task = TASKS.create(asked["task"])
    samples = checked_samples(task)
    samples = samples[:: max(1, len(samples) // asked["limit"])][: asked["limit"]]
    outline(asked["model"])  # brings the libraries of its family in, which are no part of it
    before = memory().resident
    reset_peak()
    model: Any = load(asked["model"], device=asked["device"], dtype=asked["dtype"])
    fast, cuda = accelerate(model, asked["recipe"]), model.device.type == "cuda"
    loading_peak = memory().peak
    tensors = {id(tensor): tensor for tensor in (*model.module.parameters(), *model.module.buffers())}
    fast.answer_batch(samples[:1], max_new_tokens=2)  # what is made once, at the first answer, is no part of the rest
    from_here = reset_peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats(model.device)
    meter = EnergyMeter(model.device)
    meter.start()
    scores: list[float] = []
    cache = tokens = 0
    for start in range(0, len(samples), asked["batch"]):
        batch = samples[start : start + asked["batch"]]
        answers = fast.answer_batch(batch, max_new_tokens=task.max_new_tokens, stop=task.stop)
        for sample, answer in zip(batch, answers, strict=True):
            if isinstance(answer, Failure):
                scores.append(0.0)
                continue
            scores.append(task.grade(sample, answer.text).score)
            cache, tokens = max(cache, answer.cost.cache_bytes), tokens + answer.cost.generated_tokens
    energy = meter.stop()
    return {
        "device": str(model.provenance()["device"]),
        "dtype": str(model.provenance()["dtype"]),
        "samples": len(samples),
        "score": 100 * sum(scores) / len(scores),
        "before_bytes": before,
        "tensors_bytes": sum(tensor.nbytes for tensor in tensors.values()),
        "loading_peak_bytes": loading_peak,
        "resident_bytes": memory().resident,
        "peak_bytes": memory().peak,
        "peak_of_answering_only": from_here,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated(model.device) if cuda else None,
        "cache_bytes": cache,
        "generated_tokens": tokens,
        "seconds": energy.seconds,
        "joules": energy.joules,
        "watts": energy.watts,
        "energy_source": energy.source,
    }


def main() -> None:
    """Measure what standard input asks for; an error becomes an object with its kind and message."""
    asked = json.loads(sys.stdin.read())
    try:
        answer = measure(asked)
    except SteadyVLMError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
