"""Greedy continuations by transformers: `greedy.py FOLDER`, token ids in, token ids out, as JSON.

Runs in the server's environment, in float32. Standard input: a list of {"ids", "stop", "most"};
"stop" is one id or several.
Standard output: for each, the ids, and how far the best score was above the next at each of them.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def main(folder: str) -> None:
    """Answer every prompt, one at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answers: list[dict[str, Any]] = []
    for asked in json.load(sys.stdin):
        ids = torch.tensor([asked["ids"]])
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False,
            max_new_tokens=asked["most"], eos_token_id=asked["stop"], pad_token_id=0,
            output_scores=True, return_dict_in_generate=True,
        )  # fmt: skip
        best = [score[0].topk(2).values.tolist() for score in made.scores]
        answers.append(
            {
                "ids": made.sequences[0, ids.shape[1] :].tolist(),
                "above": [first - second for first, second in best],
            }
        )
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
