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

from fim_eval.problems import load_problems
from ladder.corpus import NGRAM, OVERLAPS, build, digest_of, ngrams


def main(mbpp: str) -> None:
    """Search every program of MBPP, HumanEval and the starter set; write `OVERLAPS`."""
    OVERLAPS.unlink(missing_ok=True)
    runs: dict[int, dict[tuple[str, ...], set[str]]] = defaultdict(lambda: defaultdict(set))
    programs, shas = {}, {}
    for source, name in ((mbpp, "MBPP"), ("humaneval", "HumanEval"), ("starter", "starter set")):
        problems, facts = load_problems(source, "all", lambda _: None)
        programs[name], shas[name] = len(problems), facts.content_sha256
        for problem in problems:
            for run in ngrams(problem.code, NGRAM):
                runs[len(run)][run].add(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the standard library's own
        text = build()
    found: dict[str, set[str]] = {}
    for document in (*text.train, *text.held_out):
        for length, known in runs.items():
            for run in ngrams(document.text, length) & known.keys():
                found.setdefault(digest_of(document), set()).update(known[run])
    listing = {
        "python": platform.python_version(),
        "ngram": NGRAM,
        "programs_searched": programs,
        "content_sha256": shas,
        "documents_searched": len(text.train) + len(text.held_out),
        "documents_found": {
            name: sum(name in names for names in found.values()) for name in programs
        },
        "documents": sorted(found),
    }
    OVERLAPS.write_text(json.dumps(listing, indent=1) + "\n")
    print(json.dumps({**listing, "documents": len(found)}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
