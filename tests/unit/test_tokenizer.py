from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceTrainer

from fim_eval.errors import TokenizerError
from fim_eval.formats import CODE_LLAMA
from fim_eval.prompt import sentinel_ids
from fim_eval.tokenizer import SentencePieceTokenizer, tokenizer_path
from tests.data_paths import FULL, code_llama_tokenizer, mbpp_tasks, needs_mbpp, needs_tokenizer

UNDERLINE = "\u2581"
"""The sign that SentencePiece writes for a space: it cannot be told from one."""

any_text = st.text(
    alphabet=st.sampled_from(" \t\r\n\0<>EOTPRMIDSUF☺é\u2028\ufeff") | st.characters(codec="utf-8")
)


def trained(folder: Path, **options: Any) -> Path:
    """A SentencePiece model of a few pieces, none of them a sentinel, in its usual file."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"def f{n}(x): return x + {n}" for n in range(50)]),
        model_writer=model,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has the anchor, and so all that Llama's tokenizer has but the sentinels."""
    folder = tmp_path_factory.mktemp("tiny")
    return trained(folder, vocab_size=40, user_defined_symbols=["☺"])


# Text to ids and back


@needs_tokenizer
def test_the_empty_text_has_no_ids_in_either_way() -> None:
    assert code_llama_tokenizer().encode("") == []
    assert code_llama_tokenizer().encode_infill("") == []
    assert code_llama_tokenizer().decode_infill([]) == ""


@needs_tokenizer
def test_only_a_text_that_begins_a_sequence_gets_sentencepiece_s_space() -> None:
    tokenizer = code_llama_tokenizer()
    assert tokenizer.encode("return") == tokenizer.encode_infill(" return")
    assert tokenizer.encode_infill("return") != tokenizer.encode("return")


@needs_tokenizer
@pytest.mark.parametrize("text", [" x", "  x", "    return x\n", " ", "x", "\n", "\tx", " \n"])
def test_a_completion_keeps_its_leading_space(text: str) -> None:
    tokenizer = code_llama_tokenizer()
    assert tokenizer.decode_infill(tokenizer.encode_infill(text)) == text


@needs_tokenizer
def test_a_word_with_its_space_in_one_id_keeps_it() -> None:
    tokenizer = code_llama_tokenizer()
    ids = tokenizer.encode_infill(" return")
    assert len(ids) == 1
    assert tokenizer.decode_infill(ids) == " return"


@needs_tokenizer
@pytest.mark.parametrize(
    "text", ["\r\n", "x\r\ny", "\r", "\r\r\n", "a\r\n\r\n    b\r\n"], ids=ascii
)
def test_carriage_returns_survive(text: str) -> None:
    tokenizer = code_llama_tokenizer()
    assert tokenizer.decode_infill(tokenizer.encode_infill(text)) == text


@needs_tokenizer
@settings(max_examples=1_000)
@given(any_text)
@example("☺☺").via("the anchor itself")
@example("\ufe0f").via("joins the anchor on the screen, not in the ids")
@example(" <EOT><EOT>").via("a piece of two end tokens")
@example("<s></s><unk><0x0A>").via("spelled control tokens are text")
@example("\0").via("ends a string in C")
@example("e\u0301 ﬁ Ａ ²").via("what other models' normalisers change")
def test_any_text_survives_but_for_sentencepiece_s_own_sign_for_a_space(text: str) -> None:
    tokenizer = code_llama_tokenizer()
    ids = tokenizer.encode_infill(text)
    assert tokenizer.decode_infill(ids) == text.replace(UNDERLINE, " ")
    assert 0 not in ids  # nothing is unknown: what has no piece is spelled in bytes


@needs_tokenizer
@given(any_text, any_text)
def test_decoding_two_parts_is_decoding_the_whole(left: str, right: str) -> None:
    tokenizer = code_llama_tokenizer()
    ids = [*tokenizer.encode_infill(left), *tokenizer.encode_infill(right)]
    assert tokenizer.decode_infill(ids) == (left + right).replace(UNDERLINE, " ")


@needs_tokenizer
@pytest.mark.parametrize("start", range(0, 0x110000, 0x10000), ids=hex)
def test_every_character_survives_but_for_that_sign(start: int) -> None:
    tokenizer = code_llama_tokenizer()
    numbers = (n for n in range(start, start + 0x10000) if not 0xD800 <= n < 0xE000)
    text = "".join(map(chr, numbers))
    assert tokenizer.decode_infill(tokenizer.encode_infill(text)) == text.replace(UNDERLINE, " ")


