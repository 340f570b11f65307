"""The ladder's text, tokenizer and objective. Trains a tokenizer, no model."""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import random
import re
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies

sys.path.insert(0, str(Path(__file__).parents[2] / "servers"))
from ladder import corpus, loops, objective, overlaps, recipe
from ladder.corpus import Document
from ladder.objective import Manner
from ladder.pieces import BOS, EOS, TABS, VOCABULARY, Pieces, train, with_tabs

from fim_eval.architecture import ARCHITECTURES
from fim_eval.formats import card_of
from fim_eval.prompt import build_prompt, wording_of
from fim_eval.records import InfillTask
from fim_eval.tokenizer import SentencePieceTokenizer
from fim_eval.words import Strategy

MODELS = Path(__file__).parents[2] / "servers" / "ladder" / "models"
EMBEDDED = ("1m", "2m")


@cache
def tokenizer() -> Path:
    """Of some of the standard library: enough for all pieces."""
    library = Path(sysconfig.get_path("stdlib"))
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "tokenizer.model"
    path.write_bytes(train([file.read_text("utf-8") for file in sorted(library.glob("[a-d]*.py"))]))
    return path


STAGES = [objective.FIRST, objective.SECOND]

PROGRAM = '''def shout(words):
    """Give them back, loud."""
    loud = [word.upper() for word in words]
    return " ".join(loud) + "!"  # é ☺ 12345
'''


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311  no secrets here


def trained_on(strategy: Strategy, first: int, second: int) -> list[int]:
    pieces = Pieces(tokenizer().read_bytes())
    parts = PROGRAM[:first], PROGRAM[first:second], PROGRAM[second:]
    ids = objective.psm_ids if strategy == "fim-psm" else objective.spm_ids
    return ids(*parts, pieces)


def asked(strategy: Strategy, first: int, second: int) -> tuple[list[int], list[int], int]:
    """Ids of the prompt, ids of the middle, and the id that ends it, as the client has them."""
    encoder = SentencePieceTokenizer(tokenizer())
    task = InfillTask(
        task_id="T/1", problem_id="T/1", kind="random-span", context=None,
        prefix=PROGRAM[:first], middle=PROGRAM[first:second], suffix=PROGRAM[second:],
    )  # fmt: skip
    card = card_of("fim-eval/ladder-1m")
    wording = wording_of(
        strategy, context="none", model="fim-eval/ladder-1m", card=card, encoder=encoder
    )
    prompt = build_prompt(task, wording, max_tokens=8)
    assert prompt.token_ids is not None
    (end,) = prompt.stop_token_ids
    return list(prompt.token_ids), encoder.encode_infill(task.middle), end


@pytest.mark.parametrize("first", [0, 1, 17, 18, 22, 60, 87])
@pytest.mark.parametrize("length", [0, 1, 9, 40])
def test_a_psm_prompt_of_the_client_is_what_the_model_was_trained_on(
    first: int, length: int
) -> None:
    prompt, middle, end = asked("fim-psm", first, first + length)
    assert trained_on("fim-psm", first, first + length) == [*prompt, *middle, end]


def test_an_spm_prompt_that_ends_with_a_line_is_what_the_model_was_trained_on() -> None:
    starts = [place + 1 for place, sign in enumerate(PROGRAM) if sign == "\n"]
    for first, second in pairwise(starts):
        prompt, middle, end = asked("fim-spm", first, second)
        assert trained_on("fim-spm", first, second) == [*prompt, *middle, end]


def test_an_spm_prompt_that_ends_in_a_word_is_cut_where_training_had_one_text() -> None:
    inside = PROGRAM.index("return") + 3
    prompt, middle, end = asked("fim-spm", inside, inside + 10)
    assert trained_on("fim-spm", inside, inside + 10) != [*prompt, *middle, end]


def test_a_program_that_spells_a_sentinel_keeps_its_text() -> None:
    encoder = SentencePieceTokenizer(tokenizer())
    text = "x = ' <PRE> ▁<EOT> '\n"
    ids = encoder.encode_infill(text)
    assert not {encoder.piece_id(piece) for piece in ("▁<PRE>", "▁<EOT>")} & set(ids)


def documents() -> list[Document]:
    return [
        Document("made.py", f"def f{number}(a, b):\n    c = a + {number}\n    return c * b\n")
        for number in range(60)
    ]


def rows(length: int = 64) -> objective.Rows:
    return objective.Rows(documents(), Pieces(tokenizer().read_bytes()), length, seed=0)


def test_rows_are_full_and_begin_with_a_whole_document() -> None:
    stream = rows()
    for row in [stream.next() for _ in range(50)]:
        assert len(row) == 64
        assert row[0] == BOS


