"""What a run asks: made once, kept on disk, read again just before it is sent.

All prompts are made before the first is asked: so what cannot be asked is refused in time, and the
manifest knows what all of them are. In memory stands where each lies, with which problem it is
asked, and what came of it: some thirty bytes a task, however long it is.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import orjson

from fim_eval.journal import Outcomes
from fim_eval.lines import line_of
from fim_eval.order import (
    Question,
    batches,
    by_beginning,
    distinct,
    places_by,
    shard_of,
)
from fim_eval.postprocess import filled_middle
from fim_eval.prompt import candidate_scoring, gold_scoring
from fim_eval.recipe import Prepared
from fim_eval.records import (
    Completion,
    Imported,
    InfillTask,
    Likelihood,
    Outcome,
    Prompt,
    Ranking,
    RequestFailure,
    Scoring,
)
from fim_eval.rerank import first_of_each
from fim_eval.shelf import Index, Shelf
from fim_eval.words import PERMANENT_FAILURES, FailureReason, Scored


@dataclass(frozen=True, slots=True)
class ToComplete:
    """A question, and the numbers of the tasks that ask it, its prompt's first."""

    question: Question
    tasks: Sequence[int]

    @property
    def prompt(self) -> Prompt:
        """That is sent."""
        return self.question.prompt


@dataclass(frozen=True, slots=True)
class ToScore:
    """A text whose probability is asked, and the number of its task."""

    scoring: Scoring
    task: int


Work = ToComplete | ToScore
"""What goes into a request."""

_OPEN, _ANSWERED = 0, 1
_FAILED: dict[FailureReason, int] = {
    reason: mark for mark, reason in enumerate(get_args(FailureReason), 2)
}
_SETTLED = bytes([_ANSWERED, *(_FAILED[reason] for reason in PERMANENT_FAILURES)])
"""Asking again would be in vain."""


