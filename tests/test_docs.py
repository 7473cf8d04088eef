"""The docs say what the code says: generated pages are in sync, links lead somewhere, examples are real."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from steadyvlm.cli.main import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["cli.md", "methods.md"])
def test_generated_page_is_in_sync(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == generator().pages()[name], f"docs/{name} is stale; run `make docs`"


def test_every_command_and_method_has_its_section() -> None:
    from steadyvlm.reduction import REDUCTIONS

    pages = generator().pages()
    for command in cli.commands:
        assert f"## steadyvlm {command}\n" in pages["cli.md"]
    for reduction in REDUCTIONS:
        assert f"### {reduction}\n" in pages["methods.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    broken = [target for target in targets if target and ":" not in target and not (page.parent / target).exists()]
    assert not broken


def yaml_examples() -> list[tuple[str, str]]:
    return [
        (f"{page.name}-{number}", block)
        for page in PAGES
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    ]


@pytest.mark.parametrize(("name", "block"), yaml_examples(), ids=lambda value: value if len(value) < 40 else "")
def test_study_examples_can_be_read(name: str, block: str) -> None:
    from steadyvlm.study.plan import canonical_recipe
    from steadyvlm.study.suite import Suite

    value = yaml.safe_load(block)
    if "study" not in value:  # a part of a study, to be added to one
        value = {"study": "mine", "model": "pocket", "tasks": [{"name": "pocket"}], **value}
    suite = Suite.from_mapping(value, name)
    assert all(canonical_recipe(arm.recipe) for study in suite.studies for arm in study.arms)


def test_readme_names_the_commands_a_newcomer_needs() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("make demo", "make test", "make check", "steadyvlm compare", "steadyvlm run"):
        assert command in text
