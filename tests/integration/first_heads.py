"""What the heads of an untrained model attend to, and how rows of tabs begin.

Takes a model's folder, for its tokenizer.
Runs in the server's environment; prints JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from ladder.beginning import set_tabs
from ladder.pieces import BOS, VOCABULARY, Pieces
from ladder.recipe import SIZES
from ladder.training import Plan, new_model

REPEATED = 30
BATCH = 16


def main(folder: Path) -> None:
    """For each size: mean attention of its first heads, and what chance would give."""
    pieces = Pieces((folder / "tokenizer.model").read_bytes())
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(300, VOCABULARY, (BATCH, REPEATED), generator=generator)
    begin = torch.full((BATCH, 1), BOS)
    twice = torch.cat([begin, ids, ids], dim=1)
    psm = torch.cat([begin, begin + pieces.pre - BOS, ids, ids, begin], dim=1)
    suffix, middle = 12, psm.shape[1] - 1
    psm[:, suffix], psm[:, middle] = pieces.suf, pieces.mid
    places = torch.arange(REPEATED + 3, 2 * REPEATED)
    found = {}
    for name, size in SIZES.items():
        model = new_model(Plan(size), pieces)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            first, second = model(twice, output_attentions=True).attentions[:2]
            second_of_psm = model(psm, output_attentions=True).attentions[1]
        fetching, looking = second_of_psm[:, 1, middle], second_of_psm[:, 2, suffix + 2 :]
        attentions = {
            "to the token before": first[:, 0, places, places - 1],
            "to the one before that": first[:, 1, places, places - 2],
            "after its like": second[:, 0, places, places - REPEATED + 1],
            "by chance": second[:, -1, places, places - REPEATED + 1],
            "from middle to suffix": fetching[:, suffix],
            "from middle to elsewhere": fetching[:, 20:40],
            "to the suffix's first": looking[:, :, suffix + 1],
            "to its second": looking[:, :, suffix + 2],
        }
        found[name] = {key: float(each.mean()) for key, each in attentions.items()}
        set_tabs(model, pieces)
        rows = model.model.embed_tokens.weight
        alike = [(pieces.row_of("\t", tabs), pieces.row_of(" ", 4 * tabs)) for tabs in (1, 2, 3, 4)]
        assert len({number for pair in alike for number in pair}) == 8
        found[name]["rows of tabs that begin as spaces"] = sum(
            torch.equal(rows[tab], rows[space]) for tab, space in alike
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
