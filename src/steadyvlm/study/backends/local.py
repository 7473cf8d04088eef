"""Run every cell in this process, on one device.

What a cell's address needs (the hash of the weight files, the precision) is found without loading a model, so a study
that is already complete is recognised in seconds. The original is loaded once, when the first missing cell asks for
an arm, and shared by all arms; a quantiser works on its own copy, which is freed with its arm. Only a preset, whose
numbers depend on the model, makes it load before the address is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from steadyvlm.errors import Unsupported
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import find_folder, load
from steadyvlm.models.placement import resolve_device, resolve_dtype
from steadyvlm.models.sizes import sizes_of
from steadyvlm.recipes.accelerate import AcceleratedModel, accelerate
from steadyvlm.recipes.calibrating import calibration_sha256
from steadyvlm.recipes.joint import joint_sha256
from steadyvlm.recipes.lid import Spectra, compare_spectra, measure_spectra
from steadyvlm.recipes.lvpruning_modules import modules_sha256
from steadyvlm.recipes.recipe import Recipe
from steadyvlm.recipes.resolve import resolve
from steadyvlm.records import Failure, Generation, Sample
from steadyvlm.seeding import content_hash


class LocalArm:
    """An accelerated model that also says where it runs."""

    def __init__(self, accelerated: AcceleratedModel, notes: Sequence[str] = ()) -> None:
        self._accelerated, self._notes = accelerated, (*notes, *accelerated.notes)

    def answer_batch(
        self, samples: Sequence[Sample], *, max_new_tokens: int, stop: tuple[str, ...]
    ) -> Sequence[Generation | Failure]:
        """Answer one batch."""
        return self._accelerated.answer_batch(samples, max_new_tokens=max_new_tokens, stop=stop)

    def provenance(self) -> Mapping[str, Any]:
        """Return the circumstances of the model that answers, what a quantiser did to it, how a preset was scaled."""
        known = self._accelerated.model.provenance()
        report = self._accelerated.report
        extra = {} if report is None else {"quantization": str(report)}
        if self._notes:
            extra["notes"] = " ".join(self._notes)
        return {**known, "extra": {**known["extra"], **extra}}

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
        self._notes: dict[str, tuple[str, ...]] = {}
        self._spectra: tuple[tuple[str, tuple[str, ...]], Spectra] | None = None
        self.dtype = str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")

    def resolve(self, recipe: str) -> str:
        """Scale the recipe's preset to the model; the arm's provenance will say how."""
        resolved, notes = resolve(self._loaded(), Recipe.parse(recipe))
        self._notes[str(resolved)] = notes
        return str(resolved)

    def weights_sha256(self, recipe: str) -> str:
        """Hash all that a recipe's text only names: weights, trained modules, calibration examples, a recipe file."""
        parsed = Recipe.parse(recipe)
        folder = self._folder if parsed.checkpoint is None else find_folder(parsed.checkpoint)
        key = str(folder)
        if key not in self._hashes:
            self._hashes[key] = folder_sha256(folder)
        weights = self._hashes[key]
        name, reduction = parsed.checkpoint or self._source, parsed.build_reduction()
        found = [
            modules_sha256(reduction, weights, name),
            calibration_sha256(parsed.build_quantizer(), reduction, weights, name),
            None if parsed.joint is None else joint_sha256(parsed.joint),
        ]
        beside = [item for item in found if item is not None]
        return content_hash([weights, *beside]) if beside else weights

    def arm(self, recipe: str) -> LocalArm:
        """Apply a recipe to the original, loading it first if need be."""
        return LocalArm(accelerate(self._loaded(), Recipe.parse(recipe)), self._notes.get(recipe, ()))

    def disruption(self, recipe: str, samples: Sequence[Sample], *, scope: Literal["all", "visual"]) -> dict[str, Any]:
        """Measure the inner disruption of a recipe; the original's side is measured once per set of questions."""
        key = (scope, tuple(sample.id for sample in samples))
        if self._spectra is None or self._spectra[0] != key:
            self._spectra = (key, measure_spectra(accelerate(self._loaded(), "keep_all"), samples, scope=scope))
        found = compare_spectra(
            self._spectra[1], measure_spectra(accelerate(self._loaded(), recipe), samples, scope=scope)
        )
        return {
            "value": found.value,
            "low": found.low,
            "high": found.high,
            "per_layer": list(found.per_layer),
            "original_per_layer": list(found.original_per_layer),
            "accelerated_per_layer": list(found.accelerated_per_layer),
            "of_means": found.of_means,
            "values": dict(zip(found.sample_ids, found.values, strict=True)),
            "failed": list(found.failed),
            "scope": found.scope,
            "rank": found.rank,
            "tensor": found.tensor,
            "resamples": found.resamples,
        }

    def _loaded(self) -> VisionLanguageModel:
        if self._model is None:
            self._model = load(self._source, device=self._device, dtype=self._dtype)
        return self._model


def open_session(model: str, *, device: str, dtype: str) -> LocalSession:
    """Open a session in this process; see `LocalSession`."""
    return LocalSession(model, device=device, dtype=dtype)
