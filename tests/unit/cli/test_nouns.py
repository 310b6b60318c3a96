from __future__ import annotations

import subprocess
import sys

import pytest

from twogate.cli.nouns import NOUNS, Nouns

HEAVY = ("sqlalchemy", "alembic", "pydantic", "mcp", "cryptography", "starlette", "rich")

_VERSION = f"""
import sys
from typer.testing import CliRunner
from twogate.cli.main import app
assert CliRunner().invoke(app, ["--version"]).exit_code == 0
print([name for name in {HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize("name", NOUNS)
def test_each_word_leads_to_the_command_of_that_name(name: str) -> None:
    assert Nouns()[name].name == name


def test_they_are_listed_in_order_and_no_other_word_is_known() -> None:
    assert tuple(Nouns()) == NOUNS
    assert len(Nouns()) == len(NOUNS)
    assert "main" not in Nouns()


def test_what_a_command_does_not_need_is_not_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", _VERSION], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
