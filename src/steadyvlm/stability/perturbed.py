"""Does an accelerated model stray further from the original when its input is noisy?

Both sides see the same perturbed input. DR and NDR are taken among perturbed samples, per level, perturbation, family
and severity, and set against the clean answers to the *same* questions: for each perturbed sample, changed under the
perturbation minus changed when clean. That difference is paired and its interval allows for questions that share a
picture; the raw ratios of two different sets of questions do not answer the question above.

A sample counts under what really happened to it. Where a substitute was used for a missing model or file it enters no
average; it has a number of its own. Where a perturbation could not be applied nothing was asked. Where it changed
nothing (a typo generator on the word "a") it counts, and the share of such no-ops is shown beside the number.

Source: the states (none, vision, text) are those of the instability study's Tables 3, 4, 11 and 12.
Differs: there, clean and perturbed ratios stand side by side without intervals, unpaired, and no-ops are not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steadyvlm.records import Prediction
from steadyvlm.stability.clusters import cluster_codes, renumber
from steadyvlm.stability.differences import difference, share
from steadyvlm.stability.estimates import Difference, Rate
from steadyvlm.stability.pairing import Key, pair
from steadyvlm.stability.ratios import Outcomes, outcomes_of

BoolArray = npt.NDArray[np.bool_]

APPLIED, NOOP, FALLBACK, REVERTED, UNAVAILABLE = "applied", "noop", "fallback", "reverted", "unavailable"
STATUSES = (APPLIED, NOOP, FALLBACK, REVERTED, UNAVAILABLE)
CLEAN = "none"


@dataclass(frozen=True, slots=True)
class Kind:
    """A perturbation by name (`image/fog`), as it is shown and grouped; `levels` is 5 or 1."""

    name: str
    label: str
    group: str
    levels: int

    @property
    def modality(self) -> str:
        """`image` or `text`."""
        return self.name.partition("/")[0]


@dataclass(frozen=True, slots=True)
class State:
    """An arm against the original under one set of perturbations.

    Attributes:
        name: "none", a modality, `image/noise` (a family), `image/fog`, `image/fog@2`, or `image@2` (a severity).
        n, n_clusters: samples answered on both sides, and pictures.
        divergence_ratio, negative_divergence_ratio: DR and NDR among them.
        score_original, score_accelerated: mean scores; nan for no samples.
        score_change: accelerated minus original.
        more_changed, more_broken: DR and NDR here minus those of the clean answers to the same questions, paired.
        statuses: samples by what became of their input, also those that are not in `n`.
        substitute: the numbers rest on fallbacks alone; such a state enters no average.
        failed: samples without an answer on one side.
    """

    name: str
    n: int
    n_clusters: int
    divergence_ratio: Rate
    negative_divergence_ratio: Rate
    score_original: float
    score_accelerated: float
    score_change: Difference
    more_changed: Difference
    more_broken: Difference
    statuses: Mapping[str, int]
    substitute: bool = False
    failed: int = 0

    @property
    def noop_share(self) -> float:
        """No-ops among the samples whose input was processed as asked; nan for none."""
        processed = sum(self.statuses.get(name, 0) for name in (APPLIED, NOOP, REVERTED))
        return self.statuses.get(NOOP, 0) / processed if processed else float("nan")


@dataclass(frozen=True, slots=True)
class UnderPerturbation:
    """An arm against the original, clean and perturbed.

    Attributes:
        clean: the unchanged samples.
        modalities, groups, severities, perturbations, levels: states by name; only those that were asked.
        kinds: the perturbations that were asked, in the order to show them.
    """

    clean: State
    modalities: Mapping[str, State]
    groups: Mapping[str, State]
    severities: Mapping[str, State]
    perturbations: Mapping[str, State]
    levels: Mapping[str, State]
    kinds: tuple[Kind, ...] = ()


def under_perturbation(
    original: Sequence[Prediction],
    accelerated: Sequence[Prediction],
    *,
    kinds: Iterable[Kind],
    statuses: Mapping[Key, str],
    correct_threshold: float = 0.5,
    alpha: float = 0.05,
    seed: int = 0,
) -> UnderPerturbation:
    """Compare an arm with the original under every perturbation that was asked.

    Args:
        original: answers to clean and perturbed samples; the clean twin of a perturbed sample has its `parent` as id.
        accelerated: the arm's answers to the same.
        kinds: the perturbations, in the order to show them.
        statuses: what became of each perturbed input, by (task, sample id, level); what is missing was applied.
        correct_threshold: a score at or above it counts as right.
        alpha: intervals have confidence 1 - alpha.
        seed: seed of the bootstrap.

    Raises:
        PairingError: when the two sides were not asked the same.
    """
    pairs = pair(original, accelerated).pairs
    columns = _columns(pairs, correct_threshold)
    asked = {(a.task, a.parent or a.sample_id) for a, _ in pairs}
    seen = {(a.task, a.sample_id, a.perturbation): APPLIED for a, _ in pairs if a.perturbation}
    known = seen | {key: str(status) for key, status in statuses.items() if key[:2] in asked}
    by_name = {kind.name: kind for kind in kinds}
    places = {name: place for place, name in enumerate(by_name)}
    table = _Table(columns, known, by_name, alpha, seed)
    found = {key[2].partition("@")[0]: _kind_of(key[2], by_name) for key in known}
    return UnderPerturbation(
        kinds=tuple(sorted(found.values(), key=lambda kind: (_place(kind.name, places), kind.name))),
        clean=table.clean(),
        modalities=table.states(lambda level: [_kind_of(level, by_name).modality]),
        groups=table.states(lambda level: [_group_of(level, by_name)]),
        severities=table.states(lambda level: _severity_of(level, by_name)),
        perturbations=table.states(lambda level: [level.partition("@")[0]]),
        levels=table.states(lambda level: [level]),
    )


@dataclass(frozen=True, slots=True)
class _Columns:
    """Samples answered on both sides: their keys, outcomes, clusters, and the row of each one's clean twin or -1."""

    keys: tuple[Key, ...]
    outcomes: Outcomes
    codes: npt.NDArray[np.int64]
    twins: npt.NDArray[np.intp]
    failed: tuple[Key, ...]


