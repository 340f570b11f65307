from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fim_eval.postprocess import POLICIES, continuation, filled_middle
from fim_eval.records import InfillTask, Prompt
from fim_eval.syntax import parse
from fim_eval.words import Policy


def hole(middle: str, prefix: str = "", suffix: str = "") -> InfillTask:
    return InfillTask(
        task_id="T/1/single-line/L1",
        problem_id="T/1",
        kind="single-line",
        context=None,
        prefix=prefix,
        middle=middle,
        suffix=suffix,
    )


lines = st.text(alphabet="ab \t\f\r\u2028\x85é\n", max_size=20)
"""Short texts, rich in what some would take for line ends."""


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "syntax"])
def test_a_completion_of_a_million_characters_is_cut_in_no_time(policy: Policy) -> None:
    # In the square of its length it would be hours.
    completion = "x" * 1_000_000 + "return"
    middle = filled_middle(policy, completion, hole("  a\n", suffix="return a\n"))
    assert len(middle) in {1_000_000 + 1, len(completion), len(completion) + 1}


@pytest.mark.parametrize(
    ("completion", "reference", "middle"),
    [
        pytest.param("  a\n", "  a\n", "  a\n", id="one line for one"),
        pytest.param("  a\n  b\n", "  a\n", "  a\n", id="a second line goes"),
        pytest.param("  a\n  b", "  a\n", "  a\n", id="an unfinished second line goes"),
        pytest.param("  a", "  a\n", "  a\n", id="the model stopped at the newline"),
        pytest.param("    return x", "    y = x\n", "    return x\n", id="a stop string ate it"),
        pytest.param("", "  a\n", "", id="empty stays empty"),
        pytest.param("\n  a\n", "  a\n", "\n", id="a blank line is a line"),
        pytest.param("\n", "  a\n", "\n", id="only a newline"),
        pytest.param(" ", "  a\n", " \n", id="only a blank"),
        pytest.param("a\n\nb\nc\n", "1\n\n2\n", "a\n\nb\n", id="blank lines are counted"),
        pytest.param("a\n", "1\n2\n3\n", "a\n", id="fewer lines than the reference"),
        pytest.param("a\nb", "1\n2\n3\n", "a\nb\n", id="fewer lines, the last unfinished"),
        pytest.param("x\u2028y\nz\n", "1\n", "x\u2028y\n", id="U+2028 ends no line"),
        pytest.param("x\fy\x85\nz\n", "1\n", "x\fy\x85\n", id="nor do form feed and U+0085"),
        pytest.param("a\n", "1\u2028\f2\n", "a\n", id="nor in the reference"),
        pytest.param("x\r\ny\r\n", "1\n", "x\r\n", id="a carriage return stays with its line"),
        pytest.param("ab\ncd", "12", "ab", id="reference without final newline"),
        pytest.param("ab", "12", "ab", id="reference without final newline, nothing to cut"),
        pytest.param("ab\n", "12", "ab", id="reference without final newline, newline goes"),
        pytest.param("a\nb\nc", "1\n2", "a\nb", id="two lines, the second without newline"),
    ],
)
def test_reference_lines_keeps_as_many_whole_lines_as_the_reference_has(
    completion: str, reference: str, middle: str
) -> None:
    assert filled_middle("reference-lines", completion, hole(reference)) == middle


@given(st.text(), st.text())
def test_raw_keeps_the_completion_to_the_last_character(completion: str, reference: str) -> None:
    assert filled_middle("raw", completion, hole(reference)) == completion


@given(lines, lines)
def test_a_reference_of_whole_lines_followed_by_anything_gives_the_reference(
    text: str, anything: str
) -> None:
    reference = text + "\n"
    assert filled_middle("reference-lines", reference + anything, hole(reference)) == reference


@given(lines, lines)
def test_an_unended_reference_followed_by_a_new_line_gives_the_reference(
    text: str, anything: str
) -> None:
    reference = text + "x"
    assert filled_middle("reference-lines", reference, hole(reference)) == reference
    answer = reference + "\n" + anything
    assert filled_middle("reference-lines", answer, hole(reference)) == reference


@given(lines, lines)
def test_a_whole_line_reference_gets_whole_lines_or_nothing(completion: str, text: str) -> None:
    reference = text + "\n"
    middle = filled_middle("reference-lines", completion, hole(reference))
    assert middle == "" if not completion else middle.endswith("\n")
    assert (completion + "\n").startswith(middle)
    assert middle.count("\n") <= reference.count("\n")


