"""The first screen in a terminal: verdict, one table, what each run did, where, and what to beware of.

Rich draws it; without a terminal the same lines come out as plain text. Sentences and numbers are the page's own.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from steadyvlm.report.data import ArmReport, ReportData
from steadyvlm.report.families import worst_families
from steadyvlm.report.measures import Measure
from steadyvlm.report.summary import Reading, caveats, headline, insight, readings
from steadyvlm.report.tables import ArmRow, OriginalRow, arm_rows, original_row
from steadyvlm.report.text import DASH, ascii_only, label, percent
from steadyvlm.report.variants import contrast_rows, difference_in_words, in_words, variant_rows

WIDTH = 110
"""Columns of plain text."""
_WIDEST = 124
_ALL_COLUMNS = 108
"""From so many columns on, the table shows the columns that a narrow one leaves out."""


def render_terminal(data: ReportData) -> RenderableType:
    """Return what rich can print; best from 100 columns on."""
    return _Screen(data)


def print_terminal(data: ReportData, console: Console | None = None) -> None:
    """Print the summary; as plain text of 110 columns when the output is no terminal."""
    console = console or Console()
    if not console.is_terminal:
        console.file.write(terminal_text(data))
        return
    console.print(render_terminal(data))


def terminal_text(data: ReportData, *, width: int = WIDTH) -> str:
    """Return the summary as plain text."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render_terminal(data))
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


class _Screen:
    """The summary, at the width and in the characters of the console that prints it."""

    def __init__(self, data: ReportData) -> None:
        self._data = data

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = min(options.max_width, _WIDEST)
        screen = _Pen(plain=options.ascii_only).screen(self._data, wide=width >= _ALL_COLUMNS)
        yield from console.render(screen, options.update(width=width))


class _Pen:
    """Makes rich texts; in ASCII only where the screen knows nothing else."""

    def __init__(self, *, plain: bool) -> None:
        self._plain = plain

    def text(self, content: str, style: str = "") -> Text:
        return Text(ascii_only(content) if self._plain else content, style=style)

    def screen(self, data: ReportData, *, wide: bool) -> Group:
        parts: list[RenderableType] = [Text(), self.text(headline(data), "bold")]
        if insight(data):
            parts.append(self.text(insight(data)))
        if data.arms:
            parts += [Text(), self._table(original_row(data), arm_rows(data), wide=wide)]
            parts += [Text(), self.text("Percent of answers with interval; change and excess in points.", "dim")]
            parts += [Text(), self._list([(item.arm.name, _found(item)) for item in readings(data)])]
        variants, contrasts = variant_rows(data), contrast_rows(data)
        if variants:
            parts += [Text(), self.text("Over calibration seeds", "bold")]
            parts.append(self._list([(row.name, in_words(row)) for row in variants]))
        if contrasts:
            parts += [Text(), self.text("One minus the other, in points", "bold")]
            parts.append(self._list([(f"{row.first} − {row.second}", difference_in_words(row)) for row in contrasts]))
        where = [(arm.name, _where(arm)) for arm in data.accelerated]
        if any(found for _, found in where):
            parts += [Text(), self.text("Most right→wrong by family", "bold")]
            parts.append(self._list([(name, found) for name, found in where if found]))
        if caveats(data):
            parts += [Text(), self.text("Before you believe it", "bold yellow")]
            parts.append(self._list([("·", sentence) for sentence in caveats(data)]))
        return Group(*parts, Text())

    def _table(self, original: OriginalRow, rows: Sequence[ArmRow], *, wide: bool) -> Table:
        lines = box.ASCII2 if self._plain else box.SIMPLE_HEAD
        table = Table(box=lines, padding=0, pad_edge=False, show_edge=self._plain)  # two columns more for names
        table.add_column("run", min_width=10, max_width=18, overflow="fold")
        for name in _headings(wide):
            table.add_column(self.text(name), justify="right", no_wrap=True, vertical="top")
        tokens = original.tokens.text if original.tokens else DASH
        blank = len(_headings(wide)) - 4
        cells = ["original", f"{original.samples:,}", original.score, *[""] * blank, str(original.failures), tokens]
        table.add_row(*map(self.text, cells))
        for row in rows:
            style = "dim" if row.is_control else ""
            table.add_row(*(self.text(cell, style) for cell in _cells(row, wide)))
        return table

    def _list(self, lines: Sequence[tuple[str, str]]) -> Table:
        """Names in one column, sentences that wrap beside them in another."""
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(max_width=22, overflow="fold")
        table.add_column(ratio=1)
        for name, sentence in lines:
            table.add_row(self.text(f"  {label(name)}"), self.text(sentence))
        return table


def _headings(wide: bool) -> list[str]:
    shares = ["score\nchange", "changed\n(DR)", "beyond\nnoise", "right→wrong\n(NDR)", "of\nright", "wrong→\nright"]
    return ["n", "score", *shares, *(["format\nonly"] if wide else []), "no\nansw.", "vis.\ntok."]


def _cells(row: ArmRow, wide: bool) -> list[str]:
    excess = _two_lines(row.excess) if wide else row.excess.text
    shares = [_two_lines(row.score_change), _two_lines(row.changed), excess, _two_lines(row.broken)]
    counts = [*([f"{row.format_only:,}"] if wide else []), f"{row.failures:,}"]
    tokens = row.tokens.text if row.tokens else DASH
    name = label(row.name)
    return [name, f"{row.n:,}", row.score, *shares, row.broken_of_right.text, row.mended.text, *counts, tokens]


def _two_lines(measure: Measure) -> str:
    """The estimate over its interval, which is set tight to leave room for all columns."""
    return f"{measure.text}\n{measure.interval.replace(', ', ',')}" if measure.interval else measure.text


def _found(reading: Reading) -> str:
    return f"{reading.sentence} By image: {reading.test}." if reading.test else reading.sentence


def _where(arm: ArmReport) -> str:
    return ", ".join(
        f"{label(item.name)} {percent(item.negative_divergence_ratio.value)} % ({item.negative:,} of {item.n:,})"
        for item in worst_families(arm.comparison)
    )
