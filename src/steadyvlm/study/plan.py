"""What a study asks: one model, some tasks, the original again as control, and the recipes to be judged.

A study is a value. It can be written as a YAML file (checked key by key, before any model loads), built in Python, or
read back from a store. The YAML grammar, with all keys:

    study: my-study              # a name; results of two studies never share a folder
    model: pocket                # a registered name, a folder, or a hub id
    device: auto                 # auto, cpu, cuda, cuda:1, mps
    dtype: auto                  # auto, float32, bfloat16, float16
    batch_size: 16
    seed: 0                      # of the control's shuffle
    tasks:
      - name: pocket             # a registered task; other keys are its options
        limit: 1200
    control:                     # the original again, under another batch size and order: the noise floor
      batch_size: 5
      order: shuffled            # or by_image, the order of every other arm
    recipes:
      - name: fastv-50
        recipe: fastv(layer=5, keep_ratio=0.5)
        limit: 200               # optional: fewer samples, spread over all images
        batch_size: 8            # optional
      - name: low-bit            # runs low-bit-s0, low-bit-s1, low-bit-s2, shown together as the variant "low-bit"
        recipe: flatquant(seed={seed})
        seeds: [0, 1, 2]
    contrasts:                   # optional: one variant (or run) minus another, over questions and seeds
      - [low-bit, fastv-50]
    lid:                         # optional: layer-wise inner disruption of every arm, on so many questions
      limit: 64
      scope: all                 # or visual
    perturbations: [none, image/all, random]   # optional: the same questions with changed inputs
    tables: [lofi-main]          # optional: a paper's tables beside what was measured

`steadyvlm.study.suite` spreads one file over several models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast

from steadyvlm.errors import ConfigError, UnknownName
from steadyvlm.registry import Spec
from steadyvlm.study.fields import Fields, parse_yaml, read_yaml
from steadyvlm.study.perturbation_plan import PerturbationPlan, read_perturbations

ORIGINAL, CONTROL = "original", "control"
KEEP_ALL = "keep_all"
"""The recipe of original and control, in canonical form."""

Order = Literal["by_image", "shuffled"]

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_DTYPES = ("auto", "float32", "bfloat16", "float16")
_NAME = re.compile(r"\w[\w .+=-]{0,79}")
_MAX_BATCH = 4096
_SEED = "{seed}"


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """A task by name, with its options; at most `limit` of its samples."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ControlPlan:
    """The original a second time: same questions, another batch size and order."""

    batch_size: int
    order: Order = "shuffled"
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class LidPlan:
    """Measure, for every arm, how far the inside of the model moved (layer-wise inner disruption).

    Attributes:
        limit: questions it is measured on, spread over all images.
        scope: spectra over all prompt tokens, as the paper describes, or over visual tokens only.
    """

    limit: int = 64
    scope: Literal["all", "visual"] = "all"


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One accelerated side: a name for the tables and the recipe behind it.

    Attributes:
        variant: what it is one run of, when only a seed tells its runs apart; "" for a run that stands for itself.
    """

    name: str
    recipe: str
    limit: int | None = None
    batch_size: int | None = None
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that is asked, and nothing that was found.

    >>> Study("mine", "pocket", (TaskPlan("pocket"),), (ArmPlan("half", "fastv(keep_ratio=0.5)"),)).batch_size
    16

    Raises:
        ConfigError: for a name that cannot be shown or stored, a repeated name, or a number out of range.
    """

    name: str
    model: str
    tasks: tuple[TaskPlan, ...]
    arms: tuple[ArmPlan, ...] = ()
    control: ControlPlan | None = None
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 16
    seed: int = 0
    lid: LidPlan | None = None
    tables: tuple[str, ...] = ()
    perturbations: PerturbationPlan | None = None
    contrasts: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(f"study '{self.name}' has no tasks; name at least one.")
        _check_names("study", [self.name])
        _check_names("recipe", [arm.name for arm in self.arms], taken=(ORIGINAL, CONTROL))
        if not _DEVICE.fullmatch(self.device):
            raise ConfigError(f"device '{self.device}' is unknown; use auto, cpu, cuda, cuda:0 or mps.")
        if self.dtype not in _DTYPES:
            raise UnknownName.among("dtype", self.dtype, _DTYPES)
        names = [arm.name for arm in self.arms]
        _check_names("variant", list(self.variants), taken=(ORIGINAL, CONTROL))
        for arm in self.arms:
            if arm.variant in names:
                raise ConfigError(f"'{arm.variant}' is both a run and a variant of several; choose another name.")
        for pair in self.contrasts:
            for name in pair:
                if name not in self.variants:
                    raise UnknownName.among("variant or recipe in 'contrasts'", name, self.variants)
        sized: list[ControlPlan | ArmPlan] = [*self.arms, *([self.control] if self.control else [])]
        for size in [self.batch_size, *(item.batch_size for item in sized)]:
            if size is not None and not 1 <= size <= _MAX_BATCH:
                raise ConfigError(f"a batch_size of {size} is out of range; use 1 to {_MAX_BATCH}.")
        for limit in [*(task.limit for task in self.tasks), *(item.limit for item in sized)]:
            if limit is not None and limit < 1:
                raise ConfigError(f"a limit of {limit} leaves no samples; use 1 or more, or leave it out.")

    @property
    def variants(self) -> dict[str, tuple[str, ...]]:
        """Names of the runs of every variant; a recipe without seeds is a variant of one run."""
        found: dict[str, tuple[str, ...]] = {}
        for arm in self.arms:
            name = arm.variant or arm.name
            found[name] = (*found.get(name, ()), arm.name)
        return found

    @staticmethod
    def from_yaml(source: str | Path) -> Study:
        """Read a study file, or a shipped study by name, and check every name in it.

        Raises:
            ConfigError: naming the file and the key.
            UnknownName: for an unknown key, study, task, option or method, with the nearest known one.
            InvalidOption: for an option value out of range.
        """
        value, where = read_study(source)
        study = Study.from_mapping(value, where)
        study.check()
        return study

    @staticmethod
    def from_mapping(value: Mapping[str, Any], source: str = "the study") -> Study:
        """Build a study from the mapping of a YAML file; names of tasks and recipes are checked by `check`."""
        if "models" in value:
            raise ConfigError(f"{source} names several models: open it with `Suite.from_yaml` or `steadyvlm run`.")
        fields = Fields(value, source)
        study = Study(
            name=fields.text("study"),
            model=fields.text("model"),
            device=fields.text("device", "auto"),
            dtype=fields.one_of("dtype", _DTYPES, "auto"),
            batch_size=fields.integer("batch_size", 16, low=1, high=_MAX_BATCH),
            seed=fields.integer("seed", 0, low=0),
            tasks=tuple(_task(item) for item in fields.items("tasks")),
            control=_control(fields.section("control")),
            arms=tuple(arm for item in fields.items("recipes", []) for arm in _arms(item)),
            contrasts=tuple(_contrast(pair, source) for pair in fields.lists("contrasts", [])),
            lid=_lid(fields.section("lid")),
            tables=tuple(fields.texts("tables", [])),
            perturbations=read_perturbations(fields),
        )
        fields.done()
        return study

    def to_mapping(self) -> dict[str, Any]:
        """Return the mapping `from_mapping` reads, for the store."""
        control = self.control and {"batch_size": self.control.batch_size, "order": self.control.order}
        return {
            "study": self.name,
            "model": self.model,
            "device": self.device,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "tasks": [{**task.options, "name": task.name, **_given(limit=task.limit)} for task in self.tasks],
            **({"control": {**control, **_given(limit=self.control.limit)}} if control and self.control else {}),
            **({"lid": {"limit": self.lid.limit, "scope": self.lid.scope}} if self.lid else {}),
            **({"tables": list(self.tables)} if self.tables else {}),
            **({"perturbations": self.perturbations.to_value()} if self.perturbations else {}),
            "recipes": [
                {
                    "name": arm.name,
                    "recipe": arm.recipe,
                    **_given(limit=arm.limit, batch_size=arm.batch_size),
                    **({"variant": arm.variant} if arm.variant else {}),
                }
                for arm in self.arms
            ],
            **({"contrasts": [list(pair) for pair in self.contrasts]} if self.contrasts else {}),
        }

    def check(self) -> None:
        """Look up every task, option and recipe, and refuse what could only fail later.

        Raises:
            UnknownName: or InvalidOption, for a name or value that does not exist.
            ConfigError: if a recipe changes nothing or appears twice.
        """
        for task in self.tasks:
            build_task(task)
        if self.perturbations:
            self.perturbations.expand()
        seen: dict[str, str] = {KEEP_ALL: ORIGINAL}
        for arm in self.arms:
            text = canonical_recipe(arm.recipe)
            if seen.get(text) == ORIGINAL:
                raise ConfigError(
                    f"recipe '{arm.name}' is the original itself ({text}); "
                    "to run the original twice, use 'control' with another batch size."
                )
            if text in seen:
                raise ConfigError(f"recipes '{seen[text]}' and '{arm.name}' are the same ({text}); keep one of them.")
            seen[text] = arm.name


