"""Causal attention as plain products of blocks, for rows of a few hundred tokens on the CPU.

In bfloat16 torch's own kernel takes longer here, most of it backward (benchmarks/ladder_step.py).
What comes after a block is left out by slicing; what else a place may not see, by a mask.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BLOCKS = "blocks"
"""What transformers calls it, as `attn_implementation`."""

BLOCK = 192
"""Queries of a block."""

UNSEEN = -1e4
"""Added to the score of a place that is not seen. Finite: where none is, as by padding, no NaN."""


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """What each place takes from those it sees, all (rows, heads, places, columns).

    Args:
        query: of each place.
        key: as query; both are brought to the type of value.
        value: what is taken.
        seen: (rows or 1, heads or 1, places, places), of bool; never a place that comes after.
    """
    query = (query * query.shape[-1] ** -0.5).to(value.dtype)
    key = key.to(value.dtype).transpose(-1, -2)
    unseen = torch.zeros(seen.shape, dtype=value.dtype).masked_fill_(~seen, UNSEEN)
    taken = []
    for first in range(0, query.shape[-2], BLOCK):
        last = min(first + BLOCK, query.shape[-2])
        scores = query[..., first:last, :] @ key[..., :last]
        scores += unseen[..., first:last, :last]
        taken.append(scores.softmax(-1) @ value[..., :last, :])
    return torch.cat(taken, dim=-2)


def _forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers asks for it; what is not trained on, as answers are, is torch's own."""
    if attention_mask is not None and query.shape[-2] == key.shape[-2] and query.requires_grad:
        return attend(query, key, value, attention_mask).transpose(1, 2), None
    taken: torch.Tensor
    taken, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return taken, None


AttentionInterface.register(BLOCKS, _forward)
AttentionMaskInterface.register(BLOCKS, sdpa_mask)
