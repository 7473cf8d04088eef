"""Run the training of a pocket model: seeded, resumable, on CPU or GPU.

An architecture says what is trained: its model, its tokenizer, how it looks at pictures, and its stages. The schedule
is warm-up, flat, then linear decay: `Plan` holds the step counts. A checkpoint holds weights, optimiser state and
step; example `i` depends on `i` alone, so a stopped run goes on as if never stopped.
"""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steadyvlm.errors import CheckpointError
from steadyvlm.pocket.training.data import Layout, PocketExamples


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps, batch sizes and learning rates of one stage."""

    name: str
    steps: int
    batch: int
    muon: float
    adam: float
    decay_from: float
    first_example: int
    warmup: int = 60


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of an architecture's training.

    Attributes:
        plan: steps and rates.
        loss: name of the model's method from a batch to its loss and the parts of it.
        vision_factor: learning rate of the vision tower, relative to the rest.
        freeze: name of the model's method that freezes what this stage leaves alone; empty freezes nothing.
    """

    plan: Plan
    loss: str
    vision_factor: float = 1.0
    freeze: str = ""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What is trained.

    Attributes:
        name: folder of the finished model.
        tokenizer: makes its tokenizer.
        model: makes the model with its first weights.
        layout: how it looks at pictures.
        stages: in order.
        export: writes the Hugging Face folder of a trained model.
    """

    name: str
    tokenizer: Callable[[], Any]
    model: Callable[[Any], nn.Module]
    layout: Layout
    stages: tuple[Stage, ...]
    export: Callable[[Any, Any, Path], None]


def learning_rate(plan: Plan, step: int) -> float:
    """Return the factor on the peak learning rate: warm-up, flat, linear decay to 2 %."""
    start = plan.decay_from * plan.steps
    decay = max(0.0, (step - start) / max(1.0, plan.steps - start))
    return min(1.0, (step + 1) / plan.warmup) * (1 - 0.98 * decay)


class Optimisers:
    """Muon for weight matrices inside the networks, AdamW for everything else."""

    def __init__(self, model: nn.Module, plan: Plan, vision_factor: float = 1.0) -> None:
        matrices: dict[float, list[Tensor]] = {}
        others: dict[float, list[Tensor]] = {}
        for name, value in model.named_parameters():
            if not value.requires_grad:
                continue
            factor = vision_factor if name.startswith("vision.") else 1.0
            inner = (value.ndim == 2 and ".layers." in f".{name}") or name.startswith(("linear_1.w", "linear_2.w"))
            (matrices if inner and value.ndim == 2 else others).setdefault(factor, []).append(value)
        self.muon = torch.optim.Muon(
            [{"params": v, "factor": k} for k, v in matrices.items()],
            lr=plan.muon,
            weight_decay=0.02,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adam = torch.optim.AdamW(
            [{"params": v, "factor": k} for k, v in others.items()], lr=plan.adam, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.plan = plan

    def step(self, number: int) -> None:
        """Update with the learning rate of step `number` and clear gradients."""
        for optimiser, peak in ((self.muon, self.plan.muon), (self.adam, self.plan.adam)):
            for group in optimiser.param_groups:
                group["lr"] = peak * group["factor"] * learning_rate(self.plan, number)
            optimiser.step()  # type: ignore[no-untyped-call]  # torch leaves Muon untyped
            optimiser.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return both optimisers' states."""
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Restore both optimisers' states."""
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


def batches(tokenizer: Any, plan: Plan, step: int, workers: int, layout: Layout) -> Iterator[dict[str, Any]]:
    """Yield the batches of `plan` from `step` on."""
    data = PocketExamples(
        tokenizer,
        plan.first_example + step * plan.batch,
        (plan.steps - step) * plan.batch,
        questions=plan.name == "joint",
        layout=layout,
    )
    yield from DataLoader(data, plan.batch, num_workers=workers, prefetch_factor=4 if workers else None)


class Trainer:
    """Runs the stages, keeping everything needed to go on in `folder`."""

    def __init__(
        self,
        folder: Path,
        architecture: Architecture,
        *,
        compile: bool = True,
        workers: int = 1,
        device: str = "auto",
        checkpoint_s: float = 120.0,
        log: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.architecture, self.checkpoint_s = folder, architecture, checkpoint_s
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.log, self.workers, self.compile = log, workers, compile
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.tokenizer = architecture.tokenizer()
        self.model: Any = architecture.model(self.tokenizer).to(self.device)

    def stage(self, stage: Stage) -> None:
        """Run or resume one stage; a checkpoint is written every two minutes."""
        plan = stage.plan
        done, partial = self.folder / f"{plan.name}.safetensors", self.folder / f"{plan.name}.partial"
        if done.exists():
            self._load_finished(done)
            return
        if stage.freeze:
            getattr(self.model, stage.freeze)()
        optimisers = Optimisers(self.model, plan, stage.vision_factor)
        first = self._resume(partial, optimisers)
        loss_of = getattr(self.model, stage.loss)
        run = torch.compile(loss_of) if self.compile else loss_of
        began = saved = time.time()
        for step, batch in enumerate(
            batches(self.tokenizer, plan, first, self.workers, self.architecture.layout), first
        ):
            with torch.autocast(self.device.type, torch.bfloat16):
                loss, parts = run(_to(batch, self.device))
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimisers.step(step)
            if step % 10 == 0 or step == plan.steps - 1:
                numbers = " ".join(f"{name} {float(value.detach()):.3f}" for name, value in parts.items())
                rate = (step + 1 - first) * plan.batch / (time.time() - began)
                self.log(f"{plan.name} {step}/{plan.steps} {time.time() - began:.0f}s {rate:.1f} img/s {numbers}")
            if time.time() - saved >= self.checkpoint_s and step + 1 < plan.steps:
                saved = time.time()
                self._save(
                    partial, {"model": self.model.state_dict(), "optimisers": optimisers.state(), "step": step + 1}
                )
        record = {**asdict(plan), "resumed_at": first, "seconds_since": time.time() - began}
        (self.folder / f"{plan.name}.json").write_text(json.dumps(record))
        save_file({k: v.cpu().contiguous() for k, v in self.model.state_dict().items()}, done)
        partial.unlink(missing_ok=True)

    def _load_finished(self, done: Path) -> None:
        try:
            self.model.load_state_dict(load_file(done))
        except (RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{done} does not fit a {self.architecture.name} pocket. "
                "It is damaged or another architecture's; train in a folder of its own."
            ) from error
        self.log(f"{done.stem}: done before")

    def _resume(self, partial: Path, optimisers: Optimisers) -> int:
        """Load a checkpoint if there is one; return the next step."""
        if not partial.exists():
            return 0
        try:
            state = torch.load(partial, weights_only=True, map_location=self.device)
            self.model.load_state_dict(state["model"])
            optimisers.load(state["optimisers"])
        except (RuntimeError, KeyError, ValueError, pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(
                f"{partial} cannot be resumed from ({error}). Move it away to begin this stage again."
            ) from error
        return int(state["step"])

    @staticmethod
    def _save(path: Path, state: dict[str, Any]) -> None:
        temporary = path.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)


def _to(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: _to(v, device) if isinstance(v, dict) else v.to(device, non_blocking=True) for k, v in batch.items()}
