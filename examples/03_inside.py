"""How far three methods move the inside of the model, beside how many answers stay: LID and consistency."""

from __future__ import annotations

import steadyvlm as sv
from steadyvlm.cost.records import cost_of
from steadyvlm.models.sizes import sizes_of
from steadyvlm.pocket.benchmark import PocketTask
from steadyvlm.recipes.lid import lid

samples = PocketTask(limit=24).samples()
model = sv.load("pocket")
sizes = sizes_of(model.module.config)
original = sv.accelerate(model, "keep_all").answer_batch(samples, max_new_tokens=8)

for recipe in ("lofi-4", "fastv-k3-50", "visionzip-64"):
    fast = sv.accelerate(model, recipe)
    answers = fast.answer_batch(samples, max_new_tokens=8)
    same = sum(a.text == b.text for a, b in zip(original, answers, strict=True))
    flops = [sum(cost_of(answer, sizes).flops for answer in side) for side in (answers, original)]
    print(f"{recipe:13} LID {lid(model, 'keep_all', recipe, samples)}")
    print(f"{'':13} {same} of {len(samples)} answers stayed, {100 * flops[0] / flops[1]:.0f} % of the operations")
    for note in fast.notes:
        print(f"{'':13} {note}")
