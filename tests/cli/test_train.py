from __future__ import annotations

from pathlib import Path

from steadyvlm.models.load import load
from steadyvlm.recipes import accelerate, answer
from tiny import VISUAL, make_image, save_tiny


def test_lvpruning_is_trained_and_used(steadyvlm, questions, tmp_path: Path):
    model, out = save_tiny(tmp_path / "model", layers=6), tmp_path / "modules"
    task = f"folder(path={str(questions)!r})"
    command = ("train", "lvpruning", "--model", model, "--task", task, "--out", out, "--device", "cpu")
    done = steadyvlm(*command, "--steps", 2, "--batch", 2, "--inner", 16)
    assert done.code == 0, done.err
    assert "lvpruning 1/2" in done.out
    recipe = done.out.strip().splitlines()[-1].split("with: ")[1]
    fast = accelerate(load(model, device="cpu"), recipe)
    counts = answer(fast, make_image(1), "what colour is it?").cost.visual_tokens_per_layer
    assert counts[0] == VISUAL
    assert counts[1] >= counts[2] >= counts[3] == counts[5] >= 1
    again = steadyvlm(*command)
    assert again.code == 2
    assert "holds trained modules already" in again.err


def test_test_questions_are_never_trained_on(steadyvlm, tmp_path: Path):
    done = steadyvlm("train", "lvpruning", "--task", "pocket(split='test')", "--out", tmp_path)
    assert done.code == 2
    assert "nothing may be trained on them" in done.err
