"""One page that says all of it: findings and tasks in, a self-contained `index.html` out.

The page loads nothing, from the network or from beside it, and runs one script: ours, named by its
hash. What models, servers and programs wrote is text in it, never markup.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template

from fim_eval.errors import RunDirectoryError
from fim_eval.report.browser import Browsed
from fim_eval.report.figures import Drawn, draw, write_figures
from fim_eval.report.findings import Findings, Run
from fim_eval.report.page.markup import Html, join, tag, text
from fim_eval.report.page.packing import pack
from fim_eval.report.page.sections import answer, appendix, contents, sections

__all__ = ["write_page", "write_report_page"]

PAGE = "index.html"
FIGURES = "figures"


def write_report_page(findings: Findings, tasks: Browsed, folder: Path) -> list[Path]:
    """Write the page, and every figure as SVG and PNG; return the paths.

    Args:
        findings: what it says.
        tasks: for the browser of tasks.
        folder: for `index.html` and the folder `figures`.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    drawn = draw(findings)
    return [
        write_page(findings, tasks, folder, drawn),
        *write_figures(drawn, folder / FIGURES),
    ]


def write_page(
    findings: Findings, browsed: Browsed, folder: Path, drawn: Sequence[Drawn] | None = None
) -> Path:
    """Write `index.html`; return its path.

    Args:
        findings: what it says.
        browsed: the tasks that its browser shows; none: it has no browser.
        folder: made if need be.
        drawn: the figures, if they are drawn already.

    Raises:
        RunDirectoryError: the folder cannot be written.
    """
    path = folder / PAGE
    content = _page(findings, browsed, draw(findings) if drawn is None else drawn)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise RunDirectoryError(
            f"{path}: cannot be written ({error.strerror or error}); "
            "name a folder of your own with --out"
        ) from error
    return path


def _page(findings: Findings, browsed: Browsed, drawn: Sequence[Drawn]) -> str:
    ours = files(__package__)
    script = ours.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    there = bool(browsed.tasks)
    index, pieces = pack(browsed, findings.headline_policy) if there else ("", [])
    datasets = ", ".join(dict.fromkeys(_dataset(run) for run in findings.runs))
    return Template(ours.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        # Nothing is loaded; only the one script runs, whatever a text contrives to add.
        policy=text(
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=ours.joinpath("page.css").read_text(encoding="utf-8"),
        script=script,
        contents=contents(findings, browser=there),
        answer=answer(findings),
        sections=sections(findings, drawn),
        appendix=appendix(findings),
        browser_hidden="" if there else "hidden",
        tasks=f"{len(browsed.tasks):,}",
        made=text(
            f"{datasets or 'no runs'}. Made {findings.made_at[:16].replace('T', ' ')} UTC by "
            f"fim_eval {findings.fim_eval_version}; {findings.resamples:,} resamples, "
            f"seed {findings.seed}."
        ),
        data=join(
            *(
                tag("script", Html(packed), type="text/plain", id=name)
                for name, packed in (
                    ("index", index),
                    *((f"piece-{place}", piece) for place, piece in enumerate(pieces)),
                )
                if packed
            )
        ),
    )


def _dataset(run: Run) -> str:
    """Of a file, its name: that it was one says little."""
    match run.manifest.get("task_facts"):
        case {"dataset": {"name": "file", "source": str(source)}}:
            return PurePath(source).name
        case _:
            return run.dataset
