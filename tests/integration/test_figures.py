"""Figures as they are drawn, and the page's static part around them."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from fim_eval.errors import RunDirectoryError
from fim_eval.report.figures import PAPER, draw, for_both, on_paper, write_figures
from fim_eval.report.page.sections import answer, appendix, sections
from fim_eval.report.views import models_of, short_names
from tests.made_report import CODE_LLAMA, made_findings


def test_markup_in_any_text_of_the_findings_is_escaped() -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e"
    findings = made_findings(said=hostile)
    whole = answer(findings) + sections(findings, draw(findings)) + appendix(findings)
    assert "<script" not in whole
    assert "&lt;script&gt;" in whole
    assert not re.search("[\x1b\u202e]", whole)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("known", [True, False], ids=["sizes known", "sizes unknown"])
def test_figures_are_sensible_with_few_models(count: int, *, known: bool) -> None:
    models = {
        name: (size if known else None, infills)
        for name, (size, infills) in list(CODE_LLAMA.items())[:count]
    }
    findings = made_findings(models, kinds=("single-line",), strategies=("lr",), unresolved=0)
    drawn = {figure.name: figure for figure in draw(findings)}
    assert ("differences" in drawn) == (count > 1)
    assert "bits per character" in drawn["scaling-bits"].wide
    axis = [
        size
        for size in ("6.7B", "13B", "34B", "69B")[:count]
        if f">{size}<" in drawn["scaling"].wide
    ]
    assert len(axis) == (count if known else 0)
    if not known:
        for short in short_names(models_of(findings)).values():
            assert f">{short} (size unknown)<" in drawn["scaling"].wide
    for svg in (drawn["scaling"].wide, drawn["scaling"].narrow):
        assert not re.search(r'(href|src)="|url\((?!#)', svg)
        assert PAPER["dark"] in on_paper(svg, "dark")
        assert "light-dark(#0072b2,#56b4e9)" in for_both(svg)


def test_figures_are_files_in_light_and_dark(tmp_path: Path) -> None:
    one = made_findings({"one": (10**9, "no")}, kinds=("single-line",), strategies=("lr",))
    drawn = draw(one)
    paths = write_figures(drawn, tmp_path / "figures")
    assert {path.name for path in paths} == {
        f"{figure.name}{mark}.{suffix}"
        for figure in drawn
        for mark in ("", "-dark")
        for suffix in ("svg", "png")
    }
    for path in paths:
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG" if path.suffix == ".png" else b"<svg")
        if path.suffix == ".svg":
            assert PAPER["dark" if path.stem.endswith("-dark") else "light"].encode() in content
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match="name a folder of your own"):
        write_figures(drawn, tmp_path / "file")


def test_bits_that_have_no_end_are_not_drawn() -> None:
    models = dict(list(CODE_LLAMA.items())[:2])
    whole = made_findings(models, kinds=("single-line",), strategies=("lr",))
    rows = tuple(
        row.model_copy(
            update={
                "metrics": row.metrics
                | {
                    "bits_per_character": row.metrics["bits_per_character"].model_copy(
                        update={"value": None, "most": math.inf, "high": math.inf}
                    )
                }
            }
        )
        for row in whole.rows
    )
    lost = whole.model_copy(update={"rows": rows})
    assert "scaling-bits" not in {figure.name for figure in draw(lost)}
