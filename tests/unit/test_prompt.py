from __future__ import annotations

import ast
from functools import cache
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from fim_eval.errors import StrategyRefusedError
from fim_eval.formats import CODE_LLAMA, MODEL_CARDS, card_of
from fim_eval.prompt import (
    FEWSHOT_HEAD,
    FILL_END,
    LEFT_TO_RIGHT_STOPS,
    MAX_TOKENS,
    bind,
    build_prompt,
    candidate_scoring,
    fewshot_text,
    gold_scoring,
    infill_format,
    infill_ids,
    layout,
    module_docstring,
    shown_prefix,
    wording_of,
)
from fim_eval.records import InfillTask, ModelCard, Prompt
from fim_eval.tokenizer import SentencePieceTokenizer
from fim_eval.words import Context, Kind, Strategy
from tests.data_paths import (
    FULL,
    code_llama_tokenizer,
    mbpp_tasks,
    needs_mbpp,
    needs_tokenizer,
    tokenizer_folder,
)

INFILLING: tuple[Strategy, ...] = ("fim-psm", "fim-spm")
BOS, PRE, SUF, MID, EOT = 1, 32007, 32008, 32009, 32010

GOLDEN_PREFIX = 'def remove_non_ascii(s: str) -> str:\n    """ '
GOLDEN_SUFFIX = "\n    return result\n"
GOLDEN_PREFIX_IDS = (
    822, 3349, 29918, 5464, 29918, 294, 18869, 29898, 29879, 29901, 851, 29897, 1599, 851, 29901,
    13, 1678, 9995, 29871,
)  # fmt: skip
GOLDEN_SUFFIX_IDS = (13, 1678, 736, 1121, 13)
"""transformers' CodeLlama integration test and llama.cpp issue 3503, cut at the sentinels."""

PUNCTUATION = "\r\"&'(),./:;<=>[\\{`"
"""What `<SUF>` as text merges with, so that the sentinel is lost."""

code_text = st.text(
    alphabet=st.sampled_from("\r\n\t  \"'\\`<>():=xé☺\u2028\0") | st.characters(codec="utf-8")
)


def task(
    prefix: str = "def f(x):\n", suffix: str = "    return y\n", context: str | None = "Do it."
) -> InfillTask:
    return InfillTask(
        task_id="T/1/single-line/L1",
        problem_id="T/1",
        kind="single-line",
        context=context,
        prefix=prefix,
        middle="    y = x\n",
        suffix=suffix,
    )


def known(name: str) -> ModelCard:
    card = card_of(name)
    assert card is not None
    return card