def test_rows_go_on_from_a_saved_place_as_they_would_have() -> None:
    stream, other = rows(), rows()
    for _ in range(20):
        stream.next()
    other.taken, other.waiting = stream.taken, list(stream.waiting)
    assert [stream.next() for _ in range(20)] == [other.next() for _ in range(20)]


def test_an_epoch_shows_every_document_before_any_comes_again() -> None:
    stream = rows()
    while stream.taken < 2 * 60:
        stream.next()
    assert sorted(set(range(60)) - set(stream.waiting)) == list(range(60))
    assert [stream._document(one).text for one in range(60)] != [
        stream._document(one).text for one in range(60, 120)
    ]
    assert {stream._document(one).text for one in range(60)} == {one.text for one in documents()}


def test_most_documents_are_shown_in_part_and_every_part_has_a_word() -> None:
    parts = [objective.part(PROGRAM, seeded(seed)) for seed in range(500)]
    assert all(one in PROGRAM and re.search(r"\w", one) for one in parts)
    assert all(one.endswith("\n") for one in parts)
    assert {len(one.splitlines()) for one in parts} >= {2, len(PROGRAM.splitlines())}
    assert objective.part("x = 1\n", seeded(0)) == "x = 1\n"
    assert objective.part("\n\nx", seeded(0)).strip() == "x"


