from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from steadyvlm.report.data import ReportData
from steadyvlm.report.summary import caveats, headline, insight, readings
from steadyvlm.report.terminal import print_terminal, render_terminal, terminal_text


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [100, 108, 110, 124])
def test_every_line_fits_and_every_cell_is_whole(demo: ReportData, width: int) -> None:
    text = terminal_text(demo, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in ("original", "control", "fastv-50", "visionzip-40", "rtn-4bit"):
        assert sum(line.startswith(f"{row} ") for line in text.splitlines()) == 1


def test_a_run_name_of_17_letters_fits_on_one_line_of_a_pipe(demo: ReportData) -> None:
    assert any(line.startswith("least-attended-50 ") for line in terminal_text(demo).splitlines())


def test_the_first_line_is_the_verdict_and_the_sentences_are_the_pages(demo: ReportData) -> None:
    text = squeezed(terminal_text(demo))
    assert text.startswith(headline(demo))
    for sentence in (insight(demo), *caveats(demo)):
        assert sentence in text
    assert all(reading.arm.name in text for reading in readings(demo))


def test_numbers_stand_in_their_row(made: Callable[..., ReportData]) -> None:
    data = made(["yes"] * 8 + ["no"] * 2, {"fast": ["no", "no", *["yes"] * 6, "yes", None]})
    row = next(line for line in terminal_text(data).splitlines() if line.startswith("fast  "))
    assert row.split() == ["fast", "9", "77.8", "−11.1", "33.3", "–", "22.2", "25.0", "11.1", "0", "1", "–"]


def test_a_narrow_screen_leaves_columns_out_but_not_the_main_ones(demo: ReportData) -> None:
    wide, narrow = terminal_text(demo, width=120), terminal_text(demo, width=100)
    assert "format" in wide
    assert "format" not in narrow.split("Percent of answers")[0]
    assert all(name in narrow for name in ("(DR)", "(NDR)", "change"))


def test_a_terminal_gets_colour_and_a_pipe_gets_text(demo: ReportData) -> None:
    pipe, terminal = io.StringIO(), io.StringIO()
    print_terminal(demo, Console(file=pipe))
    print_terminal(demo, Console(file=terminal, force_terminal=True, color_system="standard", width=120))
    assert "\x1b" not in pipe.getvalue()
    assert pipe.getvalue() == terminal_text(demo)
    assert "\x1b[1m" in terminal.getvalue()


def test_without_a_console_it_prints(demo: ReportData, capsys: pytest.CaptureFixture[str]) -> None:
    print_terminal(demo)
    assert headline(demo) in squeezed(capsys.readouterr().out)


def test_a_screen_without_unicode_gets_ascii(demo: ReportData) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", newline="\n")
    Console(file=file, width=110, force_terminal=True, color_system=None).print(render_terminal(demo))
    file.flush()
    assert b"right>wrong" in raw.getvalue()


def test_names_cannot_drive_the_terminal(made: Callable[..., ReportData]) -> None:
    data = made(["yes"] * 3, {"\x1b]0;owned\x07[bold]x[/bold]": ["no"] * 3})
    text = terminal_text(replace(data, notes=["\x1b[2J gone"]))
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text
    assert "␛[2J gone" in text


def test_families_with_most_broken_answers_are_named(demo: ReportData) -> None:
    assert "Most right→wrong by family" in terminal_text(demo)


def test_no_arms_still_reads_well(made: Callable[..., ReportData]) -> None:
    text = terminal_text(made(["yes"], {}))
    assert squeezed(text) == "toy-model: no accelerated run to compare yet"
