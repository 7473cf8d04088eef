"""Same questions, same answers? Two runs in, numbers with their uncertainty out.

`compare` is the entry point; each other file holds one statistical idea. Only numpy and scipy are needed.
"""

from steadyvlm.stability.clusters import cluster_standard_error, effective_n
from steadyvlm.stability.compare import Comparison, compare
from steadyvlm.stability.estimates import Difference, Rate
from steadyvlm.stability.intervals import Interval, clopper_pearson, newcombe_paired, wilson
from steadyvlm.stability.mcnemar import PairedTest, mcnemar
from steadyvlm.stability.multiplicity import Adjusted, benjamini_hochberg, holm
from steadyvlm.stability.noise import NoiseFloor
from steadyvlm.stability.pairing import Pairing, pair
from steadyvlm.stability.perturbed import Kind, State, UnderPerturbation, under_perturbation
from steadyvlm.stability.prediction_file import read_predictions
from steadyvlm.stability.ratios import FLIP_KINDS, FlipCounts, FlipKind
from steadyvlm.stability.repeats import Contrast, Estimate, Variant, contrast, read_runs, variant
from steadyvlm.stability.summary import Flip, Slice

__all__ = [
    "FLIP_KINDS",
    "Adjusted",
    "Comparison",
    "Contrast",
    "Difference",
    "Estimate",
    "Flip",
    "FlipCounts",
    "FlipKind",
    "Interval",
    "Kind",
    "NoiseFloor",
    "PairedTest",
    "Pairing",
    "Rate",
    "Slice",
    "State",
    "UnderPerturbation",
    "Variant",
    "benjamini_hochberg",
    "clopper_pearson",
    "cluster_standard_error",
    "compare",
    "contrast",
    "effective_n",
    "holm",
    "mcnemar",
    "newcombe_paired",
    "pair",
    "read_predictions",
    "read_runs",
    "under_perturbation",
    "variant",
    "wilson",
]
