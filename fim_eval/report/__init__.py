"""Run directories in, tables out. Reads only; never asks a model, never runs code."""

from fim_eval.report.calibration import beside_published, show_calibration
from fim_eval.report.output import find_runs, show, store
from fim_eval.report.table import score_run, summarise

__all__ = [
    "beside_published",
    "find_runs",
    "score_run",
    "show",
    "show_calibration",
    "store",
    "summarise",
]
