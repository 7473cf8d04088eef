"""Run every cell in this process, on one device.

What a cell's address needs (the hash of the weight files, the precision) is found without loading a model, so a study
that is already complete is recognised in seconds. The original is loaded once, when the first missing cell asks for
an arm, and shared by all arms; a quantiser works on its own copy, which is freed with its arm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import find_folder, load
from steadyvlm.models.placement import resolve_device, resolve_dtype
from steadyvlm.models.sizes import sizes_of
from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate
from steadyvlm.recipes.lvpruning_modules import modules_sha256
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.records import Failure, Generation, Sample
from steadyvlm.seeding import content_hash


class LocalArm:
    """An accelerated model that also says where it runs."""

    def __init__(self, accelerated: AcceleratedModel) -> None:
        self._accelerated = accelerated

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int, stop: tuple[str, ...]
    ) -> Sequence[Generation | Failure]:
        """Answer one batch."""
        return self._accelerated.answer_batch(samples, max_new_tokens=max_new_tokens, stop=stop)

    def provenance(self) -> Mapping[str, Any]:
        """Return the circumstances of the model that answers, and what a quantiser did to it."""
        known = self._accelerated.model.provenance()
        report = self._accelerated.report
        return known if report is None else {**known, "extra": {**known["extra"], "quantization": str(report)}}

    def sizes(self) -> Mapping[str, Any] | None:
        """Return the sizes of the model, None when its operations are not counted."""
        try:
            return sizes_of(self._accelerated.model.module.config).to_json()
        except Unsupported:
            return None


class LocalSession:
    """A model that is loaded when the first arm is asked for.

    Raises:
        CheckpointError: if there is no such model.
        InvalidOption: if the device or dtype does not exist here.
    """

    def __init__(self, source: str, *, device: str, dtype: str) -> None:
        self._source, self._device, self._dtype = source, device, dtype
        self._folder = find_folder(source)
        self._model: VisionLanguageModel | None = None
        self._hashes: dict[str, str] = {}
        self.dtype = str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")

    def weights_sha256(self, recipe: str) -> str:
        """Hash the files the recipe runs on, each checkpoint once, and the modules it was trained with, if any."""
        parsed = Recipe.parse(recipe)
        folder = self._folder if parsed.checkpoint is None else find_folder(parsed.checkpoint)
        key = str(folder)
        if key not in self._hashes:
            self._hashes[key] = folder_sha256(folder)
        weights = self._hashes[key]
        modules = modules_sha256(parsed.build_reduction(), weights, parsed.checkpoint or self._source)
        return weights if modules is None else content_hash([weights, modules])

    def arm(self, recipe: str) -> LocalArm:
        """Apply a recipe to the original, loading it first if need be."""
        if self._model is None:
            self._model = load(self._source, device=self._device, dtype=self._dtype)
        return LocalArm(accelerate(self._model, Recipe.parse(recipe)))


def open_session(model: str, *, device: str, dtype: str) -> LocalSession:
    """Open a session in this process; see `LocalSession`."""
    return LocalSession(model, device=device, dtype=dtype)
