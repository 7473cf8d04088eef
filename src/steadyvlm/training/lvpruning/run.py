"""Train the modules of LVPruning: the model is frozen, decisions are drawn, dropped tokens are masked.

    loss = next-token loss on the reference answers + 2 * sum over stages of (wanted share - kept share)^2

At the end the modules are calibrated, so that decisions without noise leave the shares too (see `calibrate`).
A run is seeded and resumable: what a step sees and draws depends on the seed and the step alone. When it is done, the
folder holds `modules.safetensors` and `lvpruning.json`, ready for `lvpruning(modules='FOLDER')`.

Source: see `reduction/lvpruning.py` and `decisions.py`; optimiser and batch size are choices of ours.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from steadyvlm.errors import CheckpointError, InvalidOption, Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.reduction.lvpruning_files import CONFIG, WEIGHTS, ModulesConfig, save_modules
from steadyvlm.reduction.lvpruning_module import PruningModule
from steadyvlm.seeding import stable_seed
from steadyvlm.tasks.base import Task
from steadyvlm.training.lvpruning.calibrate import calibrate
from steadyvlm.training.lvpruning.decisions import Decide, firm_decisions, gumbel_decisions, ratio_loss
from steadyvlm.training.lvpruning.examples import Examples, rows_of_step
from steadyvlm.training.lvpruning.forward import Batch, masked_forward
from steadyvlm.training.lvpruning.schedule import KEEP_RATIOS, learning_rate, stage_layers, temperature

PARTIAL = "training.partial"
CALIBRATION_BATCHES = 8
"""Batches of training questions on which firm decisions are made to leave the wanted shares."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a training run.

    Attributes:
        steps: optimiser steps.
        batch: questions per step.
        learning_rate: peak, for AdamW.
        inner: width inside a module; 0 takes a quarter of the decoder's (1024 at 4096), at least 64.
        heads: of a module's attention.
        ratio_weight: lambda, weight of the ratio loss.
        seed: another whole number gives another run.
        cache_images: encoded pictures held in memory.
        checkpoint_s: seconds between checkpoints.

    Raises:
        InvalidOption: on construction, for a value outside its range.
    """

    steps: int = 2000
    batch: int = 16
    learning_rate: float = 2e-3
    inner: int = 0
    heads: int = 8
    ratio_weight: float = 2.0
    seed: int = 0
    cache_images: int = 2000
    checkpoint_s: float = 120.0

    def __post_init__(self) -> None:
        """Validate."""
        for name in ("steps", "batch", "heads", "cache_images", "learning_rate", "ratio_weight"):
            if not getattr(self, name) > 0:
                raise InvalidOption(f"lvpruning training: {name}={getattr(self, name)!r} must be above 0.")
        if self.inner < 0 or self.inner % self.heads:
            raise InvalidOption(
                f"lvpruning training: inner={self.inner} must be a multiple of heads={self.heads}, or 0."
            )

    def width_inside(self, width: int) -> int:
        """Return the inner width for a decoder of this width."""
        share = max(64, width // 4)
        return self.inner or share - share % self.heads


def train(
    model: VisionLanguageModel,
    task: Task,
    folder: Path,
    options: TrainingOptions | None = None,
    *,
    log: Callable[[str], None] = print,
) -> ModulesConfig:
    """Train modules for `model` in `folder`, going on where an earlier run stopped.

    Args:
        model: stays as it is.
        task: questions with references, none of them used to measure the model later.
        folder: of this run alone.
        options: sizes and step counts.
        log: told about progress.

    Raises:
        Unsupported: for a decoder too shallow, or a model in float16, whose range the gradients leave.
        CheckpointError: when `folder` holds something else.
    """
    options = options or TrainingOptions()
    if str(model.provenance()["dtype"]) == "float16":
        raise Unsupported("LVPruning modules cannot be trained on a float16 model; load it in bfloat16 or float32.")
    info = model.info
    config = ModulesConfig(
        model=info.name,
        weights_sha256=model.weights_sha256(),
        width=info.width,
        num_layers=info.num_layers,
        layers=stage_layers(info.num_layers),
        keep_ratios=KEEP_RATIOS,
        inner=options.width_inside(info.width),
        heads=options.heads,
    )
    if (folder / CONFIG).exists() or (folder / WEIGHTS).exists():
        raise CheckpointError(f"'{folder}' holds trained modules already. Choose another folder, or remove them.")
    folder.mkdir(parents=True, exist_ok=True)
    examples = Examples(model, task, cache_images=options.cache_images)
    with _frozen(model.module):
        return _Run(model, examples, config, folder, options, log).go(task.name)


class _Run:
    """One training run and everything it changes."""

    def __init__(
        self,
        model: VisionLanguageModel,
        examples: Examples,
        config: ModulesConfig,
        folder: Path,
        options: TrainingOptions,
        log: Callable[[str], None],
    ) -> None:
        self.model, self.examples, self.config, self.options, self.log = model, examples, config, options, log
        self.folder, self.partial = folder, folder / PARTIAL
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stable_seed("lvpruning/weights", options.seed))
            self.modules = config.make()
        self.stages = nn.ModuleList(self.modules).to(model.device)
        self.optimiser = torch.optim.AdamW(self.stages.parameters(), lr=options.learning_rate, weight_decay=0.01)
        self.purpose = {"model": config.weights_sha256, "examples": len(examples), **asdict(options)}
        self.purpose.pop("checkpoint_s")

    @property
    def by_layer(self) -> Mapping[int, PruningModule]:
        return dict(zip(self.config.layers, self.modules, strict=True))

    def go(self, task: str) -> ModulesConfig:
        steps, began = self.options.steps, time.monotonic()
        first, saved = self._resume(), began
        for step in range(first, steps):
            numbers = self._step(step)
            if step % 10 == 0 or step == steps - 1:
                self.log(f"lvpruning {step}/{steps} {time.monotonic() - began:.0f}s {numbers}")
            if time.monotonic() - saved >= self.options.checkpoint_s and step + 1 < steps:
                saved = time.monotonic()
                self._save(step + 1)
        config = self._finished(task)
        save_modules(self.folder, config, self.modules)
        self.partial.unlink(missing_ok=True)
        return config

    def _step(self, step: int) -> str:
        options, lot = self.options, torch.Generator().manual_seed(stable_seed("lvpruning", self.options.seed, step))
        batch = self._batch(step)
        drawn = gumbel_decisions(temperature(step, options.steps), lot)
        answers, ratios, shares = self._losses(batch, drawn)
        (answers + options.ratio_weight * ratios).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self.stages.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = options.learning_rate * learning_rate(step, options.steps)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return f"answers {float(answers.detach()):.3f} kept {' '.join(f'{share:.3f}' for share in shares)}"

    def _batch(self, step: int) -> Batch:
        options = self.options
        return self.examples.batch(rows_of_step(step, options.batch, len(self.examples), options.seed))

    def _losses(self, batch: Batch, decide: Decide) -> tuple[Tensor, Tensor, list[float]]:
        """Return the next-token loss, the ratio loss, and the share of visual tokens left after each stage."""
        result = masked_forward(self.model, batch, self.by_layer, decide)
        answers = cross_entropy(result.logits, batch.targets[batch.targets >= 0])
        shares = [float(kept.detach()[batch.visual].mean()) for kept in result.kept]
        return answers, ratio_loss(result.kept, batch.visual, self.config.keep_ratios), shares

    @torch.no_grad()
    def _finished(self, task: str) -> ModulesConfig:
        """Calibrate, and return the description of what was trained, with what firm decisions do to some questions."""
        rounds = min(CALIBRATION_BATCHES, max(1, len(self.examples) // self.options.batch))
        batches = [self._batch(step) for step in range(rounds)]
        calibrate(self.model, batches, self.by_layer, self.config.keep_ratios)
        measured = [self._losses(batch, firm_decisions) for batch in batches]
        kept = [round(sum(shares) / rounds, 4) for shares in zip(*(shares for _, _, shares in measured), strict=True)]
        loss = sum(float(answers) for answers, _, _ in measured) / rounds
        record = {"task": task, "questions": len(self.examples), **asdict(self.options)}
        record |= {"answer_loss": round(loss, 4), "adaptive_share_kept": kept}
        record.pop("checkpoint_s")
        self.log(
            f"lvpruning done: answers {loss:.3f}, firm decisions keep {' '.join(f'{share:.3f}' for share in kept)}"
        )
        fields: dict[str, Any] = {**asdict(self.config), "training": record}
        return ModulesConfig(**fields)

    def _save(self, step: int) -> None:
        state = {
            "purpose": self.purpose,
            "modules": self.stages.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": step,
        }
        temporary = self.partial.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.partial)

    def _resume(self) -> int:
        """Load a checkpoint if there is one; return the next step."""
        if not self.partial.exists():
            return 0
        try:
            state = torch.load(self.partial, weights_only=True, map_location=self.model.device)
            purpose = state["purpose"]
            if purpose == self.purpose:
                self.stages.load_state_dict(state["modules"])
                self.optimiser.load_state_dict(state["optimiser"])
                return int(state["step"])
        except (RuntimeError, KeyError, ValueError, TypeError, pickle.UnpicklingError, EOFError) as error:
            raise CheckpointError(
                f"{self.partial} cannot be resumed from ({error}). Remove it to begin the training again."
            ) from error
        changed = [name for name, value in self.purpose.items() if purpose.get(name) != value]
        raise CheckpointError(
            f"{self.partial} belongs to a run with other settings ({', '.join(changed)} differ). Repeat that run's "
            "command to go on with it, or choose another folder."
        )


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Ask for no gradients of the model's own weights, and leave it as it was found."""
    wanted = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in wanted:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in wanted:
            weight.requires_grad_(True)
