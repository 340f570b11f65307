"""Raw completion in, middle out: what of a completion is taken as the filling of the hole.

The raw completion is stored; every policy is computed from it, never by asking again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from fim_eval.records import InfillTask, Prompt
from fim_eval.words import Policy

POLICIES: tuple[Policy, ...] = ("raw", "reference-lines")


def filled_middle(policy: Policy, completion: str, reference: str) -> str:
    r"""The completion's part that fills the hole, under one truncation policy.

    `raw`: all of it. `reference-lines`: as many lines as the reference has, an oracle that makes
    left-to-right completions comparable (InCoder, https://arxiv.org/abs/2204.05999, "L-R single").
    Lines are whole: where the reference ends with a newline, so does what is kept, even if the
    model stopped, or a stop string began, at that newline. An empty completion stays empty.

    >>> filled_middle("reference-lines", "    a = 1\n    b = 2\n", "    a = 1\n")
    '    a = 1\n'
    """
    match policy:
        case "raw":
            return completion
        case "reference-lines":
            return _first_lines(completion, reference)
        case _:
            assert_never(policy)


def filled_program(task: InfillTask, middle: str) -> str:
    """The whole program, its hole filled, as it is executed: nothing stripped or added."""
    return task.prefix + middle + task.suffix


def _first_lines(completion: str, reference: str) -> str:
    if not reference:
        return ""
    whole_lines = reference.endswith("\n")
    count = reference.count("\n") + (not whole_lines)
    # Not splitlines: it also cuts at form feeds and U+2028, which Python's own lines do not.
    lines = completion.split("\n", count)
    if len(lines) > count:
        return "\n".join(lines[:count]) + ("\n" if whole_lines else "")
    unended = whole_lines and completion and not completion.endswith("\n")
    return completion + "\n" if unended else completion


def continuation(
    token_ids: Sequence[int], prompt: Prompt, decode: Callable[[Sequence[int]], str]
) -> str:
    """The text of generated ids: without the end token, up to the first stop string.

    What the server itself should have sent; ours to compute because servers' detokenisers differ
    in the leading space.

    Args:
        token_ids: as returned, the end token included.
        prompt: what was asked; its stop rules are applied.
        decode: ids that continue a sequence to text.
    """
    if token_ids and token_ids[-1] in prompt.stop_token_ids:
        token_ids = token_ids[:-1]
    text = decode(token_ids)
    ends = [found for stop in prompt.stop if (found := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
