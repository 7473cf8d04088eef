"""What a report is drawn from: comparisons, the answers behind them, and a way to look at the pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from steadyvlm.errors import InvalidOption
from steadyvlm.records import Prediction
from steadyvlm.stability import Comparison, Contrast, UnderPerturbation, Variant

ORIGINAL = "original"
CONTROL = "control"

PatchArea = Literal["centre_square", "whole"]
"""Which part of a picture the vision tower saw; the two are the same for square pictures."""


def no_image(prediction: Prediction) -> bytes | None:
    """The default of `ReportData.image`: there are no pictures."""
    return None


@dataclass(frozen=True)
class ArmReport:
    """One run beside the original.

    Attributes:
        name: short and unique; "control" is the original run again and serves as the noise floor.
        recipe: canonical text of what was applied.
        comparison: original against this run.
        predictions: the answers of this run.
    """

    name: str
    recipe: str
    comparison: Comparison
    predictions: Sequence[Prediction]

    @property
    def is_control(self) -> bool:
        """Whether this is the original run again."""
        return self.name == CONTROL


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Operations of one run, counted from executed tokens.

    Attributes:
        flops: mean per answer: vision tower, connector, decoder over prompt and answer, output head, scoring.
        of_original: the same over the original's on the same questions.
        n: answers counted.
        profile: name of the counting convention.
    """

    flops: float
    of_original: float
    n: int
    profile: str


@dataclass(frozen=True, slots=True)
class Disruption:
    """Layer-wise inner disruption (LID) of one run.

    Attributes:
        value, low, high: mean over questions of the sum over layers, with its 95 % interval.
        n: questions.
        per_layer: mean per layer.
        method: of the interval.
    """

    value: float
    low: float
    high: float
    n: int
    per_layer: tuple[float, ...]
    method: str


@dataclass(frozen=True, slots=True)
class Correlation:
    """Of LID and consistency over runs.

    Attributes:
        pearson, spearman: coefficients.
        points: runs.
        leave_one_out: smallest and largest Pearson coefficient when all runs of one method are left out.
    """

    pearson: float
    spearman: float
    points: int
    leave_one_out: tuple[float, float] | None = None


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows.

    Attributes:
        title: what was studied.
        model: what was accelerated.
        arms: runs in the order to show them; one of them may be called "control".
        original: answers of the original.
        notes: things a reader must know, as sentences; shown with the caveats.
        provenance: facts about the circumstances; a mapping of run name to facts, or facts about everything.
        image: encoded bytes of a prediction's first picture, or None; its bytes are never trusted.
        patch_area: where on the picture the visual tokens lie, for drawing the kept ones.
        arithmetic: run name to its operations, "original" included; empty when they cannot be counted.
        disruption: run name to its inner disruption; empty when it was not measured.
        correlation: of disruption and consistency.
        perturbed: run name to what perturbed inputs do to it, the control included; empty when none was asked.
        published: ids of published tables to show beside what was measured.
        variants: name to what recipes come to over several calibration seeds; empty when none was run under several.
        contrasts: of variants.
        conventions: cost profile to run name to operations under it, for tables of papers that count otherwise.

    Raises:
        InvalidOption: when two arms share a name or one is called "original".
    """

    title: str
    model: str
    arms: Sequence[ArmReport]
    original: Sequence[Prediction]
    notes: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    image: Callable[[Prediction], bytes | None] = no_image
    patch_area: PatchArea = "centre_square"
    arithmetic: Mapping[str, Arithmetic] = field(default_factory=dict)
    disruption: Mapping[str, Disruption] = field(default_factory=dict)
    correlation: Correlation | None = None
    published: Sequence[str] = ()
    perturbed: Mapping[str, UnderPerturbation] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    contrasts: Sequence[Contrast] = ()
    conventions: Mapping[str, Mapping[str, Arithmetic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = Counter([ORIGINAL, *(arm.name for arm in self.arms)])
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise InvalidOption(
                f"a report cannot hold two runs called {', '.join(map(repr, twice))}; give each arm its own name "
                f"('{ORIGINAL}' is taken)."
            )

    @property
    def accelerated(self) -> tuple[ArmReport, ...]:
        """The arms that are not the control."""
        return tuple(arm for arm in self.arms if not arm.is_control)

    @property
    def control(self) -> ArmReport | None:
        """The original run again, if it is among the arms."""
        return next((arm for arm in self.arms if arm.is_control), None)
