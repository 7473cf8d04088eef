"""Train the pocket VLM from nothing: seeded, resumable, on CPU or GPU.

Stage 1 teaches the vision tower to see (per-patch targets, and a contrastive loss with the text tower).
Stage 2 trains everything together on packed questions. Stage 3 freezes the feature layers and re-aligns the last
vision layer, both projections and the text tower, so that picture and text towers match the final model.

The schedule is warm-up, flat, then linear decay: `Plan` holds the step counts. A checkpoint holds weights,
optimiser state and step; example `i` depends on `i` alone, so a stopped run goes on as if never stopped.
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
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steadyvlm.errors import CheckpointError
from steadyvlm.pocket.questions import FAMILIES, binding
from steadyvlm.pocket.scenes import make_scene
from steadyvlm.pocket.tokenizer import BOS, EOS, IMAGE, USER, train_tokenizer
from steadyvlm.pocket.training.data import PocketExamples
from steadyvlm.pocket.training.model import PocketConfig, PocketTrainer

PIXEL_MEAN, PIXEL_SCALE = 100.0, 70.0


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


def learning_rate(plan: Plan, step: int) -> float:
    """Return the factor on the peak learning rate: warm-up, flat, linear decay to 2 %."""
    start = plan.decay_from * plan.steps
    decay = max(0.0, (step - start) / max(1.0, plan.steps - start))
    return min(1.0, (step + 1) / plan.warmup) * (1 - 0.98 * decay)


def build_tokenizer() -> Any:
    """Train the byte-level BPE on the questions of 2,000 training scenes."""
    import numpy as np

    rng = np.random.default_rng(0)
    texts: list[str] = []
    for index in range(2000):
        scene = make_scene("train", index)
        for ask in (*FAMILIES.values(), binding):
            question = ask(rng, scene)
            if question is not None:
                texts += [question.prompt, f" {question.reply}"]
                texts += [f" {question.answer}", f" word {question.answer}"]
    return train_tokenizer(texts)


def normalise(pixels: Tensor) -> Tensor:
    """[B, 96, 96, 3] uint8 -> [B, 3, 96, 96] float32."""
    return (pixels.permute(0, 3, 1, 2).float() - PIXEL_MEAN) / PIXEL_SCALE


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


def batches(tokenizer: Any, plan: Plan, step: int, workers: int) -> Iterator[dict[str, Any]]:
    """Yield the batches of `plan` from `step` on."""
    data = PocketExamples(
        tokenizer,
        plan.first_example + step * plan.batch,
        (plan.steps - step) * plan.batch,
        questions=plan.name == "joint",
    )
    yield from DataLoader(data, plan.batch, num_workers=workers, prefetch_factor=4 if workers else None)


def answer_loss(logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return (loss, share of answer tokens predicted): answer tokens weigh 1, end tokens 0.1."""
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), batch["targets"].flatten(), reduction="none", ignore_index=-100
    )
    kind = batch["kinds"].flatten()
    weight = torch.where(kind == 1, 1.0, torch.where(kind == 2, 0.1, 0.0))
    right = (logits.argmax(-1) == batch["targets"]) & (batch["kinds"] == 1)
    return (loss * weight).sum() / (kind == 1).sum(), right.sum() / (kind == 1).sum()


class Trainer:
    """Runs the stages, keeping everything needed to go on in `folder`."""

    def __init__(
        self,
        folder: Path,
        *,
        compile: bool = True,
        workers: int = 1,
        device: str = "auto",
        checkpoint_s: float = 120.0,
        log: Callable[[str], None] = print,
    ) -> None:
        self.folder, self.checkpoint_s = folder, checkpoint_s
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.log, self.workers, self.compile = log, workers, compile
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        self.tokenizer = build_tokenizer()
        self.model = PocketTrainer(PocketConfig()).to(self.device)
        ids = self.tokenizer.token_to_id
        self.end = ids(EOS)
        space, newline = (self.tokenizer.encode(text).ids[0] for text in (" ", "\n"))
        self.head = torch.tensor([ids(BOS), ids(USER), space], device=self.device)
        self.tail = torch.tensor([newline], device=self.device)
        assert self.tokenizer.encode(f"{BOS}{USER} {IMAGE}\n").ids == [*self.head.tolist(), ids(IMAGE), newline]

    def vision_loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 1: per-patch targets and picture-caption contrast."""
        features = self.model.vision.features(normalise(batch["pixels"]))
        dense = self.model.dense_loss(features, batch["dense"])
        contrast = self.model.contrastive_loss(features, batch["caption"], self.end)
        return dense + 0.3 * contrast, {"dense": dense, "contrast": contrast}

    def joint_loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 2: answers, with the per-patch loss kept on and a weak contrastive loss."""
        features = self.model.vision.features(normalise(batch["pixels"]))
        logits, image = self.model.answer_logits(
            features, self.head, self.tail, batch["text"], batch["questions"], batch["places"]
        )
        answers, right = answer_loss(logits, batch)
        dense = self.model.dense_loss(features, batch["dense"])
        contrast = self.model.contrastive_loss(features, batch["caption"], self.end)
        place = self.model.place_loss(image)
        loss = answers + 0.1 * dense + 0.05 * contrast + 0.05 * place
        return loss, {"answers": answers, "right": right, "dense": dense, "place": place}

    def align_loss(self, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Stage 3: only the contrastive loss, feature layers frozen."""
        with torch.no_grad():
            features = self.model.vision.features(normalise(batch["pixels"]))
        contrast = self.model.contrastive_loss(features, batch["caption"], self.end)
        return contrast, {"contrast": contrast}

    def freeze_features(self) -> None:
        """Leave only what the contrastive loss trains and the decoder does not read."""
        vision = self.model.vision
        for value in self.model.parameters():
            value.requires_grad_(False)
        for module in (*vision.layers[vision.feature_layer :], vision.post_norm, self.model.text):
            module.requires_grad_(True)
        for module in (self.model.visual_projection, self.model.text_projection):
            module.requires_grad_(True)
        self.model.logit_scale.requires_grad_(True)

    def stage(
        self,
        plan: Plan,
        loss_of: Callable[[dict[str, Any]], tuple[Tensor, dict[str, Tensor]]],
        vision_factor: float = 1.0,
    ) -> None:
        """Run or resume one stage; a checkpoint is written every two minutes."""
        done, partial = self.folder / f"{plan.name}.safetensors", self.folder / f"{plan.name}.partial"
        if done.exists():
            self.model.load_state_dict(load_file(done))
            self.log(f"{plan.name}: done before")
            return
        optimisers = Optimisers(self.model, plan, vision_factor)
        first = self._resume(partial, optimisers)
        run = torch.compile(loss_of) if self.compile else loss_of
        began = saved = time.time()
        for step, batch in enumerate(batches(self.tokenizer, plan, first, self.workers), first):
            with torch.autocast(self.device.type, torch.bfloat16):
                loss, parts = run(_to(batch, self.device))
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
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
