"""The closed words of the project: each choice that files, options and code share.

Light on purpose: the command line reads its choices from here without loading a record.
"""

from __future__ import annotations

from typing import Literal

Split = Literal["prompt", "test", "validation", "train"]
Kind = Literal["single-line"]
Strategy = Literal["fim-psm", "fim-spm", "lr"]
Context = Literal["none", "text"]
Policy = Literal["raw", "reference-lines"]
Infills = Literal["yes", "no", "disputed", "unknown"]

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
]
PERMANENT_FAILURES: frozenset[FailureReason] = frozenset(
    {"bad-request", "prompt-too-long", "prompt-altered"}
)
"""Asking again gives the same answer: not retried, not asked again on resume. Still counted."""
