"""Every option that `servers/` writes down is one that vLLM's own parser takes, and means it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SERVER_PYTHON = ROOT / ".venv-server" / "bin" / "python"

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        not SERVER_PYTHON.exists(), reason="no vLLM here: `make env-server` sets it up"
    ),
]

PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
for words in json.load(sys.stdin):
    parsed = vars(make_arg_parser(FlexibleArgumentParser()).parse_args(words))
    print(json.dumps({name: value for name, value in parsed.items()
                      if isinstance(value, str | int | float | list | None)}))
"""


def parsed(*commands: list[str]) -> list[dict[str, Any]]:
    """What vLLM understands of each command line."""
    done = subprocess.run(
        [SERVER_PYTHON, "-c", PARSE], input=json.dumps(commands), cwd=ROOT, text=True,
        capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_vllm_takes_every_option_of_every_file_as_it_is_written() -> None:
    paths = sorted((ROOT / "servers").glob("*.yaml"))
    for path, understood in zip(
        paths, parsed(*[["--config", str(path)] for path in paths]), strict=True
    ):
        for key, value in yaml.safe_load(path.read_text()).items():
            name = key.replace("-", "_")
            wanted = [value] if name == "served_model_name" else value
            assert understood[name] == wanted, f"{path.name}: {key}"
