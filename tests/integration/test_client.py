"""One request, every way it can end: which are answers, which are failures, which end the run."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any

import httpx
import orjson
import pytest

from fim_eval.answers import retry_after_s
from fim_eval.client import Client
from fim_eval.errors import EndpointError
from fim_eval.health import Health
from fim_eval.records import Completion, Prompt, RequestFailure, Sampling, Timeouts
from fim_eval.transport import Http, open_http
from fim_eval.words import FailureReason
from tests.integration.fake_server import RawServer, read_request

KEY = "sk-not-a-real-key-0123456789"

TEXT_PROMPT = Prompt(
    task_id="Made/7/single-line/L1",
    strategy="lr",
    sample_index=0,
    text="def f7():\n",
    token_ids=None,
    stop=("\ndef ", "\nif"),
    stop_token_ids=(),
    max_tokens=64,
)
ID_PROMPT = Prompt(
    task_id="Made/7/single-line/L1",
    strategy="fim-psm",
    sample_index=0,
    text=None,
    token_ids=(1, 32007, 822, 32008, 13, 32009),
    stop=(),
    stop_token_ids=(32010,),
    max_tokens=64,
)

CHOICE: dict[str, Any] = {
    "index": 0,
    "text": "    return 7\n",
    "logprobs": None,
    "finish_reason": "stop",
    "stop_reason": "\ndef ",
    "token_ids": [736, 29871, 29955, 13],
    "prompt_logprobs": None,
    "prompt_token_ids": None,
}
ANSWER: dict[str, Any] = {
    "id": "cmpl-b57d2c6ee52cdbc4",
    "object": "text_completion",
    "created": 1795475029,
    "model": "codellama-7b",
    "choices": [CHOICE],
    "system_fingerprint": "vllm-0.32.0-5b2ef2de",
    "usage": {"prompt_tokens": 5, "total_tokens": 9, "completion_tokens": 4},
}


def ok(**changes: Any) -> httpx.Response:
    """A good answer, with changes to its only choice."""
    return httpx.Response(200, json=ANSWER | {"choices": [CHOICE | changes]})


def refused(status: int, message: str, **headers: str) -> httpx.Response:
    """A refusal as vLLM words it."""
    body = {"error": {"message": message, "type": "Error", "param": None, "code": status}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=body, headers=named)


class Endpoint:
    """Answers as scripted, the last one for ever; remembers what was asked, and every wait."""

    def __init__(self, *script: httpx.Response | httpx.TransportError) -> None:
        self.script = script
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def _answer(self, request: httpx.Request) -> httpx.Response:
        step = self.script[min(len(self.requests), len(self.script) - 1)]
        self.requests.append(request)
        if isinstance(step, httpx.TransportError):
            raise step
        return step

    async def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(request.content) for request in self.requests]

    async def ask(self, prompt: Prompt = TEXT_PROMPT, **how: Any) -> Completion | RequestFailure:
        (outcome,) = await self.ask_all([prompt], **how)
        return outcome

    async def ask_all(
        self,
        prompts: Sequence[Prompt],
        *,
        answers_as: str | None = None,
        sampling: Sampling = Sampling(),  # noqa: B008  frozen
        timeouts: Timeouts = Timeouts(),  # noqa: B008  frozen
        clock_ns: Callable[[], int] | None = None,
        key: str | None = None,
        health: Health | None = None,
    ) -> list[Completion | RequestFailure]:
        async with Http(
            httpx.MockTransport(self._answer),
            "http://model.test/v1/",
            {"Authorization": f"Bearer {key}"} if key else {},
            httpx.Timeout(5.0),
        ) as http:
            client = Client(
                http,
                model="codellama-7b",
                answers_as=answers_as,
                sampling=sampling,
                timeouts=timeouts,
                segment=3,
                clock_ns=clock_ns or count().__next__,
                sleep=self._wait,
                health=health,
            )
            return await client.complete_all(prompts)


async def failure(endpoint: Endpoint, prompt: Prompt = TEXT_PROMPT, **how: Any) -> RequestFailure:
    outcome = await endpoint.ask(prompt, **how)
    assert isinstance(outcome, RequestFailure)
    return outcome


async def answer(endpoint: Endpoint, prompt: Prompt = TEXT_PROMPT, **how: Any) -> Completion:
    outcome = await endpoint.ask(prompt, **how)
    assert isinstance(outcome, Completion)
    return outcome


class TestAnAnswer:
    async def test_is_recorded_as_received(self) -> None:
        times = iter([1_000, 5_500])
        completion = await answer(Endpoint(ok()), clock_ns=times.__next__)
        assert completion == Completion(
            task_id="Made/7/single-line/L1",
            strategy="lr",
            sample_index=0,
            text="    return 7\n",
            server_text=None,
            token_ids=(736, 29871, 29955, 13),
            finish_reason="stop",
            stop_reason="\ndef ",
            prompt_tokens=5,
            completion_tokens=4,
            system_fingerprint="vllm-0.32.0-5b2ef2de",
            answered_as="codellama-7b",
            attempts=1,
            segment=3,
            sent_ns=1_000,
            elapsed_ns=4_500,
        )

    async def test_that_met_the_token_limit_is_an_answer(self) -> None:
        completion = await answer(Endpoint(ok(finish_reason="length", stop_reason=None)))
        assert (completion.finish_reason, completion.stop_reason) == ("length", None)

    async def test_with_empty_text_and_stop_is_an_answer(self) -> None:
        completion = await answer(Endpoint(ok(text="", token_ids=[])))
        assert (completion.text, completion.attempts) == ("", 1)

    async def test_that_ended_at_a_stop_id_says_which(self) -> None:
        completion = await answer(Endpoint(ok(stop_reason=32010)), ID_PROMPT)
        assert completion.stop_reason == 32010

    async def test_without_usage_counts_its_ids(self) -> None:
        bare = {name: ANSWER[name] for name in ("model", "choices")}
        completion = await answer(Endpoint(httpx.Response(200, json=bare)))
        assert completion.token_ids is not None
        assert completion.completion_tokens == len(completion.token_ids) == 4

    async def test_without_usage_ids_or_fingerprint_leaves_them_unknown(self) -> None:
        (choice,) = ANSWER["choices"]
        bare = {
            "model": ANSWER["model"],
            "choices": [{name: choice[name] for name in ("text", "finish_reason")}],
        }
        completion = await answer(Endpoint(httpx.Response(200, json=bare)))
        assert completion.prompt_tokens is None
        assert completion.completion_tokens is None
        assert completion.system_fingerprint is None

    async def test_to_an_id_prompt_may_repeat_the_prompt_unchanged(self) -> None:
        same = ok(prompt_token_ids=list(ID_PROMPT.token_ids or ()))
        assert (await answer(Endpoint(same), ID_PROMPT)).attempts == 1

    async def test_is_timed_from_its_last_attempt(self) -> None:
        times = iter([1_000, 9_000, 9_300])
        endpoint = Endpoint(refused(500, "CUDA error"), ok())
        completion = await answer(endpoint, clock_ns=times.__next__)
        assert (completion.sent_ns, completion.elapsed_ns) == (9_000, 300)


class TestARequest:
    async def test_names_every_sampling_parameter(self) -> None:
        endpoint = Endpoint(ok())
        await answer(endpoint)
        assert endpoint.bodies == [
            {
                "model": "codellama-7b",
                "prompt": "def f7():\n",
                "max_tokens": 64,
                "stop": ["\ndef ", "\nif"],
                "stop_token_ids": [],
                "n": 1,
                "stream": False,
                "return_token_ids": True,
                "temperature": 0.0,
                "top_p": 1.0,
                "top_k": 0,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "seed": 0,
            }
        ]
        assert str(endpoint.requests[0].url) == "http://model.test/v1/completions"

    async def test_carries_the_sampling_that_was_chosen(self) -> None:
        chosen = Sampling(temperature=0.8, top_p=0.95, top_k=40, min_p=0.1, repetition_penalty=1.1)
        endpoint = Endpoint(ok())
        await answer(endpoint, sampling=chosen)
        sent = endpoint.bodies[0]
        assert {name: sent[name] for name in chosen.model_dump()} == chosen.model_dump()

    async def test_of_another_sample_has_another_seed(self) -> None:
        endpoint = Endpoint(ok())
        third = TEXT_PROMPT.model_copy(update={"sample_index": 2})
        await answer(endpoint, third, sampling=Sampling(seed=40))
        assert endpoint.bodies[0]["seed"] == 42

    async def test_of_ids_sends_them_and_their_stop_ids(self) -> None:
        endpoint = Endpoint(ok())
        await answer(endpoint, ID_PROMPT)
        assert endpoint.bodies[0]["prompt"] == [1, 32007, 822, 32008, 13, 32009]
        assert endpoint.bodies[0]["stop_token_ids"] == [32010]
        assert endpoint.bodies[0]["stop"] == []

    async def test_is_the_same_at_every_attempt(self) -> None:
        endpoint = Endpoint(refused(503, "busy"), refused(500, "CUDA error"), ok())
        await answer(endpoint)
        first, *others = endpoint.bodies
        assert others == [first, first]


class TestTryingAgain:
    async def test_waits_as_long_as_the_server_asks(self) -> None:
        endpoint = Endpoint(
            refused(429, "slow down", Retry_After="7"),
            refused(503, "overloaded", Retry_After="2.5"),
            ok(),
        )
        assert (await answer(endpoint)).attempts == 3
        assert endpoint.waits == [7.0, 2.5]

    @pytest.mark.parametrize(
        ("asked", "recovery_s", "wait_s"),
        [
            pytest.param("60", 900.0, 60.0, id="not asked before"),
            pytest.param("3600", 900.0, 900.0, id="as a lost server"),
            pytest.param("3600", 0.0, 30.0, id="none is waited for"),
            pytest.param("inf", 900.0, 900.0, id="for ever"),
        ],
    )
    async def test_waits_at_most_as_long_as_for_a_lost_server(
        self, asked: str, recovery_s: float, wait_s: float
    ) -> None:
        endpoint = Endpoint(refused(429, "slow down", Retry_After=asked), ok())
        await answer(endpoint, timeouts=Timeouts(longest_wait_s=30.0, recovery_s=recovery_s))
        assert endpoint.waits == [wait_s]

    async def test_waits_at_random_between_half_and_all_of_a_doubling_bound(self) -> None:
        fifth_waits = []
        for _ in range(60):
            endpoint = Endpoint(refused(503, "busy"))
            await failure(endpoint, timeouts=Timeouts(first_wait_s=0.5, longest_wait_s=6.0))
            bounds = (0.5, 1.0, 2.0, 4.0, 6.0)
            for wait, bound in zip(endpoint.waits, bounds, strict=True):
                assert bound / 2 <= wait <= bound
            fifth_waits.append(endpoint.waits[4])
        # 60 draws from 3 to 6 s: it grew, and no two clients come back together.
        assert max(fifth_waits) > 5.0
        assert len(set(fifth_waits)) == 60

    async def test_counts_its_attempts(self) -> None:
        endpoint = Endpoint(refused(500, "CUDA error"), ok())
        assert (await answer(endpoint)).attempts == 2
        assert len(endpoint.requests) == 2

    async def test_ends_as_a_failure_with_reason_and_attempts(self) -> None:
        endpoint = Endpoint(refused(500, "EngineDeadError"))
        times = iter([10, 20, 30, 45])
        found = await failure(endpoint, timeouts=Timeouts(attempts=3), clock_ns=times.__next__)
        assert found == RequestFailure(
            task_id="Made/7/single-line/L1",
            strategy="lr",
            sample_index=0,
            reason="server-error",
            detail="HTTP 500: EngineDeadError",
            attempts=3,
            segment=3,
            sent_ns=30,
            elapsed_ns=15,
        )
        assert len(endpoint.requests) == 3

    async def test_takes_the_last_reason(self) -> None:
        endpoint = Endpoint(refused(503, "busy"), refused(400, "top_k must be -1 or at least 1"))
        found = await failure(endpoint)
        assert (found.reason, found.attempts) == ("bad-request", 2)


class Looked:
    """How a server looks: faults, one after the other, then well; and its health, without waits."""

    def __init__(self, *faults: str) -> None:
        self.faults = list(faults)
        self.looks = 0
        self.health = Health(
            self._look,
            Timeouts(),
            where="http://model.test/v1",
            clock_s=lambda: 0.0,
            sleep=self._wait,
            notice=lambda _: None,
        )

    async def _look(self) -> str | None:
        self.looks += 1
        return self.faults.pop(0) if self.faults else None

    async def _wait(self, _: float) -> None:
        pass


class TestAServerThatIsOverloadedAgainAndAgain:
    async def test_and_gives_no_token_is_waited_for(self) -> None:
        looked = Looked(*["HTTP 503"] * 20)

        class Restarting(Endpoint):
            def _answer(self, request: httpx.Request) -> httpx.Response:
                self.requests.append(request)
                return refused(503, "no server behind") if looked.faults else ok()

        assert (await answer(Restarting(), health=looked.health)).attempts == 4
        assert looked.looks == 21

    async def test_and_gives_a_token_is_asked_on(self) -> None:
        looked = Looked()
        endpoint = Endpoint(*[refused(503, "busy")] * 5, ok())
        assert (await answer(endpoint, health=looked.health)).attempts == 6
        assert looked.looks == 3

    async def test_and_says_until_when_is_not_looked_at(self) -> None:
        looked = Looked()
        endpoint = Endpoint(*[refused(429, "slow down", Retry_After="1")] * 5, ok())
        assert (await answer(endpoint, health=looked.health)).attempts == 6
        assert looked.looks == 0


RETRIED: Sequence[Any] = [
    pytest.param(refused(429, "slow down"), "overloaded", id="429"),
    pytest.param(refused(503, "busy"), "overloaded", id="503"),
    pytest.param(httpx.Response(503, text="upstream down"), "overloaded", id="503 of a proxy"),
    pytest.param(refused(408, "too slow"), "timeout", id="408"),
    pytest.param(refused(500, "CUDA error"), "server-error", id="500"),
    pytest.param(httpx.Response(502, text="<html>Bad Gateway"), "server-error", id="502 in HTML"),
    pytest.param(refused(504, "gateway timeout"), "server-error", id="504"),
    pytest.param(
        httpx.Response(200, json={"error": {"message": "EngineCore died", "code": 500}}),
        "error-in-body",
        id="200 with an error",
    ),
    pytest.param(
        httpx.Response(200, json=ANSWER | {"error": {"message": "EngineCore died"}}),
        "error-in-body",
        id="200 with an answer and an error",
    ),
    pytest.param(
        httpx.Response(200, content=orjson.dumps(ANSWER)[:-9]),
        "malformed-response",
        id="200 with broken JSON",
    ),
    pytest.param(httpx.Response(200, content=b""), "malformed-response", id="200 with nothing"),
    pytest.param(httpx.Response(200, json=[1]), "malformed-response", id="200 with a list"),
    pytest.param(
        httpx.Response(200, json={"object": "text_completion"}),
        "malformed-response",
        id="200 without choices",
    ),
    pytest.param(
        httpx.Response(200, json=ANSWER | {"choices": []}), "malformed-response", id="no choice"
    ),
    pytest.param(
        httpx.Response(200, json=ANSWER | {"choices": [CHOICE, CHOICE]}),
        "malformed-response",
        id="two choices",
    ),
    pytest.param(ok(text=None), "malformed-response", id="text is null"),
    pytest.param(ok(finish_reason="abort"), "aborted", id="abort"),
    pytest.param(ok(finish_reason="error"), "aborted", id="error"),
    pytest.param(ok(finish_reason="repetition"), "aborted", id="repetition"),
    pytest.param(ok(finish_reason=None), "aborted", id="no finish reason"),
    pytest.param(httpx.ConnectError("refused"), "connection", id="connection refused"),
    pytest.param(httpx.ReadError("reset"), "connection", id="connection reset"),
    pytest.param(httpx.RemoteProtocolError("half"), "connection", id="half an answer"),
    pytest.param(httpx.ReadTimeout("600 s"), "timeout", id="no answer in time"),
    pytest.param(httpx.ConnectTimeout("10 s"), "timeout", id="no connection in time"),
]


@pytest.mark.parametrize(("fault", "reason"), RETRIED)
async def test_trouble_of_the_server_is_tried_again_and_then_a_failure(
    fault: httpx.Response | httpx.TransportError, reason: FailureReason
) -> None:
    found = await failure(Endpoint(fault), timeouts=Timeouts(attempts=3))
    assert (found.reason, found.attempts) == (reason, 3)
    completion = await answer(Endpoint(fault, ok()))
    assert (completion.text, completion.attempts) == ("    return 7\n", 2)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(None, id="null"),
        pytest.param(CHOICE | {"index": 1, "text": None}, id="text is null"),
        pytest.param(CHOICE | {"index": "1."}, id="index is no number"),
    ],
)
async def test_what_is_malformed_in_one_choice_is_its_prompt_s_failure(broken: object) -> None:
    body = ANSWER | {"choices": [CHOICE, broken, CHOICE | {"index": 2}]}
    endpoint = Endpoint(httpx.Response(200, json=body))
    outcomes = await endpoint.ask_all([TEXT_PROMPT] * 3, timeouts=Timeouts(attempts=1))
    assert [type(one) for one in outcomes] == [Completion, RequestFailure, Completion]
    (failed,) = [one for one in outcomes if isinstance(one, RequestFailure)]
    assert failed.reason == "malformed-response"
    assert failed.detail.startswith("choices.1.")


async def test_a_choice_that_is_malformed_names_no_other_prompt_s_place() -> None:
    body = ANSWER | {"choices": [CHOICE, CHOICE | {"text": None}]}
    endpoint = Endpoint(httpx.Response(200, json=body))
    outcomes = await endpoint.ask_all([TEXT_PROMPT] * 2, timeouts=Timeouts(attempts=1))
    assert [type(one) for one in outcomes] == [RequestFailure] * 2, "both are said to be the first"


async def test_an_answer_of_another_model_is_a_failure() -> None:
    found = await failure(Endpoint(ok()), answers_as="codellama-34b")
    assert found.reason == "wrong-model"
    assert "'codellama-7b'" in found.detail
    assert "'codellama-34b'" in found.detail


@pytest.mark.parametrize(
    ("status", "message", "reason"),
    [
        (400, "top_k must be -1 or at least 1", "bad-request"),
        (422, "prompt: field required", "bad-request"),
        (413, "body too large", "prompt-too-long"),
        pytest.param(
            400,
            "You passed 5 input tokens and requested 64 output tokens. However, the model's "
            "context length is only 16 tokens. (parameter=input_tokens, value=5)",
            "prompt-too-long",
            id="vLLM's own words",
        ),
        pytest.param(
            400,
            "This model's maximum context length is 2048 tokens.",
            "prompt-too-long",
            id="OpenAI's words",
        ),
    ],
)
async def test_a_refused_prompt_is_not_tried_again(
    status: int, message: str, reason: FailureReason
) -> None:
    endpoint = Endpoint(refused(status, message))
    found = await failure(endpoint)
    assert (found.reason, found.attempts, endpoint.waits) == (reason, 1, [])
    assert message in found.detail


async def test_an_altered_prompt_is_not_tried_again() -> None:
    with_second_bos = ok(prompt_token_ids=[1, *(ID_PROMPT.token_ids or ())])
    found = await failure(Endpoint(with_second_bos), ID_PROMPT)
    assert (found.reason, found.attempts) == ("prompt-altered", 1)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, "refuses the API key"),
        (403, "refuses the API key"),
        (404, "'codellama-7b'"),
        (301, "full base URL"),
        (307, "full base URL"),
        (405, "full base URL"),
    ],
)
async def test_a_refusal_of_all_requests_ends_the_run(status: int, says: str) -> None:
    endpoint = Endpoint(refused(status, "so it is", Location="http://elsewhere.test/"))
    with pytest.raises(EndpointError, match=says) as caught:
        await endpoint.ask()
    assert "http://model.test/v1/completions" in str(caught.value)
    assert "so it is" in str(caught.value)
    assert len(endpoint.requests) == 1


async def test_an_id_prompt_needs_ids_back() -> None:
    with pytest.raises(EndpointError, match=r"vLLM 0\.11 or newer"):
        await Endpoint(ok(token_ids=None)).ask(ID_PROMPT)


async def test_a_text_prompt_needs_no_ids_back() -> None:
    assert (await answer(Endpoint(ok(token_ids=None)))).token_ids is None


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500])
async def test_a_key_that_the_server_repeats_is_not_repeated(status: int) -> None:
    endpoint = Endpoint(refused(status, f"Incorrect API key provided: {KEY}."))
    try:
        told = (await failure(endpoint, key=KEY)).model_dump_json()
    except EndpointError as error:
        told = str(error)
    assert endpoint.requests[0].headers["Authorization"] == f"Bearer {KEY}"
    assert "Incorrect API key provided: [API key]." in told
    assert KEY not in told


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({"error": {"message": f"bad key {KEY}"}}, id="in an error"),
        pytest.param({"detail": f"bad key {KEY}"}, id="in a detail"),
        pytest.param({"said": [f"bad key {KEY}"]}, id="anywhere"),
    ],
)
async def test_a_key_in_a_body_of_any_shape_is_not_repeated(body: dict[str, Any]) -> None:
    for status in (200, 500):
        endpoint = Endpoint(httpx.Response(status, json=body))
        assert KEY not in (await failure(endpoint, key=KEY)).model_dump_json()


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("-3", 0.0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 90.0),
        ("Wednesday, 21-Oct-26 07:28:00 GMT", 90.0),
        ("Wed Oct 21 07:28:00 2026", 90.0),
        ("Wed, 21 Oct 2026 07:26:00 GMT", 0.0),
        ("Wed, 41 Oct 2026 07:26:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_seconds_or_as_a_date(header: str, seconds: float | None) -> None:
    headers = {"Retry-After": header, "Date": "Wed, 21 Oct 2026 07:26:30 GMT"}
    assert retry_after_s(httpx.Headers(headers)) == seconds
    assert retry_after_s(httpx.Headers()) is None


def test_a_date_to_retry_after_counts_from_now_if_the_server_tells_no_time() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(minutes=2), usegmt=True)
    found = retry_after_s(httpx.Headers({"Retry-After": until}))
    assert found is not None
    assert 100 < found <= 120


class TestOnTheWire:
    """The real transport: its exceptions name what happened wrongly, and must not fool us."""

    @staticmethod
    async def ask(
        endpoint: str, *, attempts: int = 1, key: str | None = None, **limits: float
    ) -> Completion | RequestFailure:
        timeouts = Timeouts(attempts=attempts, first_wait_s=0.0, **limits)
        async with open_http(endpoint, key, concurrency=4, timeouts=timeouts) as http:
            client = Client(
                http,
                model="codellama-7b",
                answers_as=None,
                sampling=Sampling(),
                timeouts=timeouts,
                segment=0,
                clock_ns=count().__next__,
                sleep=asyncio.sleep,
            )
            return await client.complete(TEXT_PROMPT)

    async def test_a_server_that_closes_is_a_failed_connection(self) -> None:
        async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with RawServer(close) as server:
            outcome = await self.ask(server.endpoint, attempts=3)
            assert isinstance(outcome, RequestFailure)
            assert (outcome.reason, outcome.attempts) == ("connection", 3)
            assert server.connections >= 3

    async def test_a_server_that_closes_when_asked_is_a_failed_connection(self) -> None:
        async def read_and_close(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await read_request(reader)

        async with RawServer(read_and_close) as server:
            outcome = await self.ask(server.endpoint)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "connection"
            assert "Disconnected" in outcome.detail

    async def test_an_answer_that_is_no_http_is_told_without_the_key(self) -> None:
        async def speak_otherwise(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 banana\r\n\r\n")
            await writer.drain()

        async with RawServer(speak_otherwise) as server:
            outcome = await self.ask(server.endpoint, key="sk-secret")
        assert isinstance(outcome, RequestFailure)
        assert outcome.reason == "connection"
        assert "Invalid status code" in outcome.detail
        assert "sk-secret" not in outcome.detail
        assert "\\n" not in outcome.detail

    async def test_a_proxy_that_refuses_is_told_without_its_password(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, str]] = []

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append((await read_request(reader))[1])
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        password = base64.b64encode(b"me:secret").decode()
        async with RawServer(refuse) as server:
            address = server.endpoint.removeprefix("http://").removesuffix("/v1")
            monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@{address}")
            outcome = await self.ask("https://models.invalid/v1", key="sk-secret")
        assert asked[0]["proxy-authorization"] == f"Basic {password}"
        assert "authorization" not in asked[0], "the key is the endpoint's"
        assert isinstance(outcome, RequestFailure)
        assert outcome.reason == "connection"
        assert "Who are you" in outcome.detail
        for secret in ("secret", password):
            assert secret not in outcome.detail

    async def test_a_proxy_is_told_who_asks_with_every_request(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[dict[str, str]] = []

        async def overload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                asked.append((await read_request(reader))[1])
                writer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                await writer.drain()

        async with RawServer(overload) as server:
            address = server.endpoint.removeprefix("http://").removesuffix("/v1")
            monkeypatch.setenv("HTTP_PROXY", f"http://me:%E2%82%AC%40@{address}")
            await self.ask("http://models.invalid/v1", key="sk-secret", attempts=3)
            assert server.connections == 1
        who = base64.b64encode("me:€@".encode()).decode()
        assert [one["proxy-authorization"] for one in asked] == [f"Basic {who}"] * 3
        assert [one["authorization"] for one in asked] == ["Bearer sk-secret"] * 3
        assert {one["host"] for one in asked} == {"models.invalid"}

    async def test_a_port_without_a_server_is_a_failed_connection(self) -> None:
        async with RawServer(_never) as server:
            endpoint = server.endpoint
        outcome = await self.ask(endpoint)
        assert isinstance(outcome, RequestFailure)
        assert outcome.reason == "connection"

    @pytest.mark.parametrize(
        "head",
        [
            pytest.param(b"Content-Length: 1000\r\n\r\n", id="with a length"),
            pytest.param(b"Transfer-Encoding: chunked\r\n\r\n400\r\n", id="in chunks"),
        ],
    )
    async def test_half_a_body_is_a_failed_connection(self, head: bytes) -> None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head)
            writer.write(orjson.dumps(ANSWER)[:100])
            await writer.drain()

        async with RawServer(half) as server:
            outcome = await self.ask(server.endpoint)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "connection"

    async def test_a_body_cut_where_nothing_tells_its_length_is_malformed(self) -> None:
        async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            writer.write(orjson.dumps(ANSWER)[:100])
            await writer.drain()

        async with RawServer(half) as server:
            outcome = await self.ask(server.endpoint)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "malformed-response"

    async def test_what_is_no_http_is_a_failed_connection(self) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            await writer.drain()

        async with RawServer(other) as server:
            outcome = await self.ask(server.endpoint)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "connection"

    async def test_a_body_that_does_not_unpack_is_a_failure(self) -> None:
        async def garbled(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n{  }"
            )
            await writer.drain()

        async with RawServer(garbled) as server:
            outcome = await self.ask(server.endpoint)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason in ("connection", "malformed-response")

    async def test_a_server_that_never_answers_is_a_timeout(self) -> None:
        async with RawServer(_never) as server:
            outcome = await asyncio.wait_for(self.ask(server.endpoint, request_s=0.2), 5)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "timeout"

    async def test_a_server_that_stops_within_its_answer_is_a_timeout(self) -> None:
        async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
            await writer.drain()
            await asyncio.Event().wait()

        async with RawServer(stall) as server:
            outcome = await asyncio.wait_for(self.ask(server.endpoint, request_s=0.2), 5)
            assert isinstance(outcome, RequestFailure)
            assert outcome.reason == "timeout"

    async def test_a_server_that_comes_back_is_asked_again(self) -> None:
        async def second_time(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader)
            if server.connections > 1:
                content = orjson.dumps(ANSWER)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
                writer.write(content)
                await writer.drain()

        async with RawServer(second_time) as server:
            outcome = await self.ask(server.endpoint, attempts=4)
            assert isinstance(outcome, Completion)
            assert outcome.attempts == 2

    async def test_three_connections_are_left_to_look_when_all_others_wait(self) -> None:
        async with (
            RawServer(_never) as server,
            open_http(server.endpoint, None, concurrency=3, timeouts=Timeouts()) as http,
        ):
            asked = [asyncio.create_task(http.post_completions(b"{}")) for _ in range(3)]
            looking = [asyncio.create_task(http.get("models")) for _ in range(5)]
            await asyncio.sleep(0.5)
            assert server.connections == 6
            for task in (*asked, *looking):
                task.cancel()
            await asyncio.gather(*asked, *looking, return_exceptions=True)

    async def test_the_key_is_sent_as_a_bearer_token(self) -> None:
        seen: list[tuple[str, dict[str, str], bytes]] = []

        async def listen(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            seen.append(await read_request(reader))

        async with RawServer(listen) as server:
            await self.ask(server.endpoint, key=KEY)
            await self.ask(server.endpoint)
        (first, with_key, _), (_, without, _) = seen[0], seen[-1]
        assert first == "POST /v1/completions"
        assert with_key["authorization"] == f"Bearer {KEY}"
        assert "authorization" not in without


async def _never(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()
