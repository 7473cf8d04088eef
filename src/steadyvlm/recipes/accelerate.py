"""Apply a recipe to a model and ask the result questions.

The source model is never changed: a quantiser works on a copy, a checkpoint is loaded beside it, and a reduction lives
in the engine. Everything that can be refused is refused before any weight is copied or loaded, calibration examples
that cannot be read among it. A schedule that follows the deployed model is measured last, on that model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from steadyvlm.engine import Request, VisionCache, generate
from steadyvlm.engine.signals import check_deployed, check_reduction
from steadyvlm.errors import ImageError, InvalidOption, RunError, SampleError, SteadyVLMError
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.load import load
from steadyvlm.quantization.base import QuantizationReport
from steadyvlm.recipes.asking import requests_of
from steadyvlm.recipes.calibrating import apply_quantizer, is_unsettled, load_examples, settle
from steadyvlm.recipes.joint import JointRecipe, deploy, load_joint
from steadyvlm.recipes.lvpruning_modules import needs_modules, resolve_modules
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.recipes.resolve import resolve
from steadyvlm.records import Failure, Generation, Sample
from steadyvlm.reduction.base import Reduction
from steadyvlm.registry import spec_of
from steadyvlm.seeding import stable_seed
from steadyvlm.tasks.sources import FileImage


@dataclass(frozen=True, slots=True)
class AcceleratedModel:
    """A model with a recipe applied.

    Attributes:
        model: what answers; the source itself when neither a quantiser nor a checkpoint is in the recipe.
        recipe: what was applied; a preset, or a schedule found by calibration, stands here as what it became.
        reduction: the token reduction, None when every token is kept.
        report: what the quantiser did, None without one and for a model that was packed before.
        vision_cache: carries encoded pictures from batch to batch; None encodes them once per batch.
        notes: what a reader of the results should know, such as how a preset was scaled.
    """

    model: VisionLanguageModel
    recipe: Recipe
    reduction: Reduction | None = None
    report: QuantizationReport | None = None
    vision_cache: VisionCache | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int = 16, stop: Sequence[str] = (), top_k: int = 20
    ) -> list[Generation | Failure]:
        """Answer one batch; a sample that cannot be answered becomes a `Failure` in its place.

        A sample's seed is made from its prompt and the bytes of its pictures, so it does not depend on the batch.
        """
        requests = requests_of(samples)
        asked = [item for item in requests if isinstance(item, Request)]
        results = iter(self.answer_requests(asked, max_new_tokens=max_new_tokens, stop=stop, top_k=top_k))
        return [item if isinstance(item, Failure) else next(results) for item in requests]

    def answer_requests(
        self, requests: Sequence[Request], *, max_new_tokens: int = 16, stop: Sequence[str] = (), top_k: int = 20
    ) -> list[Generation | Failure]:
        """Answer one batch of pictures and prompts that are already in memory."""
        return generate(
            self.model,
            requests,
            self.reduction,
            max_new_tokens=max_new_tokens,
            stop=stop,
            top_k=top_k,
            vision_cache=self.vision_cache,
        )


def accelerate(
    model: VisionLanguageModel, recipe: Recipe | JointRecipe | str = "keep_all", *, vision_cache_images: int = 0
) -> AcceleratedModel:
    """Return `model` with `recipe` applied; `model` itself stays as it is.

    Args:
        model: from `steadyvlm.load`.
        recipe: a recipe or its text, for example "fastv(layer=3, keep_ratio=0.5) + rtn(bits=4)" or "visionzip-192"; or
            a joint recipe that `steadyvlm calibrate` made.
        vision_cache_images: carry the encoder's output of this many pictures from batch to batch. Answers then report
            less time than they would take alone, so leave it at 0 when time is what you measure.

    Raises:
        UnknownName, InvalidOption, Unsupported, MissingDependency: before any weight is touched.
        SampleError, ImageError: likewise, for calibration examples that cannot be read.
        CheckpointError: when the recipe's checkpoint cannot be loaded, or its file belongs to another model.
        RunError: when a calibration comes to no usable end.

    >>> fast = accelerate(model, "visionzip(dominant=32, contextual=8)")   # doctest: +SKIP
    """
    if isinstance(recipe, JointRecipe):
        recipe = Recipe(joint=str(recipe.path))
    recipe, notes = resolve(model, Recipe.parse(recipe) if isinstance(recipe, str) else recipe)
    cache = VisionCache(vision_cache_images) if vision_cache_images else None
    if recipe.joint is not None:
        joint = load_joint(recipe.joint)
        check_reduction(joint.quota, model)
        return AcceleratedModel(deploy(joint, model), recipe, joint.quota, None, cache, notes)
    reduction, quantizer = recipe.build_reduction(), recipe.build_quantizer()
    if recipe.checkpoint is None or not needs_modules(reduction):
        reduction = resolve_modules(reduction, model)
        _check(reduction, model)
    if quantizer is not None:
        quantizer.check_available()
    target = model
    if recipe.checkpoint is not None:
        dtype = str(model.provenance()["dtype"])
        target = load(recipe.checkpoint, device=str(model.device), dtype=dtype)
        reduction = resolve_modules(reduction, target)
        _check(reduction, target)
    examples = load_examples(quantizer, reduction, target)
    original, report = target, None
    if quantizer is not None:
        target = target.copy() if target is model or is_unsettled(reduction) else target
        report = apply_quantizer(quantizer, target, reduction, examples)
    reduction, found = settle(reduction, original, target, examples)
    if found:
        recipe = replace(recipe, reduction=spec_of(reduction, "quota"))
    check_deployed(reduction, target)
    return AcceleratedModel(target, recipe, reduction, report, cache, (*notes, *found))


def _check(reduction: Reduction | None, model: VisionLanguageModel) -> None:
    """Refuse a reduction this model cannot run; one whose schedule is not known yet is looked at once it is."""
    if not is_unsettled(reduction):
        check_reduction(reduction, model)


def answer(
    model: VisionLanguageModel | AcceleratedModel,
    image: str | Path | Image.Image | Sequence[Any] | None,
    question: str,
    *,
    max_new_tokens: int = 16,
    stop: Sequence[str] = (),
) -> Generation:
    """Ask one question.

    Args:
        model: from `load` or `accelerate`.
        image: a file, a PIL image, several of them, or None for a question without a picture.
        question: the text for the chat template.
        max_new_tokens: longest answer.
        stop: an answer ends before the first of these texts.

    Raises:
        ImageError: when a picture cannot be read.
        SampleError: for an empty question, or one that does not fit the model.
        RunError: when the model fails on it.

    >>> answer(model, "kitchen.jpg", "How many cups are on the table?").text   # doctest: +SKIP
    '3'
    """
    ready = model if isinstance(model, AcceleratedModel) else AcceleratedModel(model, Recipe())
    several: Sequence[Any] = image if isinstance(image, (list, tuple)) else [] if image is None else [image]
    pictures = tuple(item if isinstance(item, Image.Image) else FileImage(item).load() for item in several)
    request = Request(pictures, question, stable_seed("answer", question))
    result = ready.answer_requests([request], max_new_tokens=max_new_tokens, stop=stop)[0]
    if isinstance(result, Failure):
        kinds: dict[str, type[SteadyVLMError]] = {
            kind.__name__: kind for kind in (ImageError, SampleError, InvalidOption)
        }
        raise kinds.get(result.kind, RunError)(result.message)
    return result
