"""Causal attention as plain products of blocks, for rows of a few hundred tokens on the CPU.

In bfloat16 torch's own kernel takes twice as long here, most of it backward. What no block may see
is left out by slicing, but for the triangle of the last block.
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


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What each place takes from itself and those before it; all (rows, heads, places, columns)."""
    query = (query * query.shape[-1] ** -0.5).to(value.dtype)
    key = key.to(value.dtype).transpose(-1, -2)
    taken = []
    for first in range(0, query.shape[-2], BLOCK):
        last = min(first + BLOCK, query.shape[-2])
        scores = query[..., first:last, :] @ key[..., :last]
        scores += torch.full((last - first, last), float("-inf")).triu(first + 1).to(scores.dtype)
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
    """As transformers asks for it; what is padded, or goes on from a cache, is torch's own."""
    if attention_mask is None and query.shape[-2] == key.shape[-2]:
        return attend(query, key, value).transpose(1, 2), None
    taken: torch.Tensor
    taken, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return taken, None


AttentionInterface.register(BLOCKS, _forward)
AttentionMaskInterface.register(BLOCKS, sdpa_mask)
