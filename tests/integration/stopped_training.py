"""A short training that is stopped in both stages and goes on, beside one that is not.

Takes a folder; runs in the server's environment. Prints the checksums of both models' weights, as
JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path
from unittest import mock

from ladder import objective, pieces, training
from ladder.corpus import Corpus, Document
from ladder.recipe import Size
from ladder.training import Plan, Training, train


class StoppedError(Exception):
    """In place of a kill."""


def main(folder: Path) -> None:
    """Train twice."""
    sources = sorted(Path(json.__file__).parent.parent.glob("[a-d]*.py"))
    texts = [path.read_text("utf-8") for path in sources]
    documents = tuple(
        Document(path.name, text[start : start + 600])
        for path, text in zip(sources, texts, strict=True)
        for start in range(0, len(text) - 600, 600)
    )
    corpus = Corpus(documents, documents[:40], {"sha256": "made"})
    tokenizer = pieces.train(texts)
    counted: list[tuple[float, int]] = []
    counts_of = objective.counts_of

    def counts_noted(row: list[int], known: pieces.Pieces, weight: float) -> list[float]:
        counted.append((weight, known.row_of("\t", 2)))
        return counts_of(row, known, weight)

    looked: list[int] = []
    unlearn = Training._unlearn_loops

    def unlearn_noted(self: Training, rows: list[list[int]]) -> None:
        looked.append(self.step)
        unlearn(self, rows)

    plan = Plan(Size(layers=2, hidden=96), tokens=6 * 2 * 64, length=64, rows=2)
    training.CHECKPOINT_EVERY_S, training.TELL_EVERY = -1, 3
    with (
        mock.patch.object(objective, "counts_of", counts_noted),
        mock.patch.object(Training, "_unlearn_loops", unlearn_noted),
    ):
        train("whole", plan, corpus, tokenizer, folder / "whole")
    advance = Training.advance
    for stop_at in (3, 6, 7):

        def until(self: Training, step: int = stop_at) -> float:
            if self.step == step:
                raise StoppedError
            return advance(self)

        with contextlib.suppress(StoppedError), mock.patch.object(Training, "advance", until):
            train("whole", plan, corpus, tokenizer, folder / "stopped")
    train("whole", plan, corpus, tokenizer, folder / "stopped")
    logs = [
        [json.loads(line) for line in (folder / one / "training.jsonl").open()]
        for one in ("whole", "stopped")
    ]
    sums = [
        hashlib.sha256((folder / one / "model.safetensors").read_bytes()).hexdigest()
        for one in ("whole", "stopped")
    ]
    saved = (folder / "stopped" / "tokenizer.model").read_bytes()
    found = {
        "steps": [[line.get("step") for line in log] for log in logs],
        "held out": [[line["step"] for line in log if "held_out_loss" in line] for log in logs],
        "sums": sums,
        "line end counts": [weight for weight, _ in counted[:: plan.rows]],
        "knows tabs": [number > 0 for _, number in counted[:: plan.rows]],
        "steps that look for loops": looked,
        "tokenizer with tabs is saved": saved == pieces.with_tabs(tokenizer),
        "left": sorted(path.name for path in (folder / "stopped").iterdir()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