class Letters:
    """Each character is its code point; what begins a sequence gets a 7 in front."""

    source = "letters"
    start_ids = (BOS,)

    def piece_id(self, piece: str) -> int | None:
        return CODE_LLAMA.known_ids.get(piece)

    def encode(self, text: str) -> list[int]:
        return [7, *map(ord, text)] if text else []

    def encode_infill(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def built(
    strategy: Strategy,
    *,
    of: InfillTask | None = None,
    model: str = "CodeLlama-7b-hf",
    context: Context = "none",
    encoder: Letters | SentencePieceTokenizer | None = None,
) -> Prompt:
    wording = wording_of(
        strategy, context=context, model=model, card=card_of(model), encoder=encoder
    )
    return build_prompt(of or task(), wording, max_tokens=64)


def ids_of(strategy: Strategy, prefix: str, suffix: str) -> tuple[int, ...]:
    prompt = built(strategy, of=task(prefix, suffix), encoder=code_llama_tokenizer())
    assert prompt.token_ids is not None
    return prompt.token_ids


# The recipe with Code Llama's tokenizer


@needs_tokenizer
def test_a_psm_prompt_is_the_published_golden_vector() -> None:
    expected = (BOS, PRE, *GOLDEN_PREFIX_IDS, SUF, *GOLDEN_SUFFIX_IDS, MID)
    assert ids_of("fim-psm", GOLDEN_PREFIX, GOLDEN_SUFFIX) == expected


@needs_tokenizer
def test_an_spm_prompt_is_made_of_the_golden_vector_s_pieces() -> None:
    expected = (BOS, PRE, SUF, *GOLDEN_SUFFIX_IDS, MID, *GOLDEN_PREFIX_IDS)
    assert ids_of("fim-spm", GOLDEN_PREFIX, GOLDEN_SUFFIX) == expected


@needs_tokenizer
def test_a_left_to_right_prompt_is_bos_and_the_prefix() -> None:
    assert ids_of("lr", GOLDEN_PREFIX, GOLDEN_SUFFIX) == (BOS, *GOLDEN_PREFIX_IDS)


@needs_tokenizer
def test_an_empty_prefix_gives_no_ids() -> None:
    assert ids_of("fim-psm", "", GOLDEN_SUFFIX) == (BOS, PRE, SUF, *GOLDEN_SUFFIX_IDS, MID)
    assert ids_of("fim-spm", "", GOLDEN_SUFFIX) == (BOS, PRE, SUF, *GOLDEN_SUFFIX_IDS, MID)
    assert ids_of("lr", "", GOLDEN_SUFFIX) == (BOS,)


@needs_tokenizer
def test_an_empty_suffix_gives_no_ids_and_keeps_the_sentinels() -> None:
    assert ids_of("fim-psm", GOLDEN_PREFIX, "") == (BOS, PRE, *GOLDEN_PREFIX_IDS, SUF, MID)
    assert ids_of("fim-spm", GOLDEN_PREFIX, "") == (BOS, PRE, SUF, MID, *GOLDEN_PREFIX_IDS)


@needs_tokenizer
@pytest.mark.parametrize("strategy", INFILLING)
@pytest.mark.parametrize("start", [*PUNCTUATION, "\r\n", "\n", " ", "\t", "x"], ids=ascii)
def test_the_sentinels_stay_single_ids_whatever_the_suffix_begins_with(
    strategy: Strategy, start: str
) -> None:
    ids = ids_of(strategy, GOLDEN_PREFIX, start + "rest")
    assert [ids.count(sentinel) for sentinel in (BOS, PRE, SUF, MID, EOT)] == [1, 1, 1, 1, 0]
    after = ids[ids.index(SUF) + 1 : ids.index(MID)]
    assert code_llama_tokenizer().decode_infill(after) == start + "rest"


@needs_tokenizer
@pytest.mark.parametrize("start", PUNCTUATION, ids=ascii)
def test_as_text_the_suffix_sentinel_would_be_lost(start: str) -> None:
    """Why prompts are ids; the day this fails, text is as good."""
    as_text = f"<PRE> {GOLDEN_PREFIX} <SUF>{start}rest <MID>"
    assert SUF not in code_llama_tokenizer().encode(as_text)


@cache
def pieces() -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(tokenizer_folder() / "tokenizer.model"))


def meta_s_recipe(strategy: Strategy, prefix: str, suffix: str) -> list[int]:
    """`infilling_prompt_tokens` and `encode_infilling` of Meta's llama/generation.py, shortened."""
    prefix_ids = pieces().encode(prefix)
    suffix_ids = pieces().encode("☺" + suffix)[2:]
    if strategy == "fim-spm":
        return [BOS, PRE, SUF, *suffix_ids, MID, *prefix_ids]
    return [BOS, PRE, *prefix_ids, SUF, *suffix_ids, MID]


@needs_tokenizer
@needs_mbpp
@pytest.mark.parametrize("strategy", INFILLING)
def test_every_mbpp_prompt_has_the_ids_of_meta_s_recipe(strategy: Strategy) -> None:
    tasks = mbpp_tasks(FULL, "all")
    assert len(tasks) == 5_261
    for found in tasks:
        ids = ids_of(strategy, found.prefix, found.suffix)
        assert list(ids) == meta_s_recipe(strategy, found.prefix, found.suffix), found.task_id
        assert [ids.count(sentinel) for sentinel in (PRE, SUF, MID, EOT)] == [1, 1, 1, 0]


@needs_tokenizer
@pytest.mark.parametrize("strategy", INFILLING)
@settings(max_examples=500)
@given(prefix=code_text, suffix=code_text)
def test_any_prompt_has_the_ids_of_meta_s_recipe(
    strategy: Strategy, prefix: str, suffix: str
) -> None:
    ids = ids_of(strategy, prefix, suffix)
    assert list(ids) == meta_s_recipe(strategy, prefix, suffix)


