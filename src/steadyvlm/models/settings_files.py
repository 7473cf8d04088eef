"""The files of a checkpoint beside its weights: configuration, tokenizer, chat template, image processor.

A model that came from a folder gets the very files of that folder. One that was built in memory, or read from another
layout, has them written from what it holds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steadyvlm.models.llava_original import is_original
from steadyvlm.models.processors import read_json

CONFIG = "config.json"
_COPIED = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_BESIDE = "clip_text"  # a text tower that some checkpoints ship for methods that compare with the question
_LEFT = ("config.json", "model.safetensors.index.json")


def settings_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint folder that are neither weights nor their configuration."""
    return sorted(path for path in folder.iterdir() if path.suffix in _COPIED and path.name not in _LEFT)


def write_settings(
    out: Path, *, folder: Path | None, module: Any, tokenizer: Any, image_processor: Any, template: str | None
) -> dict[str, Any]:
    """Write all settings but config.json into `out`, and return what belongs into that one.

    Args:
        out: an existing folder.
        folder: where the model came from; None for one that was built in memory.
        module: the Hugging Face model.
        tokenizer: what the model reads text with.
        image_processor: what it cuts pictures with.
        template: a chat template in place of the tokenizer's own.
    """
    if folder is not None and not is_original(folder):
        _copy(settings_files(folder), out)
        if (folder / _BESIDE).is_dir():
            (out / _BESIDE).mkdir()
            _copy([path for path in (folder / _BESIDE).iterdir() if path.is_file()], out / _BESIDE)
        return read_json(folder / CONFIG)
    tokenizer.save_pretrained(str(out))
    image_processor.save_pretrained(str(out))
    module.generation_config.save_pretrained(str(out))
    if template is not None:
        (out / "chat_template.json").write_text(json.dumps({"chat_template": template}) + "\n", encoding="utf-8")
    described: dict[str, Any] = json.loads(module.config.to_json_string(use_diff=False))
    return described


def _copy(files: Iterable[Path], out: Path) -> None:
    """Copy what is in the files, of links what they lead to; whatever may be done with those, the copies are usable."""
    for path in files:
        shutil.copyfile(path, out / path.name)
