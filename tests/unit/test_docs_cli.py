"""The reference of the command line names every command with every option, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from twogate.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
_SECTION = re.compile(r"^## (twogate [a-z -]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"`(-{1,2}[a-z-]+)")


def commands(command: Any, name: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Each command that does something, with its options."""
    inner: dict[str, Any] = getattr(command, "commands", {})
    if not inner:
        yield name, frozenset(option for param in command.params for option in param.opts if option.startswith("-"))
    for word, sub in inner.items():
        yield from commands(sub, f"{name} {word}")


COMMANDS = dict(commands(typer.main.get_command(app), "twogate"))


def sections() -> dict[str, str]:
    """The page's text about each command."""
    return dict(_SECTION.findall(PAGE.read_text()))


def test_the_page_has_a_section_for_every_command_and_no_other() -> None:
    assert set(COMMANDS) >= {"twogate serve", "twogate agent add", "twogate audit verify"}
    assert set(sections()) == set(COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_section_lists_the_commands_options(command: str) -> None:
    rows = "\n".join(line.split(" | ")[0] for line in sections()[command].splitlines() if line.startswith("| `"))
    assert set(_OPTION.findall(rows)) == COMMANDS[command] - {"--help"}