@needs_tokenizer
@needs_mbpp
def test_23_of_mbpp_s_lines_need_more_than_40_new_tokens_and_one_more_than_64() -> None:
    encode = code_llama_tokenizer().encode_infill
    needed = [len(encode(found.middle)) + 1 for found in mbpp_tasks(FULL, "all")]
    assert len(needed) == 5_261
    assert sum(tokens > 40 for tokens in needed) == 23
    assert sum(tokens > MAX_TOKENS["single-line"] for tokens in needed) == 1
    assert max(needed) == 65


def test_a_line_gets_64_new_tokens_and_more_than_a_line_512() -> None:
    assert {kind: 64 if kind == "single-line" else 512 for kind in get_args(Kind)} == MAX_TOKENS


# The recipe's form


def test_the_parts_stand_in_the_order_of_the_strategy() -> None:
    bound = bind(Letters(), CODE_LLAMA)
    assert infill_ids(Letters(), bound, layout(CODE_LLAMA, "fim-psm"), "ab", "c") == (
        BOS, PRE, 7, ord("a"), ord("b"), SUF, ord("c"), MID,
    )  # fmt: skip
    assert infill_ids(Letters(), bound, layout(CODE_LLAMA, "fim-spm"), "ab", "c") == (
        BOS, PRE, SUF, ord("c"), MID, 7, ord("a"), ord("b"),
    )  # fmt: skip


@pytest.mark.parametrize("strategy", INFILLING)
def test_an_infilling_prompt_is_ids_and_ends_at_the_end_token(strategy: Strategy) -> None:
    prompt = built(strategy, encoder=Letters())
    assert prompt.text is None
    assert prompt.token_ids is not None
    assert (prompt.stop, prompt.stop_token_ids, prompt.max_tokens) == ((), (EOT,), 64)
    assert (prompt.task_id, prompt.strategy, prompt.sample_index) == (
        "T/1/single-line/L1",
        strategy,
        0,
    )


def test_left_to_right_without_a_tokenizer_is_the_prefix_as_text() -> None:
    prompt = built("lr")
    assert prompt.text == "def f(x):\n"
    assert prompt.token_ids is None
    assert (prompt.stop, prompt.stop_token_ids) == (LEFT_TO_RIGHT_STOPS, ())


def test_left_to_right_with_a_tokenizer_is_bos_first_and_then_the_prefix() -> None:
    prompt = built("lr", encoder=Letters())
    assert prompt.text is None
    assert prompt.token_ids == (BOS, 7, *map(ord, "def f(x):\n"))
    assert (prompt.stop, prompt.stop_token_ids) == (LEFT_TO_RIGHT_STOPS, ())


@pytest.mark.parametrize("model", ["SmolLM2-135M-Instruct", "somebody/else"])
def test_left_to_right_is_text_where_no_bos_is_known(model: str) -> None:
    assert built("lr", model=model, encoder=Letters()).text == "def f(x):\n"


def test_left_to_right_shows_nothing_of_what_comes_after_the_hole() -> None:
    assert built("lr", of=task(suffix="one")) == built("lr", of=task(suffix="other"))


def test_left_to_right_stops_where_incoder_stops() -> None:
    assert LEFT_TO_RIGHT_STOPS == ("\nclass ", "\ndef ", "\n# ", "\nif")


# The problem's text above the program


@pytest.mark.parametrize("strategy", ["lr", *INFILLING])
def test_the_text_stands_above_the_program_as_its_docstring(strategy: Strategy) -> None:
    above = task('"""Do it."""\ndef f(x):\n')
    shown = built(strategy, context="text", encoder=Letters())
    assert shown == built(strategy, of=above, context="none", encoder=Letters())


@pytest.mark.parametrize("context", ["none", "text"])
def test_a_task_without_a_text_gets_none(context: Context) -> None:
    assert shown_prefix(task(context=None), context) == "def f(x):\n"


def test_without_context_the_prefix_is_shown_as_it_is() -> None:
    assert shown_prefix(task(), "none") == "def f(x):\n"


