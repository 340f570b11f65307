"""The first steps of a logged training again: `python -m ladder.replay FOLDER STEPS`.

Prints one JSON object: the losses that FOLDER's log has, and those of now. Runs in the server's
environment.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path

import torch

from ladder import corpus, pieces
from ladder.recipe import Size
from ladder.training import LOG, TELL_EVERY, Plan, Training


def main(folder: Path, steps: int) -> None:
    """Train `steps` steps as the log's first line says."""
    if steps > TELL_EVERY:
        sys.exit(f"replay: the log has single steps up to {TELL_EVERY} only; {steps} were asked")
    first, *rest = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the standard library's own
        text = corpus.build()
    tokenizer = pieces.train([one.text for one in text.train])
    plan = Plan(
        Size(first["layers"], first["hidden"]),
        **{
            key: first[key]
            for key in (
                "tokens",
                "length",
                "rows",
                "seed",
                "matrix_rate",
                "other_rate",
                "bfloat16",
            )
        },
    )
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(mode=True)
    training = Training(plan, text.train, tokenizer)
    found = {
        "corpus_is_the_same": text.facts["sha256"] == first["corpus"]["sha256"],
        "tokenizer_is_the_same": hashlib.sha256(tokenizer).hexdigest() == first["tokenizer_sha256"],
        "logged": [line["loss"] for line in rest[:steps]],
        "now": [training.advance() for _ in range(steps)],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
