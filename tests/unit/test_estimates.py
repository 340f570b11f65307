"""Questions over a few tasks whose answers can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from fim_eval.report.estimates import Answer, Questions, Values, combined
from fim_eval.statistics import mcnemar_exact, sign_flip, wilson

INF = float("inf")


def values(
    low: list[float], high: list[float] | None = None, *, first: int = 0, per_problem: int = 2
) -> Values:
    """Tasks from number `first` on, so many to a problem; `high`: as `low`."""
    tasks = np.arange(first, first + len(low))
    return Values(
        tasks,
        tasks // per_problem,
        np.array(low, dtype=float),
        np.array(low if high is None else high, dtype=float),
        np.ones(len(low)),
        "rate",
    )


def answered(of: Values, *, tested: bool = False) -> Answer:
    questions = Questions()
    questions.ask(of, tested=tested)
    [answer] = questions.answers(seed=0, resamples=200)
    return answer


def test_unresolved_tasks_give_two_numbers_and_no_value() -> None:
    estimate = answered(values([1, 0, 0, 1], [1, 1, 0, 1])).estimate
    assert (estimate.value, estimate.least, estimate.most) == (None, 0.5, 0.75)
    assert (estimate.tasks, estimate.problems) == (4, 2)


def test_a_number_without_bound_has_no_upper_end() -> None:
    estimate = answered(values([3, 0, 5, 1], [3, INF, 5, 1])).estimate
    assert (estimate.least, estimate.most, estimate.high) == (2.25, None, None)
    assert estimate.low is not None


def test_a_difference_pairs_the_tasks_that_both_have() -> None:
    one, other = values([1, 1, 0, 0, 1, 1]), values([1, 1, 1, 0], first=2)
    difference = combined([one, other], [-1, 1])
    assert difference.tasks.tolist() == [2, 3, 4, 5]
    assert difference.low.tolist() == difference.high.tolist() == [1, 1, 0, -1]
    assert difference.scale == "difference of rates"


def test_a_difference_is_least_if_the_unresolved_speak_against_it() -> None:
    one, other = values([0, 1], [1, 1]), values([0, 0], [0, 1])
    difference = combined([one, other], [-1, 1])
    assert (difference.low.tolist(), difference.high.tolist()) == ([-1, -1], [0, 0])


def test_a_weight_of_nothing_takes_no_unbounded_number_in() -> None:
    middle = values([0, 0], [INF, INF])
    slope = combined([values([1, 1]), middle, values([2, 3])], [-0.5, 0.0, 0.5])
    assert slope.low.tolist() == slope.high.tolist() == [0.5, 1]


def test_a_task_that_does_not_count_for_one_does_not_count_for_the_pair() -> None:
    one, other = values([1, 1]), values([0, 0])
    one.weight[0] = 0
    assert combined([one, other], [-1, 1]).tasks.tolist() == [1]


def test_probabilities_are_those_of_the_least_favourable_outcome() -> None:
    ones = [1.0] * 24
    one, other = values([0.0] * 24), values([1.0] * 16 + [0.0] * 8, ones)
    answer = answered(combined([one, other], [-1, 1]), tested=True)
    sums = np.array([[2.0] * 8 + [0.0] * 4]).T
    assert answer.p_permutation == sign_flip(sums, resamples=200, seed=0)[0]
    assert answer.p_permutation is not None
    assert answer.p_permutation > sign_flip(np.full((12, 1), 2.0), resamples=200, seed=0)[0]
    assert answer.p_mcnemar == mcnemar_exact(8, 0)


def test_unresolved_tasks_that_may_turn_a_difference_leave_it_open() -> None:
    one, other = values([0, 1] * 10, [0, 1] * 10), values([1, 0] * 10, [1, 1] * 10)
    answer = answered(combined([one, other], [-1, 1]), tested=True)
    assert (answer.estimate.least, answer.estimate.most) == (0, 0.5)
    assert answer.p_permutation == 1


def test_tasks_that_all_agree_leave_wilsons_doubt() -> None:
    right, wrong = answered(values([1.0] * 20)).estimate, answered(values([0.0] * 20)).estimate
    assert (right.low, right.high) == (wilson(10, 10)[0], 1)
    assert (wrong.low, wrong.high) == (0, wilson(0, 10)[1])
    same = answered(combined([values([1.0] * 20), values([1.0] * 20)], [-1, 1])).estimate
    assert (same.low, same.value, same.high) == (-wilson(0, 10)[1], 0, wilson(0, 10)[1])


@pytest.mark.parametrize("tested", [True, False])
def test_no_task_has_no_number(tested: bool) -> None:
    answer = answered(values([]), tested=tested)
    assert answer.estimate.model_dump(exclude={"tasks", "problems"}) == dict.fromkeys(
        ("value", "least", "most", "low", "high")
    )
    assert (answer.estimate.tasks, answer.p_permutation) == (0, None)


def test_answers_come_in_the_order_of_the_questions() -> None:
    questions = Questions()
    places = [questions.ask(values([float(n)] * (2 + 2 * (n % 3)))) for n in range(9)]
    answers = questions.answers(seed=0, resamples=100)
    assert [answers[place].estimate.value for place in places] == list(range(9))