@pytest.mark.parametrize(
    ("text", "source"),
    [
        pytest.param("Add.", '"""Add."""\n', id="plain"),
        pytest.param("Add.\nTwo lines.", '"""Add.\nTwo lines."""\n', id="two lines"),
        pytest.param('Say "x" first.', '"""Say "x" first."""\n', id="quotes inside stay"),
        pytest.param('"x" first.', '""""x" first."""\n', id="a quote at the start stays"),
        pytest.param('Say "x"', '"""Say \\"x\\""""\n', id="a quote at the end"),
        pytest.param("It's", '"""It\'s"""\n', id="an apostrophe"),
        pytest.param("a\\n", '"""a\\\\n"""\n', id="a backslash"),
        pytest.param("", '""""""\n', id="empty"),
    ],
)
def test_the_docstring_is_the_text_as_a_person_would_write_it(text: str, source: str) -> None:
    assert module_docstring(text) == source


@pytest.mark.parametrize(
    "text",
    ['"', '""', '"""', '""""', '\\"', '\\\\"', '\\"""', "\\", "\\\\", "\r", "\r\n", "\n\r", "\0",
     "\\N{DASH}", "\\x41", "'''", "\f", "\u2028", "\ufeff", " \t", "\n", '"""\\', "a\0" + "1"],
    ids=ascii,
)  # fmt: skip
def test_a_docstring_s_value_is_the_text(text: str) -> None:
    assert value_of(module_docstring(text)) == text


@settings(max_examples=1_000)
@given(
    st.text(
        alphabet=st.sampled_from("\"'\\\r\n\0abNuUx{}07 \f\u2028") | st.characters(codec="utf-8")
    )
)
def test_any_text_is_the_value_of_its_docstring(text: str) -> None:
    assert value_of(module_docstring(text)) == text


def value_of(source: str) -> object:
    """The value of a module that is one docstring, read as Python reads a file."""
    module = ast.parse(source.encode())
    assert source.endswith("\n")
    assert len(module.body) == 1
    assert ast.get_docstring(module, clean=False) is not None
    statement = module.body[0]
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    return statement.value.value


# Refusals


UNTRAINED = [card for card in MODEL_CARDS if card.infills == "no"]


@pytest.mark.parametrize("strategy", INFILLING)
@pytest.mark.parametrize("card", [pytest.param(card, id=card.model_id) for card in UNTRAINED])
def test_a_model_that_was_not_trained_to_infill_is_not_asked_to(
    card: ModelCard, strategy: Strategy
) -> None:
    with pytest.raises(StrategyRefusedError) as refusal:
        built(strategy, model=card.model_id, encoder=Letters())
    message = str(refusal.value)
    assert message.startswith(f"{strategy} for {card.model_id}: it was not trained to infill")
    assert card.source in message
    assert message.endswith("use --strategy lr")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("34b", "the 34B models are trained without infilling"),
        ("34b-Python", "the Python models are trained without infilling"),
        ("7b-Python", "the Python models are trained without infilling"),
        ("13b-Python", "the Python models are trained without infilling"),
    ],
)
def test_the_refusal_says_why_and_where_it_is_written(name: str, reason: str) -> None:
    with pytest.raises(StrategyRefusedError, match=reason) as refusal:
        built("fim-psm", model=f"CodeLlama-{name}-hf", encoder=Letters())
    assert "Code Llama paper v3, section 2" in str(refusal.value)


@pytest.mark.parametrize("strategy", INFILLING)
def test_an_unknown_model_is_not_asked_to_infill_until_it_is_named(strategy: Strategy) -> None:
    with pytest.raises(StrategyRefusedError) as refusal:
        built(strategy, model="somebody/else", encoder=Letters())
    message = str(refusal.value)
    assert message.startswith(f"{strategy} for somebody/else: this model is not in the table")
    assert "--card codellama/CodeLlama-7b-hf" in message
    assert "--strategy lr" in message


@pytest.mark.parametrize("strategy", INFILLING)
@pytest.mark.parametrize("name", ["7b", "13b", "70b", "7b-Instruct", "13b-Instruct"])
def test_a_model_that_infills_and_the_disputed_70b_can_be_asked(
    name: str, strategy: Strategy
) -> None:
    model = f"CodeLlama-{name}-hf"
    assert infill_format(model, card_of(model), strategy) == CODE_LLAMA
    assert built(strategy, model=model, encoder=Letters()).stop_token_ids == (EOT,)


