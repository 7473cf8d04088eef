"""Who may import whom, folder by folder: the table of CONTRIBUTING.md, checked against the real import graph."""

from __future__ import annotations

import sys
from functools import cache
from importlib.metadata import packages_distributions

import grimp
import pytest

FLOOR = frozenset({"errors", "records", "registry", "seeding"})
SCIENCE = frozenset({"numpy", "scipy"})

# folder -> (modules of the package it may import besides the floor and itself, libraries it may import)
TABLE: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "cost": (frozenset(), frozenset()),
    "tasks": (frozenset(), SCIENCE | {"PIL"}),
    # torch and transformers only by name, where text is rewritten by a model that is there
    "perturb": (frozenset(), SCIENCE | {"PIL", "cv2", "nltk", "textblob", "lemminflect"}),
    "stability": (frozenset(), SCIENCE),
    "probes": (frozenset(), SCIENCE),
    # safetensors: trained modules are read where they are used
    # of quota, the budgets that a schedule comes down to
    "reduction": (frozenset({"quota"}), frozenset({"torch", "safetensors"})),
    "quantization": (frozenset(), frozenset({"torch", "bitsandbytes", "triton"})),
    # from calibrated numbers to a schedule: arithmetic and its file format
    "quota": (frozenset(), SCIENCE),
    "models": (
        # of quantization, what a model is described by, and the modules a packed checkpoint holds
        frozenset({"cost.inventory", "cost.sizes", "reduction.base", "reduction.layout", "quantization"}),
        frozenset({"torch", "transformers", "safetensors", "tokenizers", "huggingface_hub", "jinja2", "PIL", "numpy"}),
    ),
    "engine": (
        frozenset({"models.adapter", "reduction.base", "reduction.layout", "quantization.base", "quantization.grid"})
        | {"quantization.kv"},
        frozenset({"torch", "PIL"}),
    ),
    "calibration": (
        frozenset({"engine", "models", "quantization", "quota", "reduction", "probes", "tasks.sources"}),
        frozenset({"torch", "transformers", "safetensors", "numpy", "PIL", "llmcompressor", "compressed_tensors"}),
    ),
    "recipes": (
        # of tasks, only the guarded reader of pictures; probes measure what a recipe does, and how sure that is
        frozenset({"engine", "models", "reduction", "quantization", "tasks.sources", "probes", "stability.clusters"})
        | {"calibration", "quota", "cost"},
        frozenset({"torch", "transformers", "safetensors", "numpy", "PIL"}),
    ),
    "training": (
        # of reduction, the modules themselves: training and inference run the same ones
        frozenset({"models.adapter", "reduction", "tasks"}),
        frozenset({"torch"}),
    ),
    "study": (
        # of models, what an address needs without loading one (place, hash, precision), and what costing needs
        frozenset({"recipes", "tasks", "perturb", "models.adapter", "models.fingerprint", "models.load"})
        | {"models.placement", "models.sizes", "reduction.presets"},
        frozenset({"numpy", "pyarrow", "yaml", "PIL", "ray"}),
    ),
    "report": (
        # pictures are decoded by one guarded reader; where a token lies is said in one place, in plain Python
        frozenset({"stability", "study.store", "tasks.sources", "reduction.layout"}),
        frozenset({"jinja2", "markupsafe", "rich", "PIL", "numpy"}),
    ),
}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("steadyvlm", include_external_packages=True, cache_dir=None)


def imported_by(folder: str) -> set[str]:
    root = f"steadyvlm.{folder}"
    modules = {root} | graph().find_descendants(root)
    return {target for module in modules for target in graph().find_modules_directly_imported_by(module)}


def covers(allowed: frozenset[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


@pytest.mark.parametrize("folder", sorted(TABLE))
def test_folder_imports_only_what_its_row_allows(folder: str) -> None:
    inside, outside = TABLE[folder]
    allowed = inside | FLOOR | {folder}
    strangers = set()
    for target in imported_by(folder):
        if target == "steadyvlm":  # its version; it loads nothing
            continue
        if target.startswith("steadyvlm."):
            if not covers(allowed, target.removeprefix("steadyvlm.")):
                strangers.add(target)
        elif target not in sys.stdlib_module_names and not covers(outside, target):
            strangers.add(target)
    assert not strangers, f"steadyvlm.{folder} imports {sorted(strangers)}; its row allows {sorted(allowed | outside)}"


@pytest.mark.parametrize("module", sorted(FLOOR))
def test_floor_uses_the_standard_library_only(module: str) -> None:
    targets = graph().find_modules_directly_imported_by(f"steadyvlm.{module}")
    outside = {name for name in targets if name not in sys.stdlib_module_names}
    assert outside <= {f"steadyvlm.{name}" for name in FLOOR}


def test_no_product_code_imports_pocket() -> None:
    importers = {
        importer
        for module in {"steadyvlm.pocket"} | graph().find_descendants("steadyvlm.pocket")
        for importer in graph().find_modules_that_directly_import(module)
    }
    strangers = {name for name in importers if not name.startswith(("steadyvlm.pocket", "steadyvlm.cli.pocket"))}
    assert not strangers, "pocket is reached through the registries, by name"


def test_every_imported_library_is_declared() -> None:
    """An import that works only because a developer has the library installed would break a user."""
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = ("models", "int8", "triton", "perturb", "pocket-train")
    lines = project["dependencies"] + [line for name in asked for line in extras[name]]
    declared = {line.split(">")[0].split("[")[0].lower().replace("_", "-") for line in lines}
    # these two come with transformers and jinja2, by those projects' own design
    declared |= {"huggingface-hub", "markupsafe"}
    distributions = packages_distributions()
    external = {
        name.split(".")[0]
        for name in graph().modules
        if not name.startswith("steadyvlm") and name.split(".")[0] not in sys.stdlib_module_names
    }
    undeclared = {
        name: distributions.get(name)
        for name in external
        if not {item.lower().replace("_", "-") for item in distributions.get(name, [name])} & declared
    }
    assert not undeclared
