"""Run directories in, tables out. Reads only; never asks a model, never runs code."""

from fim_eval.report.analysis import findings
from fim_eval.report.browser import join_browsed
from fim_eval.report.calibration import beside_published, show_calibration
from fim_eval.report.comparison import compare, show_comparison
from fim_eval.report.files import write_findings
from fim_eval.report.output import find_runs, show, store
from fim_eval.report.scored import ScoredRun, read_scored
from fim_eval.report.table import score_run, summarise

__all__ = [
    "ScoredRun",
    "beside_published",
    "compare",
    "find_runs",
    "findings",
    "join_browsed",
    "read_scored",
    "score_run",
    "show",
    "show_calibration",
    "show_comparison",
    "store",
    "summarise",
    "write_findings",
]
