"""The whole training run, from nothing to a shipped folder: what `steadyvlm pocket train` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from steadyvlm.errors import InvalidOption
from steadyvlm.pocket.training.export import export
from steadyvlm.pocket.training.model import PocketConfig, PocketTrainer
from steadyvlm.pocket.training.run import Plan, Trainer, build_tokenizer

VISION = Plan("vision", steps=466, batch=128, muon=5e-3, adam=2e-3, decay_from=1.0, first_example=0)
JOINT = Plan("joint", steps=2300, batch=32, muon=4e-3, adam=1.5e-3, decay_from=0.65, first_example=1_000_000)
ALIGN = Plan("align", steps=120, batch=128, muon=2e-3, adam=1e-3, decay_from=0.3, first_example=3_000_000)
"""The plans of the shipped weights (docs/pocket.md says where their history differs); the vision rate does not decay,
since joint training goes on with the tower."""

VISION_FACTOR = 0.3
"""Learning rate of the vision tower in joint training, relative to the decoder's."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a training run.

    Attributes:
        scale: factor on the step count of every stage; below 1 trains a weaker model sooner.
        compile: use torch.compile (needs a C++ compiler; about twice as fast).
        workers: processes that paint scenes.
        threads: CPU threads, 0 leaves torch's choice.
        device: "auto" takes a GPU when there is one.
    """

    scale: float = 1.0
    compile: bool = True
    workers: int = 1
    threads: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 10:
            raise InvalidOption(f"scale must be above 0 and at most 10, got {self.scale}.")
        if self.workers < 0 or self.threads < 0:
            raise InvalidOption(f"workers and threads must not be negative, got {self.workers} and {self.threads}.")


def train(folder: Path, options: TrainingOptions | None = None, *, log: Callable[[str], None] = print) -> Path:
    """Train in `folder`, going on where an earlier run stopped; return the exported Hugging Face folder.

    Raises:
        InvalidOption: for options out of range.
    """
    options = options or TrainingOptions()
    if options.threads:
        torch.set_num_threads(options.threads)
    trainer = Trainer(folder, compile=options.compile, workers=options.workers, device=options.device, log=log)
    vision, joint, align = (
        replace(plan, steps=max(1, round(plan.steps * options.scale))) for plan in (VISION, JOINT, ALIGN)
    )
    trainer.stage(vision, trainer.vision_loss)
    trainer.stage(joint, trainer.joint_loss, VISION_FACTOR)
    trainer.freeze_features()
    trainer.stage(align, trainer.align_loss)
    log("writing the Hugging Face folder")
    exported = folder / "llava"
    export(trainer.model.cpu(), trainer.tokenizer, exported)
    return exported


def export_checkpoint(weights: Path, folder: Path) -> None:
    """Write the Hugging Face folder of a finished stage's safetensors file."""
    model = PocketTrainer(PocketConfig())
    model.load_state_dict(load_file(weights))
    export(model, build_tokenizer(), folder)


def stage_records(folder: Path) -> list[dict[str, object]]:
    """Return what each finished stage wrote down: steps, batch size, rates, seconds."""
    return [
        json.loads(path.read_text())
        for name in ("vision", "joint", "align")
        if (path := folder / f"{name}.json").exists()
    ]