def _columns(pairs: Sequence[tuple[Prediction, Prediction]], correct_threshold: float) -> _Columns:
    answered = [(a, b) for a, b in pairs if a.failure is None and b.failure is None]
    failed = tuple(a.key for a, b in pairs if a.failure is not None or b.failure is not None)
    rows = {(a.task, a.sample_id): row for row, (a, _) in enumerate(answered) if not a.perturbation}
    twins = [rows.get((a.task, a.parent), -1) if a.perturbation else -1 for a, _ in answered]
    clusters = [a.cluster or "\x1f".join((a.task, a.group or a.parent or a.sample_id)) for a, _ in answered]
    return _Columns(
        keys=tuple(a.key for a, _ in answered),
        outcomes=outcomes_of(answered, correct_threshold=correct_threshold),
        codes=cluster_codes(clusters),
        twins=np.array(twins, dtype=np.intp),
        failed=failed,
    )


@dataclass(frozen=True, slots=True)
class _Table:
    columns: _Columns
    statuses: Mapping[Key, str]
    kinds: Mapping[str, Kind]
    alpha: float
    seed: int

    def clean(self) -> State:
        rows = [row for row, key in enumerate(self.columns.keys) if not key[2]]
        return self._state(CLEAN, rows, Counter(), sum(not key[2] for key in self.columns.failed))

    def states(self, names: Callable[[str], Sequence[str]]) -> dict[str, State]:
        """Return one state for each name that `names` gives to the levels asked, in the order of the suite."""
        rows: dict[str, list[int]] = {}
        counts: dict[str, Counter[str]] = {}
        failed: Counter[str] = Counter()
        places = {name: place for place, name in enumerate(self.kinds)}
        by_place = sorted({key[2] for key in self.statuses}, key=lambda level: (_place(level, places), level))
        for level in by_place:  # fixes the order of the names
            rows.update({name: [] for name in names(level) if name not in rows})
        for key, status in self.statuses.items():
            for name in names(key[2]):
                counts.setdefault(name, Counter())[status] += 1
        for row, key in enumerate(self.columns.keys):
            for name in names(key[2]) if key[2] else ():
                rows[name].append(row)
        for key in self.columns.failed:
            failed.update(names(key[2]) if key[2] else ())
        return {name: self._state(name, found, counts[name], failed[name]) for name, found in rows.items()}

    def _state(self, name: str, rows: Sequence[int], counts: Mapping[str, int], failed: int) -> State:
        columns = self.columns
        proper = [row for row in rows if self.statuses.get(columns.keys[row]) != FALLBACK]
        substitute = bool(rows) and not proper
        chosen = np.array(proper or rows, dtype=np.intp)
        outcomes, codes = columns.outcomes.take(chosen), renumber(columns.codes[chosen])
        paired = chosen[columns.twins[chosen] >= 0]
        twins = columns.twins[paired]
        paired_codes = renumber(columns.codes[paired])

        def more(events: BoolArray) -> Difference:
            values = events.astype(np.float64)
            return difference(values[paired], values[twins], paired_codes, alpha=self.alpha, seed=self.seed)

        return State(
            name=name,
            n=len(chosen),
            n_clusters=int(codes.max()) + 1 if len(codes) else 0,
            divergence_ratio=share(outcomes.changed, codes, alpha=self.alpha),
            negative_divergence_ratio=share(outcomes.negative, codes, alpha=self.alpha),
            score_original=_mean(outcomes.original_score),
            score_accelerated=_mean(outcomes.accelerated_score),
            score_change=difference(
                outcomes.accelerated_score, outcomes.original_score, codes, alpha=self.alpha, seed=self.seed
            ),
            more_changed=more(columns.outcomes.changed),
            more_broken=more(columns.outcomes.negative),
            statuses={status: counts[status] for status in STATUSES if counts.get(status)},
            substitute=substitute,
            failed=failed,
        )


def _place(level: str, places: Mapping[str, int]) -> int:
    return places.get(level.partition("@")[0], len(places))


def _kind_of(level: str, kinds: Mapping[str, Kind]) -> Kind:
    """A level of another suite (imported answers) is its own family."""
    name = level.partition("@")[0]
    return kinds.get(name) or Kind(name, name, "other", 1)


def _group_of(level: str, kinds: Mapping[str, Kind]) -> str:
    kind = _kind_of(level, kinds)
    return f"{kind.modality}/{kind.group}"


def _severity_of(level: str, kinds: Mapping[str, Kind]) -> list[str]:
    """Single-level perturbations have no severity to be compared with."""
    kind, severity = _kind_of(level, kinds), level.partition("@")[2]
    return [f"{kind.modality}@{severity}"] if kind.levels > 1 and severity else []


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")
