"""In which order, and how many together, prompts are asked."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fim_eval.order import (
    batches,
    distinct,
    in_cache_order,
    places_by,
    replica_of,
    shard_of,
)
from fim_eval.records import Prompt


def prompt(task: str, text: str, **changes: object) -> Prompt:
    return Prompt(
        task_id=task, strategy="lr", sample_index=0, text=text, token_ids=None,
        stop=("\ndef ",), stop_token_ids=(), max_tokens=64,
    ).model_copy(update=changes)  # fmt: skip


PROMPTS = st.lists(
    st.builds(
        prompt,
        st.text("abc", min_size=1, max_size=2),
        st.text("xy", max_size=3),
        max_tokens=st.sampled_from([64, 512]),
        sample_index=st.integers(0, 1),
    )
)


def test_the_same_question_of_two_tasks_is_asked_once() -> None:
    one, two, other = prompt("A/1", "x"), prompt("A/2", "x"), prompt("A/3", "y")
    first, second = distinct([one, other, two])
    assert (first.prompt, first.others) == (one, [two])
    assert (second.prompt, second.others) == (other, [])


def test_another_limit_or_sample_is_another_question() -> None:
    longer = prompt("A/1", "x", max_tokens=512)
    again = prompt("A/1", "x", sample_index=1)
    assert len(distinct([prompt("A/1", "x"), longer, again])) == 3


@given(PROMPTS, st.integers(1, 5))
def test_every_prompt_is_in_one_batch_of_prompts_that_are_alike(
    prompts: list[Prompt], size: int
) -> None:
    problems = {one.task_id: one.task_id[0] for one in prompts}
    cut = list(batches(in_cache_order(distinct(prompts), problems), size))
    asked = [
        one for batch in cut for question in batch for one in (question.prompt, *question.others)
    ]
    assert Counter(asked) == Counter(prompts)
    assert all(1 <= len(batch) <= size for batch in cut)
    for batch in cut:
        settings = {(one.prompt.max_tokens, one.prompt.sample_index) for one in batch}
        assert len(settings) == 1


@given(PROMPTS)
def test_problems_stay_together_and_what_begins_alike_is_side_by_side(
    prompts: list[Prompt],
) -> None:
    problems = {one.task_id: one.task_id[0] for one in prompts}
    ordered = [one.prompt for one in in_cache_order(distinct(prompts), problems)]
    names = [problems[one.task_id] for one in ordered]
    assert len([name for place, name in enumerate(names) if names[:place][-1:] != [name]]) == len(
        set(names)
    )
    for name in set(names):
        texts = [one.text for one in ordered if problems[one.task_id] == name]
        assert texts == sorted(texts, key=str)


def test_a_server_that_goes_moves_no_problem_between_the_others() -> None:
    urls = ["http://a/v1", "http://b/v1", "http://c/v1"]
    problems = [f"MBPP/{number}" for number in range(300)]
    before = {name: replica_of(name, urls) for name in problems}
    after = {name: replica_of(name, urls[:2]) for name in problems}
    assert all(70 < count < 130 for count in Counter(before.values()).values())
    assert all(after[name] == url for name, url in before.items() if url != urls[2])


def test_shards_are_the_same_everywhere_and_about_as_large() -> None:
    sizes = Counter(shard_of(f"MBPP/{number}", 4) for number in range(11, 511))
    assert sorted(sizes) == [1, 2, 3, 4]
    assert all(100 <= size <= 150 for size in sizes.values())
    # A part that was asked by another version must be the same part.
    assert [shard_of(f"MBPP/{number}", 4) for number in range(11, 21)] == [
        1, 2, 3, 2, 3, 2, 2, 4, 2, 2,
    ]  # fmt: skip


@given(st.lists(st.integers(0, 9)))
def test_places_are_those_of_a_stable_sort(keys: list[int]) -> None:
    assert list(places_by(keys)) == sorted(range(len(keys)), key=keys.__getitem__)