@pytest.mark.parametrize("card", [pytest.param(card, id=card.model_id) for card in MODEL_CARDS])
def test_every_model_can_be_asked_left_to_right(card: ModelCard) -> None:
    assert built("lr", model=card.model_id).text == "def f(x):\n"


@pytest.mark.parametrize("strategy", INFILLING)
def test_infilling_without_a_tokenizer_is_refused(strategy: Strategy) -> None:
    with pytest.raises(StrategyRefusedError, match=r"needs the model's tokenizer\.model"):
        built(strategy)


def test_a_prompt_with_an_id_beyond_the_model_s_vocabulary_is_refused() -> None:
    model = "CodeLlama-34b-hf"
    last = task(prefix=chr(31_999))
    assert built("lr", of=last, model=model, encoder=Letters()).token_ids == (1, 7, 31_999)
    with pytest.raises(StrategyRefusedError) as refusal:
        built("lr", of=task(prefix=chr(32_000)), model=model, encoder=Letters())
    message = str(refusal.value)
    assert message.startswith("T/1/single-line/L1: its prompt holds id 32000")
    assert "codellama/CodeLlama-34b-hf embeds only ids below 32000" in message


@needs_tokenizer
def test_a_program_that_spells_a_sentinel_is_refused_where_the_model_does_not_embed_it() -> None:
    of = task(prefix="# after <MID>\n")
    with pytest.raises(StrategyRefusedError, match="holds id 32009"):
        built("lr", of=of, model="CodeLlama-34b-hf", encoder=code_llama_tokenizer())


@needs_tokenizer
def test_infilling_ids_fit_every_vocabulary_that_has_sentinels() -> None:
    for card in MODEL_CARDS:
        if card.format is CODE_LLAMA:
            prompt = built("fim-psm", model=card.model_id, encoder=code_llama_tokenizer())
            assert max(prompt.token_ids or ()) < known(card.model_id).vocabulary


FEWSHOT = """\
# Python programs with a hole, marked <HOLE>. Behind each program stands the text that is
# missing there, exactly, between <FILL> and </FILL>.

# Program 1
\"\"\"Do it.\"\"\"
def f(x):
<HOLE>    return y
<FILL>    y = x
</FILL>

# Program 2
def g(x):
    return <HOLE>
<FILL>x + 1</FILL>

# Program 3
def h():
<HOLE>
<FILL>"""


def test_a_fewshot_prompt_shows_worked_examples_and_ends_where_the_filling_begins() -> None:
    within_a_line = task("def g(x):\n    return ", "\n", context=None)
    within_a_line = within_a_line.model_copy(update={"middle": "x + 1"})
    last = task("def h():\n", "", context=None)
    assert fewshot_text([task(), within_a_line], last, "text") == FEWSHOT
    assert FEWSHOT.startswith(FEWSHOT_HEAD)


def test_a_fewshot_prompt_shows_no_context_where_none_is_wanted() -> None:
    assert "Do it." not in fewshot_text([task()], task(), "none")


@pytest.mark.parametrize("marker", ["<HOLE>", "<FILL>", "</FILL>"])
@pytest.mark.parametrize("part", ["prefix", "middle", "suffix"])
def test_a_program_with_a_marker_in_it_is_refused(part: str, marker: str) -> None:
    odd = task().model_copy(update={part: f"x = '{marker}'\n"})
    for examples, asked in (([odd], task()), ([task()], odd)):
        with pytest.raises(StrategyRefusedError, match=r"T/1/single-line/L1: its program holds"):
            fewshot_text(examples, asked, "none")


def prompt_of(
    strategy: Strategy,
    asked: InfillTask,
    card: ModelCard | None = None,
    encoder: Letters | SentencePieceTokenizer | None = None,
    examples: tuple[InfillTask, ...] = (),
) -> Prompt:
    wording = wording_of(
        strategy, context="none", model="m", card=card, encoder=encoder, examples=examples
    )
    return build_prompt(asked, wording, max_tokens=9)


def test_a_fewshot_prompt_stops_at_its_closing_marker_as_text_and_as_ids() -> None:
    as_text = prompt_of("fewshot", task(), examples=(task(),))
    as_ids = prompt_of("fewshot", task(), known("codellama-7b-hf"), Letters(), (task(),))
    assert as_text.stop == as_ids.stop == (FILL_END,)
    assert as_text.stop_token_ids == as_ids.stop_token_ids == ()
    assert as_text.text is not None
    assert as_ids.token_ids == (BOS, 7, *map(ord, as_text.text))


