"""Does a model infill? A handful of holes whose filling is plain, and what the answers show.

Knows no server. The signs: the model ends by itself, with its own end token, and what it wrote is
what belongs there. A model that was never trained on its sentinels does neither: it goes on until
it is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

from fim_eval.records import Completion, InfillTask, Probe, Prompt, RequestFailure
from fim_eval.words import ProbeVerdict

Asked = tuple[InfillTask, Prompt, Completion | RequestFailure]

ENDED_IF_TRAINED = 0.75
"""Of the answers at least: the end token was met."""

RIGHT_IF_TRAINED = 0.5
"""Of the answers at least: the middle, but for white space at its ends, is the one expected."""

ENDED_IF_UNTRAINED = 0.25
"""Of the answers at most."""

_HOLES: tuple[tuple[str, str, str], ...] = (
    # What comes before tells.
    ("class Dog:\n    def __init__(self, name):\n        self.name = ", "name", "\n"),
    ("try:\n    import json\nexcept ", "ImportError", ":\n    json = None\n"),
    ("def main():\n    print('done')\n\n\nif __name__ == '__main__':\n    ", "main", "()\n"),
    (
        "def squares(numbers):\n    result = []\n    for number in numbers:\n"
        "        result.append(number * number)\n    return ",
        "result",
        "\n",
    ),
    (
        "class ParseError(Exception):\n    def __init__(self, message):\n        super().",
        "__init__",
        "(message)\n",
    ),
    (
        "def close(self):\n    if self.file is not None:\n        self.file.close()\n"
        "        self.file = ",
        "None",
        "\n",
    ),
    ("while True:\n    line = file.readline()\n    if ", "not", " line:\n        break\n"),
    ("count = 0\nfor item in items:\n    count ", "+=", " 1\n"),
    # What comes after tells, or both.
    ("import ", "os", "\n\n\ndef join(folder, name):\n    return os.path.join(folder, name)\n"),
    ("if __name__ == '", "__main__", "':\n    main()\n"),
    ("def read(path):\n    with open(path) as ", "file", ":\n        return file.read()\n"),
    ("for i in ", "range", "(10):\n    print(i)\n"),
    ("def area(", "self", "):\n    return self.width * self.height\n"),
    ("for key, ", "value", " in items.items():\n    print(key, value)\n"),
    ("def is_empty(items):\n    return ", "len", "(items) == 0\n"),
    (
        "def check(value):\n    if not ",
        "isinstance",
        "(value, int):\n        raise TypeError('not a number')\n",
    ),
)

TASKS: tuple[InfillTask, ...] = tuple(
    InfillTask(
        task_id=f"Probe/{number}",
        problem_id=f"Probe/{number}",
        kind="random-span",
        context=None,
        prefix=prefix,
        middle=middle,
        suffix=suffix,
    )
    for number, (prefix, middle, suffix) in enumerate(_HOLES)
)
MAX_TOKENS = 32


def cannot_be_asked(reason: str) -> Probe:
    """What there is to say of a model that has no sentinels, or none that are known."""
    return Probe(
        verdict="does not infill", asked=0, answered=0, ended=0, right=0, ids_kept=None,
        evidence=(reason,),
    )  # fmt: skip


def conclude(asked: Sequence[Asked]) -> Probe:
    """What the answers to `TASKS` show."""
    answers = [
        (task, prompt, outcome)
        for task, prompt, outcome in asked
        if isinstance(outcome, Completion)
    ]
    ended = sum(_ended(prompt, answer) for _, prompt, answer in answers)
    right = sum(answer.text.strip() == task.middle for task, _, answer in answers)
    count = len(answers)
    verdict: ProbeVerdict
    if count < len(asked) / 2 or not count:
        verdict = "unclear"
    elif ended >= ENDED_IF_TRAINED * count and right >= RIGHT_IF_TRAINED * count:
        verdict = "infills"
    elif ended <= ENDED_IF_UNTRAINED * count:
        verdict = "does not infill"
    else:
        verdict = "unclear"
    return Probe(
        verdict=verdict,
        asked=len(asked),
        answered=count,
        ended=ended,
        right=right,
        ids_kept=all(answer.token_ids is not None for _, _, answer in answers),
        evidence=(
            f"{count} of {len(asked)} holes answered",
            f"{ended} of {count} answers end with the end token",
            f"{right} of {count} fill the hole as expected",
            *(_shown(task, prompt, outcome) for task, prompt, outcome in asked),
        ),
    )


def _ended(prompt: Prompt, answer: Completion) -> bool:
    ids = answer.token_ids or ()
    return bool(ids) and ids[-1] in prompt.stop_token_ids


def _shown(task: InfillTask, prompt: Prompt, outcome: Completion | RequestFailure) -> str:
    if isinstance(outcome, RequestFailure):
        return f"{task.task_id}: {outcome.reason}: {outcome.detail}"
    how = "ended" if _ended(prompt, outcome) else "cut off"
    return f"{task.task_id}: expected {task.middle!r}, got {outcome.text[:60]!r}, {how}"
