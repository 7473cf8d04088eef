"""Quantisation and pruning as one recipe: a folder with the packed model and the schedule that was made for it.

    runs/joint/recipe.json       the schedule and all it was made from and for (`quota.recipe_file`)
    runs/joint/model/            the packed model whose sensitivities it follows

`joint(path='runs/joint/recipe.json')` runs both together. Whatever does not belong together is refused before any
weight is loaded: another original, another number of layers, another quantiser, a packed model that was changed.

Source: Li et al. 2026, arXiv 2604.17320, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steadyvlm.errors import CheckpointError, InvalidOption
from steadyvlm.models.adapter import VisionLanguageModel
from steadyvlm.models.fingerprint import folder_sha256
from steadyvlm.models.load import load
from steadyvlm.models.processors import optional_json
from steadyvlm.quota import recipe_file
from steadyvlm.quota.recipe_file import QuantiserIdentity, RecipeFile
from steadyvlm.reduction.quota import UNIFORM, Quota
from steadyvlm.registry import spec_of
from steadyvlm.seeding import bytes_hash, content_hash

RECIPE = "recipe.json"
MODEL = "model"
"""Name of the folder with the packed model, beside the recipe."""


@dataclass(frozen=True, slots=True)
class JointRecipe:
    """A recipe file that was read and agrees with itself.

    Attributes:
        path: of the file.
        file: what it says.
        quota: the token reduction it amounts to.
    """

    path: Path
    file: RecipeFile
    quota: Quota

    @property
    def model_folder(self) -> Path:
        """Where the packed model lies."""
        return self.path.parent / MODEL

    def __str__(self) -> str:
        return f"joint(path={str(self.path)!r})"


def load_joint(path: str | Path) -> JointRecipe:
    """Read a recipe file, or the one in a folder.

    Raises:
        CheckpointError: when it is missing, of another version, damaged or edited.

    >>> load_joint("runs/joint").quota.layers   # doctest: +SKIP
    (2, 3, 4, 5, 6)
    """
    place = Path(path).expanduser()
    place = place / RECIPE if place.is_dir() else place
    found = recipe_file.load(place)
    try:
        quota = quota_of(found)
    except InvalidOption as error:
        raise CheckpointError(f"'{place}' contradicts itself: {error} It is damaged or edited; make it anew.") from None
    if str(spec_of(quota, "quota")) != found.reduction:
        raise CheckpointError(
            f"'{place}' contradicts itself: its fields amount to {spec_of(quota, 'quota')}, its reduction is "
            f"{found.reduction[:400]}. It is damaged or edited; make it anew with `steadyvlm calibrate`."
        )
    return JointRecipe(place, found, quota)


def joint_sha256(path: str | Path) -> str:
    """Return the hash of a recipe file, which holds those of the packed model and of all it was made from.

    Raises:
        CheckpointError: as `load_joint`.
    """
    return bytes_hash(load_joint(path).path.read_bytes())


def quota_of(file: RecipeFile) -> Quota:
    """Return the token reduction that a recipe file describes.

    Raises:
        InvalidOption: for settings the method refuses.
    """
    scoring, allocation = file.scoring, file.allocation
    weights = scoring.weights
    return Quota(
        layers=file.candidates,
        keep_ratios=UNIFORM if allocation.schedule == "uniform" else allocation.keep_ratio,
        floor=allocation.floor,
        weights=(weights.inter, weights.magnitude, weights.intra, weights.quant),
        percentiles=(scoring.p_lo, scoring.p_hi),
        apply=file.apply,
        prune_cache=file.prune_kv_at_selection_layer,
        tokens=file.n_ref if file.n_ref_mode == "stored" else 0,
        scope=file.scope,
        v_source=scoring.v_source,
        residual_domain=scoring.residual_domain,
        residual_bits=scoring.residual_bits,
        quant_relative=scoring.quant_relative,
        intra_causal_correction=scoring.intra_causal_correction,
        k_min=allocation.k_min,
        rounding=allocation.rounding,
    )


def check_joint(joint: JointRecipe, weights_sha256: str, num_layers: int, hidden_size: int) -> None:
    """Return quietly if a recipe was made for this original, and the packed model beside it is the one it names.

    Args:
        joint: from `load_joint`.
        weights_sha256: content hash of the original.
        num_layers: of its decoder.
        hidden_size: of its decoder.

    Raises:
        CheckpointError: naming what differs.
    """
    made = joint.file.model
    for what, wanted, found in (
        ("decoder layers", made.num_layers, num_layers),
        ("decoder width", made.hidden_size, hidden_size),
        ("weights", made.weights_sha256, weights_sha256),
    ):
        if wanted != found:
            raise CheckpointError(
                f"'{joint.path}' was made for '{made.name}' ({what}: {str(wanted)[:12]}), and this model has "
                f"{str(found)[:12]}. Use it with the model it was made for, or make one for this model with "
                "`steadyvlm calibrate`."
            )
    if joint.file.quantiser is not None:
        _check_packed(joint.model_folder, joint.path, joint.file.quantiser)


def _check_packed(folder: Path, path: Path, quantiser: QuantiserIdentity) -> None:
    """Raise CheckpointError unless the packed model is the one the recipe was made with."""
    if content_hash(quantiser.name) != quantiser.config_sha256:
        raise CheckpointError(
            f"'{path}' names the quantiser {quantiser.name[:200]} beside the hash of another one. It is damaged or "
            "edited; make it anew with `steadyvlm calibrate`."
        )
    if not folder.is_dir():
        raise CheckpointError(f"'{path}' needs the packed model in '{folder}', which is not there. Keep them together.")
    settings = optional_json(folder / "config.json").get("quantization_config")
    named = settings.get("quantizer") if isinstance(settings, dict) else None
    if named not in (None, quantiser.name):
        raise CheckpointError(
            f"'{path}' was made for {quantiser.name[:200]}, but '{folder}' holds {str(named)[:200]}. Keep recipes and "
            "packed models together as they were written."
        )
    found = folder_sha256(folder)
    if found != quantiser.artifact_sha256:
        raise CheckpointError(
            f"'{folder}' has the hash {found[:12]}, but '{path}' was made with {quantiser.artifact_sha256[:12]}. The "
            "packed model is damaged or another one; make both anew with `steadyvlm calibrate`."
        )


def deploy(joint: JointRecipe, model: VisionLanguageModel) -> VisionLanguageModel:
    """Return the model that runs under a recipe: the packed one, or `model` itself when only tokens are pruned.

    Args:
        joint: from `load_joint`.
        model: the original it was made for.

    Raises:
        CheckpointError: as `check_joint`, before anything is loaded.
    """
    check_joint(joint, model.weights_sha256(), model.info.num_layers, model.info.width)
    if joint.file.quantiser is None:
        return model
    return load(joint.model_folder, device=str(model.device), dtype=str(model.provenance()["dtype"]))
