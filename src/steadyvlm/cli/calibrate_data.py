"""The work behind `steadyvlm calibrate`: refuse early, quantise, measure, write, and tell what was decided."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from steadyvlm.calibration.calibrate import calibrate
from steadyvlm.calibration.examples import drawn_set
from steadyvlm.calibration.quota import Schedule, resolve_schedule
from steadyvlm.errors import UsageError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import load
from steadyvlm.models.new_folder import check_new_folder, new_folder
from steadyvlm.quantization import QUANTIZERS
from steadyvlm.quantization.base import Calibrated
from steadyvlm.quota.candidates import parse_layers, span
from steadyvlm.quota.recipe_file import CalibrationIdentity, RecipeFile
from steadyvlm.recipes.accelerate import AcceleratedModel
from steadyvlm.recipes.calibrating import Examples, apply_quantizer, load_examples, rounds_inputs
from steadyvlm.recipes.joint import MODEL, RECIPE
from steadyvlm.recipes.joint_file import Packed, build_file
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.recipes.saving import check_saved_form, save
from steadyvlm.reduction import REDUCTIONS
from steadyvlm.reduction.quota import AUTO, UNIFORM, Quota
from steadyvlm.registry import Spec
from steadyvlm.report.quota_profile import LayerNumbers, quota_profile_figure

Say = Callable[[str], object]
NONE = "none"
_EVERY = 10
"""Parts in which the progress of measuring is told."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; the options of the command."""

    quantizer: str = "flatquant"
    quota: str = "quota"
    calibration: str = AUTO
    samples: int = 128
    seed: int = 0
    floor: float = 0.3
    layers: str = AUTO
    schedule: str = "sensitivity"
    tau: float = 1.0


def calibrate_lines(name: str, wish: Wish, out: Path, *, device: str, dtype: str, say: Say) -> list[str]:
    """Make the folder; return what to tell.

    Raises:
        UsageError and below: for a request that cannot be met, before any weight is loaded.
        InputError and below: for a model or examples that cannot be read, before anything is computed.
    """
    recipe, quota = _checked(wish, out)
    model = load(name, device=device, dtype=dtype)
    quantizer: Any = recipe.build_quantizer()
    if isinstance(quantizer, Calibrated) and quota.calibration == AUTO:
        quota = replace(quota, calibration=quantizer.calibration)
    chosen = drawn_set(quota, model.weights_sha256(), model.info.name)
    examples = load_examples(quantizer, quota, model)
    examples = examples if examples.schedule else Examples(examples.quantizer, chosen.requests())
    fast = _quantised(model, recipe, quota, examples, say)
    schedule = resolve_schedule(quota, model, fast.model, examples.schedule, say=_measuring(say))
    identity = CalibrationIdentity(chosen.sha256, len(chosen.samples), quota.seed)
    with new_folder(out) as partial:
        packed = _packed(fast, partial)
        file = build_file(quota, schedule, model, packed, identity, examples.schedule)
        file.save(partial / RECIPE)
        title = f"{model.info.name} · {_short(recipe)} · {len(chosen.samples)} samples"
        (partial / "profile.json").write_text(_profile_text(schedule, fast, title), encoding="utf-8")
        (partial / "profile.svg").write_text(_figure(schedule, file, title), encoding="utf-8")
    return list(_lines(schedule, file, fast, name, out))


def _checked(wish: Wish, out: Path) -> tuple[Recipe, Quota]:
    """Refuse what can be refused without a model; return the quantiser as a recipe, and the reduction."""
    check_new_folder(out)
    spec = Spec.parse(wish.quota)
    if spec.name != "quota":
        raise UsageError(f"--quota '{wish.quota}' is another method; write quota(…) with its options.")
    clash = sorted(spec.options.keys() & {"floor", "layers", "keep_ratios", "tau", "calibration", "samples", "seed"})
    if clash:
        raise UsageError(f"--quota sets {', '.join(clash)}, which have options of their own here; give them there.")
    recipe = Recipe()
    if wish.quantizer != NONE:
        recipe = Recipe.parse(wish.quantizer)
        if recipe.quantizer is None or recipe != Recipe(quantizer=recipe.quantizer):
            raise UsageError(f"'{wish.quantizer}' is not a quantiser alone. Give one such as flatquant, or none.")
        check_saved_form(recipe.quantizer.name)
        recipe = Recipe(quantizer=_with_examples(Spec.parse(wish.quantizer), wish))
    quantizer: Any = recipe.build_quantizer()
    # Where the deployed layers round their inputs, what a token loses is measured there: it kept more answers in the
    # study pocket-quota-choices than the residual of the plain hidden state, which is the recipe's own default.
    # A quantiser that learns on the pruned graph prunes before anything rounds.
    rounds = rounds_inputs(quantizer) and not getattr(quantizer, "pruned", False)
    deployed = {"residual_domain": "transformed"} if rounds else {}
    quota: Quota = REDUCTIONS.create(
        Spec(
            "quota",
            {
                **deployed,
                **spec.options,
                "floor": wish.floor,
                "layers": AUTO if wish.layers == AUTO else parse_layers(wish.layers),
                "keep_ratios": UNIFORM if wish.schedule == "uniform" else AUTO,
                "tau": wish.tau,
                "calibration": wish.calibration,
                "samples": wish.samples,
                "seed": wish.seed,
            },
        )
    )
    if quantizer is not None:
        quantizer.check_available()
    return recipe, quota


