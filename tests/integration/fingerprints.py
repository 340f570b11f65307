"""In the server's environment: the hash in the fingerprint of vLLM's answers, by settings.

    python fingerprints.py MODEL < settings.json

Reads a list of objects with options of vLLM's engine; `environment` in one of them holds variables.
Writes the list of their hashes.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from vllm.engine.arg_utils import EngineArgs

USUAL = {"dtype": "float32", "max_model_len": 2048, "enforce_eager": True}


def fingerprint(model: str, settings: dict[str, Any]) -> str:
    """Eight characters, as `vllm.entrypoints.serve.utils.fingerprint` takes them."""
    os.environ.update(settings.pop("environment", {}))
    config = EngineArgs(**{"model": model, **USUAL, **settings}).create_engine_config()
    return str(config.compute_hash())[:8]


if __name__ == "__main__":
    found = [fingerprint(sys.argv[1], each) for each in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(found))