class Agenda:
    """The tasks of a run, numbered from 0 in their order. A context manager, for its files."""

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        *,
        shard: tuple[int, int] | None = None,
        gold: bool = False,
    ) -> None:
        """An empty one.

        Args:
            prepared: how the model is asked.
            folder: on whose disk prompts wait.
            shard: which part of how many is to be asked; None: all.
            gold: whether to ask how probable the reference answers are, too.
        """
        self.prepared = prepared
        self.suite_tasks = 0
        """Those of other shards, too."""
        self._folder, self._shard, self._gold = folder, shard, gold
        self._samples = prepared.recipe.prompts_per_task
        self._max_tokens = 0
        self._suite_digest = hashlib.sha256()
        self._own_digest = hashlib.sha256()
        self.places: list[tuple[int, int]] = []
        """Of a shard: where in the suite its tasks stand, as runs of first place and length."""
        self._prompts_sum = 0
        self._files = ExitStack()
        self._homes = array("Q")
        """By task, the number of the problem with which its prompt is asked."""
        self._marks: dict[Scored | None, bytearray] = {
            None: bytearray(), "gold": bytearray(), "candidate": bytearray(),
        }  # fmt: skip
        """What came of each prompt, by task and sample; of each reference answer, by task; of each
        candidate, by task and sample."""
        self._ranked = bytearray()
        """By task, whether its candidates are ranked."""
        self.text_differences = 0
        """Completions in which the server's own text differs from its ids decoded by us."""

    def __enter__(self) -> Self:
        """Open its files.

        Raises:
            RunDirectoryError: nothing can be written there.
        """
        self._lines = self._files.enter_context(Shelf(self._folder))
        self._shown = self._files.enter_context(Shelf(self._folder))
        self._problem_ids = self._files.enter_context(Shelf(self._folder))
        self._problems = self._files.enter_context(Index())
        """Numbers of the suite's problems, those of other shards too."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give their disk space back."""
        self._files.__exit__(kind, error, trace)

    # --- what there is ----------------------------------------------------------------------------

    def draw_up(self, tasks: Iterable[InfillTask]) -> None:
        """Make the prompts of all tasks that are to be asked.

        Args:
            tasks: of the whole suite.

        Raises:
            StrategyRefusedError: a task cannot be asked so.
            RunDirectoryError: the disk is full.
        """
        latest: tuple[str, int] | None = None
        with Index() as homes:
            for task in tasks:
                line = line_of(task)
                self._suite_digest.update(line)
                self.suite_tasks += 1
                max_tokens = self.prepared.max_tokens(task.kind)
                self._max_tokens = max(self._max_tokens, max_tokens)
                if latest is None or latest[0] != task.problem_id:
                    latest = task.problem_id, self._number_of_problem(task.problem_id)
                problem = latest[1]
                if self._is_own(task.problem_id):
                    if self._shard is not None:
                        self._own_digest.update(line)
                        self._note_place(self.suite_tasks - 1)
                    content = self.prepared.content_of(task)
                    shown = orjson.dumps((task.task_id, max_tokens, content))
                    self._lines.append(line)
                    self._shown.append(shown)
                    self._prompts_sum += int.from_bytes(hashlib.sha256(shown).digest())
                    # Two of one hash by chance only share their problem's place in the order.
                    self._homes.append(homes.setdefault(hash((content, max_tokens)), problem))
        for scored, marks in self._marks.items():
            marks.extend(bytes(len(self) * (1 if scored == "gold" else self._samples)))
        self._ranked.extend(bytes(len(self)))

    def _number_of_problem(self, problem_id: str) -> int:
        known = len(self._problem_ids)
        number = self._problems.setdefault(problem_id, known)
        if number == known:
            self._problem_ids.append(problem_id.encode())
        return number

    def _is_own(self, problem_id: str) -> bool:
        return self._shard is None or shard_of(problem_id, self._shard[1]) == self._shard[0]

    def _note_place(self, place: int) -> None:
        first, count = self.places[-1] if self.places else (place, 0)
        if first + count == place:
            self.places[-1:] = [(first, count + 1)]
        else:
            self.places.append((place, 1))

    def __len__(self) -> int:
        """Tasks that are to be asked."""
        return len(self._homes)

    @property
    def max_tokens(self) -> int:
        """Most new tokens of any prompt of the suite."""
        return self._max_tokens

    @property
    def suite_sha256(self) -> str:
        """Of the tasks of the whole suite, one a line."""
        return self._suite_digest.hexdigest()

    @property
    def own_sha256(self) -> str:
        """Of the tasks that are to be asked, one a line."""
        return self.suite_sha256 if self._shard is None else self._own_digest.hexdigest()

    def has_problem(self, problem_id: str) -> bool:
        """Whether a problem is one of the suite's."""
        return self._problems.get(problem_id) is not None

    def has_own_problem(self, problem_id: str) -> bool:
        """Whether a problem is one of those that are to be asked."""
        return self._is_own(problem_id) and self.has_problem(problem_id)

    @property
    def prompts_sha256(self) -> str:
        """Of the prompts that are to be asked: see `RunIdentity`."""
        return f"{self._prompts_sum % 2**256:064x}"

    def lines(self) -> Iterator[bytes]:
        """The tasks that are to be asked, each as its line in a file."""
        return iter(self._lines)

    def task(self, number: int) -> InfillTask:
        """A task."""
        return InfillTask.model_validate_json(self._lines[number])

    def prompts(self, number: int) -> list[Prompt]:
        """A task's prompts, by sample."""
        task_id, max_tokens, shown = orjson.loads(self._shown[number])
        content = shown if isinstance(shown, str) else tuple(shown)
        return self.prepared.prompts_with(task_id, content, max_tokens)

    # --- what is to be asked ----------------------------------------------------------------------

    @property
    def wanted(self) -> int:
        """Prompts and reference answers, asked already or not."""
        return len(self) * (self._samples + self._gold)

    @property
    def pending(self) -> int:
        """Of these, what is neither answered nor refused for good."""
        return _pending(self._marks[None]) + (_pending(self._marks["gold"]) if self._gold else 0)

    def requests(
        self,
        is_own: Callable[[str], bool],
        is_streamed: Callable[[str], bool] | None,
        size: int,
    ) -> Iterator[Sequence[Work]]:
        """What is pending, request by request, as it is read from disk.

        Problem by problem, prompts that begin alike side by side; reference answers at last, so
        that what is timed is not disturbed by what is scored.

        Args:
            is_own: whether a problem is this server's.
            is_streamed: whether a task's answer is streamed, each in a request; None: none is.
            size: prompts in one request at most.
        """
        whole = self._questions(is_own)
        if is_streamed is not None:
            for one in self._questions(is_own):
                if is_streamed(one.prompt.task_id):
                    yield [one]
            whole = (one for one in whole if not is_streamed(one.prompt.task_id))
        yield from batches(whole, size)
        if self._gold:
            yield from ([one] for one in self._golds() if is_own(self.home(one.task)))

    def _questions(self, is_own: Callable[[str], bool]) -> Iterator[ToComplete]:
        homes = self._homes
        order: Sequence[int] = range(len(homes))
        if any(one > other for one, other in pairwise(homes)):
            order = places_by(homes)
        for home, numbers in groupby(order, homes.__getitem__):
            if not is_own(self._problem_ids[home].decode()):
                continue
            number_of: dict[str, int] = {}
            prompts: list[Prompt] = []
            for number in numbers:
                if samples := self._open_samples(number):
                    every = self.prompts(number)
                    number_of[every[0].task_id] = number
                    prompts += [every[index] for index in samples]
            for question in by_beginning(distinct(prompts)):
                askers = (question.prompt, *question.others)
                yield ToComplete(question, [number_of[one.task_id] for one in askers])

    def _open_samples(self, number: int) -> list[int]:
        first = number * self._samples
        marks = self._marks[None][first : first + self._samples]
        return [index for index, mark in enumerate(marks) if mark not in _SETTLED]

    def _golds(self) -> Iterator[ToScore]:
        for number, mark in enumerate(self._marks["gold"]):
            if mark not in _SETTLED:
                task, prompt = self.task(number), self.prompts(number)[0]
                scoring = gold_scoring(task, prompt, self.prepared.tokenizer)
                yield ToScore(scoring, number)

    def home(self, number: int) -> str:
        """The problem with which a task is asked: its own, but for what others ask, too."""
        return self._problem_ids[self._homes[number]].decode()

    def candidates(self, number: int, outcomes: Outcomes) -> dict[int, Scoring]:
        """What is to be scored of a task's candidates, by sample; none until all are there."""
        task, prompts = self.task(number), self.prompts(number)
        completions = [
            outcomes.generations.get((task.task_id, prompt.strategy, prompt.sample_index))
            for prompt in prompts
        ]
        texts = [
            filled_middle("reference-lines", one.text, task)
            for one in completions
            if isinstance(one, Completion)
        ]
        if len(texts) < len(prompts):
            return {}
        return {
            index: candidate_scoring(
                task,
                prompts[index],
                text,
                context=self.prepared.recipe.context,
                start=self.prepared.start,
                encoder=self.prepared.tokenizer,
            )
            for index, text in first_of_each(texts).items()
        }

    def ready_candidates(self, outcomes: Outcomes) -> Iterator[ToScore]:
        """The candidates of all tasks that can be scored, scored already or not."""
        for number in range(len(self)):
            for scoring in self.candidates(number, outcomes).values():
                yield ToScore(scoring, number)

    def is_open(self, candidate: ToScore) -> bool:
        """Whether a candidate is neither scored nor refused for good."""
        return self._mark(candidate) not in _SETTLED

    def is_untried(self, candidate: ToScore) -> bool:
        """Whether a candidate was never asked about."""
        return self._mark(candidate) == _OPEN

    def _mark(self, candidate: ToScore) -> int:
        place = candidate.task * self._samples + candidate.scoring.sample_index
        return self._marks["candidate"][place]

    # --- what came of it --------------------------------------------------------------------------

    @contextmanager
    def noting(self) -> Iterator[Callable[[Outcome], None]]:
        """Something that takes in what came of tasks in sessions before, outcome by outcome.

        It raises:
            ValueError: this is asked of no task here, or answered already.
        """
        with Index() as numbers:
            for number in range(len(self)):
                numbers.setdefault(orjson.loads(self._shown[number])[0], number)

            def note(outcome: Outcome) -> None:
                number = numbers.get(outcome.task_id)
                sample = 0 if isinstance(outcome, Ranking) else outcome.sample_index
                if (
                    number is None
                    or isinstance(outcome, Imported)
                    or outcome.strategy != self.prepared.recipe.strategy
                    or sample >= self._samples
                ):
                    raise ValueError(
                        f"holds what came of {outcome.task_id}, asked as this run does not ask it"
                    )
                self.note(number, outcome)

            yield note

    def note(
        self, number: int, outcome: Completion | Likelihood | RequestFailure | Ranking
    ) -> None:
        """What came of something that a task asks.

        Raises:
            ValueError: it is answered already.
        """
        marks, place, mark = self._ranked, number, _ANSWERED
        if not isinstance(outcome, Ranking):
            scored = None if isinstance(outcome, Completion) else outcome.scored
            marks = self._marks[scored]
            if scored != "gold":
                place = number * self._samples + outcome.sample_index
        if isinstance(outcome, RequestFailure):
            mark = _FAILED[outcome.reason]
        if marks[place] == _ANSWERED:
            raise ValueError(f"answers {outcome.task_id} a second time")
        marks[place] = mark
        self.text_differences += isinstance(outcome, Completion) and outcome.server_text is not None

    @property
    def answered(self) -> int:
        """Tasks that have their answer."""
        if self.prepared.recipe.strategy == "lr-rerank":
            return self._ranked.count(_ANSWERED)
        return self._marks[None].count(_ANSWERED)

    @property
    def scored(self) -> int:
        """Tasks whose reference answer's probability is known."""
        return self._marks["gold"].count(_ANSWERED)

    @property
    def failures(self) -> Counter[str]:
        """Requests that stay without an answer, by reason."""
        marks = Counter(chain.from_iterable(self._marks.values()))
        return Counter({reason: marks[mark] for reason, mark in _FAILED.items() if marks[mark]})


def _pending(marks: bytearray) -> int:
    return len(marks.translate(None, _SETTLED))
