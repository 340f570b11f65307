"""lr-rerank, fewshot and the probability of reference answers: whole runs, and runs cut short."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fim_eval.errors import EndpointError, StrategyRefusedError
from fim_eval.generate import Request, RunResult, run
from fim_eval.journal import read_manifest, read_outcomes, read_segments
from fim_eval.lines import json_lines
from fim_eval.prompt import FILL, FILL_END, HOLE
from fim_eval.recipe import Recipe
from fim_eval.records import InfillTask, Likelihood, Sampling, Timeouts
from fim_eval.report import score_run, summarise
from fim_eval.suite import Suite, build_suite, worked_examples
from fim_eval.words import Strategy
from tests.data_paths import quiet
from tests.integration import (
    InProcess,
    fim_eval,
    made_tasks,
    start_fim_eval,
    wait_until,
    write_tasks,
)
from tests.integration.fake_server import PROBE, FakeServer, Reply, refusal, right_answer

ONE_BIT = -math.log(2)


def request(
    server: FakeServer,
    out: Path,
    tasks: Sequence[InfillTask],
    strategy: Strategy,
    *,
    samples: int = 3,
    gold: bool = False,
) -> Request:
    suite = Suite(tasks)
    return Request(
        tasks=tasks,
        task_facts=None,
        recipe=Recipe(
            model="fake-model",
            strategy=strategy,
            samples=samples,
            examples=worked_examples(suite, quiet) if strategy == "fewshot" else (),
        ),
        endpoint=server.endpoint,
        out=out,
        concurrency=4,
        timeouts=Timeouts(attempts=1, recovery_s=0.0),
        gold=gold,
    )


async def ask(wanted: Request) -> RunResult:
    return await run(wanted, lambda _total, _left: None, lambda _outcome: None)


def row(out: Path, policy: str = "reference-lines") -> dict[str, Any]:
    return summarise(score_run(out)).filter(pl.col("policy") == policy).row(0, named=True)


def by_seed(body: dict[str, Any]) -> str:
    """Wrong, right with too much behind it, wrong again: the right one is sample 1."""
    right = right_answer(body)
    wrong = right.replace("return ", "return -")
    return (wrong, right + "print()\n", wrong)[body["seed"]]


def dislikes_minus(ids: Sequence[int], place: int) -> float:
    """Probability 1 of each character, but 1/2 of a minus."""
    return ONE_BIT if chr(ids[place]) == "-" else 0.0


class TestRerank:
    @pytest.fixture
    def server(self) -> FakeServer:
        server = FakeServer(answer=by_seed)
        server.logprob = dislikes_minus
        return server

    async def test_the_answer_is_the_candidate_whose_program_is_most_probable(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        tasks = made_tasks(2)
        with server:
            result = await ask(request(server, tmp_path, tasks, "lr-rerank"))
        assert (result.tasks, result.answered, result.unresolved) == (2, 2, 0)
        assert Counter(server.prompts) == {task.prefix: 3 for task in tasks}
        outcomes = read_outcomes(tmp_path)
        for task in tasks:
            found = outcomes.rankings[task.task_id]
            assert (found.by_sum, found.by_mean, found.headline) == ((1, 0), (1, 0), "mean")
            answer = outcomes.answer(task.task_id, "lr-rerank")
            assert answer is not None
            assert answer.text == task.middle + "print()\n"
        assert row(tmp_path)["exact_match"] == 1.0
        assert row(tmp_path)["answered"] == 2
        assert row(tmp_path, "raw")["exact_match"] == 0.0

    async def test_what_is_scored_is_each_distinct_program_once_as_far_as_it_is_kept(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, made_tasks(1), "lr-rerank"))
        assert sorted(map(str, server.scored[1:])) == [
            "def f0():\n    return -0\n",
            "def f0():\n    return 0\n",
        ]

    async def test_candidates_are_drawn_as_recorded(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, made_tasks(1), "lr-rerank"))
        identity = read_manifest(tmp_path).identity
        assert identity.sampling == Sampling(temperature=0.2, top_p=0.95)
        assert identity.samples == 3
        asked = [one for one in server.requests if one["max_tokens"] > 1]
        assert {(one["temperature"], one["top_p"]) for one in asked} == {(0.2, 0.95)}
        assert sorted(one["seed"] for one in asked) == [0, 1, 2]

    async def test_tokens_are_those_of_all_candidates(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, made_tasks(1), "lr-rerank"))
        wrong, right = len("    return -0\n"), len("    return 0\nprint()\n")
        assert row(tmp_path)["completion_tokens"] == 2 * wrong + right

    @pytest.mark.parametrize(
        "fails",
        [
            pytest.param(
                lambda body: "prompt_logprobs" not in body and body["seed"] == 2, id="a candidate"
            ),
            pytest.param(
                lambda body: "prompt_logprobs" in body and "-" in body["prompt"], id="a score"
            ),
        ],
    )
    async def test_a_task_is_answered_only_when_all_is_there_and_then_asked_for_no_more(
        self, server: FakeServer, tmp_path: Path, fails: Callable[[dict[str, Any]], bool]
    ) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            if "f1()" in body["prompt"] and fails(body):
                return refusal(500, "CUDA error")
            return by_seed(body)

        server.answer = answer
        with server:
            wanted = request(server, tmp_path, made_tasks(2), "lr-rerank")
            first = await ask(wanted)
            assert (first.answered, first.unresolved) == (1, 1)
            assert first.failures == {"server-error": 1}
            assert row(tmp_path)["exact_match"] is None
            assert (row(tmp_path)["exact_match_low"], row(tmp_path)["exact_match_high"]) == (0.5, 1)
            server.answer = by_seed
            before = len(server.requests)
            second = await ask(wanted)
        assert (second.answered, second.answered_before) == (2, 1)
        again = [one for one in server.requests[before:] if one["prompt"] not in (PROBE, "def f")]
        assert all("f1()" in one["prompt"] for one in again)
        assert not read_outcomes(tmp_path).rankings.keys() ^ {
            task.task_id for task in made_tasks(2)
        }

    async def test_what_is_scored_and_not_yet_ordered_needs_no_server(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        """A kill may come between the last probability and the ranking."""
        with server:
            wanted = request(server, tmp_path, made_tasks(2), "lr-rerank")
            await ask(wanted)
        journal = tmp_path / "generations.jsonl"
        whole = journal.read_bytes()
        lines = [line for line in whole.splitlines() if b'"ranking"' not in line]
        journal.write_bytes(b"".join(line + b"\n" for line in lines))
        assert row(tmp_path)["answered"] == 0
        assert (await ask(wanted)).answered == 2
        assert journal.read_bytes() == whole

    def test_killed_midway_is_resumed_without_asking_twice(self, tmp_path: Path) -> None:
        tasks = made_tasks(30)
        file = write_tasks(tmp_path / "tasks.jsonl", tasks)
        out = tmp_path / "run"
        server = FakeServer(answer=by_seed, delay_s=0.02)
        server.logprob = dislikes_minus
        with server:
            words = (
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr-rerank", "--samples", "3", "--gold", "--out", out,
                "--max-concurrency", "8",
            )  # fmt: skip
            for asked in (40, 130, 170):
                with start_fim_eval(*words, cwd=tmp_path) as process:
                    wait_until(lambda n=asked: len(server.requests) >= n, f"{asked} asked")  # type: ignore[misc]
                    process.send_signal(signal.SIGKILL)
                    process.communicate()
                wait_until(lambda: server.in_flight == 0, "the server has noticed")
            done = fim_eval(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "30/30 answered" in done.stderr
        # Reading refuses a key answered twice.
        outcomes = read_outcomes(out)
        assert len(outcomes.generations) == 90
        assert len(outcomes.likelihoods) == 30 + 2 * 30
        assert len(outcomes.rankings) == 30
        assert len((out / "generations.jsonl").read_bytes().splitlines()) == 90 + 90 + 30
        assert row(out)["exact_match"] == 1.0
        assert len(read_segments(out)) >= 3


class TestGold:
    TASKS = (
        made_tasks(1)[0].model_copy(update={"middle": "aaa\n"}),
        made_tasks(2)[1].model_copy(update={"middle": "bbbbbbbbbbb\n"}),
    )
    """4 characters of 1 bit each; 11 of 3 bits and 1 of 1."""

    @pytest.fixture
    def server(self) -> FakeServer:
        server = FakeServer()
        server.logprob = lambda ids, place: ONE_BIT * (3 if chr(ids[place]) == "b" else 1)
        return server

    async def test_bits_are_summed_before_they_are_divided_by_characters(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            result = await ask(request(server, tmp_path, self.TASKS, "lr", gold=True))
        assert (result.unscored, result.asked) == (0, 4)
        found = row(tmp_path)
        assert found["bits_per_character"] == pytest.approx((4 + 34) / 16)
        assert found["gold_tasks"] == 2
        assert found["end_bits"] is None

    async def test_the_closing_marker_of_fewshot_is_told_apart(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, self.TASKS, "fewshot", gold=True))
        assert row(tmp_path)["bits_per_character"] == pytest.approx(38 / 16)
        assert row(tmp_path)["end_bits"] == pytest.approx(len("</FILL>"))

    async def test_is_null_where_it_was_not_asked_and_may_be_asked_later(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, self.TASKS, "lr"))
            assert row(tmp_path)["bits_per_character"] is None
            assert row(tmp_path)["gold_tasks"] is None
            asked = list(server.prompts)
            await ask(request(server, tmp_path, self.TASKS, "lr", gold=True))
            assert server.prompts == asked
            calls = server.calls
            await ask(request(server, tmp_path, self.TASKS, "lr", gold=True))
        assert server.calls == calls
        assert row(tmp_path)["gold_tasks"] == 2
        assert [segment.gold for segment in read_segments(tmp_path)] == [False, True]

    async def test_is_asked_after_the_completions_are(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        with server:
            await ask(request(server, tmp_path, made_tasks(20), "lr", gold=True))
        lines = (tmp_path / "generations.jsonl").read_bytes().splitlines()
        kinds = [json.loads(line)["outcome"] for line in lines]
        assert kinds.index("likelihood") >= 17, "four are in flight"

    def test_that_stays_unknown_is_counted_and_exits_with_3(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        def answer(body: dict[str, Any]) -> str | Reply:
            long = "prompt_logprobs" in body and 98 in body["prompt"]
            too_long = refusal(400, "This model's maximum context length is 2048 tokens.")
            return too_long if long else right_answer(body)

        server.answer = answer
        file = write_tasks(tmp_path / "tasks.jsonl", self.TASKS)
        with server:
            done = fim_eval(
                "run", "--tasks", file, "--endpoint", server.endpoint, "--model", "fake-model",
                "--strategy", "lr", "--gold", "--out", tmp_path / "run", cwd=tmp_path,
            )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert "2/2 answered" in done.stderr
        assert "0 unresolved, 1 without bits (1 prompt-too-long)" in done.stderr
        assert "1.000 (1/2)" in done.stdout
        assert row(tmp_path / "run")["gold_tasks"] == 1

    async def test_a_server_that_tells_no_probabilities_is_refused_before_any_task(
        self, server: FakeServer, tmp_path: Path
    ) -> None:
        server.logprob = lambda _ids, _place: None
        with server:
            strategies: tuple[Strategy, ...] = ("lr", "lr-rerank")
            for strategy in strategies:
                wanted = request(server, tmp_path / strategy, self.TASKS, strategy, gold=True)
                with pytest.raises(EndpointError, match="prompt_logprobs"):
                    await ask(wanted)
                assert not (tmp_path / strategy / "manifest.json").exists()
        assert server.prompts == []


def closing(body: dict[str, Any]) -> Reply | str:
    """The right answer, which stopped at the closing marker."""
    number = body["prompt"].rpartition("def f")[2].partition("(")[0]
    return f"    return {number}\n"


class TestFewshot:
    async def test_all_prompts_begin_with_the_same_worked_examples(self, tmp_path: Path) -> None:
        tasks = made_tasks(12)
        with FakeServer(answer=closing) as server:
            await ask(request(server, tmp_path, tasks, "fewshot"))
        prompts = sorted(server.prompts)
        shared = prompts[0].partition("# Program 4\n")[0]
        assert all(prompt.startswith(shared) for prompt in prompts)
        assert shared.count(FILL_END + "\n") == shared.count(f"\n{FILL}") == 3
        assert {prompt.removeprefix(shared) for prompt in prompts} == {
            f"# Program 4\n{task.prefix}{HOLE}\n{FILL}" for task in tasks
        }
        assert {tuple(body["stop"]) for body in server.requests if body["prompt"] != PROBE} == {
            (FILL_END,)
        }
        assert row(tmp_path, "raw")["exact_match"] == 1.0

    async def test_the_run_says_which_examples_it_showed(self, tmp_path: Path) -> None:
        tasks = made_tasks(1)
        examples = worked_examples(Suite(tasks), quiet)
        with FakeServer(answer=closing) as server:
            await ask(request(server, tmp_path, tasks, "fewshot"))
        assert read_manifest(tmp_path).identity.examples == tuple(
            example.task_id for example in examples
        )
        assert (tmp_path / "examples.jsonl").read_bytes() == json_lines(examples)

    async def test_an_example_that_is_asked_itself_is_refused(self, tmp_path: Path) -> None:
        tasks = list(worked_examples(Suite(made_tasks(1)), quiet))
        with FakeServer() as server:
            wanted = request(server, tmp_path, made_tasks(1), "fewshot")
            wanted = Request(
                tasks=tasks, task_facts=None, recipe=wanted.recipe, endpoint=server.endpoint,
                out=tmp_path,
            )  # fmt: skip
            with pytest.raises(StrategyRefusedError, match="would be a worked example"):
                await ask(wanted)
        assert server.calls == 0


def test_one_study_asks_each_strategy_and_tells_one_row_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = InProcess(tmp_path, monkeypatch, capfd)
    with FakeServer() as server:
        done = command(
            "eval", "--problems", "starter", "--per-problem", "1", "--limit", "4",
            "--endpoint", server.endpoint, "--model", "fake-model", "--no-verify", "--gold",
            "--strategies", "lr,lr-rerank,fewshot", "--samples", "2", "--shots", "2",
            "--out", tmp_path / "out",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert [one["strategy"] for one in rows if one["policy"] == "raw"] == [
        "lr",
        "lr-rerank",
        "fewshot",
    ]
    assert {(one["answered"], one["gold_tasks"], one["tasks"]) for one in rows} == {(4, 4, 4)}
    assert all(one["bits_per_character"] > 0 for one in rows)
    likelihoods = read_outcomes(tmp_path / "out" / "fake-model.lr").likelihoods.values()
    assert all(isinstance(one, Likelihood) and one.scored == "gold" for one in likelihoods)


def test_what_is_judged_of_a_task_is_the_candidate_that_answers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = [*build_suite("starter", "test", "single-line", quiet, per_problem=1).tasks][:4]
    middles = {task.prefix: task.middle for task in tasks}

    def second_is_right(body: dict[str, Any]) -> str:
        right = middles.get(body["prompt"], "")
        return right if body["seed"] == 1 else "~\n"

    server = FakeServer(answer=second_is_right)
    server.logprob = lambda ids, place: -9.0 if chr(ids[place]) == "~" else 0.0
    command = InProcess(tmp_path, monkeypatch, capfd)
    with server:
        done = command(
            "eval", "--problems", "starter", "--per-problem", "1", "--limit", "4",
            "--endpoint", server.endpoint, "--model", "fake-model", "--context", "none",
            "--strategies", "lr-rerank", "--samples", "2", "--out", tmp_path / "out",
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = row(tmp_path / "out" / "fake-model.lr-rerank")
    assert (found["exact_match"], found["pass_at_1"], found["unjudged"]) == (1.0, 1.0, 0)
