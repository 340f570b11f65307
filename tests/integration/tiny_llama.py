"""A Llama with random weights and Code Llama's vocabulary: `tiny_llama.py TOKENIZER_MODEL FOLDER`.

Runs in the server's environment. What it writes, vLLM serves like any Code Llama; it knows nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer


def main(tokenizer_model: Path, folder: Path) -> None:
    """Write the model and a tokenizer made from `tokenizer_model` to `folder`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_016,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        rope_theta=1_000_000.0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    LlamaTokenizer.from_pretrained(tokenizer_model.parent).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