def test_one_document_of_ten_is_shown_twice_if_it_fits_half_of_them_cut_alike() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    seen = [
        objective.shown(PROGRAM, pieces, seeded(seed), 2_000, objective.FIRST)
        for seed in range(2_000)
    ]
    ends = {pieces.eot, EOS}

    def showings(ids: list[int]) -> list[list[int]]:
        """Without what begins the document: one for each end."""
        after = [0, *(place + 1 for place, one in enumerate(ids) if one in ends)]
        assert ids[0] == BOS
        assert after[-1] == len(ids)
        return [ids[max(first, 1) : last] for first, last in pairwise(after)]

    twice = [ids for ids in seen if len(showings(ids)) == 2]
    assert len(twice) == pytest.approx(200, abs=40)
    alike = sum(one == other for one, other in map(showings, twice))
    assert alike == pytest.approx(len(twice) / 2, abs=25)
    assert all(ids.count(BOS) == 1 for ids in twice), "the second showing sees the first"
    longest = max(len(ids) for ids in seen if len(showings(ids)) == 1)
    short = [
        objective.shown(PROGRAM, pieces, seeded(seed), longest // 8, objective.FIRST)
        for seed in range(500)
    ]
    assert all(len(ids) <= longest // 8 for ids in short if len(showings(ids)) == 2)
    second = [
        objective.shown(PROGRAM, pieces, seeded(seed), 2_000, objective.SECOND)
        for seed in range(200)
    ]
    assert all(len(showings(ids)) == 1 for ids in second), "the second stage shows none twice"


def repeated_before(ids: list[int], period: int) -> int:
    """How many tokens at the end equal the one that stands `period` before, by hand."""
    count = 0
    while count + period < len(ids) and ids[-1 - count] == ids[-1 - count - period]:
        count += 1
    return count


@given(strategies.lists(strategies.integers(0, 2), max_size=60))
def test_a_token_goes_on_with_a_loop_if_what_is_repeated_stood_twice_before(ids: list[int]) -> None:
    assert loops.looped(ids) == [
        any(
            repeated_before(ids[: end + 1], period) >= max(2 * period, 6) for period in range(1, 17)
        )
        for end in range(len(ids))
    ]


def test_a_loop_begins_with_the_end_of_the_third_copy() -> None:
    told = loops.looped([*b"x = m ", *b"* m2 " * 5, *b"\n"])
    assert [place for place, is_loop in enumerate(told) if is_loop] == list(range(19, 31))
    assert not any(loops.looped([*b"f(a, b)\nf(a, b)\n"])), "twice may be meant"
    assert not any(loops.looped([*b"[[[[[[]"])), "six brackets are no loop"
    assert not any(loops.looped(list(range(17)) * 3)), "longer than sixteen"
    assert sum(loops.looped(list(range(16)) * 3)) == 1
    assert loops.looped([]) == []


def test_a_model_is_asked_for_middles_in_psm_and_for_endings_not_in_spm() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    parts = PROGRAM[:20], PROGRAM[20:40], PROGRAM[40:]
    psm, spm = objective.psm_ids(*parts, pieces), objective.spm_ids(*parts, pieces)
    plain = [BOS, *pieces.begins(PROGRAM)]
    assert loops.asked([*psm, *spm], pieces, seeded(0)) == psm[: psm.index(pieces.mid) + 1]
    assert loops.asked([*spm, *psm], pieces, seeded(0)) == []
    begun = [loops.asked([*plain, *psm], pieces, seeded(seed)) for seed in range(200)]
    assert all(one == plain[: len(one)] for one in begun)
    assert {1, len(plain) - 1} <= set(map(len, begun)) < set(range(1, len(plain)))
    assert loops.asked([BOS], pieces, seeded(0)) == [BOS]


@pytest.mark.parametrize("level", sorted(set(objective.INDENTATIONS)))
def test_a_document_indented_anew_differs_in_what_begins_its_lines(level: str) -> None:
    given = "class A:\n    def f(self):\n        return g(1,\n          2)    # x\n\n    y = 1\n"
    assert objective.reindented(given, level) == (
        f"class A:\n{level}def f(self):\n{level * 2}return g(1,\n{level * 2}  2)    # x\n\n"
        f"{level}y = 1\n"
    )
    assert objective.reindented(given, "    ") == given


def test_each_other_style_is_drawn_by_itself_and_none_unless_told() -> None:
    given = "def f(a, b):\n    return [a, b]\n\n\nf(1, 2)\n"
    made = [objective.restyled(given, seeded(seed), 0.3) for seed in range(2_000)]
    shares = [
        sum("\n    r" not in one for one in made),
        sum(" \n" in one for one in made),
        sum("(a,b)" in one and "(1,2)" in one and "[a,b]" in one for one in made),
    ]
    assert shares == pytest.approx([600, 600 * (1 - 0.5**3), 600], abs=80)
    assert made.count(given) == pytest.approx(2_000 * 0.7 * (0.7 + 0.3 * 0.5**3) * 0.7, abs=80)
    assert not any(" \n \n" in one or "\n \n" in one for one in made), "no empty line gets one"
    assert objective.restyled(given, seeded(0), 0) == given


def test_documents_are_shown_in_other_styles_only_if_told() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    tab = pieces.goes_on("a\tb")[1]
    often = replace(objective.FIRST, restyled_rate=0.9)
    told = [objective.shown(PROGRAM, pieces, seeded(seed), 2_000, often) for seed in range(300)]
    untold = [
        objective.shown(PROGRAM, pieces, seeded(seed), 2_000, objective.FIRST)
        for seed in range(300)
    ]
    assert sum(tab in ids for ids in told) == pytest.approx(300 * 0.9 / 3, abs=30)
    assert not any(tab in ids for ids in untold)


def test_first_tokens_and_ends_of_middles_count_more() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    psm = objective.psm_ids("x = ", "y + 1", "\n", pieces)
    spm = objective.spm_ids("x = ", "y + 1", "\n", pieces)
    middle = psm.index(pieces.mid) + 1
    more = [7 * 0.7**place for place in range(len(psm) - middle)]
    of_psm = [1.0] * middle + [1 + one for one in more]
    of_psm[-1] += 3
    of_spm = [1.0] * (len(spm) - 1) + [12.0]
    for line_end_weight in (1.0, 12.0):
        row = [*spm, *psm, *spm[:-1]]
        expected = [*of_spm, *of_psm, *of_spm[:-1]]
        assert objective.counts_of(row, pieces, line_end_weight) == pytest.approx(expected)


def test_a_middle_without_a_prefix_counts_as_one_of_spm_does() -> None:
    """Code Llama's two layouts are the same there, up to the tokenizer's own space."""
    pieces = Pieces(tokenizer().read_bytes())
    row = objective.psm_ids("", "x = 1\n", "y = 2\n", pieces)
    assert row[:3] == [BOS, pieces.pre, pieces.suf]
    assert objective.counts_of(row, pieces, 1.5) == [1.0] * (len(row) - 1) + [1.5]


def test_an_spm_end_at_the_end_of_a_line_counts_as_told() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    ends = {
        (way, weight): objective.counts_of(way("x\n", "y\n", "z\n", pieces), pieces, weight)[-1]
        for way in (objective.psm_ids, objective.spm_ids)
        for weight in (12.0, 1.5, 1.0)
    }
    assert [ends[objective.spm_ids, weight] for weight in (12.0, 1.5, 1.0)] == [12.0, 1.5, 1.0]
    assert len({ends[objective.psm_ids, weight] for weight in (12.0, 1.5, 1.0)}) == 1
    assert ends[objective.psm_ids, 1.0] > 4


def test_no_piece_holds_a_space_and_a_word() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    for number in range(pieces._pieces.get_piece_size()):
        piece = pieces._pieces.id_to_piece(number)
        assert pieces._pieces.is_control(number) or not re.fullmatch(r"▁+[^▁]+", piece), piece
    assert pieces.goes_on("name = 1")[0] == pieces.begins("name = 1")[1]


def test_a_row_of_tabs_becomes_a_piece_and_all_other_pieces_keep_their_ids() -> None:
    model = tokenizer().read_bytes()
    before, after = Pieces(model), Pieces(with_tabs(model))
    for tabs in range(1, 9):
        row = "\t" * tabs
        ids = after.goes_on(row + "return")
        assert len(ids) == (2 if tabs in TABS else 3)
        assert ids[0] == after.row_of("\t", min(tabs, max(TABS)))
        assert len(before.goes_on(row + "return")) == tabs + 1
        assert after._pieces.decode(after.begins(f"if x:\n{row}y")) == f"if x:\n{row}y"
    changed = [
        number
        for number in range(VOCABULARY)
        if before._pieces.id_to_piece(number) != after._pieces.id_to_piece(number)
    ]
    assert changed == sorted(after.row_of("\t", tabs) for tabs in TABS)
    assert before.begins(PROGRAM) == after.begins(PROGRAM)
    assert [after._pieces.id_to_piece(one) for one in (after.pre, after.suf, after.mid)] == [
        "▁<PRE>", "▁<SUF>", "▁<MID>",
    ]  # fmt: skip


def test_nine_documents_of_ten_are_cut_half_each_way() -> None:
    pieces = Pieces(tokenizer().read_bytes())
    shown = [
        objective.ids_of(PROGRAM, pieces, seeded(seed), objective.FIRST) for seed in range(2000)
    ]
    psm = sum(ids[1] == pieces.pre and ids[2] != pieces.suf for ids in shown)
    spm_or_no_prefix = sum(ids[1] == pieces.pre and ids[2] == pieces.suf for ids in shown)
    no_prefix = sum(
        objective.cut(PROGRAM, _after_one(seeded(seed)), objective.FIRST)[0] == 0
        for seed in range(2000)
    )
    assert psm + spm_or_no_prefix == pytest.approx(1800, abs=50)
    assert psm == pytest.approx((1800 - 0.9 * no_prefix) / 2, abs=80)


def _after_one(draw: random.Random) -> random.Random:
    draw.random()
    return draw


@pytest.mark.parametrize("manner", STAGES)
def test_cuts_lie_within_the_text_and_some_are_whole_lines(manner: Manner) -> None:
    cuts = [objective.cut(PROGRAM, seeded(seed), manner) for seed in range(2000)]
    assert all(0 <= first <= second <= len(PROGRAM) for first, second in cuts)
    starts = {0, len(PROGRAM)} | {i + 1 for i, sign in enumerate(PROGRAM) if sign == "\n"}
    whole = sum(first in starts and second in starts for first, second in cuts)
    assert whole == pytest.approx(2000 * manner.lines_rate, abs=100)


def test_cuts_of_words_stay_in_one_line_and_never_begin_or_end_within_a_word() -> None:
    for text in (PROGRAM, "x", "x = [1,\n 2]"):
        for seed in range(300):
            first, second = objective._words(text, seeded(seed))
            assert "\n" not in text[first:second]
            assert re.fullmatch(r"\S(.*\S)?", text[first:second])
            assert not re.match(r"\w\w", text[max(first - 1, 0) : first + 1]) or first == 0
            assert not re.match(r"\w\w", text[second - 1 : second + 1])


@pytest.mark.parametrize("manner", STAGES)
def test_most_cuts_of_whole_lines_leave_one_line(manner: Manner) -> None:
    lines = [PROGRAM[slice(*objective.cut(PROGRAM, seeded(seed), manner))] for seed in range(2000)]
    one = sum(middle in PROGRAM.splitlines(keepends=True) for middle in lines)
    of_lines = objective.ONE_LINE_RATE + (1 - objective.ONE_LINE_RATE) * math.log(2) / math.log(5)
    assert one == pytest.approx(2000 * manner.lines_rate * of_lines, abs=80)


def test_a_program_is_cut_into_documents_that_parse_and_lose_no_statement() -> None:
    text = Path(corpus.__file__).read_text(encoding="utf-8")
    cut = list(corpus.pieces(text, seeded(0)))
    assert all(len(one) <= corpus.LONGEST for one in cut)
    for line in filter(str.strip, text.splitlines()):
        assert any(line.strip() in one for one in cut), line


def test_the_second_of_two_near_duplicates_is_left_out() -> None:
    first = Path(corpus.__file__).read_text(encoding="utf-8")[:1000]
    near = first.replace("tests, tables", "tests and tables")
    other = Path(objective.__file__).read_text(encoding="utf-8")[:1000]
    found = corpus.without_near_duplicates([Document("a", one) for one in (first, near, other)])
    assert [one.text for one in found] == [first, other]


def test_a_text_that_is_shorter_than_a_run_is_searched_whole() -> None:
    assert corpus.ngrams("a = b", 12) == {("a", "=", "b")}
    assert corpus.ngrams("a = b", 2) == {("a", "="), ("=", "b")}


@pytest.mark.parametrize("size", recipe.SIZES)
def test_the_table_of_models_holds_what_the_recipe_trains(size: str) -> None:
    known, wanted = ARCHITECTURES[f"fim-eval/ladder-{size}"], recipe.SIZES[size]
    assert (known.layers, known.hidden, known.intermediate) == (
        wanted.layers, wanted.hidden, wanted.intermediate,
    )  # fmt: skip
    assert known.heads == known.kv_heads == wanted.hidden // recipe.HEAD
    assert known.tied


@pytest.mark.parametrize("size", EMBEDDED)
def test_an_embedded_model_is_the_one_whose_checksums_are_beside_it(size: str) -> None:
    lines = (MODELS / size / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
    assert {"model.safetensors", "tokenizer.model", "training.jsonl"} <= sums.keys()
    for name, digest in sums.items():
        assert hashlib.sha256((MODELS / size / name).read_bytes()).hexdigest() == digest, name


def test_the_embedded_models_are_small_and_share_a_tokenizer_a_text_and_a_recipe() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    logs = [
        json.loads((MODELS / size / "training.jsonl").read_text().splitlines()[0])
        for size in EMBEDDED
    ]
    own = {"size", "parameters", "parameters_without_embeddings"}
    own |= {"layers", "hidden", "intermediate", "bfloat16"}
    assert [one["bfloat16"] for one in logs] == [False, True]
    assert {key: logs[0][key] for key in logs[0].keys() - own} == {
        key: logs[1][key] for key in logs[1].keys() - own
    }
    for size, log in zip(EMBEDDED, logs, strict=True):
        card = card_of(f"fim-eval/ladder-{size}")
        assert card is not None
        assert card.parameters == log["parameters"]
        assert log["tokens"] == recipe.TOKENS
        assert log["second"]["tokens"] == recipe.TOKENS * recipe.SECOND_TOKENS
        assert log["second"]["unlikelihood"] == recipe.SECOND_UNLIKELIHOOD
        assert log["corpus"]["overlaps_removed"] > 0
        tokenizer_bytes = (MODELS / size / "tokenizer.model").read_bytes()
        second = log["second"]["tokenizer_sha256"]
        assert hashlib.sha256(tokenizer_bytes).hexdigest() == second
        assert second != log["tokenizer_sha256"]


def test_documents_that_share_twelve_words_with_a_program_are_found_and_left_out() -> None:
    own = "def total(numbers, start):\n    for one in numbers:\n        start += one\n"
    shared = Document("a.py", f"import os\n\n\n{own}    return start\n")
    eleven = Document("b.py", "def total(numbers, start):\n    for one in other:\n        pass\n")
    short = Document("c.py", "def f(x):\n    return x\n")
    found = overlaps.search(
        [shared, eleven, short], {"A": [own, "nothing"], "B": [own], "C": ["return x"]}
    )
    assert found == {corpus.digest_of(shared): {"A", "B"}, corpus.digest_of(short): {"C"}}


def test_what_the_list_of_overlaps_names_is_left_out_and_held_out_files_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(f"f{number}.py", f"name = {number}\n{PROGRAM}") for number in range(100)]
    monkeypatch.setattr(corpus, "_read", lambda _: (files, 0))
    monkeypatch.setattr(corpus, "without_near_duplicates", list)
    whole = corpus.build(without_overlaps=False)
    assert whole.held_out
    banned = [whole.train[3], whole.held_out[0]]
    listed = {"python": "3.11.7", "documents": list(map(corpus.digest_of, banned))}
    monkeypatch.setattr(corpus, "OVERLAPS", tmp_path / "overlaps.json")
    corpus.OVERLAPS.write_text(json.dumps(listed))
    left = corpus.build()
    assert left.train == tuple(one for one in whole.train if one != banned[0])
    assert left.held_out == tuple(one for one in whole.held_out if one != banned[1])
    assert {one.path for one in left.train}.isdisjoint(one.path for one in left.held_out)
