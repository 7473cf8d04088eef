"""The shipped pruning modules belong to the shipped models, and prune what they promise without losing the answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from steadyvlm.engine import Request, VisionCache, generate
from steadyvlm.models.load import load
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.pocket.weights import pocket_path
from steadyvlm.recipes.lvpruning_modules import known_modules, resolve_modules
from steadyvlm.records import Generation
from steadyvlm.reduction.base import Reduction, Selection, Signal, Signals, Site
from steadyvlm.reduction.lvpruning import LVPruning
from steadyvlm.reduction.lvpruning_files import CONFIG, WEIGHTS, read_config, read_modules
from steadyvlm.reduction.tensor_ops import trunc_budget
from steadyvlm.seeding import stable_seed

QUESTIONS = 120


@dataclass(frozen=True)
class RandomStages:
    """As many tokens at the same layers, drawn by lot."""

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    needs: frozenset[Signal] = frozenset()
    compact_positions: bool = False

    def sites(self, num_layers: int) -> tuple[Site, ...]:
        return tuple(Site(layer) for layer in self.layers)

    def select(self, signals: Signals, site: Site) -> Selection:
        assert site.layer is not None
        ratio = self.ratios[self.layers.index(site.layer)]
        lot = torch.Generator().manual_seed(stable_seed(signals.seed, site.layer))
        budget = min(signals.num_tokens, trunc_budget(signals.original_tokens, ratio))
        return Selection(torch.randperm(signals.num_tokens, generator=lot)[:budget].sort().values)


@pytest.mark.parametrize("folder", list(known_modules()), ids=lambda folder: folder.name)
def test_modules_are_small_and_made_for_the_shipped_weights(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([CONFIG, WEIGHTS])
    assert (folder / WEIGHTS).stat().st_size < 600_000
    model = load(pocket_path(folder.name), device="cpu", dtype="float32")
    config = read_config(folder)
    assert config.weights_sha256 == model.weights_sha256()
    assert config.layers == (1, 3, 6)
    assert len(read_modules(folder, torch.device("cpu"))) == 3
    assert resolve_modules(LVPruning(), model) == LVPruning(str(folder))


def test_the_llava_modules_prune_nine_tenths_by_the_middle_and_beat_the_lot() -> None:
    model, task, cache = load("pocket", device="cpu", dtype="float32"), PocketTask(split="validation"), VisionCache(64)
    samples = task.samples()[:QUESTIONS]
    requests = [Request((s.images[0].load(),), s.prompt, stable_seed(s.id)) for s in samples]

    def answers(reduction: Reduction | None) -> list[Generation]:
        found = generate(model, requests, reduction, max_new_tokens=task.max_new_tokens, vision_cache=cache)
        return [item for item in found if isinstance(item, Generation)]

    modules = resolve_modules(LVPruning(), model)
    assert isinstance(modules, LVPruning)
    config = read_config(modules.folder)
    arms = {
        "original": answers(None),
        "adaptive": answers(modules),
        "fixed": answers(LVPruning(modules.modules, "fixed")),
        "random": answers(RandomStages(config.layers, config.keep_ratios)),
    }
    scores = {
        name: sum(task.grade(s, item.text).score for s, item in zip(samples, found, strict=True)) / QUESTIONS
        for name, found in arms.items()
    }
    counts = [item.cost.visual_tokens_per_layer for item in arms["adaptive"]]
    assert sum(count[6] for count in counts) / QUESTIONS <= 0.12 * 144
    assert len({count[6] for count in counts}) > 3, "an easy question needs fewer tokens than a hard one"
    assert {item.cost.visual_tokens_per_layer for item in arms["fixed"]} == {(144, *[95] * 2, *[50] * 3, *[14] * 6)}
    assert scores["adaptive"] > scores["random"] + 0.06, scores
    assert scores["fixed"] > scores["random"] + 0.02, scores
    assert scores["original"] - scores["adaptive"] < 0.08, scores
