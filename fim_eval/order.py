"""In which order, and how many together, prompts are asked. Pure: knows no server.

Servers keep what they have computed of a prompt's beginning for a while (automatic prefix caching,
https://docs.vllm.ai/en/latest/features/automatic_prefix_caching.html): prompts that begin alike
are asked one after the other, all of one problem of the same server.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from fim_eval.records import Prompt


@dataclass(slots=True)
class Question:
    """A prompt that is asked, and those that are the same but for their task."""

    prompt: Prompt
    others: list[Prompt] = field(default_factory=list)


def distinct(prompts: Iterable[Prompt]) -> list[Question]:
    """Every question once, in the order in which it first came.

    Left to right, all holes of a program that begin at the same place get the same prompt: of
    MBPP's 25,576 multi-line holes a fifth are different questions. Different samples of one task
    are different: they are drawn with seeds of their own.
    """
    found: dict[tuple[object, ...], Question] = {}
    for prompt in prompts:
        key = (prompt.token_ids or prompt.text, prompt.sample_index, *_settings(prompt))
        if (question := found.get(key)) is None:
            found[key] = Question(prompt)
        else:
            question.others.append(prompt)
    return list(found.values())


def in_cache_order(questions: Iterable[Question], problem_of: dict[str, str]) -> list[Question]:
    """Problem by problem, as they first come; in each, prompts that begin alike side by side.

    Args:
        questions: to order.
        problem_of: the problem of each task, by task id.
    """
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(problem_of[question.prompt.task_id], []).append(question)
    return [question for group in groups.values() for question in by_beginning(group)]


def by_beginning(questions: Iterable[Question]) -> list[Question]:
    """Those whose prompts begin alike side by side."""
    return sorted(questions, key=lambda one: _content(one.prompt))


class Prompted(Protocol):
    """Something that is asked by a prompt."""

    @property
    def prompt(self) -> Prompt:
        """That is sent."""
        ...


PromptedT = TypeVar("PromptedT", bound=Prompted)


def batches(questions: Iterable[PromptedT], size: int) -> Iterator[list[PromptedT]]:
    """Neighbours that may go in one request: alike in every setting, at most `size` together."""
    batch: list[PromptedT] = []
    for question in questions:
        if batch and (
            len(batch) == size or _together(batch[0].prompt) != _together(question.prompt)
        ):
            yield batch
            batch = []
        batch.append(question)
    if batch:
        yield batch


def places_by(keys: Sequence[int]) -> array[int]:
    """Places of small whole numbers: those of the smallest first, of equal ones in their order.

    As `sorted(range(len(keys)), key=keys.__getitem__)`, with eight bytes a place in memory.
    """
    starts = array("Q", bytes(8 * (max(keys, default=0) + 2)))
    for key in keys:
        starts[key + 1] += 1
    for key in range(1, len(starts)):
        starts[key] += starts[key - 1]
    places = array("Q", bytes(8 * len(keys)))
    for place, key in enumerate(keys):
        places[starts[key]] = place
        starts[key] += 1
    return places


def replica_of(problem_id: str, urls: Sequence[str]) -> str:
    """Which of several servers of one model a problem belongs to.

    By rendezvous hashing (Thaler and Ravishankar, 1998): a server that comes or goes moves no
    problem between the others.
    """
    return max(urls, key=lambda url: hashlib.sha256(f"{url} {problem_id}".encode()).digest())


def shard_of(problem_id: str, shards: int) -> int:
    """Which of `shards` parts, counted from 1, a problem belongs to; the same on every machine."""
    return int.from_bytes(hashlib.sha256(problem_id.encode()).digest()[:8]) % shards + 1


def is_audited(task_id: str, share: float) -> bool:
    """Whether a task is in the part that is asked again; the same on every machine and day."""
    return _is_drawn("audit", task_id, share)


def is_streamed(task_id: str, share: float) -> bool:
    """Whether a task is in the part that is streamed; the same on every machine and day."""
    return _is_drawn("stream", task_id, share)


def _is_drawn(purpose: str, task_id: str, share: float) -> bool:
    if not share:
        return False
    digest = hashlib.sha256(f"{purpose} {task_id}".encode()).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def _settings(prompt: Prompt) -> tuple[object, ...]:
    return prompt.max_tokens, prompt.stop, prompt.stop_token_ids


def _together(prompt: Prompt) -> tuple[object, ...]:
    return (prompt.token_ids is None, prompt.sample_index, *_settings(prompt))


def _content(prompt: Prompt) -> tuple[int, tuple[int, ...] | str]:
    """Sorts texts among texts, and ids among ids."""
    if prompt.token_ids is not None:
        return 0, prompt.token_ids
    return 1, prompt.text or ""