def read_study(source: str | Path) -> tuple[dict[str, Any], str]:
    """Return the mapping of a study file or a shipped study, and what to call it in errors.

    Raises:
        ConfigError: if there is no such file, or it cannot be read.
        UnknownName: for a name that is not shipped, with the nearest that is.
    """
    path = Path(source)
    if path.is_file():
        return read_yaml(path), str(path)
    if str(source) in shipped_studies():
        text = files(__package__).joinpath("studies", f"{source}.yaml").read_text(encoding="utf-8")
        return parse_yaml(text, f"study '{source}'"), f"study '{source}'"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.exists():
        raise ConfigError(f"there is no study file {path}; give the path of a YAML file or a shipped study.")
    raise UnknownName.among("study", str(source), shipped_studies())


def shipped_studies() -> list[str]:
    """Return the names of the studies that come with the package."""
    folder = files(__package__).joinpath("studies")
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml"))


def build_task(plan: TaskPlan) -> Any:
    """Return the task (a `steadyvlm.tasks.base.Task`) a plan names; a task that knows `limit` receives it."""
    from steadyvlm.tasks import TASKS

    known = getattr(TASKS.load(plan.name), "__dataclass_fields__", {})
    limit = _given(limit=plan.limit) if "limit" in known else {}
    return TASKS.create(Spec(plan.name, {**plan.options, **limit}))


