"""What the comparison found, for people: a terminal summary and one self-contained page.

`ReportData` holds plain values; nothing here needs torch, a model or the network.
"""

from steadyvlm.report.data import ArmReport, ReportData
from steadyvlm.report.html import write_html
from steadyvlm.report.terminal import print_terminal, render_terminal, terminal_text

__all__ = ["ArmReport", "ReportData", "print_terminal", "render_terminal", "terminal_text", "write_html"]
