"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fim_eval

MODULES = [
    module.name
    for module in pkgutil.walk_packages(fim_eval.__path__, "fim_eval.")
    if module.name != "fim_eval.__main__"
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_a_module_are_true(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
