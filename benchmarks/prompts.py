"""How fast tasks are cut and prompts built: MBPP, on one core, in processor time.

Tasks: all kinds of holes, of all problems, the file read once for each kind. Prompts: `fim-psm` as
ids, for each tokenizer that is named, its own loading apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

# Before the library is imported, which reads it once.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from fim_eval.recipe import Recipe, prepare
from fim_eval.records import InfillTask
from fim_eval.suite import build_suite
from fim_eval.words import Kind


def main() -> None:
    """Cut, build, print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", default=os.environ.get("FIM_EVAL_MBPP", "mbpp"))
    parser.add_argument(
        "--tokenizer",
        nargs=2,
        action="append",
        metavar=("FOLDER", "FORMAT"),
        help="a folder with tokenizer.model or tokenizer.json, and the name of its format",
    )
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    problems = Path(arguments.problems)
    source = str(problems / "mbpp.jsonl" if problems.is_dir() else problems)
    suites = {kind: build_suite(source, "all", kind, print) for kind in get_args(Kind)}
    repetitions = arguments.repetitions

    def cut() -> None:
        for kind in suites:
            build_suite(source, "all", kind, print)

    count = sum(len(list(suite.tasks)) for suite in suites.values())
    print(f"tasks    {count:,} of all kinds: {_median_s(cut, repetitions):.2f} s")
    for folder, name in arguments.tokenizer or ():
        recipe = Recipe(model="any", strategy="fim-psm", tokenizer=folder, format=name)
        load_s = _median_s(partial(_build, [], recipe), repetitions)
        for kind, suite in suites.items():
            tasks = list(suite.tasks)
            build_s = _median_s(partial(_build, tasks, recipe), repetitions)
            rate = len(tasks) / (build_s - load_s)
            print(f"prompts  {name:16} {kind:12} {rate:8,.0f} a second (loading {load_s:.2f} s)")


def _build(tasks: Sequence[InfillTask], recipe: Recipe) -> None:
    prepared = prepare(recipe)
    for task in tasks:
        prepared.prompt_of(task)


def _median_s(work: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
