"""Train the ladder: `python -m ladder [--out FOLDER] [SIZE ...]`, with servers/ on PYTHONPATH."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from ladder import corpus, pieces, recipe
from ladder.training import Plan, train, trained_otherwise


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
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        help="multiply in bfloat16; by default from 2m on, where the processor does",
    )
    options = parser.parse_args()
    unknown = set(options.sizes) - set(recipe.SIZES)
    if unknown:
        parser.error(f"no size {', '.join(sorted(unknown))}; there are {', '.join(recipe.SIZES)}")
    step = options.rows * options.length
    if options.tokens < 2 * step:
        parser.error(
            f"--tokens {options.tokens}: a step is {step:,} tokens, and a training has two at least"
        )
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(mode=True)
    # No memory is read here before it is written; filling it first takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    plans = {
        name: _plan(name, options)
        for name in recipe.SIZES
        if name in (options.sizes or recipe.SIZES)
    }
    missing = []
    for name, plan in plans.items():
        folder = options.out / name
        if not (folder / "config.json").exists():
            missing.append(name)
        elif differs := trained_otherwise(folder, name, plan):
            parser.error(
                f"{folder} is there, but was trained with another recipe ({differs}); remove it to "
                "train it anew, or name another --out"
            )
        else:
            sys.stderr.write(f"[ladder] {name}: {folder} is there already\n")
    if not missing:
        return
    sys.stderr.write("[ladder] text and tokenizer; half a minute\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # the standard library's own
        warnings.simplefilter("ignore", DeprecationWarning)
        text = corpus.build()
    tokenizer = pieces.train([one.text for one in text.train])
    for name in missing:
        train(name, plans[name], text, tokenizer, options.out / name)


def _plan(name: str, options: argparse.Namespace) -> Plan:
    size = recipe.SIZES[name]
    by_default = size.hidden >= recipe.BFLOAT16_FROM and _multiplies_bfloat16()
    return Plan(
        size,
        tokens=options.tokens,
        length=options.length,
        rows=options.rows,
        matrix_rate=options.matrix_rate,
        other_rate=options.other_rate,
        bfloat16=by_default if options.bfloat16 is None else options.bfloat16,
    )


def _multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; without them it takes many times as long."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in told or "amx_bf16" in told


if __name__ == "__main__":
    main()
