"""Run what is missing of a study, in an order that makes an early look useful: original, control, recipes.

Everything that can be refused is refused before the model loads: tasks are built, samples hashed, the folder locked.
The model is loaded once and only if a cell is missing; each arm is prepared once for all its tasks. An arm that cannot
run (its method does not fit the model, a library is missing) costs only itself: the others are finished first.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyvlm.errors import ConfigError, SteadyVLMError, StoreError
from steadyvlm.perturb.manifest import Entry
from steadyvlm.records import Prediction, Provenance
from steadyvlm.study.backends import Answerer, Loader, Session
from steadyvlm.study.cell import Cell, Key, run_cell
from steadyvlm.study.identity import Decoding, Item, cell_key, identify, refuse_duplicates, subset
from steadyvlm.study.images import ImageCache
from steadyvlm.study.inside import Asked, InsideStore, measure
from steadyvlm.study.plan import (
    CONTROL,
    KEEP_ALL,
    ORIGINAL,
    Order,
    Study,
    TaskPlan,
    build_task,
    canonical_recipe,
    has_preset,
    recipe_address,
)
from steadyvlm.study.progress import Meter, ProgressCallback
from steadyvlm.study.result import StudyResult, Times, read_result
from steadyvlm.study.store import CellEntry, Manifest, ResultStore, count_failures
from steadyvlm.study.writer import StoreWriter, writing

if TYPE_CHECKING:
    from steadyvlm.study.perturbing import Perturber
    from steadyvlm.tasks.base import Task


class ArmWarning(UserWarning):
    """One arm of a study could not run; the study goes on and raises the reason when the other arms are done."""


def run(
    study: Study,
    folder: str | Path,
    *,
    progress: ProgressCallback | None = None,
    loader: Loader | None = None,
    tasks: Mapping[str, Task] | None = None,
    retry_failures: bool = False,
) -> StudyResult:
    """Run a study, or what an earlier run left over of it, and return all answers.

    Args:
        study: what to ask.
        folder: where answers are kept; running again with the same folder resumes.
        progress: called after every batch.
        loader: opens the model; by default the local backend.
        tasks: task objects of your own by name, instead of registered ones.
        retry_failures: ask again what earlier runs recorded as failed.

    Raises:
        UsageError: or InputError, for anything wrong with the request; nothing was computed.
        StoreError: if the folder is in use, belongs to another study, or is not a store.
        RunError: if the model cannot answer at all; finished batches are kept.

    Warns:
        ArmWarning: when an arm other than the original cannot run; its error is raised after the other arms.
        StoreWarning: when something damaged was set aside.

    >>> run(Study.from_yaml("pocket-demo"), "runs/pocket-demo").failures   # doctest: +SKIP
    {'original': 0, 'control': 0, 'fastv-50': 0}
    """
    return _Run(study, Path(folder), progress, loader or _local_loader(), tasks or {}, retry_failures).execute()


@dataclass(frozen=True, slots=True)
class _Asked:
    """One task with its hashed samples, clean and perturbed."""

    plan: TaskPlan
    task: Task
    items: tuple[Item, ...]
    perturbed: tuple[Item, ...] = ()
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True, slots=True)
class _Inside:
    """What is measured inside the model, on which questions."""

    items: tuple[Item, ...]
    arms: tuple[Asked, ...]


@dataclass(slots=True)
class _Run:
    study: Study
    folder: Path
    progress: ProgressCallback | None
    loader: Loader
    own_tasks: Mapping[str, Task]
    retry_failures: bool
    setup_s: float = 0.0
    model_s: float = 0.0
    pictures: ImageCache = field(default_factory=ImageCache)
    """Shared by all arms: what one has decoded or perturbed serves the next."""

    def execute(self) -> StudyResult:
        started = time.perf_counter()
        perturber = self._perturber()
        asked = [self._ask(plan, perturber) for plan in self.study.tasks]
        refuse_duplicates([item for one in asked for item in one.items], f"study '{self.study.name}'")
        with writing(self.folder, self.study.name) as store:
            with self._setup():
                session = self.loader(self.study.model, device=self.study.device, dtype=self.study.dtype)
                recipes = self._recipes(session)
                weights = {recipe: session.weights_sha256(recipe) for _, recipe in recipes}
            cells = list(self._cells(asked, recipes, weights, session.dtype))
            _refuse_same(cells)
            store.write_manifest(Manifest(self.study.to_mapping(), tuple(_entry(cell) for cell in cells)))
            if perturber is not None:
                store.write_perturbations(perturber.manifest([entry for one in asked for entry in one.entries]))
            inside = self._inside(asked, recipes, weights)
            sizes = {cell.key: len(cell.items) for cell in cells} | {one.key: len(inside.items) for one in inside.arms}
            meter = Meter(sizes, self.progress)
            errors = []
            for arm in dict.fromkeys(cell.arm for cell in cells):
                try:
                    self._run_arm([cell for cell in cells if cell.arm == arm], session, weights, store, meter)
                except StoreError:
                    raise
                except SteadyVLMError as error:
                    if arm == ORIGINAL:
                        raise  # without the original no other arm can be compared
                    warnings.warn(f"{error} The other arms go on.", ArmWarning, stacklevel=2)
                    errors.append(error)
            errors += self._look_inside(inside, session, meter)
            if errors:
                raise type(errors[0])("\n".join(str(error) for error in errors)) from errors[0]
        times = Times(time.perf_counter() - started, self.setup_s, self.model_s)
        return replace(read_result(self.folder), times=times)

    def _perturber(self) -> Perturber | None:
        if self.study.perturbations is None:
            return None
        from steadyvlm.study.perturbing import Perturber  # OpenCV, only for a study that needs it

        try:
            earlier = ResultStore(self.folder).perturbations()
        except StoreError:  # damaged: all of it is made, and written, anew
            earlier = None
        return Perturber(self.study.perturbations, earlier)

    def _ask(self, plan: TaskPlan, perturber: Perturber | None) -> _Asked:
        from steadyvlm.tasks.base import checked_samples

        task = self.own_tasks[plan.name] if plan.name in self.own_tasks else build_task(plan)
        items = subset(identify(checked_samples(task)), plan.limit)
        if perturber is None:
            return _Asked(plan, task, items)
        made = perturber.perturb(items)
        return _Asked(plan, task, items, made.items, made.entries)

    def _chosen(self, one: _Asked, limit: int | None) -> Iterator[tuple[Item, ...]]:
        """Return the clean samples of an arm and the perturbed ones made from them: a cell each."""
        clean = subset(one.items, limit)
        if self.study.perturbations is None or self.study.perturbations.clean:
            yield clean
        parents = {item.key[:2] for item in clean}
        yield tuple(item for item in one.perturbed if (item.sample.task, item.sample.parent) in parents)

    def _recipes(self, session: Session) -> list[tuple[str, str]]:
        """Return arm names and the recipes that run; what a preset means is for the model to say."""
        control = [(CONTROL, KEEP_ALL)] if self.study.control else []
        arms = [(arm.name, canonical_recipe(arm.recipe)) for arm in self.study.arms]
        return [
            (ORIGINAL, KEEP_ALL),
            *control,
            *((arm, session.resolve(recipe) if has_preset(recipe) else recipe) for arm, recipe in arms),
        ]

    def _cells(
        self, asked: Iterable[_Asked], recipes: Iterable[tuple[str, str]], weights: Mapping[str, str], dtype: str
    ) -> Iterator[Cell]:
        asked = list(asked)
        sizes = {arm.name: (arm.batch_size or self.study.batch_size, arm.limit) for arm in self.study.arms}
        sizes[ORIGINAL] = (self.study.batch_size, None)
        order: dict[str, Order] = {}
        if self.study.control:
            sizes[CONTROL] = (self.study.control.batch_size, self.study.control.limit)
            order[CONTROL] = self.study.control.order
        for arm, recipe in recipes:
            batch_size, limit = sizes[arm]
            for one, items in [(task, items) for task in asked for items in self._chosen(task, limit) if items]:
                decoding = Decoding(one.task.max_new_tokens, tuple(one.task.stop))
                condition = [CONTROL, batch_size, order[arm], self.study.seed] if arm == CONTROL else []
                key = cell_key(
                    items,
                    decoding,
                    weights_sha256=weights[recipe],
                    recipe=recipe_address(recipe),
                    dtype=dtype,
                    task=one.task.name,
                    task_version=one.task.version,
                    condition=condition,
                )
                yield Cell(
                    key, arm, recipe, one.task, items, decoding, batch_size, order.get(arm, "by_image"), self.study.seed
                )

    def _inside(
        self, asked: Iterable[_Asked], recipes: Iterable[tuple[str, str]], weights: Mapping[str, str]
    ) -> _Inside:
        """Return what is to be measured inside the model; nothing when the study does not ask for it."""
        if self.study.lid is None:
            return _Inside((), ())
        items = subset([item for one in asked for item in one.items], self.study.lid.limit)
        samples, identities = [item.sample for item in items], [item.sha256 for item in items]
        arms = [
            Asked(arm, recipe, (weights[KEEP_ALL], weights[recipe], recipe_address(recipe))).with_key(
                samples, identities, self.study.lid.scope
            )
            for arm, recipe in recipes
            if arm not in (ORIGINAL, CONTROL)
        ]
        return _Inside(items, tuple(arms))

    def _look_inside(self, inside: _Inside, session: Session, meter: Meter) -> list[SteadyVLMError]:
        """Measure every arm; one that cannot be measured costs only itself."""
        if self.study.lid is None:
            return []
        store, errors = InsideStore(self.folder), []
        store.remember(inside.arms)
        samples = [item.sample for item in inside.items]
        for asked in inside.arms:
            meter.begin(asked.key, asked.arm, "the model's inside")
            started = time.perf_counter()
            try:
                measure(session, asked, samples, scope=self.study.lid.scope, store=store)
            except StoreError:
                raise
            except SteadyVLMError as error:
                warnings.warn(f"arm '{asked.arm}' was not looked into: {error}", ArmWarning, stacklevel=2)
                errors.append(error)
            self.model_s += time.perf_counter() - started
            meter.computed(len(samples), 0)
        return errors

    def _run_arm(
        self, cells: list[Cell], session: Session, weights: Mapping[str, str], store: StoreWriter, meter: Meter
    ) -> None:
        answerer: Answerer | None = None
        for cell in cells:
            meter.begin(cell.key, cell.arm, cell.task.name)
            complete = store.load(cell.key)
            if complete is not None and self.retry_failures and count_failures(complete):
                store.reopen(cell.key)
                complete = None
            if complete is not None:
                self._relabel(cell, complete, store)
                meter.stored(len(complete), count_failures(complete))
                continue
            if answerer is None:
                answerer = self._prepare(session, cell)
                meter.begin(cell.key, cell.arm, cell.task.name)
            self._run_cell(cell, answerer, weights[cell.recipe], store, meter)

    def _prepare(self, session: Session, cell: Cell) -> Answerer:
        try:
            with self._setup():
                return session.arm(cell.recipe)
        except SteadyVLMError as error:
            raise type(error)(f"arm '{cell.arm}' cannot be prepared: {error}") from error

    def _run_cell(self, cell: Cell, answerer: Answerer, weights_sha256: str, store: StoreWriter, meter: Meter) -> None:
        provenance = _provenance(answerer, cell)
        partial = store.partial(cell.key)
        asked = {item.key for item in cell.items}
        rows = [row for row in partial.predictions if not (self.retry_failures and row.failure)]
        found: dict[Key, Prediction] = {row.key: row for row in rows if row.key in asked}
        model_s, provenances = partial.model_s, list(partial.provenances)
        meter.stored(len(found), count_failures(list(found.values())))
        with store.journal(cell.key) as journal:
            for batch in run_cell(cell, answerer, set(found), self.pictures):
                journal.append(batch.predictions, batch.model_s, provenance)
                found.update((row.key, row) for row in batch.predictions)
                model_s += batch.model_s
                self.model_s += batch.model_s
                if provenance not in provenances:
                    provenances.append(provenance)
                meter.computed(len(batch.predictions), count_failures(batch.predictions))
        about = {
            "arm": cell.arm,
            "recipe": cell.recipe,
            "study": self.study.name,
            "model": self.study.model,
            "weights_sha256": weights_sha256,
            "task": cell.task.name,
            "task_version": cell.task.version,
            "decoding": asdict(cell.decoding),
            "soft_threshold": cell.task.soft_threshold,
            "provenance": provenances,
            "sizes": answerer.sizes(),
            "model_s": round(model_s, 3),
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        store.finish(cell.key, [found[item.key] for item in cell.items], about)

    def _relabel(self, cell: Cell, complete: list[Prediction], store: StoreWriter) -> None:
        """Rename the arm in a finished file when the study calls the same recipe differently now."""
        about = store.about(cell.key)
        if about["arm"] != cell.arm:
            store.finish(cell.key, complete, {**about, "arm": cell.arm})

    @contextmanager
    def _setup(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.setup_s += time.perf_counter() - started


def _local_loader() -> Loader:
    from steadyvlm.study.backends.local import open_session  # torch, only when something runs

    return open_session


def _entry(cell: Cell) -> CellEntry:
    return CellEntry(cell.key, cell.arm, cell.task.name, cell.recipe, len(cell.items))


def _refuse_same(cells: Iterable[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        other = seen.setdefault(cell.key, cell)
        if other is not cell:
            raise ConfigError(
                f"arms '{other.arm}' and '{cell.arm}' are the same weights, recipe and questions on task "
                f"'{cell.task.name}'; keep one of them."
            )


def _provenance(answerer: Answerer, cell: Cell) -> dict[str, Any]:
    known = answerer.provenance()
    return Provenance(
        versions=dict(known["versions"]),
        device=str(known["device"]),
        dtype=str(known["dtype"]),
        attention=str(known["attention"]),
        batch_size=cell.batch_size,
        order=cell.order,
        seed=cell.seed,
        extra={str(key): str(value) for key, value in known.get("extra", {}).items()},
    ).to_json()
