"""Whether vLLM answers as transformers does: a run's infilling prompts once more, by `generate`.

    .venv/bin/python benchmarks/agreement.py RUN WEIGHTS

RUN is a run directory of an infilling strategy asked by ids, WEIGHTS the folder that the server
served. Both greedy and in float32, the same ids, the same ends: the end token of a middle, or that
of a sequence, at which servers stop by themselves. Two answers that part where the best
score is less than `TIE` above the next are a tie, which either way of summing may decide.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

from fim_eval.journal import read_generations, read_manifest, read_tasks
from fim_eval.prompt import build_prompt, wording_of
from fim_eval.records import Completion
from fim_eval.tokenizer import SentencePieceTokenizer

ROOT = Path(__file__).parents[1]
TIE = 0.01
"""Of a score, in float32."""


def main() -> None:
    """Ask transformers, compare, and print counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--python", default=ROOT / ".venv-server" / "bin" / "python", type=Path)
    options = parser.parse_args()
    manifest = read_manifest(options.run)
    identity = manifest.identity
    if len(identity.stop_token_ids) != 1:
        parser.error(f"{options.run}: is no run of infilling by ids")
    encoder = SentencePieceTokenizer(options.weights / "tokenizer.model")
    wording = wording_of(
        identity.strategy,
        context=identity.context,
        model=identity.model,
        card=manifest.card,
        encoder=encoder,
    )
    prompts = [
        build_prompt(task, wording, max_tokens=identity.max_tokens)
        for task in read_tasks(options.run)
    ]
    ends = [
        *identity.stop_token_ids,
        json.loads((options.weights / "config.json").read_text())["eos_token_id"],
    ]
    asked = [{"ids": one.token_ids, "stop": ends, "most": one.max_tokens} for one in prompts]
    done = subprocess.run(  # noqa: S603  our own file
        [options.python, ROOT / "tests" / "integration" / "greedy.py", options.weights],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"transformers failed:\n{done.stderr[-2_000:]}")
    answers = {
        one.task_id: one.token_ids or ()
        for one in read_generations(options.run).values()
        if isinstance(one, Completion)
    }
    counts = {"prompts": len(prompts), "same": 0, "tie": 0, "differs": 0}
    for prompt, other in zip(prompts, json.loads(done.stdout), strict=True):
        ours = answers[prompt.task_id]
        pairs = enumerate(zip_longest(ours, other["ids"]))
        place = next((at for at, (one, two) in pairs if one != two), None)
        if place is None:
            counts["same"] += 1
        elif place < len(other["above"]) and other["above"][place] < TIE:
            counts["tie"] += 1
        else:
            counts["differs"] += 1
    print(json.dumps({"model": identity.model, "strategy": identity.strategy, **counts}))


if __name__ == "__main__":
    main()
