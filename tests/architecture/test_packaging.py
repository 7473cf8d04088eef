"""What users are told to install exists, and what the package needs at run time travels in it."""

from __future__ import annotations

import re
import tomllib
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement

from steadyvlm.cli.main import EXTRAS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
DISTRIBUTION = {"cv2": "opencv-python-headless", "sklearn": "scikit-learn"}


def test_every_extra_that_a_message_or_page_names_exists():
    sources = [*ROOT.glob("src/**/*.py"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")]
    named = {
        extra.strip()
        for path in sources
        for extras in re.findall(r"(?:steadyvlm|'\.)\[([\w, -]+)\]", path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert named
    assert named <= set(OPTIONAL)


def test_the_extra_named_for_a_missing_library_brings_it():
    for extra, libraries in EXTRAS.items():
        brought = {requirement.name for requirement in OPTIONAL[extra]}
        assert {DISTRIBUTION.get(library, library) for library in libraries} <= brought


def test_every_dependency_has_a_pinned_version_inside_its_range():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    direct = [Requirement(line) for line in PROJECT["dependencies"]] + [r for rows in OPTIONAL.values() for r in rows]
    for requirement in direct:
        if requirement.name != "steadyvlm":
            assert requirement.specifier.contains(pins[requirement.name.lower()]), requirement


def test_the_floor_is_open_upwards_except_where_an_interface_is_known_to_change():
    bounded = {r.name for rows in OPTIONAL.values() for r in rows if "<" in str(r.specifier)}
    assert bounded == {"transformers", "llmcompressor"}
    assert not [line for line in PROJECT["dependencies"] if "<" in line or "==" in line]


def test_the_package_says_that_it_is_typed():
    assert (files("steadyvlm") / "py.typed").is_file()