@pytest.mark.parametrize("policy", POLICIES)
@given(completion=lines, text=lines, suffix=lines)
@example(completion="aa", text="", suffix="a")
@example(completion="aaa", text="", suffix="a\n")
def test_what_a_policy_keeps_it_keeps_again(
    policy: Policy, completion: str, text: str, suffix: str
) -> None:
    task = hole(text + "\n", "def f():\n", suffix)
    once = filled_middle(policy, completion, task)
    # A line that was ended for it may meet the suffix once more: `aa` before `a` leaves `a\n`.
    ended = policy == "suffix-overlap" and not completion.startswith(once)
    assert ended or filled_middle(policy, once, task) == once


@pytest.mark.parametrize("policy", POLICIES)
@given(completion=lines, text=lines, suffix=lines)
def test_a_policy_keeps_a_beginning_and_perhaps_ends_its_line(
    policy: Policy, completion: str, text: str, suffix: str
) -> None:
    middle = filled_middle(policy, completion, hole(text, "", suffix))
    assert completion.startswith((middle, middle.removesuffix("\n")))


@pytest.mark.parametrize(
    ("completion", "middle"),
    [
        ("    a = 1\n    b = 2\n", "    a = 1\n"),
        ("    a = 1", "    a = 1\n"),
        ("\n    a = 1\n", "\n"),
        ("", ""),
    ],
)
def test_first_line_keeps_one_whole_line(completion: str, middle: str) -> None:
    assert filled_middle("first-line", completion, hole("    x\n")) == middle


@pytest.mark.parametrize(
    ("completion", "suffix", "middle"),
    [
        pytest.param("  a\n  return r\n  b\n", "  return r\n", "  a\n", id="its first line"),
        pytest.param("  a\n  return r\n", "\n  return r\n", "  a\n", id="after a blank line"),
        pytest.param("  a\n\n  ret", "\n  return r\n", "  a\n", id="cut within it"),
        pytest.param("  a\n  return s\n", "  return r\n", "  a\n  return s\n", id="another"),
        pytest.param("  a\n\n", "\n  return r\n", "  a\n\n", id="only white space in common"),
        pytest.param("  return r\n", "  return r\n", "", id="nothing but the suffix"),
        pytest.param("  a\n  b\n", "", "  a\n  b\n", id="no suffix"),
    ],
)
def test_suffix_overlap_ends_where_the_suffix_begins(
    completion: str, suffix: str, middle: str
) -> None:
    assert filled_middle("suffix-overlap", completion, hole("  x\n", "", suffix)) == middle


@pytest.mark.parametrize(
    ("prefix", "completion", "suffix", "reference", "middle"),
    [
        pytest.param(
            "def f():\n", "    a = 1\n    b = (\n", "    return a\n", "    a = 2\n",
            "    a = 1\n", id="whole lines",
        ),
        pytest.param("x = f(", "1, 2) + g(", ")\n", "1", "1, 2) + g(", id="within a line"),
        pytest.param("x = f(", "1))", ")\n", "1", "1", id="one bracket too many"),
        pytest.param("x = ", "1 +", "\n", "1", "1 ", id="an operator without its operand"),
        pytest.param("x = (", "]", "\n", "1)", "]", id="nothing parses: all of it"),
        pytest.param("def f():\n    x = 1\n", "((\n", "", "    y\n", "", id="nothing is enough"),
    ],
)  # fmt: skip
def test_syntax_keeps_the_longest_beginning_that_parses(
    prefix: str, completion: str, suffix: str, reference: str, middle: str
) -> None:
    assert filled_middle("syntax", completion, hole(reference, prefix, suffix)) == middle


def simply_longest_parsing(completion: str, task: InfillTask) -> str:
    """The policy as it is defined: every beginning is tried, the longest first."""
    if task.middle.endswith("\n"):
        pieces = completion.split("\n")
        cuts = ["\n".join(pieces[:count]) for count in range(len(pieces), 0, -1)]
        cuts = [cut + "\n" if cut and not cut.endswith("\n") else cut for cut in cuts]
    else:
        ends = [found.end() for found in re.finditer(r"\w+|[^\S\n]+|\n|.", completion, re.DOTALL)]
        cuts = [completion[:end] for end in reversed(ends)]
    for text in (*cuts, ""):
        try:
            parse(task.prefix + text + task.suffix)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        return text
    return completion


