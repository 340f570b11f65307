"""What the README tells a reader to type exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from fim_eval.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TYPED = [line[2:].partition(" #")[0].strip() for line in README.splitlines() if line[:2] == "$ "]
LINKS = re.findall(r"\]\(([^)#:]+)\)", README)


@pytest.mark.parametrize("command", [line for line in TYPED if line.startswith("make ")])
def test_a_make_command_names_a_target_and_variables_that_exist(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    target, *settings = shlex.split(command)[1:]
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
    for setting in settings:
        assert re.search(rf"^{setting.partition('=')[0]} \?=", makefile, re.MULTILINE), setting


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith("fim-eval ")])
def test_a_fim_eval_command_names_options_that_exist(line: str) -> None:
    name, *words = shlex.split(line)[1:]
    commands = vars(typer.main.get_command(app))["commands"]
    known = {option for parameter in commands[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_readme_shows_every_kind_of_command() -> None:
    assert {line.split()[0] for line in TYPED} == {"make", "fim-eval", "docker", "export"}


@pytest.mark.parametrize("target", sorted(set(LINKS)))
def test_a_link_of_the_readme_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
