"""The whole training run, to a shipped folder: what `steadyvlm pocket train` does.

The LLaVA pocket is trained from nothing: stage 1 teaches the vision tower to see (per-patch targets, and a
contrastive loss with the text tower), stage 2 trains everything together on packed questions, stage 3 freezes the
feature layers and re-aligns the last vision layer, both projections and the text tower, so that picture and text
towers match the final model. The other architectures start from its shipped weights and have the first two stages.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from steadyvlm.errors import InvalidOption, UnknownName
from steadyvlm.pocket.training import start
from steadyvlm.pocket.training.data import Layout
from steadyvlm.pocket.training.export import export as export_llava
from steadyvlm.pocket.training.export_llava_next import export as export_next
from steadyvlm.pocket.training.export_qwen2_5_vl import export as export_qwen
from steadyvlm.pocket.training.run import Architecture, Plan, Stage, Trainer
from steadyvlm.pocket.vocabulary import SIZE

VISION_FACTOR = 0.3
"""Learning rate of the vision tower in joint training, relative to the decoder's."""

LLAVA = Architecture(
    "llava",
    start.build_tokenizer,
    start.new_llava,
    Layout(),
    (
        Stage(Plan("vision", 466, 128, muon=5e-3, adam=2e-3, decay_from=1.0, first_example=0), "vision_loss"),
        Stage(
            Plan("joint", 2300, 32, muon=4e-3, adam=1.5e-3, decay_from=0.65, first_example=1_000_000),
            "joint_loss",
            VISION_FACTOR,
        ),
        Stage(
            Plan("align", 120, 128, muon=2e-3, adam=1e-3, decay_from=0.3, first_example=3_000_000),
            "align_loss",
            freeze="freeze_features",
        ),
    ),
    export_llava,
)
QWEN2_5_VL = Architecture(
    "qwen2_5_vl",
    start.qwen_tokenizer,
    start.warm_qwen,
    Layout(grid=16),
    (
        Stage(Plan("vision", 400, 128, muon=5e-3, adam=2e-3, decay_from=1.0, first_example=4_000_000), "vision_loss"),
        Stage(
            Plan("joint", 700, 32, muon=4e-3, adam=1.5e-3, decay_from=0.6, first_example=5_000_000),
            "joint_loss",
            VISION_FACTOR,
        ),
    ),
    export_qwen,
)
LLAVA_NEXT = Architecture(
    "llava_next",
    start.shipped_tokenizer,
    start.warm_next,
    Layout(copy=SIZE // 2),
    (
        Stage(Plan("vision", 100, 128, muon=3e-3, adam=1e-3, decay_from=1.0, first_example=6_000_000), "vision_loss"),
        Stage(
            Plan("joint", 600, 32, muon=3e-3, adam=1e-3, decay_from=0.6, first_example=7_000_000),
            "joint_loss",
            VISION_FACTOR,
        ),
    ),
    export_next,
)
"""The plans of the shipped weights (docs/pocket.md says where their history differs); a vision stage's rate does not
decay, since joint training goes on with the tower."""

ARCHITECTURES = {architecture.name: architecture for architecture in (LLAVA, QWEN2_5_VL, LLAVA_NEXT)}


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a training run.

    Attributes:
        scale: factor on the step count of every stage; below 1 trains a weaker model sooner.
        compile: use torch.compile (needs a C++ compiler; about twice as fast).
        workers: processes that paint scenes.
        threads: CPU threads, 0 leaves torch's choice.
        device: "auto" takes a GPU when there is one.
        architecture: "llava", "qwen2_5_vl" or "llava_next".
    """

    scale: float = 1.0
    compile: bool = True
    workers: int = 1
    threads: int = 0
    device: str = "auto"
    architecture: str = "llava"

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 10:
            raise InvalidOption(f"scale must be above 0 and at most 10, got {self.scale}.")
        if self.workers < 0 or self.threads < 0:
            raise InvalidOption(f"workers and threads must not be negative, got {self.workers} and {self.threads}.")
        if self.architecture not in ARCHITECTURES:
            raise UnknownName.among("pocket architecture", self.architecture, ARCHITECTURES)


def train(folder: Path, options: TrainingOptions | None = None, *, log: Callable[[str], None] = print) -> Path:
    """Train in `folder`, going on where an earlier run stopped; return the exported Hugging Face folder.

    Raises:
        InvalidOption: for options out of range.
    """
    options = options or TrainingOptions()
    if options.threads:
        torch.set_num_threads(options.threads)
    architecture = ARCHITECTURES[options.architecture]
    trainer = Trainer(
        folder, architecture, compile=options.compile, workers=options.workers, device=options.device, log=log
    )
    for stage in architecture.stages:
        steps = max(1, round(stage.plan.steps * options.scale))
        trainer.stage(replace(stage, plan=replace(stage.plan, steps=steps)))
    log("writing the Hugging Face folder")
    exported = folder / architecture.name
    architecture.export(trainer.model.cpu(), trainer.tokenizer, exported)
    return exported


def export_checkpoint(architecture: Architecture, weights: Path, folder: Path) -> None:
    """Write the Hugging Face folder of a finished stage's safetensors file."""
    tokenizer = architecture.tokenizer()
    model = architecture.model(tokenizer)
    model.load_state_dict(load_file(weights))
    architecture.export(model, tokenizer, folder)


def stage_records(folder: Path) -> list[dict[str, object]]:
    """Return what each finished stage wrote down: steps, batch size, rates, seconds."""
    return [
        json.loads(path.read_text())
        for name in ("vision", "joint", "align")
        if (path := folder / f"{name}.json").exists()
    ]
