from __future__ import annotations

import ast

import pytest

from steadyvlm.cli.catalogue import Option, _constants, _sections, describe, entries, registries
from steadyvlm.cli.list import TABLES


def test_everything_registered_is_listed_with_its_options(steadyvlm):
    done = steadyvlm("list")
    assert done.code == 0
    for table in registries().values():
        for name in table:
            assert f"\n  {name}" in done.out
    assert "fastv(layer=3, keep_ratio=0.5)\n      FastV: " in done.out
    assert "pocket-demo" in done.out


def test_one_table_alone(steadyvlm):
    done = steadyvlm("list", "quantizers")
    assert done.out.startswith("quantizers:\n")
    assert "reductions:" not in done.out


def test_an_unknown_table_suggests_the_nearest(steadyvlm):
    done = steadyvlm("list", "reduction")
    assert (done.code, done.out) == (2, "")
    assert "Did you mean 'reductions'?" in done.err


def test_the_tables_are_those_of_the_registries():
    assert set(TABLES) == {*registries(), "presets", "perturbations", "studies"}


def test_reductions_are_listed_with_the_families_they_work_on(steadyvlm):
    pytest.importorskip("torch", reason="the light tests run without the extra 'models'")
    done = steadyvlm("list", "reductions")
    table = done.out.split("on model families:\n")[1].splitlines()
    assert table[0].split() == ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl"]
    assert "  hired           works  works       refused     refused" in table
    assert any(line.startswith("  hired on qwen2_vl, qwen2_5_vl, refused: ") for line in table)
    assert "on model families" not in steadyvlm("list").out


def test_without_torch_the_list_says_where_the_matrix_is(steadyvlm, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("steadyvlm.cli.catalogue.entries", lambda what: [])
    assert "docs/methods.md" in steadyvlm("list", "reductions").out


def test_presets_are_listed_with_what_they_stand_for(steadyvlm):
    done = steadyvlm("list", "presets")
    assert "  visionzip-64\n      visionzip(contextual=10, dominant=54); arXiv 2412.04467, Table 1" in done.out


def test_defaults_that_are_named_constants_are_shown_as_values():
    tree = ast.parse("ONE, TWO = '1', 2\nTHREE = 3\nfour.x = 4\nFIVE = call()")
    assert _constants(tree) == {"ONE": "'1'", "TWO": "2", "THREE": "3"}


def test_an_aside_of_a_heading_is_kept():
    assert _sections("Idea.\n\nDiffers (our choice):\n    - This.") == ("Idea.", "", "our choice.\n\n- This.")


def test_an_entry_tells_what_its_source_file_says():
    entry = describe("fastv", "steadyvlm.reduction.fastv:FastV")
    assert entry.options[0].name == "layer"
    assert entry.options[0].meaning.startswith("K, act before this decoder layer")
    assert entry.source.startswith("Chen et al. 2024")
    assert entry.differs.startswith("- ")
    assert entry.summary.startswith("FastV: ")
    assert "Source:" not in entry.idea


def test_the_listed_defaults_are_the_real_ones():
    """The syntax tree and the class itself must agree, for every method."""
    import dataclasses

    for what in ("reductions", "quantizers"):
        table = registries()[what]
        for entry in entries(what):
            fields = [item for item in dataclasses.fields(table.load(entry.name)) if item.init]
            assert [option.name for option in entry.options] == [item.name for item in fields]
            for option, item in zip(entry.options, fields, strict=True):
                expected = "" if item.default is dataclasses.MISSING else repr(item.default)
                assert option.default == expected


def test_every_method_says_where_it_comes_from():
    for what in ("reductions", "quantizers"):
        for entry in entries(what):
            assert entry.source, f"{entry.name}: the module docstring has no 'Source:'"
            assert entry.differs, f"{entry.name}: the module docstring has no 'Differs:'"
            assert all(option.meaning for option in entry.options), f"{entry.name}: an option is not explained"


def test_an_entry_of_a_package_that_is_gone_is_named_not_fatal():
    entry = describe("theirs", "not_installed_anywhere.method:Theirs")
    assert "not installed" in entry.summary
    assert entry.signature == "theirs"


def test_an_option_without_default_must_be_given():
    assert str(Option("path", "str", "", "")) == "path"
    assert str(Option("layer", "int", "3", "")) == "layer=3"