def canonical_recipe(text: str) -> str:
    """Return the one text form of a recipe, defaults spelled out."""
    from steadyvlm.recipes.recipe import Recipe

    return str(Recipe.parse(text))


def has_preset(text: str) -> bool:
    """Return whether a recipe names a published setting, which a model has to turn into numbers of its own."""
    if text == KEEP_ALL:
        return False
    from steadyvlm.recipes.recipe import Recipe

    return Recipe.parse(text).preset is not None


def recipe_address(text: str) -> str:
    """Return what of a recipe belongs to a cell's address: where files lie does not, what is in them does."""
    if text == KEEP_ALL:
        return text  # needs no method, and so no torch
    from steadyvlm.recipes.recipe import Recipe

    recipe = Recipe.parse(text)
    if recipe.joint is not None:
        return "joint"
    return str(recipe) if recipe.checkpoint is None else f"checkpoint + {replace(recipe, checkpoint=None)}"


def _task(fields: Fields) -> TaskPlan:
    name, limit = fields.text("name"), fields.integer("limit", None, low=1)
    return TaskPlan(name, fields.rest(), limit)


def _control(fields: Fields | None) -> ControlPlan | None:
    if fields is None:
        return None
    order = cast(Order, fields.one_of("order", ("shuffled", "by_image"), "shuffled"))
    size = fields.integer("batch_size", low=1, high=_MAX_BATCH)
    plan = ControlPlan(size, order, fields.integer("limit", None, low=1))
    fields.done()
    return plan


def _lid(fields: Fields | None) -> LidPlan | None:
    if fields is None:
        return None
    scope = cast(Literal["all", "visual"], fields.one_of("scope", ("all", "visual"), "all"))
    plan = LidPlan(fields.integer("limit", 64, low=1), scope)
    fields.done()
    return plan


def _arms(fields: Fields) -> tuple[ArmPlan, ...]:
    """Return the run a recipe stands for, or one per seed."""
    arm = ArmPlan(
        name=fields.text("name"),
        recipe=fields.text("recipe"),
        limit=fields.integer("limit", None, low=1),
        batch_size=fields.integer("batch_size", None, low=1, high=_MAX_BATCH),
        variant=fields.text("variant", ""),
    )
    seeds = fields.integers("seeds", [])
    fields.done()
    if not seeds:
        return (arm,)
    if _SEED not in arm.recipe:
        raise ConfigError(
            f"recipe '{arm.name}' has seeds {seeds} but nowhere to put them; write {_SEED} where the seed belongs, "
            f"for example 'flatquant(seed={_SEED})'."
        )
    return tuple(
        replace(arm, name=f"{arm.name}-s{seed}", recipe=arm.recipe.replace(_SEED, str(seed)), variant=arm.name)
        for seed in seeds
    )


def _contrast(pair: list[Any], source: str) -> tuple[str, str]:
    if len(pair) != 2 or not all(isinstance(name, str) for name in pair) or pair[0] == pair[1]:
        raise ConfigError(
            f"{source}: a contrast names two variants, for example [joint, quantise-first]; found {pair}."
        )
    return (pair[0], pair[1])


def _check_names(kind: str, names: list[str], taken: tuple[str, ...] = ()) -> None:
    seen = set(taken)
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"the {kind} name {name[:80]!r} cannot be used: begin with a letter or digit, then letters, digits, "
                "spaces and . _ + = - only, 80 characters at most."
            )
        if name in seen:
            hint = "is reserved" if name in taken else "is used twice"
            raise ConfigError(f"the {kind} name '{name}' {hint}; choose another.")
        seen.add(name)


def _given(**values: int | None) -> dict[str, int]:
    return {key: value for key, value in values.items() if value is not None}
