"""Which patches CLIP relates to a question: the text tower and the two projections a LLaVA checkpoint leaves out.

LLaVA keeps only the vision tower of its CLIP. The other half is read from a folder `clip_text` beside the weights
(the pocket model ships one), or from the CLIP checkpoint the tower came from: a folder or hub id. Only safetensors are
read. Patch rows pass the vision tower's own last layer norm and CLIP's visual projection; the question passes the text
tower and its projection; the dot product of the two is the relevance.

Source: Radford et al. 2021, arXiv 2103.00020; used on patch rows by TRIM (`reduction/trim.py`).
Differs: CLIP normalises both sides and compares the pooled CLS row; here neither is normalised, and patches of the
feature layer take its place.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyvlm.errors import CheckpointError
from steadyvlm.models.load import find_folder

PUBLISHED: Mapping[tuple[int, int, int, int], str] = {
    (24, 1024, 336, 14): "openai/clip-vit-large-patch14-336",
    (24, 1024, 224, 14): "openai/clip-vit-large-patch14",
}
"""(layers, width, image size, patch size) of a vision tower -> the CLIP it belongs to."""

_BESIDE = "clip_text"
_TEXT = ("text_model.", "text_projection.")
_VISUAL = "visual_projection.weight"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json")


@torch.no_grad()
def relevance(tower_source: str, folder: Path | None, vision_tower: Any, rows: Tensor, question: str) -> Tensor:
    """Return [N] float32, the dot product of every patch with the question in CLIP's space, neither normalised.

    Args:
        tower_source: folder or hub id of a CLIP checkpoint, or "auto".
        folder: where the model's own weights lie; None for a model made in memory.
        vision_tower: the `CLIPVisionModel` the rows come from.
        rows: [N, D] patch rows of the feature layer, in any float dtype.
        question: plain text; what exceeds the text tower's positions is cut off.

    Raises:
        CheckpointError: when no text tower is found, it cannot be read, or its sizes do not fit.
    """
    found = text_tower_folder(tower_source, folder, vision_tower.config)
    space = load_space(str(found), str(rows.device))
    width = space.visual_projection.shape[1]
    if width != rows.shape[1]:
        raise CheckpointError(
            f"the CLIP in '{found}' projects patch rows of width {width}, but this vision tower has width "
            f"{rows.shape[1]}. Give the checkpoint the tower came from: trim(text_tower='folder or hub id')."
        )
    norm = getattr(vision_tower, "vision_model", vision_tower).post_layernorm  # before transformers 5 one level down
    normed = torch.nn.functional.layer_norm(
        rows.to(torch.float32), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps
    )
    return normed @ (space.visual_projection.T @ space.embed(question))


@dataclass(frozen=True, slots=True, eq=False)
class ClipSpace:
    """The half of a CLIP that a LLaVA checkpoint lacks, in float32.

    Attributes:
        text: the `CLIPTextModelWithProjection`.
        tokenizer: its tokenizer.
        visual_projection: [E, D] weight that maps normed vision rows into the shared space.
    """

    text: Any
    tokenizer: Any
    visual_projection: Tensor

    @torch.no_grad()
    def embed(self, question: str) -> Tensor:
        """Return the pooled, projected embedding [E] of a question."""
        ids = torch.tensor([self.token_ids(question)], device=self.visual_projection.device)
        embedding: Tensor = self.text(input_ids=ids).text_embeds
        return embedding[0]

    def token_ids(self, question: str) -> list[int]:
        """Return the ids of a question, closed by the end token and no longer than the tower has positions."""
        limit, end = self.text.config.max_position_embeddings, self.tokenizer.eos_token_id
        ids: list[int] = list(self.tokenizer(question, truncation=True, max_length=limit)["input_ids"])
        return ids if ids[-1:] == [end] else [*ids[: limit - 1], end]


def text_tower_folder(source: str, folder: Path | None, vision_config: Any) -> Path:
    """Return the folder that holds the text tower and the visual projection.

    Raises:
        CheckpointError: when "auto" finds none, or there is no such folder or hub repository.
    """
    if source == "auto":
        if folder is not None and (folder / _BESIDE).is_dir():
            return folder / _BESIDE
        names = ("num_hidden_layers", "hidden_size", "image_size", "patch_size")
        layers, width, side, patch = (getattr(vision_config, name) for name in names)
        if (layers, width, side, patch) not in PUBLISHED:
            raise CheckpointError(
                f"no text tower is known for this vision tower ({layers} layers of width {width}, {side} pixels): "
                f"there is no folder '{_BESIDE}' beside the weights, and no published CLIP has these sizes. Give the "
                "checkpoint the tower came from: trim(text_tower='folder or hub id')."
            )
        source = PUBLISHED[layers, width, side, patch]
    found = find_folder(source)
    return found / _BESIDE if (found / _BESIDE).is_dir() else found


@functools.lru_cache(maxsize=4)
def load_space(folder: str, device: str) -> ClipSpace:
    """Read a text tower with both projections; the same folder is read once per process and device.

    Raises:
        CheckpointError: naming what is missing or does not fit.
    """
    weights = _weights(Path(folder))
    if _VISUAL not in weights:
        raise CheckpointError(
            f"'{folder}' holds no '{_VISUAL}', which maps patches into the space of the text. Use a full CLIP "
            f"checkpoint, or save that tensor beside the text tower as visual_projection.safetensors."
        )
    visual = weights.pop(_VISUAL)
    text = _text_tower(folder, weights)
    if text.config.projection_dim != visual.shape[0]:
        raise CheckpointError(
            f"in '{folder}' text is projected to width {text.config.projection_dim} and patches to {visual.shape[0]}; "
            "the two projections belong to different checkpoints."
        )
    return ClipSpace(text.to(device), _tokenizer(Path(folder)), visual.to(device))


def _weights(folder: Path) -> dict[str, Tensor]:
    """Return the float32 tensors of the text tower and both projections, from all safetensors of a folder."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"'{folder}' holds no safetensors of a CLIP text tower; pickle files are never loaded. If you trust its "
            "pickles, convert them once: CLIPModel.from_pretrained('that checkpoint', use_safetensors=False)"
            ".save_pretrained('clip'), its tokenizer likewise, then trim(text_tower='clip')."
        )
    found: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if name.startswith((*_TEXT, _VISUAL))]  # noqa: SIM118  # no dict
                found.update({name: tensors.get_tensor(name).float() for name in names})
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{file}' cannot be read: {error}. Fetch it again.") from error
    return found


def _text_tower(folder: str, weights: Mapping[str, Tensor]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    try:
        config = CLIPTextConfig.from_pretrained(folder)
        with torch.random.fork_rng(devices=[]):  # the weights it draws are replaced, the caller's lot is not
            text: Any = CLIPTextModelWithProjection(config)
        report = text.float().load_state_dict(weights, strict=False)  # the config may ask for less precision
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the CLIP text tower in '{folder}' cannot be read: {reason}") from error
    if report.missing_keys:
        raise CheckpointError(
            f"the CLIP text tower in '{folder}' lacks {len(report.missing_keys)} tensors "
            f"({', '.join(report.missing_keys[:3])}, …); they would be random. Fetch the checkpoint again."
        )
    return text.eval().requires_grad_(False)


def _tokenizer(folder: Path) -> Any:
    """Return the tokenizer of the text tower; a folder beside a model's weights shares the model's."""
    from transformers import AutoTokenizer

    own = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    place = folder if own else folder.parent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about tokenizer formats, nothing a caller can act on
            return AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"no usable tokenizer for the text tower in '{folder}': {' '.join(str(error).split())[:300]} "
            "Copy tokenizer.json and tokenizer_config.json of the CLIP checkpoint into it."
        ) from error
