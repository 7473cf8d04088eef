"""`run`, `status` and `report` on a study of several models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from steadyvlm.cli.run import run_suite
from steadyvlm.cli.suite import MANIFEST, publish_suite, read_manifest, write_manifest
from steadyvlm.errors import RunError, StoreError
from steadyvlm.study.suite import Suite


@pytest.fixture
def suite(questions, study_of):
    study = study_of(questions)
    return Suite("both", tuple(replace(study, name=f"both {model}", model=model) for model in ("first", "second")))


@pytest.fixture
def root(suite, loader, tmp_path, capsys):
    run_suite(suite, tmp_path / "both", loader=loader)
    return tmp_path / "both"


def test_every_model_has_its_page_and_there_is_one_over_all(root, capsys):
    assert (root / "first" / "report.html").is_file()
    page = (root / "index.html").read_text(encoding="utf-8")
    assert 'href="first/report.html"' in page
    assert 'href="second/report.html#run=arm0' in page


def test_status_and_report_know_the_folder(root, steadyvlm):
    ran = steadyvlm("status", root)
    assert ran.code == 0
    assert "Study both first" in ran.out
    assert "Study both second" in ran.out
    (root / "index.html").unlink()
    ran = steadyvlm("report", root)
    assert ran.code == 0
    assert "Overview:" in ran.out
    assert (root / "index.html").is_file()


def test_one_page_cannot_hold_several_reports(root, steadyvlm):
    ran = steadyvlm("report", root, "--html", "one.html")
    assert ran.code == 2
    assert "each model" in ran.err


def test_a_model_that_fails_costs_only_itself(suite, loader, tmp_path, capsys):
    def picky(model, *, device, dtype):
        if model == "first":
            raise RunError("the first model is broken.")
        return loader(model, device=device, dtype=dtype)

    with pytest.raises(RunError, match="both first: the first model is broken"):
        run_suite(suite, tmp_path / "s", loader=picky)
    said = capsys.readouterr()
    assert "The other models go on" in said.err
    assert "first is left out of the overview" in said.err
    assert (tmp_path / "s" / "second" / "report.html").is_file()
    assert (tmp_path / "s" / "index.html").is_file()


def test_nothing_complete_means_no_overview(tmp_path):
    (tmp_path / "a").mkdir()
    write_manifest("x", tmp_path, [tmp_path / "a"])
    publish_suite(tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_a_folder_belongs_to_one_suite(tmp_path):
    write_manifest("x", tmp_path, [tmp_path / "a"])
    write_manifest("x", tmp_path, [tmp_path / "a", tmp_path / "b"])
    assert read_manifest(tmp_path) == ("x", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(StoreError, match="holds the suite 'x'"):
        write_manifest("y", tmp_path, [])


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"suite": "x", "folders": ["../secret"]})])
def test_a_damaged_manifest_is_told(tmp_path: Path, text: str):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(StoreError, match="run the suite again"):
        read_manifest(tmp_path)


def test_the_command_runs_a_file_of_several_models(questions, tmp_path, monkeypatch, loader, steadyvlm):
    import steadyvlm.study.runner as runner

    monkeypatch.setattr(runner, "_local_loader", lambda: loader)
    path = tmp_path / "several.yaml"
    path.write_text(
        f"study: several\nmodels: [one, two]\ntasks: [{{name: folder, path: '{questions}'}}]\n"
        "recipes: [{name: half, recipe: fastv()}]\n"
    )
    ran = steadyvlm("run", path, "--folder", tmp_path / "out")
    assert ran.code == 0
    assert (tmp_path / "out" / "one" / "report.html").is_file()
    assert (tmp_path / "out" / "index.html").is_file()
