"""One study file for several models: the same tasks and recipes, a study and a folder each.

    study: token-reduction
    models: [pocket, pocket-next, pocket-qwen]     # instead of `model`
    tasks: …
    recipes:
      - name: fastv-50
        recipe: fastv(layer=5, keep_ratio=0.5)
      - name: hired-20
        recipe: hired(keep_ratio=0.2)
        models: [pocket, pocket-next]              # only where the method is defined
    tables:
      - {table: lofi-next, models: [pocket-next]}

Answers of different models are never compared with each other, so nothing about a single study changes: the file is
spread into one `Study` per model, whose results lie in a folder of their own under the suite's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyvlm.errors import ConfigError, UnknownName
from steadyvlm.study.plan import Study, read_study

_UNSAFE = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True, slots=True)
class Suite:
    """Several studies that ask the same of different models.

    Attributes:
        name: of the file; each study is called "name model".
        studies: one per model, in the order of the file.
    """

    name: str
    studies: tuple[Study, ...]

    @staticmethod
    def from_yaml(source: str | Path) -> Suite:
        """Read a study file or a shipped study; one that names a single model is a suite of one.

        Raises:
            ConfigError: naming the file and the key.
            UnknownName: for an unknown key, study, task, option or method, with the nearest known one.
            InvalidOption: for an option value out of range.
        """
        value, where = read_study(source)
        suite = Suite.from_mapping(value, where)
        for study in suite.studies:
            study.check()
        return suite

    @staticmethod
    def from_mapping(value: Mapping[str, Any], source: str = "the study") -> Suite:
        """Build the studies of a YAML mapping; names of tasks and recipes are checked by `Study.check`."""
        models = value.get("models")
        if models is None:
            study = Study.from_mapping(value, source)
            return Suite(study.name, (study,))
        if "model" in value:
            raise ConfigError(f"{source} has both 'model' and 'models'; keep one of them.")
        if not isinstance(models, list) or not models or not all(isinstance(m, str) and m.strip() for m in models):
            raise ConfigError(f"{source}: 'models' should be a list of names, folders or hub ids, found {models!r}.")
        labels = [model_label(model) for model in models]
        if len(set(labels)) < len(labels):
            raise ConfigError(f"{source}: 'models' names {_repeated(labels)} twice, or two folders of one name.")
        name = str(value.get("study", ""))
        studies = [
            Study.from_mapping(_for_model(value, name, model, label, models, source), source)
            for model, label in zip(models, labels, strict=True)
        ]
        return Suite(name, tuple(studies))

    @property
    def is_single(self) -> bool:
        """Whether there is one model only, and so no folder per model."""
        return len(self.studies) == 1 and self.studies[0].name == self.name

    def folders(self, root: Path) -> list[Path]:
        """Return where each study keeps its answers."""
        return [root] if self.is_single else [root / model_label(study.model) for study in self.studies]


def model_label(model: str) -> str:
    """Return a short name that may be part of a folder's name.

    >>> model_label("llava-hf/llava-1.5-7b-hf"), model_label("/data/models/mine/")
    ('llava-1.5-7b-hf', 'mine')
    """
    return _UNSAFE.sub("-", Path(model).name).strip("-.") or "model"


def _for_model(
    value: Mapping[str, Any], name: str, model: str, label: str, models: list[str], source: str
) -> dict[str, Any]:
    """Return the mapping of a single study: this model, and the recipes that are meant for it."""
    study = {key: item for key, item in value.items() if key != "models"}
    study |= {"study": f"{name} {label}", "model": model}
    left_out = _left_out(value.get("recipes"), model, models, source)
    contrasts = value.get("contrasts")
    if isinstance(contrasts, list):
        study["contrasts"] = [item for item in contrasts if not _names_any(item, left_out)]
    for key in ("recipes", "tables"):
        items = value.get(key)
        if isinstance(items, list):  # anything else is refused by `Study.from_mapping`, which words it
            study[key] = [
                _without_models(item)
                for index, item in enumerate(items)
                if _is_meant(item, f"{key}[{index}]", model, models, source)
            ]
    return study


def _left_out(recipes: Any, model: str, models: list[str], source: str) -> set[str]:
    """Return the names of recipes that are not meant for this model; what contrasts them with others goes too."""
    named = [item for item in recipes if isinstance(item, Mapping)] if isinstance(recipes, list) else []
    return {
        str(item.get("name"))
        for index, item in enumerate(named)
        if not _is_meant(item, f"recipes[{index}]", model, models, source)
    }


def _names_any(contrast: Any, names: set[str]) -> bool:
    return isinstance(contrast, list) and any(isinstance(name, str) and name in names for name in contrast)


def _without_models(item: Any) -> Any:
    if not isinstance(item, Mapping):
        return item
    rest = {key: value for key, value in item.items() if key != "models"}
    return rest["table"] if set(rest) == {"table"} else rest


def _is_meant(item: Any, where: str, model: str, models: list[str], source: str) -> bool:
    wanted = item.get("models") if isinstance(item, Mapping) else None
    if wanted is None:
        return True
    if not isinstance(wanted, list) or not wanted:
        raise ConfigError(f"{source}: '{where}.models' should be a list of models, found {wanted!r}.")
    for name in wanted:
        if name not in models:
            raise UnknownName.among(f"model in '{where}.models' of {source}", str(name), models)
    return model in wanted


def _repeated(labels: list[str]) -> str:
    return ", ".join(sorted({label for label in labels if labels.count(label) > 1}))
