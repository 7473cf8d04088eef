"""Ask the pocket model one question, as it is and accelerated, and see which visual tokens were kept."""

from __future__ import annotations

import steadyvlm as sv
from steadyvlm.pocket.benchmark import PocketTask

sample = PocketTask(limit=1).samples()[0]
picture = sample.images[0].load()

model = sv.load("pocket")
fast = sv.accelerate(model, "fastv(layer=5, keep_ratio=0.25) + rtn(bits=4, group=32)")

print("question:", sample.prompt, "| reference:", sample.references[0])
for name, side in (("original", model), ("accelerated", fast)):
    answer = sv.answer(side, picture, sample.prompt)
    tokens = answer.cost.visual_tokens_per_layer
    print(f"{name:12} {answer.text!r}  margin {answer.margin:.2f} nats  visual tokens per layer {list(tokens)}")
