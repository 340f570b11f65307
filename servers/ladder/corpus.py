"""The standard library of this Python as documents to train on. Knows no tokenizer, no model.

Standard library only. Left out: tests, tables and files that programs wrote, files that do not
parse, near-duplicates, and documents that share text with the benchmarks (`overlaps.json`, made by
`overlaps.py`).
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import platform
import random
import re
import sysconfig
import textwrap
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OVERLAPS = Path(__file__).with_name("overlaps.json")

LEFT_OUT_FOLDERS = {
    "site-packages", "dist-packages", "__pycache__",
    "test", "tests", "idle_test",  # tests
    "encodings", "pydoc_data",  # tables
    "ensurepip",  # others' wheels
}  # fmt: skip
LEFT_OUT_FILES = (
    "html/entities.py", "keyword.py", "token.py", "stringprep.py", "sre_constants.py",
    "_sysconfigdata*.py", "turtledemo/*.py", "antigravity.py", "this.py", "__phello__/*.py",
    "lib2to3/pgen2/token.py", "tkinter/constants.py", "_pydecimal.py", "config-*/*.py",
)  # fmt: skip
"""Tables, files that a program wrote, jokes. `_pydecimal.py` is half doctests of numbers."""

SHORTEST, LONGEST = 120, 700
"""Characters of a document. The limit of each is drawn between them, uniform in the logarithm:
short documents teach short middles."""

HELD_OUT_FILES = 40
"""One file in so many, by the checksum of its name, is never trained on."""

NEAR = 0.7
"""Documents whose sets of word 5-grams overlap by so much (Jaccard) count as the same."""

NGRAM = 12
"""Words and signs in a row that a document must not share with a benchmark's program."""

_WORDS = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Document:
    """A piece of one file."""

    path: str
    """Below the standard library's folder."""

    text: str


@dataclass(frozen=True)
class Corpus:
    """What is trained on, and how it came about."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]
    facts: dict[str, object]
    """Counts, the Python version, sha256 of both parts."""


def build(seed: int = 0, *, without_overlaps: bool = True) -> Corpus:
    """The documents of this Python's standard library, those that `OVERLAPS` lists left out.

    The same Python version gives the same documents, whatever the machine.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files, unread = _read(root)
    cut = [
        Document(path, piece)
        for path, text in files
        for piece in pieces(text, random.Random(f"{seed}/{path}"))  # noqa: S311  reproducible
    ]
    distinct = without_near_duplicates(cut)
    listed = json.loads(OVERLAPS.read_bytes()) if without_overlaps else None
    banned = set(listed["documents"]) if listed else set()
    kept = [document for document in distinct if _sha256([document.text]) not in banned]
    train = tuple(one for one in kept if not _is_held_out(one.path))
    held_out = tuple(one for one in kept if _is_held_out(one.path))
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "licence": "PSF-2.0",
        "files": len(files),
        "files_that_do_not_parse": unread,
        "documents_cut": len(cut),
        "near_duplicates_removed": len(cut) - len(distinct),
        "overlaps_removed": len(distinct) - len(kept),
        "overlaps_searched_with_python": listed["python"] if listed else None,
        "documents": len(train),
        "characters": sum(len(one.text) for one in train),
        "sha256": _sha256(one.text for one in train),
        "held_out_documents": len(held_out),
        "held_out_sha256": _sha256(one.text for one in held_out),
    }
    return Corpus(train, held_out, facts)


def pieces(text: str, draw: random.Random) -> Iterator[str]:
    """A program cut into documents: runs of statements, and what is too long for one, inside.

    Methods stand alone, without the indentation of their class. A statement keeps the comments
    above it. What cannot be cut at a statement is cut at a line.
    """
    yield from _cut(text, ast.parse(text).body, draw)


