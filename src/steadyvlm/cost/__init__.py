"""How much arithmetic an answer takes, counted exactly from what was executed. Plain integers: no torch, no arrays."""

from steadyvlm.cost.methods import scoring_of, with_scoring
from steadyvlm.cost.profiles import PROFILES, Profile, profile
from steadyvlm.cost.records import cost_of, counts_of
from steadyvlm.cost.report import CostReport, Counts, Ratios, count, ratios
from steadyvlm.cost.scoring import Scoring
from steadyvlm.cost.sizes import (
    PUBLISHED,
    ClipSizes,
    ConnectorSizes,
    DecoderSizes,
    ModelSizes,
    QwenVisionSizes,
    published,
)

__all__ = [
    "PROFILES",
    "PUBLISHED",
    "ClipSizes",
    "ConnectorSizes",
    "CostReport",
    "Counts",
    "DecoderSizes",
    "ModelSizes",
    "Profile",
    "QwenVisionSizes",
    "Ratios",
    "Scoring",
    "cost_of",
    "count",
    "counts_of",
    "profile",
    "published",
    "ratios",
    "scoring_of",
    "with_scoring",
]
