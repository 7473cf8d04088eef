"""Image processors of every age of settings file; Qwen's limits on pixels under each of their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from steadyvlm.errors import CheckpointError, Unsupported
from steadyvlm.models.families import FAMILIES
from steadyvlm.models.processors import load_image_processor, pillow_processor

QWEN: dict[str, Any] = {
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "patch_size": 6,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "image_processor_type": "Qwen2VLImageProcessor",
}


def write(folder: Path, **changes: Any) -> Path:
    settings = {key: value for key, value in {**QWEN, **changes}.items() if value is not None}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "limits",
    [
        {"min_pixels": 144, "max_pixels": 9216},
        {"min_pixels": 144, "max_pixels": 9216, "size": {"min_pixels": 144, "max_pixels": 9216}},
        {"size": {"min_pixels": 144, "max_pixels": 9216}},
        {"size": {"shortest_edge": 144, "longest_edge": 9216}},
    ],
)
@pytest.mark.parametrize("kind", ["Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2_5_VLImageProcessor"])
def test_qwen_limits_are_found_wherever_they_were_written(kind: str, limits: dict[str, Any], tmp_path: Path) -> None:
    processor = load_image_processor(write(tmp_path, image_processor_type=kind, **limits), FAMILIES["qwen2_5_vl"])
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (144, 9216)
    assert (processor.patch_size, processor.merge_size) == (6, 2)


def test_limits_of_one_checkpoint_do_not_leak_into_the_next(tmp_path: Path) -> None:
    """transformers keeps its defaults in one dictionary and writes min_pixels into it."""
    load_image_processor(write(tmp_path, min_pixels=7, max_pixels=8 * 10**6), FAMILIES["qwen2_vl"])
    processor = load_image_processor(write(tmp_path), FAMILIES["qwen2_vl"])
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (56 * 56, 28 * 28 * 1280)
    assert dict(Qwen2VLImageProcessorPil.size) == {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}


def test_limits_that_exclude_every_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="at least 900 and at most 100 pixels"):
        load_image_processor(write(tmp_path, min_pixels=900, max_pixels=100), FAMILIES["qwen2_vl"])


def test_settings_of_another_family_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"LlavaNextForConditionalGeneration but .* Qwen2VLImageProcessor"):
        load_image_processor(write(tmp_path), FAMILIES["llava_next"])


def test_an_image_processor_nobody_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"'SiglipImageProcessor' .* Known: CLIPImageProcessor, "):
        load_image_processor(write(tmp_path, image_processor_type="SiglipImageProcessor"), FAMILIES["llava"])


@pytest.mark.parametrize("key", FAMILIES)
def test_every_image_processor_of_the_table_exists_without_torchvision(key: str) -> None:
    for kind in FAMILIES[key].image_processors:
        assert pillow_processor(kind).__name__ == f"{kind}Pil"