@needs_tokenizer
@needs_mbpp
def test_every_mbpp_line_survives() -> None:
    tokenizer = code_llama_tokenizer()
    for task in mbpp_tasks(FULL, "all"):
        assert tokenizer.decode_infill(tokenizer.encode_infill(task.middle)) == task.middle


@needs_tokenizer
def test_a_program_that_spells_a_sentinel_gets_its_id_as_in_meta_s_reference() -> None:
    assert code_llama_tokenizer().encode_infill(" <EOT>") == [32010]
    assert code_llama_tokenizer().encode("<MID>") == [32009]


@needs_tokenizer
def test_code_llama_s_tokenizer_has_the_sentinels_of_its_format_under_their_ids() -> None:
    assert sentinel_ids(code_llama_tokenizer(), CODE_LLAMA) == CODE_LLAMA.known_ids


@needs_tokenizer
def test_a_tokenizer_says_which_file_it_is() -> None:
    tokenizer = code_llama_tokenizer()
    content = Path(tokenizer.source).read_bytes()
    assert tokenizer.sha256 == hashlib.sha256(content).hexdigest()


# Files that will not do


def test_a_folder_stands_for_its_tokenizer_model(tiny_model: Path) -> None:
    assert tokenizer_path(str(tiny_model.parent), None) == tiny_model
    assert tokenizer_path(str(tiny_model), None) == tiny_model


def test_a_folder_without_the_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError) as refusal:
        SentencePieceTokenizer(tokenizer_path(str(tmp_path), None))
    message = str(refusal.value)
    assert message.startswith(f"{tmp_path / 'tokenizer.model'}: cannot be read (No such file")
    assert "--tokenizer takes the folder that holds tokenizer.model or tokenizer.json" in message


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda folder: str(folder / "nowhere"), id="absolute"),
        pytest.param(lambda _: "./nowhere", id="relative"),
        pytest.param(lambda _: "nowhere", id="bare name"),
        pytest.param(lambda _: "a/b/c", id="deeper than a repository"),
        pytest.param(lambda _: "~/nowhere-at-all", id="home"),
    ],
)
def test_a_missing_folder_is_named_and_the_hub_is_not_asked(
    place: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = place(tmp_path)
    with pytest.raises(TokenizerError) as refusal:
        tokenizer_path(source, None)
    message = str(refusal.value)
    assert message.startswith(f"{source}: no such folder")
    assert "--tokenizer takes the folder that holds tokenizer.model or tokenizer.json" in message
    assert "codellama/CodeLlama-7b-hf" in message


@pytest.mark.parametrize(
    "content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\0\xff" * 50]
)
def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(TokenizerError) as refusal:
        SentencePieceTokenizer(path)
    assert str(refusal.value).startswith(f"{path}: is not a SentencePiece model")


def test_a_tokenizer_without_the_sentinels_is_refused(tiny_model: Path) -> None:
    with pytest.raises(TokenizerError) as refusal:
        sentinel_ids(SentencePieceTokenizer(tiny_model), CODE_LLAMA)
    message = str(refusal.value)
    assert message.startswith(f"{tiny_model}: ▁<PRE> is not a token of this file")
    assert "the format code-llama needs it as 32007; take the tokenizer from the model" in message


def test_a_tokenizer_with_a_sentinel_under_another_id_is_refused(tmp_path: Path) -> None:
    pieces = [piece for piece in CODE_LLAMA.sentinels if piece != "<s>"]
    path = trained(tmp_path, vocab_size=60, user_defined_symbols=["☺", *pieces])
    with pytest.raises(TokenizerError, match=r"▁<PRE> has id 4, but .* needs it as 32007"):
        sentinel_ids(SentencePieceTokenizer(path), CODE_LLAMA)


def test_a_tokenizer_that_spells_the_anchor_in_bytes_is_refused(tmp_path: Path) -> None:
    path = trained(tmp_path, vocab_size=300, byte_fallback=True)
    with pytest.raises(TokenizerError) as refusal:
        SentencePieceTokenizer(path)
    assert str(refusal.value).startswith(f"{path}: does not encode '☺' as a leading")


def test_a_tokenizer_that_does_not_know_the_anchor_is_refused(tmp_path: Path) -> None:
    # Two pieces as well, but the second is "unknown", and decodes to " ⁇ " in front of the text.
    path = trained(tmp_path, vocab_size=40)
    with pytest.raises(TokenizerError) as refusal:
        SentencePieceTokenizer(path)
    assert str(refusal.value).startswith(f"{path}: ")
