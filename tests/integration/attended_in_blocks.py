"""Attention in blocks beside torch's own: of rows of documents, of padding, and of answers.

Takes a model's folder. Runs in the server's environment; prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from ladder import attention
from ladder.attention import BLOCK, BLOCKS, attend
from ladder.pieces import BOS, VOCABULARY, Pieces
from ladder.recipe import Size
from ladder.training import Plan, losses_of, new_model, save
from torch.nn import functional
from transformers import LlamaForCausalLM

DOCUMENT = 50
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
    documents = ids.clone()
    documents[:, DOCUMENT] = BOS
    answers, padded, losses, alone = {}, {}, {}, {}
    with torch.no_grad():
        for name, model in models.items():
            answers[name] = model.generate(
                ids, attention_mask=seen, max_new_tokens=8, do_sample=False, pad_token_id=0
            ).tolist()
            alone[name] = _each_alone(model, documents)
    with _counted() as without_gradients, torch.no_grad():
        losses_of(models[BLOCKS], documents.tolist())
    with _counted() as in_training:
        for name, model in models.items():
            padded[name] = model(ids, attention_mask=seen).logits[seen.bool()]
            losses[name] = losses_of(model, documents.tolist())
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "training.jsonl").write_text("{}\n")
        save(models[BLOCKS], tokenizer, Path(made))
        config = (Path(made) / "config.json").read_text()
    found = {
        "attention": {name: model.config._attn_implementation for name, model in models.items()},
        "values and gradients": max(differences),
        "losses": float((losses[BLOCKS] - losses["sdpa"]).abs().max()),
        "losses of each document alone": float((losses["sdpa"] - alone["sdpa"]).abs().max()),
        "padded": float((padded[BLOCKS] - padded["sdpa"]).abs().max()),
        "answers are the same": answers[BLOCKS] == answers["sdpa"],
        "named in what is saved": BLOCKS in config,
        "blocks were used": {
            "in training": len(in_training) == 2 * 2,  # layers, calls
            "without gradients": bool(without_gradients),
        },
    }
    print(json.dumps(found))


@contextmanager
def _counted() -> Iterator[list[None]]:
    """Has an element for each time that blocks were used meanwhile."""
    used: list[None] = []

    def counting(*given: torch.Tensor) -> torch.Tensor:
        used.append(None)
        return attend(*given)

    attention.attend = counting  # type: ignore[assignment]
    try:
        yield used
    finally:
        attention.attend = attend


def _each_alone(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Losses, (rows, length - 1), of rows of two documents whose second is at its own places."""
    parts = []
    for first, last in ((0, DOCUMENT), (DOCUMENT, rows.shape[1])):
        places = torch.arange(first, last - 1)[None]
        document = rows[:, first:last]
        scores = model(document[:, :-1], position_ids=places).logits.transpose(1, 2)
        parts.append(functional.cross_entropy(scores, document[:, 1:], reduction="none"))
        if last < rows.shape[1]:  # the next one's first token
            before = model(document).logits[:, -1]
            parts.append(functional.cross_entropy(before, rows[:, last], reduction="none")[:, None])
    return torch.cat(parts, 1)


def _differences(length: int) -> list[float]:
    mine = [torch.randn(2, 3, length, 32, requires_grad=True) for _ in range(3)]
    theirs = [one.detach().clone().requires_grad_() for one in mine]
    seen = (torch.rand(2, 1, length, length) < 0.5).tril() | torch.eye(length, dtype=torch.bool)
    ours = attend(mine[0], mine[1], mine[2], seen)
    other = functional.scaled_dot_product_attention(*theirs, attn_mask=seen)
    weights = torch.randn_like(ours)
    (ours * weights).sum().backward()
    (other * weights).sum().backward()
    pairs = [(ours, other), *((one.grad, two.grad) for one, two in zip(mine, theirs, strict=True))]
    return [float((one - two).abs().max()) for one, two in pairs]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
