"""Run directories in, tables out. Reads only; never asks a model, never runs code."""

from fim_eval.report.analysis import findings
from fim_eval.report.browser import join_browsed
from fim_eval.report.calibration import beside_published, show_calibration
from fim_eval.report.comparison import compare, show_comparison
from fim_eval.report.counted import CountedRun, counted_of, read_counted, summary_of
from fim_eval.report.files import write_findings
from fim_eval.report.output import find_runs, show, store
from fim_eval.report.scored import ScoredRun, read_each, read_scored
from fim_eval.report.table import score_run, summarise

__all__ = [
    "CountedRun",
    "ScoredRun",
    "beside_published",
    "compare",
    "counted_of",
    "find_runs",
    "findings",
    "join_browsed",
    "read_counted",
    "read_each",
    "read_scored",
    "score_run",
    "show",
    "show_calibration",
    "show_comparison",
    "store",
    "summarise",
    "summary_of",
    "write_findings",
]
