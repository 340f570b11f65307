"""Where the tests find a browser, and the checker of accessibility; None: not here."""

from __future__ import annotations

import shutil
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NO_CHROMIUM = "no chromium found: apt-get install chromium"

_AXE = Path(__file__).resolve().parents[1] / ".cache/axe-core/axe.min.js"
AXE = _AXE if _AXE.exists() else None
NO_AXE = f"no axe-core at {_AXE}: make axe-core"
