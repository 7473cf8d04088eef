"""Quantise and prune in one recipe, compare the answers, save the packed model, and answer from the folder again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import steadyvlm as sv
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.recipes.saving import save

QUOTA = "quota(layers=(2, 3, 4, 5, 6), keep_ratios='uniform')"  # 30 % of the visual tokens are left in the end

samples = PocketTask(limit=48).samples()
model = sv.load("pocket")
original = sv.accelerate(model, "keep_all").answer_batch(samples, max_new_tokens=8)
fast = sv.accelerate(model, f"{QUOTA} + hadamard_w4a4")  # weights, activations and cache in 4 bits; needs no examples
answers = fast.answer_batch(samples, max_new_tokens=8)

same = sum(a.text == b.text for a, b in zip(original, answers, strict=True))
print(fast.report)
print(f"{same} of {len(samples)} answers stayed")
for name, side in (("original", original), ("accelerated", answers)):
    tokens = [f"{count}" for count in side[0].cost.visual_tokens_per_layer]
    print(f"{name:12} visual tokens per layer {' '.join(tokens)}, {side[0].cost.cache_bytes:,} bytes of cache")

with tempfile.TemporaryDirectory() as place:
    saved = save(fast, Path(place) / "pocket-int4")
    packed = sv.load(saved.folder)
    again = sv.accelerate(packed, QUOTA).answer_batch(samples, max_new_tokens=8)
print(
    f"saved: {saved.numbers_bytes:,} bytes; {sum(a.text == b.text for a, b in zip(answers, again, strict=True))} of "
    f"{len(samples)} answers of the folder are those of the model in memory"
)
