"""A recipe file with plausible content, for tests that change one thing of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from steadyvlm.quota.allocation import allocate, keep_count
from steadyvlm.quota.profile import Profile, Sampled
from steadyvlm.quota.recipe_file import (
    AllocationRecord,
    CalibrationIdentity,
    FlopsRecord,
    ModelIdentity,
    QuantiserIdentity,
    RecipeFile,
    ScoringRecord,
    SensitivityRecord,
    Weights,
    executed_tokens,
)

CANDIDATES = (2, 3, 4, 5, 6)
MEASURED = (0.05, 0.08, 0.06, 0.12, 0.30)
LAYERS = 12


def recipe(**changes: Any) -> RecipeFile:
    found = allocate(MEASURED)
    counts = tuple(keep_count(ratio, 576) for ratio in found.keep_ratio)
    flat = Sampled((0.25,) * LAYERS, (0.125,) * LAYERS)
    whole = RecipeFile(
        model=ModelIdentity("pocket", "a" * 64, LAYERS, 128),
        quantiser=QuantiserIdentity("flatquant(seed=0)", "b" * 64, "c" * 64, True),
        calibration=CalibrationIdentity("d" * 64, 128, 0),
        n_ref=576,
        n_ref_mode="stored",
        scope="sample",
        candidates=CANDIDATES,
        apply="next",
        prune_kv_at_selection_layer=True,
        profile=Profile(flat, flat, flat, flat, (0.3,) * LAYERS, (576, 576), 128),
        sensitivity=SensitivityRecord(
            "local", "visual", "block_output", 1e-8, found.sensitivity, found.normalised, 10.0, 90.0
        ),
        allocation=AllocationRecord("sensitivity", 1.0, 0.3, "ceil", 1, found.drop_share, found.keep_ratio, counts),
        scoring=ScoringRecord(
            Weights(0.45, 0.25, 0.1, 0.2), 5.0, 95.0, "output", "raw", 4, False, False, "after_image", "lowest_index"
        ),
        flops=FlopsRecord(executed_tokens(counts, CANDIDATES, 576, LAYERS, apply="next"), 0.4, 0.5, 0.6, 61),
        reduction="quota(layers=(2, 3, 4, 5, 6))",
    )
    return dataclasses.replace(whole, **changes)
