"""Answer 200 questions twice, with all and with a third of the visual tokens, and compare the runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

import steadyvlm as sv
from steadyvlm.study.plan import Study
from steadyvlm.study.runner import run

study = Study.from_mapping(
    {
        "study": "two-runs",
        "model": "pocket",
        "tasks": [{"name": "pocket", "limit": 200}],
        "control": {"batch_size": 5},
        "recipes": [{"name": "visionzip-32", "recipe": "visionzip(dominant=26, contextual=6)"}],
    }
)
with tempfile.TemporaryDirectory() as folder:
    result = run(study, Path(folder) / "two-runs")
comparison = sv.compare(result.original, result.arms["visionzip-32"], result.control)
print("answers changed:       ", comparison.divergence_ratio)
print("right to wrong:        ", comparison.negative_divergence_ratio)
print("changed beyond noise:  ", comparison.excess_divergence_ratio)
print("score change (points): ", comparison.score_change)
