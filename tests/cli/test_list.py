from __future__ import annotations

from steadyvlm.cli.catalogue import Option, describe, entries, registries
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
    assert set(TABLES) == {*registries(), "studies"}


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
