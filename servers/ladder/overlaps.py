"""Documents that share text with the benchmarks, listed: `python -m ladder.overlaps MBPP`.

Runs in the client's environment, which reads the benchmarks; MBPP is a path, or `mbpp` for the hub.
What it writes, `overlaps.json`, holds checksums and counts, no text of a benchmark, so that the
ladder can be trained where the benchmarks are not.
"""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping

from fim_eval.problems import load_problems
from ladder.corpus import NGRAM, OVERLAPS, Document, build, digest_of, ngrams


def main(mbpp: str) -> None:
    """Search every program of MBPP, HumanEval and the starter set; write `OVERLAPS`."""
    programs: dict[str, list[str]] = {}
    shas = {}
    for source, name in ((mbpp, "MBPP"), ("humaneval", "HumanEval"), ("starter", "starter set")):
        problems, facts = load_problems(source, "all", lambda _: None)
        programs[name] = [problem.code for problem in problems]
        shas[name] = facts.content_sha256
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the standard library's own
        text = build(without_overlaps=False)
    documents = [*text.train, *text.held_out]
    found = search(documents, programs)
    listing = {
        "python": platform.python_version(),
        "ngram": NGRAM,
        "programs_searched": {name: len(codes) for name, codes in programs.items()},
        "content_sha256": shas,
        "documents_searched": len(documents),
        "documents_found": {
            name: sum(name in names for names in found.values()) for name in programs
        },
        "documents": sorted(found),
    }
    OVERLAPS.write_text(json.dumps(listing, indent=1) + "\n")
    print(json.dumps({**listing, "documents": len(found)}, indent=1))


def search(
    documents: Iterable[Document], programs: Mapping[str, Iterable[str]]
) -> dict[str, set[str]]:
    """Checksums of the documents that share a run of words with a program, and with whose.

    A program shorter than `NGRAM` words is one run.
    """
    runs: dict[int, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, codes in programs.items():
        for code in codes:
            for run in ngrams(code, NGRAM):
                runs[len(run)][run].add(name)
    found: dict[str, set[str]] = {}
    for document in documents:
        for length, known in runs.items():
            for run in ngrams(document.text, length) & known.keys():
                found.setdefault(digest_of(document), set()).update(known[run])
    return found


if __name__ == "__main__":
    main(sys.argv[1])
