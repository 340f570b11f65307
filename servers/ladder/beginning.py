"""How a model begins: with heads that copy, and that see where parts meet. Weights only.

What follows a token that stood in the context before is found by a pair of heads: one of the first
layer carries to each place the token before it, one of the second looks for the place whose token
before is this one (induction heads, https://arxiv.org/abs/2209.11895). By themselves they appear
after some 500,000 times the square root of a step's tokens (https://arxiv.org/abs/2511.16893):
here 28 million, thrice what the ladder is trained on. So the ladder begins with them, as others
begin with layers that look like trained ones (mimetic initialization,
https://arxiv.org/abs/2305.09828). The optimiser may undo it. Why, and what it brings:
docs/decisions/0029.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from ladder.objective import LEVEL
from ladder.pieces import TABS, Pieces

EMBEDDING = 0.1
"""Standard deviation of the embeddings."""

CONSTANT = 0.5
"""First coordinate of each embedding: by it a head tells places apart, whatever stands there."""

SHARPNESS = 10.0
"""Of the attention to a place before, per frequency; in logits."""

FREQUENCIES = 5
"""Of the rotary embedding, the highest: the lower ones hardly tell neighbours apart."""

SLOW = (13, 14, 15)
"""Frequencies that hardly turn within a row: by these a head looks for a token, wherever it is."""

LOOKING = 1.5
"""Size of query and key of the head that looks for the suffix from every place."""

WRITTEN, MATCHED, COPIED, FETCHED = 2.0, 2.0, 5.0, 0.7
"""Gains: of what is carried here from a token before and of what is copied (both in `EMBEDDING`),
of query and key that match tokens, of each of two tokens that are fetched."""


@torch.no_grad()
def set_heads(model: LlamaForCausalLM, pieces: Pieces) -> None:
    """Set two heads of the first layer, three of the second, and the embeddings.

    The first of each copy. Each layer's second bring the last two tokens before `▁<SUF>`, where a
    PSM prefix ends, to `▁<MID>`, where its middle begins. The third of the second layer brings the
    suffix's first token to every place after it: where this comes next, the middle may be over.

    Args:
        model: untrained; at least two layers, three heads, three times a head's columns.
        pieces: whose sentinels it will see.
    """
    embeddings = model.model.embed_tokens.weight
    hidden, head = embeddings.shape[1], model.config.head_dim
    embeddings.normal_(0, EMBEDDING)
    embeddings.mul_(EMBEDDING * hidden**0.5 / embeddings.norm(dim=1, keepdim=True))
    embeddings[:, 0] = CONSTANT

    token = torch.eye(head, hidden).roll(1, dims=1)  # coordinates 1 to `head`
    before = token.roll(head, dims=1)  # the next ones
    second = before.roll(head, dims=1)
    second[-1] = 0  # the last would be coordinate 0 of the narrowest model
    carrying, finding = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for number, (distance, place) in enumerate(((1, before), (2, second))):
        rows = slice(number * head, (number + 1) * head)
        query, key = _to_a_place_before(distance, hidden, head)
        carrying.q_proj.weight[rows], carrying.k_proj.weight[rows] = query, key
        carrying.v_proj.weight[rows] = token
        carrying.o_proj.weight[:, rows] = EMBEDDING * WRITTEN * place.T

    finding.q_proj.weight[:head] = MATCHED * token
    finding.k_proj.weight[:head] = MATCHED * before
    finding.v_proj.weight[:head] = token
    finding.o_proj.weight[:, :head] = EMBEDDING * COPIED * token.T

    rows = slice(head, 2 * head)
    finding.q_proj.weight[rows] = _on_slow_frequencies(embeddings[pieces.mid], head)
    finding.k_proj.weight[rows] = _on_slow_frequencies(embeddings[pieces.suf], head)
    finding.v_proj.weight[rows] = FETCHED * (before + second)
    finding.o_proj.weight[:, rows] = EMBEDDING * COPIED * token.T

    rows = slice(2 * head, 3 * head)  # its key: a place whose token before is `▁<SUF>`
    query = torch.zeros(head, hidden)
    query[list(SLOW), 0] = LOOKING
    suffix = torch.zeros(hidden)
    suffix[1 + head : 1 + 2 * head] = embeddings[pieces.suf][1 : 1 + head]
    finding.q_proj.weight[rows] = query
    finding.k_proj.weight[rows] = LOOKING * _on_slow_frequencies(suffix, head)
    finding.v_proj.weight[rows] = FETCHED * token
    finding.o_proj.weight[:, rows] = EMBEDDING * COPIED * second.T


@torch.no_grad()
def set_tabs(model: LlamaForCausalLM, pieces: Pieces) -> None:
    """Have rows of tabs begin as what they stand for: rows of spaces, `LEVEL` for each tab.

    Args:
        model: trained on texts without tabs.
        pieces: see `with_tabs`.
    """
    embeddings = model.model.embed_tokens.weight
    for tabs in TABS:
        embeddings[pieces.row_of("\t", tabs)] = embeddings[pieces.row_of(" ", tabs * LEVEL)]


def _to_a_place_before(distance: int, hidden: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key, (head, hidden): a constant each, the key's turned on by that many places."""
    normed = CONSTANT / ((hidden - 1) / hidden * EMBEDDING**2 + CONSTANT**2 / hidden) ** 0.5
    size = (SHARPNESS * head**0.5) ** 0.5 / normed
    query, key = torch.zeros(head, hidden), torch.zeros(head, hidden)
    half = head // 2
    for number in range(FREQUENCIES):
        turn = distance * torch.tensor(10_000.0 ** (-number / half))
        query[number, 0] = size
        key[number, 0], key[number + half, 0] = size * turn.cos(), size * turn.sin()
    return query, key


def _on_slow_frequencies(embedding: torch.Tensor, head: int) -> torch.Tensor:
    """(head, hidden): the token's direction, but for the constant that all have."""
    direction = embedding.clone()
    direction[0] = 0
    matrix = torch.zeros(head, len(embedding))
    matrix[list(SLOW)] = direction / direction.norm()
    return matrix
