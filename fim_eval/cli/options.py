"""Options that several commands share, and the exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fim_eval.words import Context, Engine, IsolationChoice, Kind, TestStyle

FAILED = 1
UNRESOLVED = 3
INTERRUPTED = 130
DEFAULT_KEY_ENV = "FIM_EVAL_API_KEY"
STANDARD = Path("-")
"""Standard input or output."""

TasksFile = Annotated[
    Path, typer.Option("--tasks", help="Task file from `fim-eval tasks`; - is standard input.")
]
ModelName = Annotated[str, typer.Option("--model", help="Name the server gives the model.")]
CardName = Annotated[
    str | None,
    typer.Option(
        "--card", help="Which model of our table it is, if the server's name does not say."
    ),
]
FormatName = Annotated[
    str,
    typer.Option(
        "--format",
        help="Sentinels to infill with: the name of a family, a .json file that describes one, or "
        "auto, which goes by the model's card, its name or its tokenizer, and says so.",
    ),
]
TokenizerSource = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Folder or hub repository with tokenizer.model or tokenizer.json. For fim-* by "
        "default the model's own repository; for lr by default none: the server tokenises text.",
    ),
]
ContextChoice = Annotated[
    Context, typer.Option("--context", help="Show the problem's text above the program, or not.")
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", min=1, help="Most new tokens; by default 64 for a line."),
]
Samples = Annotated[
    int, typer.Option("--samples", min=2, help="Candidates per task that lr-rerank orders.")
]
Shots = Annotated[int, typer.Option("--shots", min=1, help="Worked examples that fewshot shows.")]
Gold = Annotated[
    bool,
    typer.Option(
        "--gold",
        help="Also ask how probable the reference answers are; may be added to a finished run.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N tasks.")]
MaxConcurrency = Annotated[
    int,
    typer.Option(
        "--max-concurrency",
        min=1,
        help="Most prompts in flight at one server; how many it bears is found out, from 64 up.",
    ),
]
Priority = Annotated[
    int,
    typer.Option(
        "--priority",
        help="Sent with every request, where the server serves by priority (vLLM's "
        "--scheduling-policy priority): requests of a higher number wait for those of a lower.",
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Most prompts in one request.")]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="Ask only part I of N (as in 2/4, by problem) of the tasks; `fim-eval merge` puts the "
        "parts together.",
    ),
]
KeyEnv = Annotated[
    str,
    typer.Option(
        "--api-key-env", help="Environment variable that holds the API key, if one is needed."
    ),
]
Audit = Annotated[
    str | None,
    typer.Option(
        "--audit",
        help="Ask so much of it, as in 5%, once more at another concurrency: what changes is the "
        "noise floor of every difference, and stands beside it in the report.",
    ),
]
Stream = Annotated[
    str | None,
    typer.Option(
        "--stream",
        help="Stream the answers of so much of it, as in 10% or 100%, one prompt a request, to "
        "measure time to first token and time per output token.",
    ),
]
Problems = Annotated[
    str,
    typer.Option(
        "--problems",
        help="mbpp, mbpp-sanitized, humaneval, starter, or a path (.jsonl, .json, .parquet).",
    ),
]
SplitName = Annotated[str, typer.Option("--split", help="prompt, test, validation, train or all.")]
KindName = Annotated[
    Kind | None,
    typer.Option("--kind", help="Kind of hole; by default single-line, or that of official tasks."),
]
PerProblem = Annotated[
    int | None,
    typer.Option(
        "--per-problem",
        min=1,
        help="Most holes of one problem, drawn by --seed; by default all, of random-span ten.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the holes that are drawn.")]
ProbeFirst = Annotated[
    bool,
    typer.Option(
        "--probe/--no-probe",
        help="Before infilling runs, ask sixteen plain holes to see whether the model infills.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Programs at work at once; by default one per core."),
]
IsolationName = Annotated[
    IsolationChoice,
    typer.Option(
        "--isolation",
        help="How programs are contained; auto takes the best that this machine offers.",
    ),
]
EngineName = Annotated[
    Engine,
    typer.Option(
        "--engine", help="Where the work is done: here, or on the nodes of a Ray cluster."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        help="The cluster of --engine ray, as in 10.0.0.1:6379; by default RAY_ADDRESS. local "
        "starts one of this machine alone.",
    ),
]
TestsName = Annotated[
    TestStyle,
    typer.Option("--tests", help="MBPP's usual tests, its challenge tests, or both."),
]
TimeFloor = Annotated[
    float,
    typer.Option(
        "--time-floor",
        min=0.1,
        help="Processor seconds any program may take; more if ten times its reference's own.",
    ),
]
Memory = Annotated[
    int, typer.Option("--memory-mb", min=64, help="Address space of one program, in MiB.")
]
