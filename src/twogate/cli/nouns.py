"""The command line's first words, each with its module, which is loaded when the word is first used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Final

import typer

NOUNS: Final = (
    "init",
    "serve",
    "reload",
    "check",
    "explain",
    "tool",
    "secret",
    "login",
    "agent",
    "client",
    "user",
    "session",
    "token",
    "operation",
    "approval",
    "audit",
    "demo",
)
"""In the order of the help. Each is a module of `twogate.cli` with a function `register(root)`."""


class Nouns(Mapping[str, Any]):
    """The commands by name, as Typer's group keeps them; the type of the values is private to Typer.

    Without it every command would start with what all of them import: database, web server, cryptography.
    """

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - see the class
        if name not in NOUNS:
            raise KeyError(name)
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(NOUNS)

    def __len__(self) -> int:
        return len(NOUNS)


@cache
def _load(name: str) -> Any:  # noqa: ANN401 - see Nouns
    root = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    import_module(f"twogate.cli.{name}").register(root)
    return typer.main.get_group(root).commands[name]
