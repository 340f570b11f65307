"""fim_eval: how code infilling improves with model size, measured behind a vLLM server."""

from importlib.metadata import version

__version__ = version("fim-eval")
