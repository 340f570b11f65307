"""The closed words of the project: each choice that files, options and code share.

Light on purpose: the command line reads its choices from here without loading a record.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["prompt", "test", "validation", "train"]
Kind = Literal["single-line", "multi-line", "random-span", "block"]
BlockPart = Literal["body", "condition", "return-value", "call"]
"""What a `block` is in the syntax tree."""

Strategy = Literal["fim-psm", "fim-spm", "lr", "lr-rerank", "fewshot"]
INFILLING: tuple[Strategy, ...] = ("fim-psm", "fim-spm")
"""Need a model that was trained to infill, and its sentinels."""

RankedBy = Literal["sum", "mean"]
Context = Literal["none", "text"]
Policy = Literal["raw", "reference-lines", "first-line", "suffix-overlap", "syntax"]
ProbeVerdict = Literal["infills", "does not infill", "unclear"]
Infills = Literal["yes", "no", "disputed", "unknown"]

Scored = Literal["gold", "candidate"]
"""Whose probability is asked. `gold`: the reference middle, given the prompt. `candidate`: the
whole program, its hole filled with a candidate."""

FailureReason = Literal[
    "timeout",
    "connection",
    "overloaded",
    "server-error",
    "malformed-response",
    "error-in-body",
    "aborted",
    "wrong-model",
    "prompt-altered",
    "bad-request",
    "prompt-too-long",
    "corrupted",
    "boundary-unknown",
]
PERMANENT_FAILURES: frozenset[FailureReason] = frozenset(
    {"bad-request", "prompt-too-long", "prompt-altered", "boundary-unknown"}
)
"""Asking again gives the same answer: not retried, not asked again on resume. Still counted."""

TestStyle = Literal["standard", "challenge", "all"]
Evidence = Literal["values", "completion"]
"""How a verdict is known: values compared outside the jail, or a test program that ran to its end
inside of it."""

Isolation = Literal["namespaces", "landlock", "none"]
IsolationChoice = Literal["auto", "namespaces", "landlock", "none"]
Engine = Literal["local", "ray"]
"""Where programs run."""

VerdictOutcome = Literal[
    "passed",
    "wrong-answer",
    "error",
    "syntax-error",
    "timeout",
    "out-of-memory",
    "died",
    "output-limit",
    "foreign-type",
    "protocol-error",
    "sandbox-error",
    "reference-fails",
]
NO_VERDICT: frozenset[VerdictOutcome] = frozenset({"sandbox-error", "reference-fails"})
"""Ours or the data set's fault, not the program's: unresolved, never scored."""
