from __future__ import annotations

from fim_eval.records import Likelihood
from fim_eval.rerank import HEADLINE, SAMPLES, SAMPLING, first_of_each, ranking


def likelihood(*logprobs: float, tokens: int | None = None) -> Likelihood:
    return Likelihood(
        task_id="T/1/single-line/L1",
        strategy="lr-rerank",
        sample_index=0,
        scored="candidate",
        logprobs=logprobs,
        end_logprobs=(),
        tokens=len(logprobs) if tokens is None else tokens,
        characters=9,
        prompt_tokens=len(logprobs),
        system_fingerprint=None,
        answered_as="fake-model",
        attempts=1,
        segment=0,
        sent_ns=0,
        elapsed_ns=1,
    )


def test_a_sum_prefers_the_shorter_program_where_a_mean_does_not() -> None:
    """Sums -2.0 and -2.7, means -1.0 and -0.9."""
    found = ranking(
        "T/1", "lr-rerank", {0: likelihood(-1.0, -1.0), 4: likelihood(-0.9, -0.9, -0.9)}
    )
    assert (found.by_sum, found.by_mean) == ((0, 4), (4, 0))


def test_a_mean_is_over_the_tokens_that_have_a_probability() -> None:
    """-1.5 / 2 = -0.75 and -2.1 / 3 = -0.70; divided by all tokens it would be the other way."""
    found = ranking(
        "T/1",
        "lr-rerank",
        {0: likelihood(-0.5, -1.0, tokens=3), 1: likelihood(-0.7, -0.7, -0.7, tokens=3)},
    )
    assert found.by_mean == (1, 0)


def test_of_equally_probable_programs_the_first_stands_first() -> None:
    same = likelihood(-0.25)
    found = ranking("T/1", "lr-rerank", {7: same, 2: same, 5: likelihood(-0.125)})
    assert found.by_sum == found.by_mean == (5, 2, 7)


def test_a_candidate_that_came_twice_is_one() -> None:
    assert first_of_each(["    x\n", "    y\n", "    x\n", ""]) == {
        0: "    x\n",
        1: "    y\n",
        3: "",
    }


def test_the_defaults_are_those_of_incoder() -> None:
    assert (SAMPLES, SAMPLING.temperature, SAMPLING.top_p) == (10, 0.2, 0.95)
    assert HEADLINE == "mean"
