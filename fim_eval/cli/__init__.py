"""The command line: parse, build the parts, print, exit code. The only place that prints.

Exit codes: 0 all is answered and judged; 1 the run cannot go on; 2 wrong usage; 3 finished, but
something stays without an answer or a verdict; 130 interrupted. Results go to standard output, all
else to standard error.
"""

from __future__ import annotations

import os
import sys

import typer

from fim_eval.cli.asking import eval_, probe, prompts, run, tasks
from fim_eval.cli.calibrating import calibrate
from fim_eval.cli.console import say
from fim_eval.cli.exchanging import export, import_
from fim_eval.cli.judging import doctor, judge, selfcheck, verify
from fim_eval.cli.merging import merge
from fim_eval.cli.mocking import mock_server
from fim_eval.cli.options import FAILED
from fim_eval.cli.planning import plan
from fim_eval.cli.reporting import compare, report
from fim_eval.errors import FimEvalError

app = typer.Typer(
    help="How code infilling improves with model size: tasks, prompts, runs and their table.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(plan)
app.command()(tasks)
app.command()(prompts)
app.command()(probe)
app.command()(run)
app.command(name="eval")(eval_)
app.command()(calibrate)
app.command()(merge)
app.command()(verify)
app.command()(report)
app.command()(compare)
app.command()(export)
app.command(name="import")(import_)
app.command()(judge)
app.command()(selfcheck)
app.command()(doctor)
app.command()(mock_server)


def main() -> None:
    """Run the command line; every expected error is one sentence and exit code 1."""
    # The hub's client tells each of its retries; we tell what came of them, in one sentence.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        app()
    except FimEvalError as error:
        say(f"fim-eval: {error}")
        sys.exit(FAILED)
