"""Train the ladder: `python -m ladder [--out FOLDER] [SIZE ...]`, with servers/ on PYTHONPATH."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from ladder import corpus, pieces, recipe
from ladder.training import Plan, train


def main() -> None:
    """Train each size that is named and not there yet, the smallest first."""
    parser = argparse.ArgumentParser(prog="ladder", description=__doc__)
    parser.add_argument("sizes", nargs="*", metavar="SIZE", help=", ".join(recipe.SIZES))
    parser.add_argument("--out", type=Path, default=Path(".cache/ladder"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=recipe.TOKENS)
    parser.add_argument("--length", type=int, default=recipe.LENGTH)
    parser.add_argument("--rows", type=int, default=recipe.ROWS)
    parser.add_argument("--matrix-rate", type=float, default=recipe.MATRIX_RATE)
    parser.add_argument("--other-rate", type=float, default=recipe.OTHER_RATE)
    parser.add_argument(
        "--bfloat16", action="store_true", help="faster where the processor multiplies bfloat16"
    )
    options = parser.parse_args()
    unknown = set(options.sizes) - set(recipe.SIZES)
    if unknown:
        parser.error(f"no size {', '.join(sorted(unknown))}; there are {', '.join(recipe.SIZES)}")
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    wanted = [size for size in recipe.SIZES if size in (options.sizes or recipe.SIZES)]
    missing = [size for size in wanted if not (options.out / size / "config.json").exists()]
    if not missing:
        return
    sys.stderr.write("[ladder] text and tokenizer; half a minute\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the standard library's own
        warnings.simplefilter("ignore", DeprecationWarning)
        text = corpus.build()
    tokenizer = pieces.train([one.text for one in text.train])
    for size in missing:
        plan = Plan(
            recipe.SIZES[size],
            tokens=options.tokens,
            length=options.length,
            rows=options.rows,
            matrix_rate=options.matrix_rate,
            other_rate=options.other_rate,
            bfloat16=options.bfloat16,
        )
        train(size, plan, text, tokenizer, options.out / size)


if __name__ == "__main__":
    main()
