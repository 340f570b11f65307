"""Texts scored by a server whose probabilities are known: what is asked, counted and refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from fim_eval.client import Client
from fim_eval.errors import EndpointError
from fim_eval.records import Likelihood, RequestFailure, Sampling, Scoring, Timeouts
from fim_eval.transport import open_http
from fim_eval.words import Scored
from tests.integration.fake_server import FakeServer, Reply, refusal

ONCE = Timeouts(attempts=1)
Part = str | tuple[int, ...]


def scoring(given: Part, text: Part, end: Part, scored: Scored = "gold") -> Scoring:
    return Scoring(
        task_id="Made/7/single-line/L1",
        strategy="lr",
        sample_index=0,
        scored=scored,
        given=given,
        text=text,
        end=end,
        characters=len(text),
    )


async def score(
    server: FakeServer, asked: Scoring, timeouts: Timeouts = ONCE
) -> Likelihood | RequestFailure:
    async with open_http(server.endpoint, None, concurrency=1, timeouts=timeouts) as http:
        client = Client(
            http,
            model=server.model,
            answers_as=None,
            sampling=Sampling(temperature=0.7, seed=5),
            timeouts=timeouts,
            segment=2,
            clock_ns=time.perf_counter_ns,
            sleep=lambda _seconds: asyncio.sleep(0),
        )
        return await client.score(asked)


async def likelihood(server: FakeServer, asked: Scoring) -> Likelihood:
    outcome = await score(server, asked)
    assert isinstance(outcome, Likelihood), outcome
    return outcome


async def failure(server: FakeServer, asked: Scoring) -> RequestFailure:
    outcome = await score(server, asked)
    assert isinstance(outcome, RequestFailure), outcome
    return outcome


IDS = scoring((1, 9, 10), (11, 12), (13,))
TEXT = scoring("ab", "cde", "f")
PROGRAM = scoring("", "abc", "", "candidate")


async def test_ids_are_scored_from_where_the_given_ones_end() -> None:
    with FakeServer() as server:
        found = await likelihood(server, IDS)
    assert (found.logprobs, found.end_logprobs) == ((-3 / 8, -4 / 8), (-5 / 8,))
    assert (found.tokens, found.characters, found.prompt_tokens) == (2, 2, 6)
    assert (found.scored, found.segment, found.attempts) == ("gold", 2, 1)
    assert found.system_fingerprint == "vllm-0.32.0-5b2ef2de"


async def test_ids_are_scored_by_one_request_that_samples_nothing_of_the_run() -> None:
    with FakeServer() as server:
        await likelihood(server, IDS)
    (body,) = server.requests
    assert body["prompt"] == [1, 9, 10, 11, 12, 13]
    assert (body["prompt_logprobs"], body["max_tokens"], body["temperature"]) == (0, 1, 0.0)
    assert body["stop"] == body["stop_token_ids"] == []


async def test_parts_that_the_server_tokenises_are_scored_as_put_together() -> None:
    """Code points: a is 97, one eighth."""
    with FakeServer() as server:
        found = await likelihood(server, TEXT)
    assert (found.logprobs, found.end_logprobs) == ((-3 / 8, -4 / 8, -5 / 8), (-6 / 8,))
    assert (found.tokens, found.prompt_tokens) == (3, 6)
    assert server.scored == [[97, 98, 99, 100, 101, 102]]
    assert [body.get("add_special_tokens") for body in server.requests] == [
        True,
        False,
        False,
        None,
    ]


async def test_an_empty_text_has_no_tokens_and_is_measured_all_the_same() -> None:
    with FakeServer() as server:
        found = await likelihood(server, scoring("ab", "", "f"))
    assert (found.logprobs, found.end_logprobs, found.tokens) == ((), (-6 / 8,), 0)


async def test_a_whole_program_is_scored_but_for_its_first_token() -> None:
    with FakeServer() as server:
        found = await likelihood(server, PROGRAM)
    assert (found.logprobs, found.end_logprobs) == ((-2 / 8, -3 / 8), ())
    assert (found.tokens, len(server.requests)) == (3, 1)


async def test_behind_bos_every_token_of_a_program_is_scored() -> None:
    with FakeServer() as server:
        found = await likelihood(server, scoring((1,), (11, 12), (), "candidate"))
    assert (found.logprobs, found.tokens) == ((-3 / 8, -4 / 8), 2)


async def test_a_boundary_that_tokens_hide_is_refused_and_not_guessed() -> None:
    """Of a tokenizer that begins each text with a space, the parts together are another text."""
    with FakeServer() as server:
        server.tokens = lambda text: [32, *map(ord, text)]
        found = await failure(server, TEXT)
    assert (found.reason, found.attempts, found.scored) == ("boundary-unknown", 1, "gold")
    assert "--tokenizer" in found.detail


async def test_nothing_before_what_is_scored_is_refused() -> None:
    with FakeServer() as server:
        found = await failure(server, scoring("", "cde", ""))
    assert found.reason == "boundary-unknown"


@pytest.mark.parametrize("asked", [IDS, TEXT, PROGRAM], ids=["ids", "parts", "program"])
async def test_a_null_among_the_probabilities_is_a_failure(asked: Scoring) -> None:
    """What a NaN becomes on the wire."""

    def last_is_null(ids: Sequence[int], place: int) -> float | None:
        return None if place == len(ids) - 1 else -1.0

    with FakeServer() as server:
        server.logprob = last_is_null
        found = await failure(server, asked)
    assert found.reason == "corrupted"


async def test_a_corrupted_answer_is_asked_again() -> None:
    seen: list[int] = []

    def null_at_first(_ids: Sequence[int], place: int) -> float | None:
        seen.append(place)
        return None if len(seen) <= 6 else -1.0

    with FakeServer() as server:
        server.logprob = null_at_first
        found = await score(server, IDS, Timeouts(attempts=3))
    assert isinstance(found, Likelihood)
    assert (found.attempts, len(server.requests)) == (2, 2)


def changed(server: FakeServer, **fields: Any) -> None:
    """Have the server answer with these fields in place of its choice's own."""

    def answer(body: dict[str, Any]) -> Reply:
        whole = server.completion(body, " x")
        whole["choices"][0] |= fields
        return Reply(200, whole)

    server.answer = answer


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt_token_ids": [1, 9, 10, 11, 12]}, "prompt-altered"),
        ({"prompt_logprobs": [None, *({"8": {"logprob": -1.0}} for _ in range(5))]},
         "prompt-altered"),
        ({"prompt_logprobs": [None] * 6}, "corrupted"),
        ({"prompt_logprobs": None}, "corrupted"),
        ({"prompt_logprobs": [None]}, "malformed-response"),
        ({"finish_reason": "error"}, "aborted"),
    ],
    ids=["other ids", "probabilities of others", "all null", "none", "too few", "aborted"],
)  # fmt: skip
async def test_what_is_not_said_of_the_ids_that_were_sent_is_a_failure(
    fields: dict[str, Any], reason: str
) -> None:
    with FakeServer() as server:
        changed(server, **fields)
        found = await failure(server, IDS)
    assert found.reason == reason


async def test_a_text_too_long_to_score_is_a_failure_for_good() -> None:
    with FakeServer() as server:
        server.answer = lambda _: refusal(400, "This model's maximum context length is 2048 tokens")
        found = await failure(server, IDS)
    assert found.reason == "prompt-too-long"


async def test_a_server_that_returns_no_ids_cannot_be_asked_for_text() -> None:
    with FakeServer() as server:
        changed(server, prompt_token_ids=None)
        with pytest.raises(EndpointError, match="no token ids"):
            await score(server, TEXT)


def test_parts_are_of_one_form() -> None:
    with pytest.raises(ValueError, match="text or token ids"):
        scoring("ab", (1,), ())
