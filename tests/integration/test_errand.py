"""Asking elsewhere, without a cluster: whoever runs the errands is in this process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fim_eval.errand import ONE_TOKEN, Envoy, Errand
from fim_eval.errors import EndpointError
from fim_eval.generate import Request, run
from fim_eval.health import Health
from fim_eval.journal import read_generations, read_limits, read_outcomes
from fim_eval.mock import Behaviour
from fim_eval.recipe import Recipe
from fim_eval.records import Sampling, ServerIdentity, Timeouts
from tests.integration.fake_server import FakeServer
from tests.integration.test_mock_server import TASKS, ask, request, serving

PATIENT = Timeouts(attempts=3, first_wait_s=0.01, request_s=5.0)


def answers(path: Path) -> dict[Any, dict[str, Any]]:
    when = {"sent_ns", "elapsed_ns", "first_token_ns", "last_token_ns"}
    found = read_outcomes(path)
    every: dict[Any, Any] = dict(found.generations)
    every |= found.likelihoods
    return {key: one.model_dump(exclude=when) for key, one in every.items()}


@asynccontextmanager
async def envoy(environment: dict[str, str] | None = None) -> AsyncIterator[Envoy]:
    made = Envoy("there", environment or {})
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="several prompts a request"),
        pytest.param({"stream": 1.0}, id="streamed"),
    ],
)
async def test_answers_from_elsewhere_are_those_from_here(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    async with serving(Behaviour()) as (_, endpoint), envoy() as elsewhere:
        here = request(endpoint, tmp_path / "here", **changes)
        there = replace(here, out=tmp_path / "there", elsewhere=elsewhere)
        assert (await ask(here)).unresolved == (await ask(there)).unresolved == 0
    assert answers(here.out) == answers(there.out)


async def test_a_text_is_scored_from_elsewhere_as_from_here(tmp_path: Path) -> None:
    with FakeServer() as server:
        asked = {"recipe": Recipe(model="fake-model", strategy="lr"), "gold": True}
        async with envoy() as elsewhere:
            here = request(server.endpoint, tmp_path / "here", timeouts=PATIENT, **asked)
            there = replace(here, out=tmp_path / "there", elsewhere=elsewhere)
            assert (await ask(here)).unscored == (await ask(there)).unscored == 0
    assert answers(here.out) == answers(there.out)
    assert len(answers(there.out)) == 2 * len(TASKS)


async def test_times_from_elsewhere_count_from_this_session_s_start(tmp_path: Path) -> None:
    async with serving(Behaviour(first_token_s=0.1)) as (_, endpoint), envoy() as elsewhere:
        asked = request(endpoint, tmp_path, elsewhere=elsewhere, timeouts=PATIENT)
        started_ns = time.perf_counter_ns()
        await ask(asked)
        took_ns = time.perf_counter_ns() - started_ns
    sent = sorted(one.sent_ns for one in read_generations(tmp_path).values())
    # Three requests of four prompts, one after the other.
    assert sent[0] >= 0
    assert sent[4] - sent[3] >= 100_000_000
    assert sent[-1] < took_ns


async def test_an_overload_that_is_met_elsewhere_lowers_the_limit_here(tmp_path: Path) -> None:
    async with serving(Behaviour(script={2: "429"})) as (_, endpoint), envoy() as elsewhere:
        asked = request(endpoint, tmp_path, elsewhere=elsewhere, timeouts=PATIENT)
        assert (await ask(asked)).answered == len(TASKS)
    assert [one.reason for one in read_limits(tmp_path)].count("overloaded") == 1


async def test_a_lost_server_is_told_with_the_node_that_found_it(tmp_path: Path) -> None:
    notices: list[str] = []
    async with serving(Behaviour(script={2: "dead"})) as (_, endpoint), envoy() as elsewhere:
        patient = PATIENT.model_copy(update={"recovery_s": 30.0})
        asked = request(endpoint, tmp_path, elsewhere=elsewhere, timeouts=patient)
        result = await run(asked, lambda *_: None, lambda _: None, notice=notices.append)
    assert result.answered == len(TASKS)
    assert len(notices) == 2
    assert notices[0].startswith(f"node there: {endpoint}: is lost")
    assert notices[1].startswith(f"node there: {endpoint}: is back")


async def test_whoever_watches_the_server_elsewhere_and_fails_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(_: Health) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Health, "watch", broken)
    with FakeServer() as server:
        errand = Errand(
            url=server.endpoint,
            server=ServerIdentity(
                base_url=server.endpoint, model="fake-model", answers_as="fake-model", root=None,
                max_model_len=None, version=None, system_fingerprint=None,
            ),
            sampling=Sampling(),
            timeouts=PATIENT,
            segment=0,
            concurrency=4,
            api_key_env=None,
        )  # fmt: skip
        async with envoy() as elsewhere:
            await elsewhere(errand, [ONE_TOKEN], streamed=False)
            with pytest.raises(ZeroDivisionError):
                await elsewhere(errand, [ONE_TOKEN], streamed=False)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        pytest.param({}, "node there: has no API key in FIM_EVAL_KEY; set it there", id="none"),
        pytest.param({"FIM_EVAL_KEY": "two words"}, "holds a space", id="no key"),
    ],
)
async def test_a_node_without_a_usable_key_is_a_sentence_that_does_not_show_it(
    environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    async with serving(Behaviour()) as (server, endpoint), envoy(environment) as elsewhere:
        asked: Request = request(
            endpoint,
            tmp_path,
            elsewhere=elsewhere,
            api_key="a-key",
            api_key_env="FIM_EVAL_KEY",
        )
        with pytest.raises(EndpointError, match=sentence) as told:
            await ask(asked)
        assert server.prompts == 1, "the sign of life, from here"
    assert "two words" not in str(told.value)