statements = st.sampled_from(
    [
        "x = 1", "pass", "return x", "if x:", "elif x:", "else:", "else_ = 1", "try:", "except E:",
        "finally:", "for y in x:", "while x: pass", "def f(a,", "b):", "def f():", "class A:", "@d",
        "match x:", "case 1:", "case _: pass", "x = (", "1,", ")", "f(1, [2,", "])", "'''",
        '"""text', 'text"""', "x = '''", "'a' \\", "'a\\", "b'", "x = 1 \\", "\\", "# '''", "",
        "  ", "x = f'{y}'", "x = f'''{", "}'''", "x = f\"{d['a']}\"", "f'{{'", "r'\\'", "x = 'it",
        "x y", "1 +", "with a as b:", "async def g():", "lambda: (", "x = [i for i in y", "]",
        "x; y", "if x: y", "\tz = 1", "z = 1;", "\x0cx = 1", "x\r", "\0", "é = 1", "x = $",
        "if (a :=", "raise", "del x", "''", 'x = "#"', "print x", "return (yield)",
    ]
)  # fmt: skip
programs = st.lists(
    st.builds("{}{}".format, st.sampled_from(["", "    ", "        ", "  ", "\t"]), statements),
    max_size=14,
).map(lambda lines: "".join(line + "\n" for line in lines))


@given(
    prefix=st.sampled_from(
        ["", "def f():\n", "def f():\n    try:\n", "x = (\n", "x = '''\n", "if x:\n    y\n"]
    )
    | programs,
    completion=programs | programs.map(lambda text: text[:-1]),
    suffix=st.sampled_from(
        ["", "    return x\n", ")\n", "'''\n", "    except E: pass\n", "else:\n  y\n"]
    )
    | programs,
    reference=st.sampled_from(["x\n", "x"]),
    tail=st.sampled_from(["", "y\n", "    y\n", "(\n", "if y: y\n"]),
)
@example("if x:\n    y\n", "    z\n", "else:\n    y\n", "x\n", "y\n")
@example("try:\n    y\n", "", "except E:\n    y\n", "x\n", "y\n")
@example("def f():\n", "    if x:\n        y\n", "    elif z: y\n", "x\n", "y\n")
@example("", "@d\n", "def f(): pass\n", "x\n", "y +\n")
@example("x = [\n", "1,\n", "]\n", "x\n", "y z\n")
def test_syntax_keeps_what_trying_every_beginning_keeps(
    prefix: str, completion: str, suffix: str, reference: str, tail: str
) -> None:
    task = hole(reference, prefix, suffix)
    # More lines than are tried one by one.
    answer = completion + tail * 12
    assert filled_middle("syntax", answer, task) == simply_longest_parsing(answer, task)


END = 9


def letters(ids: Sequence[int]) -> str:
    """Id n is the nth of these pieces; `#` is how the end token would read."""
    pieces = ["a", "b", "\n", "def ", "if", " ", "class ", "x", "y", "#"]
    return "".join(pieces[i] for i in ids)


def prompt(stop: tuple[str, ...], stop_token_ids: tuple[int, ...]) -> Prompt:
    return Prompt(
        task_id="T/1/single-line/L1",
        strategy="fim-psm" if stop_token_ids else "lr",
        sample_index=0,
        text=None,
        token_ids=(1,),
        stop=stop,
        stop_token_ids=stop_token_ids,
        max_tokens=8,
    )


@pytest.mark.parametrize(
    ("ids", "stop", "text"),
    [
        pytest.param([0, 1, END], (), "ab", id="the end token is no text"),
        pytest.param([0, 1], (), "ab", id="cut by the limit: no end token"),
        pytest.param([END], (), "", id="only the end token"),
        pytest.param([], (), "", id="nothing at all"),
        pytest.param([0, END, 1], (), "a#b", id="only at the end is it the end"),
        pytest.param([0, END, END], (), "a#", id="one end token, not several"),
        pytest.param([5, 0], (), " a", id="a leading space stays"),
        pytest.param([0, 2, 3, 7], ("\ndef ",), "a", id="cut before the stop string"),
        pytest.param([0, 2, 4, 2, 3, 7], ("\ndef ", "\nif"), "a", id="the first in the text"),
        pytest.param([0, 2, 3, 2, 3], ("\ndef ",), "a", id="the first of two"),
        pytest.param([2, 3], ("\ndef ",), "", id="a stop string at the very start"),
        pytest.param([0, 5, 3, 7], ("\ndef ",), "a def x", id="nearly a stop string"),
    ],
)
def test_a_continuation_ends_before_the_end_token_and_the_first_stop_string(
    ids: list[int], stop: tuple[str, ...], text: str
) -> None:
    assert continuation(ids, prompt(stop, (END,)), letters) == text


def test_without_stop_token_ids_no_id_is_an_end_token() -> None:
    assert continuation([0, END], prompt((), ()), letters) == "a#"
