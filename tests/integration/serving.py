"""Real servers for tests: `servers/with_server.py`, which starts one and ends it by process id."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
SERVER_PYTHON = ROOT / ".venv-server" / "bin" / "python"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


with_server = _module(ROOT / "servers" / "with_server.py")