def _with_examples(spec: Spec, wish: Wish) -> Spec:
    """Return a quantiser that sees the examples of the schedule, where its text says nothing else."""
    known = getattr(QUANTIZERS.load(spec.name), "__dataclass_fields__", {})
    asked: dict[str, Any] = {"calibration": wish.calibration, "samples": wish.samples, "seed": wish.seed}
    return Spec(spec.name, {name: value for name, value in asked.items() if name in known} | dict(spec.options))


def _quantised(
    model: VisionLanguageModel, recipe: Recipe, quota: Quota, examples: Examples, say: Say
) -> AcceleratedModel:
    quantizer: Any = recipe.build_quantizer()
    if quantizer is None:
        return AcceleratedModel(model, recipe)
    say(f"quantising with {_short(recipe)}")
    target = model.copy()

    def tell(done: int, total: int, what: str) -> None:
        say(f"  {done}/{total} {what}")

    if isinstance(quantizer, Calibrated):
        report = calibrate(quantizer, target, examples.quantizer, quota, progress=tell)
    else:
        report = apply_quantizer(quantizer, target, None, examples)
    return AcceleratedModel(target, recipe, None, report)


def _short(recipe: Recipe) -> str:
    return "not quantised" if recipe.quantizer is None else recipe.quantizer.name


def _measuring(say: Say) -> Callable[[int, int], None]:
    """Return what tells of the measuring, a few times in all."""
    told = [0]

    def tell(done: int, total: int) -> None:
        if done * _EVERY // total > told[0]:
            told[0] = done * _EVERY // total
            say(f"measuring every decoder layer: {done}/{total} examples")

    return tell


def _packed(fast: AcceleratedModel, folder: Path) -> Packed | None:
    """Save the quantised model beside the recipe to come."""
    if fast.recipe.quantizer is None:
        return None
    save(fast, folder / MODEL)
    quantised = [layer.kv for layer in fast.model.layers() if layer.kv is not None]
    in_prefill = bool(quantised) and all(cache.in_prefill for cache in quantised)
    return Packed(fast.recipe.quantizer, folder_sha256(folder / MODEL), in_prefill)


def _profile_text(schedule: Schedule, fast: AcceleratedModel, title: str) -> str:
    """Return everything that was measured, as JSON."""
    measured, allocation = schedule.measured, schedule.allocation
    found = {
        "title": title,
        "profile": asdict(measured.profile),
        "sensitivity": measured.sensitivity,
        "residual_with_magnitude": measured.residual_with_magnitude,
        "visual_tokens": measured.visual_tokens,
        "text_tokens": measured.text_tokens,
        "candidates": schedule.candidates and asdict(schedule.candidates),
        "allocation": allocation and asdict(allocation),
        "notes": schedule.notes,
        "quantization": fast.report and fast.report.to_json(),
    }
    return json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _figure(schedule: Schedule, file: RecipeFile, title: str) -> str:
    profile = schedule.measured.profile
    numbers = LayerNumbers(
        concentration=profile.concentration_top10pct.median,
        spread=profile.concentration_top10pct.iqr,
        redundancy=profile.redundancy_median,
        sensitivity=schedule.measured.sensitivity,
        kept=[count / file.n_ref for count in file.flops.executed_visual_tokens],
    )
    return quota_profile_figure(f"{title} · candidate layers {span(file.candidates)}", numbers, file.candidates)


def _lines(schedule: Schedule, file: RecipeFile, fast: AcceleratedModel, name: str, out: Path) -> Iterator[str]:
    """Say what was decided and how to run it."""
    if fast.report is not None:
        yield str(fast.report)
    yield from schedule.notes
    yield ""
    yield from _table(schedule, file)
    yield ""
    spent = file.flops
    yield (
        f"Operations of the unpruned prompt ({file.n_ref} visual, {spent.text_proxy} text tokens): "
        f"{spent.ratio_with_vision:.1%} with tower, {spent.ratio_llm_only:.1%} of the decoder, "
        f"{spent.ratio_visual_only:.1%} of the decoder without text."
    )
    yield f"Wrote {out / RECIPE}, profile.json, profile.svg" + (f" and {MODEL}/." if file.quantiser else ".")
    yield f'Ask it: steadyvlm answer --model "{name}" --recipe "{out}" IMAGE QUESTION'
    yield f"In a recipe: joint(path={str(out / RECIPE)!r})"


def _table(schedule: Schedule, file: RecipeFile) -> Iterator[str]:
    """One row per candidate layer."""
    profile, measured = schedule.measured.profile, schedule.measured
    yield f"{'layer':>5}  {'concentration':>13}  {'redundancy':>10}  {'sensitivity':>11}  {'kept':>6}  tokens"
    rows: Sequence[tuple[int, float, int]] = list(
        zip(file.candidates, file.allocation.keep_ratio, file.allocation.keep_count, strict=True)
    )
    for layer, ratio, count in rows:
        yield (
            f"{layer:>5}  {profile.concentration_top10pct.median[layer]:>13.3f}  "
            f"{profile.redundancy_median[layer]:>10.3f}  {measured.sensitivity[layer]:>11.4f}  {ratio:>6.1%}  {count}"
        )
