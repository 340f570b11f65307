"""A model that does nothing but repeat itself, before and after steps on its own loops alone.

Takes a model's folder, for its tokenizer. Runs in the server's environment; prints JSON.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import torch
from ladder import objective
from ladder.pieces import Pieces
from ladder.recipe import Size
from ladder.training import Plan, loop_loss, new_model

STEPS = 12


def main(folder: Path) -> None:
    """The loss step by step, and what it is of rows that are not asked."""
    pieces = Pieces((folder / "tokenizer.model").read_bytes())
    model = new_model(Plan(Size(layers=2, hidden=96)), pieces)
    model.eval()
    parts = [(f"x{number} = ", "1", f"\ny = {number}\n") for number in range(4)]
    rows = [objective.psm_ids(*one, pieces) for one in parts]
    others = [objective.spm_ids(*one, pieces) for one in parts]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    draw = random.Random(0)  # noqa: S311  reproducible
    for _ in range(STEPS):
        loss = loop_loss(model, rows, pieces, draw)
        losses.append(None if loss is None else float(loss.detach()))
        if loss is None:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    of_others = loop_loss(model, others, pieces, draw)
    print(json.dumps({"losses": losses, "of others": of_others}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
