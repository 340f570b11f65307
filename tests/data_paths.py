"""Where the tests find data that is not part of the repository; knows no path of any machine.

Each folder is named by an environment variable. Unset: the tests that need it are skipped, and the
reason says which variable to set. Set, but without the file: they fail.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from fim_eval.infill import tasks_of
from fim_eval.problems import load_problems
from fim_eval.records import DatasetFacts, InfillTask, Problem
from fim_eval.tokenizer import SentencePieceTokenizer

_MBPP = "FIM_EVAL_MBPP"
_INFILLING = "FIM_EVAL_HUMANEVAL_INFILLING"
_TOKENIZER = "FIM_EVAL_CODELLAMA_TOKENIZER"

FULL = "mbpp.jsonl"
SANITIZED = "sanitized-mbpp.json"


def _needs(variable: str, what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not os.environ.get(variable), reason=f"{variable} is unset: it must point to {what}"
    )


needs_mbpp = _needs(
    _MBPP,
    f"a folder with MBPP's {FULL} and {SANITIZED} "
    "(https://github.com/google-research/google-research/tree/master/mbpp)",
)
needs_infilling = _needs(
    _INFILLING,
    "a folder with HumanEval-SingleLineInfilling.jsonl.gz "
    "(https://github.com/openai/human-eval-infilling/tree/master/data)",
)
needs_tokenizer = _needs(
    _TOKENIZER, "a folder with the tokenizer.model of codellama/CodeLlama-7b-hf"
)


def mbpp_path(name: str) -> Path:
    """`FULL` or `SANITIZED` in the folder that `FIM_EVAL_MBPP` names."""
    return Path(os.environ[_MBPP]) / name


def infilling_path() -> Path:
    """The official single-line tasks."""
    return Path(os.environ[_INFILLING]) / "HumanEval-SingleLineInfilling.jsonl.gz"


def tokenizer_folder() -> Path:
    """The folder that holds Code Llama's tokenizer.model."""
    return Path(os.environ[_TOKENIZER])


def quiet(_: str) -> None:
    """Hear a notice and say nothing."""


@cache
def mbpp(name: str, split: str) -> tuple[list[Problem], DatasetFacts]:
    """MBPP's problems of one split, and the facts of the set."""
    return load_problems(str(mbpp_path(name)), split, quiet)


@cache
def mbpp_tasks(name: str, split: str) -> list[InfillTask]:
    """The single-line tasks of MBPP's problems of one split."""
    return [
        task for problem in mbpp(name, split)[0] for task in tasks_of(problem, "single-line").tasks
    ]


@cache
def code_llama_tokenizer() -> SentencePieceTokenizer:
    """Code Llama's tokenizer."""
    return SentencePieceTokenizer(tokenizer_folder() / "tokenizer.model")
