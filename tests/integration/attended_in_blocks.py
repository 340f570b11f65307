"""Attention in blocks beside torch's own: of rows, of padded rows, and of answers from a cache.

Takes a model's folder. Runs in the server's environment; prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from ladder.attention import BLOCK, BLOCKS, attend
from ladder.pieces import BOS, VOCABULARY, Pieces
from ladder.recipe import Size
from ladder.training import Plan, losses_of, new_model, save
from torch.nn import functional

LENGTHS = (1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 1)


def main(folder: Path) -> None:
    """Largest differences of values and of gradients; whether answers are the same."""
    torch.manual_seed(0)
    differences = [each for length in LENGTHS for each in _differences(length)]
    tokenizer = (folder / "tokenizer.model").read_bytes()
    models = {
        BLOCKS: new_model(Plan(Size(2, 96), bfloat16=True), Pieces(tokenizer)).eval(),
        "sdpa": new_model(Plan(Size(2, 96)), Pieces(tokenizer)).eval(),
    }
    ids = torch.randint(300, VOCABULARY, (3, BLOCK + 9))
    ids[:, 0] = BOS
    seen = torch.ones_like(ids)
    seen[0, :5] = 0
    answers, padded, losses, whole = {}, {}, {}, {}
    with torch.no_grad():
        for name, model in models.items():
            answers[name] = model.generate(
                ids, attention_mask=seen, max_new_tokens=8, do_sample=False, pad_token_id=0
            ).tolist()
            padded[name] = model(ids, attention_mask=seen).logits[seen.bool()]
            losses[name] = losses_of(model, ids.tolist())
            scores = model(ids[:, :-1]).logits.transpose(1, 2)
            whole[name] = functional.cross_entropy(scores, ids[:, 1:], reduction="none")
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "training.jsonl").write_text("{}\n")
        save(models[BLOCKS], tokenizer, Path(made))
        config = (Path(made) / "config.json").read_text()
    found = {
        "attention": {name: model.config._attn_implementation for name, model in models.items()},
        "values and gradients": max(differences),
        "losses": float((losses[BLOCKS] - losses["sdpa"]).abs().max()),
        "losses of all rows at once": float((losses["sdpa"] - whole["sdpa"]).abs().max()),
        "padded": float((padded[BLOCKS] - padded["sdpa"]).abs().max()),
        "answers are the same": answers[BLOCKS] == answers["sdpa"],
        "named in what is saved": BLOCKS in config,
    }
    print(json.dumps(found))


def _differences(length: int) -> list[float]:
    mine = [torch.randn(2, 3, length, 32, requires_grad=True) for _ in range(3)]
    theirs = [one.detach().clone().requires_grad_() for one in mine]
    ours = attend(*mine)
    other = functional.scaled_dot_product_attention(*theirs, is_causal=True)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (other * weights).sum().backward()
    pairs = [(ours, other), *((one.grad, two.grad) for one, two in zip(mine, theirs, strict=True))]
    return [float((one - two).abs().max()) for one, two in pairs]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
