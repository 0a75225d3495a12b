"""The report on one model and its engines: an HTML page, a CSV for DVC plots, and a table for the terminal.

It judges nothing anew: every figure comes from the records of earlier stages, and one that they lack is shown as
"not measured".
"""

from qntz.report.page import render_html
from qntz.report.plots import plots_csv
from qntz.report.run import EngineRun, Run, gather
from qntz.report.terminal import terminal_summary

__all__ = ["EngineRun", "Run", "gather", "plots_csv", "render_html", "terminal_summary"]
