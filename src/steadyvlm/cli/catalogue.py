"""What can be named in a recipe or a study, read from the source of each entry without importing it.

A registry maps a name to `module:Class`. Importing a method would import torch, so its module docstring, its fields
and their defaults are read from the syntax tree instead. `steadyvlm list` and the generated docs both use this.
"""

from __future__ import annotations

import ast
import importlib.util
import itertools
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from steadyvlm.errors import UnknownName
from steadyvlm.registry import Registry


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of an entry; `default` is its source text, empty when it must be given."""

    name: str
    type: str
    default: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.name}={self.default}" if self.default else self.name


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a registry.

    Attributes:
        idea: the module docstring up to `Source:`; `summary` is its first line.
        source, differs: the parts of that docstring under these headings, empty when there are none.
    """

    name: str
    target: str
    idea: str
    options: tuple[Option, ...] = ()
    source: str = ""
    differs: str = ""

    @property
    def summary(self) -> str:
        """The first sentence or line of the idea."""
        return self.idea.split("\n", 1)[0].rstrip(".")

    @property
    def signature(self) -> str:
        """How the entry is written in a recipe, with its defaults."""
        return f"{self.name}({', '.join(map(str, self.options))})" if self.options else self.name


def registries() -> dict[str, Registry]:
    """Return the tables by the plural noun a user would use."""
    from steadyvlm.models import MODELS
    from steadyvlm.quantization import QUANTIZERS
    from steadyvlm.reduction import REDUCTIONS
    from steadyvlm.tasks import TASKS

    return {"models": MODELS, "reductions": REDUCTIONS, "quantizers": QUANTIZERS, "tasks": TASKS}


def entries(what: str) -> list[Entry]:
    """Return what is registered under the plural noun `what`, the published settings, or the shipped studies.

    Raises:
        UnknownName: if there is no such table.
    """
    if what == "studies":
        return _studies()
    if what == "presets":
        return _presets()
    if what == "perturbations":
        return _perturbations()
    tables = registries()
    if what not in tables:
        raise UnknownName.among("table", what, [*tables, "presets", "perturbations", "studies"])
    return [describe(name, target) for name, target in tables[what].items()]


def describe(name: str, target: str) -> Entry:
    """Return the entry of `name`, read from the source file of its `module:attribute` target.

    >>> describe("fastv", "steadyvlm.reduction.fastv:FastV").options[1].default
    '0.5'
    """
    module, _, attribute = target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None:
        return Entry(name, target, f"cannot be imported ({module} is not installed)")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    idea, source, differs = _sections(ast.get_docstring(tree) or "")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return Entry(name, target, idea, _fields(node, _constants(tree)), source, differs)
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            docstring = ast.get_docstring(node) or idea
            return Entry(
                name, target, re.split(r"^(?:Args|Returns|Raises|Yields):|^>>>", docstring, flags=re.M)[0].strip()
            )
    return Entry(name, target, idea, (), source, differs)


def _presets() -> list[Entry]:
    """Published settings; each is written in a recipe by its name alone."""
    from steadyvlm.reduction.presets import PRESETS

    return [Entry(name, str(item.spec), f"{item.spec}; {item.source}") for name, item in PRESETS.items()]


def _perturbations() -> list[Entry]:
    """The suite; each is written with its severity, `image/fog@2`, and a name alone stands for all severities."""
    from steadyvlm.perturb.suite import SUITE

    found = []
    for row in SUITE.values():
        module = f"steadyvlm.perturb.{row.modality}"
        described = describe(row.name, f"{module}:{row.id}")
        many = f"{row.name}@1 … @{row.levels}" if row.levels > 1 else row.name
        found.append(Entry(many, row.path, f"{row.group}: {described.summary}"))
    return found


def _studies() -> list[Entry]:
    """The comment on top of a shipped study is its idea; recipes are not looked up, which would import torch."""
    from steadyvlm.study.plan import shipped_studies

    folder = files("steadyvlm.study") / "studies"
    found = []
    for name in shipped_studies():
        text = (folder / f"{name}.yaml").read_text(encoding="utf-8")
        comment = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
        found.append(Entry(name, name, "\n".join(line.lstrip("# ") for line in comment)))
    return found


def _sections(docstring: str) -> tuple[str, str, str]:
    """Split a module docstring into (idea, text under `Source:`, text under `Differs:`)."""
    found = {"idea": "", "Source": "", "Differs": ""}
    pieces = re.split(r"^(Source|Differs)(?: \(([^)]*)\))?:", docstring, flags=re.MULTILINE)
    found["idea"] = pieces[0].strip()
    for heading, aside, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        first, _, rest = text.strip("\n").partition("\n")
        said = f"{first.strip()}\n{textwrap.dedent(rest)}".strip("\n")
        found[heading] = (f"{aside}.\n\n{said.strip()}" if aside else said).strip()
    return found["idea"], found["Source"], found["Differs"]


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the names a module gives to plain values, with the source text of the value."""
    found: dict[str, str] = {}
    for node in tree.body:
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=False))
            for name, value in pairs:
                if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                    found[name.id] = ast.unparse(value)
    return found


def _fields(node: ast.ClassDef, constants: Mapping[str, str]) -> tuple[Option, ...]:
    meanings = _meanings(ast.get_docstring(node) or "")
    return tuple(
        Option(
            item.target.id,
            ast.unparse(item.annotation),
            constants.get(ast.unparse(item.value), ast.unparse(item.value)) if item.value else "",
            meanings.get(item.target.id, ""),
        )
        for item in node.body
        if isinstance(item, ast.AnnAssign)
        and isinstance(item.target, ast.Name)
        and not item.target.id.startswith("_")
        and not ast.unparse(item.annotation).startswith("ClassVar")
        and "init=False" not in ast.unparse(item)
    )


def _meanings(docstring: str) -> dict[str, str]:
    """Return field name to text from the `Attributes:` section; `a, b: text` describes both."""
    section = re.search(r"^Attributes:\n((?:[ ]+.*(?:\n|$)|\n)*)", docstring, flags=re.MULTILINE)
    if section is None:
        return {}
    meanings: dict[str, str] = {}
    for names, text in re.findall(
        r"^([\w, ]+): ((?:.*\n?)(?:[ ]+.*\n?)*)", textwrap.dedent(section[1]), flags=re.MULTILINE
    ):
        for name in names.split(","):
            meanings[name.strip()] = " ".join(text.split())
    return meanings
