"""fim_eval: how code infilling improves with model size, measured behind a vLLM server."""
