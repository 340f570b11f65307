"""How long a step of the ladder's training takes: attention in blocks beside torch's own.

    PYTHONPATH=servers .venv-server/bin/python benchmarks/ladder_step.py [--size 8m] [--threads 1]

Both in turn, on the same rows of the standard library; medians over all steps. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from ladder import pieces, recipe
from ladder.attention import BLOCKS
from ladder.corpus import Document
from ladder.training import Plan, Training

DOCUMENT = 600
"""Characters: what stands where one begins or ends does not matter here."""


def main() -> None:
    """Time steps and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="8m", choices=recipe.SIZES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of each in one round")
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    texts = [
        path.read_text("utf-8") for path in sorted(Path(json.__file__).parents[1].glob("*.py"))
    ]
    documents = tuple(
        Document("library", text[start : start + DOCUMENT])
        for text in texts
        for start in range(0, len(text) - DOCUMENT, DOCUMENT)
    )
    plan = replace(Plan(recipe.SIZES[options.size]), bfloat16=options.bfloat16)
    training = Training(plan, documents, pieces.train(texts))
    seconds: dict[str, list[float]] = {BLOCKS: [], "sdpa": []}
    for number in range(options.rounds + 1):
        for attention, taken in seconds.items():
            training.model.set_attn_implementation(attention)
            for _ in range(options.steps):
                began = time.perf_counter()
                training.advance()
                if number:  # the first round is to warm up
                    taken.append(time.perf_counter() - began)
    medians = {name: round(statistics.median(taken), 3) for name, taken in seconds.items()}
    ratio = round(medians[BLOCKS] / medians["sdpa"], 2)
    print(json.dumps({"size": options.size, "bfloat16": options.bfloat16, "seconds a step": medians,
                      "ratio": ratio}))  # fmt: skip


if __name__ == "__main__":
    main()
