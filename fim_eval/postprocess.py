"""Raw completion in, middle out: what of a completion is taken as the filling of the hole.

The raw completion is stored; every policy is computed from it, never by asking again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import assert_never

from fim_eval.records import InfillTask, Prompt
from fim_eval.syntax import longest_parsing
from fim_eval.words import Policy

POLICIES: tuple[Policy, ...] = (
    "raw", "reference-lines", "first-line", "suffix-overlap", "syntax",
)  # fmt: skip

_TOKENS = re.compile(r"\w+|[^\S\n]+|\n|.", re.DOTALL)


def filled_middle(policy: Policy, completion: str, task: InfillTask) -> str:
    r"""The completion's part that fills the hole, under one truncation policy.

    raw: all of it.
    reference-lines: as many lines as the reference has, an oracle that makes left-to-right
        completions comparable (InCoder, https://arxiv.org/abs/2204.05999, "L-R single").
    first-line: its first line, as DeepSeek-Coder-V2 (https://arxiv.org/abs/2406.11931) scores
        single lines.
    suffix-overlap: up to where it begins to repeat the suffix: before the first of its lines that
        is the suffix's first non-blank line, or before an end that the suffix begins with.
    syntax: the longest beginning with which the program parses, cut at line ends where the hole is
        of whole lines and between tokens where it is not (as SAFIM,
        https://arxiv.org/abs/2403.04814); all of it if none does.

    Lines are whole: where the reference ends with a newline, so does what is kept, even if the
    model stopped, or a stop string began, at that newline. An empty completion stays empty.
    """
    match policy:
        case "raw":
            return completion
        case "reference-lines":
            return _first_lines(completion, task.middle)
        case "first-line":
            line = completion.partition("\n")[0]
            return line + "\n" if completion and task.middle.endswith("\n") else line
        case "suffix-overlap":
            return _before_suffix(completion, task)
        case "syntax":
            return _longest_parsing(completion, task)
        case _:
            assert_never(policy)


def filled_program(task: InfillTask, middle: str) -> str:
    """The whole program, its hole filled, as it is executed: nothing stripped or added."""
    return task.prefix + middle + task.suffix


def _whole(text: str, task: InfillTask) -> str:
    """The text, ended with a newline where the reference is."""
    unended = task.middle.endswith("\n") and text and not text.endswith("\n")
    return text + "\n" if unended else text


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


def _before_suffix(completion: str, task: InfillTask) -> str:
    ends = [len(completion)]
    first_line = next((line for line in task.suffix.split("\n") if line.strip()), None)
    if first_line is not None and first_line in completion:
        place = 0
        for line in completion.split("\n"):
            # Not the first line of a hole that begins within one: it is no line of its own.
            is_line = place > 0 or task.prefix.endswith("\n") or not task.prefix
            if is_line and line == first_line:
                ends.append(place)
                break
            place += len(line) + 1
    # Only where the suffix's first character stands: a slice of every place costs as much as all
    # else of a report.
    start = max(0, len(completion) - len(task.suffix)) - 1
    while task.suffix and (start := completion.find(task.suffix[0], start + 1)) >= 0:
        tail = completion[start:]
        if task.suffix.startswith(tail):
            if tail.strip():
                ends.append(start)
            break
    return _whole(completion[: min(ends)], task)


def _longest_parsing(completion: str, task: InfillTask) -> str:
    whole = _whole(completion, task)
    end = longest_parsing(task.prefix, whole, _ends(completion, whole, task), task.suffix)
    return completion if end is None else whole[:end]


def _ends(completion: str, whole: str, task: InfillTask) -> list[int]:
    """Where a completion may be cut, longest first: places in it, ended as a whole."""
    if task.middle.endswith("\n"):
        breaks = [found.start() for found in re.finditer("\n", completion)]
        # Lines are whole, but before a line break after another, or at the start, none is added.
        ends = [place + (place > 0 and completion[place - 1] != "\n") for place in reversed(breaks)]
    else:
        ends = [found.end() for found in _TOKENS.finditer(completion)][::-1]
    return list(dict.fromkeys([len(whole), *ends, 0]))


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