def _cut(text: str, body: Sequence[ast.stmt], draw: random.Random) -> Iterator[str]:
    lines = text.splitlines(keepends=True)
    limit, gathered = _limit(draw), ""
    begin = 0
    for statement in body:
        end = statement.end_lineno or statement.lineno
        block = "".join(lines[begin:end])
        begin = end
        if gathered and len(gathered) + len(block) > limit:
            yield from _document(gathered)
            limit, gathered = _limit(draw), ""
        if len(block) <= limit or (not gathered and len(block) <= LONGEST):
            gathered += block
        elif isinstance(statement, ast.ClassDef):
            yield from _class(block, draw)
        else:
            yield from _lines(block)
    yield from _document(gathered)


def _class(block: str, draw: random.Random) -> Iterator[str]:
    """A long class: what it says of itself, then its methods as functions."""
    shown = textwrap.dedent(block)
    try:
        inside = next(one for one in ast.parse(shown).body if isinstance(one, ast.ClassDef))
    except (SyntaxError, StopIteration):  # a multi-line string at the margin
        yield from _lines(block)
        return
    lines = shown.splitlines(keepends=True)
    first = next(
        (one for one in inside.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)),
        None,
    )
    if first is None:
        yield from _lines(shown)
        return
    head_end = min([first.lineno, *(each.lineno for each in first.decorator_list)]) - 1
    yield from _lines("".join(lines[:head_end]))
    body = textwrap.dedent("".join(lines[head_end:]))
    try:
        parsed = ast.parse(body).body
    except SyntaxError:
        yield from _lines(body)
        return
    yield from _cut(body, parsed, draw)


def _lines(block: str) -> Iterator[str]:
    gathered = ""
    for line in block.splitlines(keepends=True):
        if gathered and len(gathered) + len(line) > LONGEST:
            yield from _document(gathered)
            gathered = ""
        gathered += line
    yield from _document(gathered)


def _document(text: str) -> Iterator[str]:
    tidy = textwrap.dedent(text).strip("\n") + "\n"
    if 40 <= len(tidy) <= LONGEST:
        yield tidy


def _limit(draw: random.Random) -> int:
    return int(math.exp(draw.uniform(math.log(SHORTEST), math.log(LONGEST))))


def without_near_duplicates(documents: Sequence[Document]) -> list[Document]:
    """The first of each group that says nearly the same."""
    kept: list[Document] = []
    kept_grams: list[frozenset[int]] = []
    holders: dict[int, list[int]] = defaultdict(list)
    for document in documents:
        grams = frozenset(zlib.crc32(" ".join(gram).encode()) for gram in ngrams(document.text, 5))
        # One in eight, by value: two sets that overlap by 0.7 share one of these nearly always.
        sample = [gram for gram in grams if gram % 8 == 0] or [min(grams)]
        near = {number for gram in sample for number in holders[gram][:50]}
        if any(_jaccard(grams, kept_grams[number]) >= NEAR for number in near):
            continue
        for gram in sample:
            holders[gram].append(len(kept))
        kept.append(document)
        kept_grams.append(grams)
    return kept


def ngrams(text: str, length: int) -> set[tuple[str, ...]]:
    """Runs of words and signs; a text that is shorter is one run."""
    words = _WORDS.findall(text)
    count = max(len(words) - length, 0) + 1
    return {tuple(words[start : start + length]) for start in range(count)}


def _jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    return len(one & other) / len(one | other)


def _read(root: Path) -> tuple[list[tuple[str, str]], int]:
    """Path and text of every file that is taken, and how many do not parse."""
    files, unread = [], 0
    for path in sorted(root.rglob("*.py")):
        below = path.relative_to(root)
        if LEFT_OUT_FOLDERS & set(below.parts) or any(map(below.match, LEFT_OUT_FILES)):
            continue
        try:
            text = path.read_text(encoding="utf-8").expandtabs(4)
            ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            unread += 1
            continue
        files.append((below.as_posix(), re.sub(r"[ \f]+$", "", text, flags=re.MULTILINE)))
    return files, unread


def _is_held_out(path: str) -> bool:
    return zlib.crc32(path.encode()) % HELD_OUT_FILES == 0


def _sha256(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()


def digest_of(document: Document) -> str:
    """What a document is known by in `overlaps.json`."""
    return _sha256([document.text])
