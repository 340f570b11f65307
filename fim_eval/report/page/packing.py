"""Tasks as the page holds them: an index that filters read, and texts in compressed pieces.

Why in this form: docs/decisions/0015. What reads it is `page.js`.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import get_args

import orjson

from fim_eval.postprocess import POLICIES
from fim_eval.report.browser import Answer, Browsed, BrowsedTask
from fim_eval.report.views import plain_names
from fim_eval.words import NO_VERDICT, Kind, Policy, VerdictOutcome

VERDICTS: tuple[VerdictOutcome, ...] = get_args(VerdictOutcome)
KINDS: tuple[Kind, ...] = get_args(Kind)

_PIECE = 512 * 1024
"""Bytes of JSON in one piece: what is decoded to show one task. One task may be larger."""

_NOT_ASKED, _NO_ANSWER, _NOT_JUDGED, _FIRST_VERDICT = range(4)


def pack(browsed: Browsed, headline: Mapping[Kind, Policy]) -> tuple[str, list[str]]:
    """The index and the pieces, each gzip in base64: characters that no HTML can mistake.

    The index is an object:
        answerers: [[model as it is called, strategy, run or null], ...].
        kinds, policies, verdicts: the words; unresolved: the verdicts that are none; headline: the
            policy that the answer is told under, by kind.
        ids: [task_id, ...]; kind: a digit per task.
        states: per policy, per answerer a string with one character per task. Its code less 48 is
            `2 * outcome + exact match`; outcome 0: was not asked, 1: no answer, 2: not judged,
            3 + place among `verdicts`.
        starts: the first task of each piece.
    A piece is a list of tasks, each
        [context or null, prefix, middle, suffix, sensitive or null, answers], an answer null or
        [failure or null, met_limit or null, [[middle, edit_distance, detail, [policy, ...]], ...]].
    """
    pieces: list[bytes] = []
    starts: list[int] = []
    for start, piece in _pieces(browsed.tasks):
        starts.append(start)
        pieces.append(piece)
    names = plain_names([*{each.model: None for each in browsed.answerers}])
    index = orjson.dumps(
        {
            "answerers": [
                [names[each.model], each.strategy, each.run] for each in browsed.answerers
            ],
            "kinds": KINDS,
            "policies": POLICIES,
            "verdicts": VERDICTS,
            "headline": headline,
            "unresolved": [name for name in VERDICTS if name in NO_VERDICT],
            "ids": [task.task_id for task in browsed.tasks],
            "kind": "".join(str(KINDS.index(task.kind)) for task in browsed.tasks),
            "states": [
                [
                    "".join(_state(task.answers[place], policy) for task in browsed.tasks)
                    for place in range(len(browsed.answerers))
                ]
                for policy in POLICIES
            ],
            "starts": starts,
        }
    )
    # zlib works outside the interpreter's lock.
    with ThreadPoolExecutor(2) as pool:
        packed = list(pool.map(_packed, [index, *pieces]))
    return packed[0], packed[1:]


def _pieces(tasks: tuple[BrowsedTask, ...]) -> Iterator[tuple[int, bytes]]:
    held: list[bytes] = []
    start = size = 0
    for number, task in enumerate(tasks):
        line = orjson.dumps(
            [
                task.context,
                task.prefix,
                task.middle,
                task.suffix,
                task.sensitive,
                [_told(answer) for answer in task.answers],
            ]
        )
        if held and size + len(line) > _PIECE:
            yield start, b"[" + b",".join(held) + b"]"
            held, start, size = [], number, 0
        held.append(line)
        size += len(line)
    if held:
        yield start, b"[" + b",".join(held) + b"]"


def _told(answer: Answer | None) -> list[object] | None:
    if answer is None:
        return None
    fillings = [
        [
            filling.middle,
            filling.edit_distance,
            filling.detail,
            [POLICIES.index(policy) for policy in filling.policies],
        ]
        for filling in answer.fillings
    ]
    return [answer.failure, answer.met_limit, fillings]


def _state(answer: Answer | None, policy: Policy) -> str:
    if answer is None:
        return _character(_NOT_ASKED)
    for filling in answer.fillings:
        if policy in filling.policies:
            if filling.verdict is None:
                return _character(_NOT_JUDGED, exact=filling.exact_match)
            place = _FIRST_VERDICT + VERDICTS.index(filling.verdict)
            return _character(place, exact=filling.exact_match)
    return _character(_NO_ANSWER)


def _character(outcome: int, *, exact: bool = False) -> str:
    return chr(48 + 2 * outcome + exact)


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, compresslevel=5, mtime=0)).decode()