def test_fewshot_shows_examples_of_the_task_s_own_kind_and_refuses_to_show_none() -> None:
    of_lines = task().model_copy(update={"kind": "multi-line", "middle": "MULTI"})
    shown = prompt_of("fewshot", task(), examples=(of_lines, task()))
    assert shown.text is not None
    assert "MULTI" not in shown.text
    with pytest.raises(StrategyRefusedError, match="no worked example of a single-line hole"):
        prompt_of("fewshot", task(), examples=(of_lines,))


def test_rerank_asks_what_left_to_right_asks() -> None:
    left_to_right, rerank = prompt_of("lr", task()), prompt_of("lr-rerank", task())
    assert rerank == left_to_right.model_copy(update={"strategy": "lr-rerank"})


class TestTheReferenceAnswer:
    """What is scored of it: its ids in `Letters` are its code points."""

    middle = tuple(map(ord, "    y = x\n"))

    @pytest.mark.parametrize("strategy", INFILLING)
    def test_stands_behind_the_whole_prompt_and_before_the_end_token(
        self, strategy: Strategy
    ) -> None:
        prompt = prompt_of(strategy, task(), known("codellama-7b-hf"), Letters())
        found = gold_scoring(task(), prompt, Letters())
        assert (found.given, found.text, found.end) == (prompt.token_ids, self.middle, (EOT,))
        assert (found.characters, found.scored, found.sample_index) == (10, "gold", 0)

    def test_has_no_end_left_to_right(self) -> None:
        as_ids = prompt_of("lr", task(), known("codellama-34b-hf"), Letters())
        found = gold_scoring(task(), as_ids, Letters())
        assert (found.given, found.text, found.end) == (as_ids.token_ids, self.middle, ())
        as_text = gold_scoring(task(), prompt_of("lr", task()), None)
        assert (as_text.given, as_text.text, as_text.end) == ("def f(x):\n", "    y = x\n", "")

    def test_ends_with_the_closing_marker_where_worked_examples_do(self) -> None:
        shown = prompt_of("fewshot", task(), examples=(task(),))
        found = gold_scoring(task(), shown, None)
        assert (found.given, found.text, found.end) == (shown.text, "    y = x\n", FILL_END)
        shown = prompt_of("fewshot", task(), known("codellama-34b-hf"), Letters(), (task(),))
        found = gold_scoring(task(), shown, Letters())
        assert found.end == tuple(map(ord, FILL_END))

    @needs_tokenizer
    @needs_mbpp
    @pytest.mark.parametrize("strategy", ["fim-psm", "fim-spm", "lr"])
    def test_is_what_its_ids_say_for_every_task_of_mbpp(self, strategy: Strategy) -> None:
        tokenizer = code_llama_tokenizer()
        for one in mbpp_tasks(FULL, "test"):
            prompt = prompt_of(strategy, one, known("codellama-7b-hf"), tokenizer)
            found = gold_scoring(one, prompt, tokenizer)
            assert not isinstance(found.text, str)
            assert tokenizer.decode_infill(found.text) == one.middle
            assert found.given == prompt.token_ids


def test_a_candidate_is_scored_with_the_whole_program_around_it() -> None:
    prompt = prompt_of("lr-rerank", task())
    found = candidate_scoring(
        task(), prompt, "    y = 2\n", context="text", start=None, encoder=None
    )
    program = '"""Do it."""\ndef f(x):\n    y = 2\n    return y\n'
    assert (found.given, found.text, found.end) == ("", program, "")
    assert (found.scored, found.characters) == ("candidate", len(program))


def test_a_candidate_s_program_begins_with_bos_where_ids_are_ours() -> None:
    card = known("codellama-7b-hf")
    prompt = prompt_of("lr-rerank", task(), card, Letters())
    third = prompt.model_copy(update={"sample_index": 2})
    found = candidate_scoring(
        task(), third, "    y = 2\n", context="none", start=(BOS,), encoder=Letters()
    )
    program = "def f(x):\n    y = 2\n    return y\n"
    assert (found.given, found.text, found.end) == ((BOS,), (7, *map(ord, program)), ())
    assert found.sample_index == 2
