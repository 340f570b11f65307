"""What the ladder's models are trained on is what they are asked with. Trains a tokenizer only."""

from __future__ import annotations

import random
import sys
import sysconfig
from pathlib import Path

import pytest

from fim_eval.formats import card_of
from fim_eval.prompt import build_prompt, sentinel_ids, wording_of
from fim_eval.records import InfillTask
from fim_eval.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "servers"))

from ladder import objective  # noqa: E402
from ladder.corpus import Document  # noqa: E402
from ladder.pieces import Pieces, train  # noqa: E402

PROGRAM = 'def greet(name):\n\tkind = "é☺"\n    return f"(-: {name} {kind}"\n\n\nprint(greet(1))\n'


@pytest.fixture(scope="module")
def tokenizer_model() -> bytes:
    library = Path(sysconfig.get_path("stdlib"))
    texts = [file.read_text("utf-8") for file in sorted(library.glob("[a-d]*.py"))]
    return train(texts)


@pytest.fixture(scope="module")
def pieces(tokenizer_model: bytes) -> Pieces:
    return Pieces(tokenizer_model)


@pytest.fixture(scope="module")
def encoder(tokenizer_model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ladder") / "tokenizer.model"
    path.write_bytes(tokenizer_model)
    return path


class Fixed(random.Random):
    """Always the same number."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def random(self) -> float:
        return self.number


def prompt_ids(encoder: Path, strategy: str, prefix: str, suffix: str) -> list[int]:
    card = card_of("fim-eval/ladder-0.5m")
    assert card is not None
    task = InfillTask(
        task_id="T/1/random-span/0",
        problem_id="T/1",
        kind="random-span",
        context=None,
        prefix=prefix,
        middle="x",
        suffix=suffix,
    )
    wording = wording_of(
        "fim-psm" if strategy == "fim-psm" else "fim-spm",
        context="none",
        model=card.model_id,
        card=card,
        encoder=SentencePieceTokenizer(encoder),
    )
    return list(build_prompt(task, wording, max_tokens=1).token_ids or ())


@pytest.mark.parametrize(("first", "second"), [(0, 5), (17, 17), (18, 34), (40, len(PROGRAM))])
def test_a_prompt_is_what_stood_before_the_middle_in_training(
    first: int, second: int, pieces: Pieces, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, middle, suffix = PROGRAM[:first], PROGRAM[first:second], PROGRAM[second:]
    monkeypatch.setattr(objective, "cut", lambda _text, _draw: (first, second))
    psm = objective.ids_of(PROGRAM, pieces, Fixed(objective.SPM_RATE))
    asked = prompt_ids(encoder, "fim-psm", prefix, suffix)
    assert psm == [*asked, *pieces.goes_on(middle), pieces.eot]
    monkeypatch.setattr(objective, "cut", lambda _text, _draw: (first, first))
    spm = objective.ids_of(prefix + suffix, pieces, Fixed(0.0))
    assert spm == [*prompt_ids(encoder, "fim-spm", prefix, suffix), pieces.eot]


def test_the_sentinels_are_single_tokens_under_code_llama_s_names(
    pieces: Pieces, encoder: Path
) -> None:
    card = card_of("fim-eval/ladder-10m")
    assert card is not None
    assert card.format is not None
    found = sentinel_ids(SentencePieceTokenizer(encoder), card.format)
    assert found["▁<PRE>"] == pieces.pre
    assert found["▁<EOT>"] == pieces.eot


def test_a_cut_lies_inside_of_the_text() -> None:
    for number in range(2_000):
        draw = random.Random(number)  # noqa: S311  reproducible
        text = PROGRAM[: draw.randint(1, len(PROGRAM))]
        first, second = objective.cut(text, draw)
        assert 0 <= first <= second <= len(text)


def test_rows_are_full_the_same_again_and_go_on_from_their_state(pieces: Pieces) -> None:
    documents = [Document(path="made", text=PROGRAM * (1 + number % 5)) for number in range(40)]
    whole = objective.Rows(documents, pieces, 256, 0)
    rows = [whole.next() for _ in range(60)]
    assert {len(row) for row in rows} == {256}
    again = objective.Rows(documents, pieces, 256, 0)
    assert [again.next() for _ in range(30)] == rows[:30]
    resumed = objective.Rows(documents, pieces, 256, 0, again.taken, list(again.waiting))
    assert [resumed.next() for _ in range(30)] == rows[30:]
