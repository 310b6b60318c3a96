"""What commands print: text and tables for people, one JSON document for programs; errors on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import typer

_PIPE_WIDTH = 240
"""Columns of a table that goes to a file or another program."""


class CommandError(Exception):
    """A command could not do what it was asked (exit code 1). `code` is stable, for programs; `data` adds to it."""

    def __init__(self, message: str, *, code: str = "failed", data: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.data = data or {}


def printable(text: str) -> str:
    """The text with control and formatting characters escaped, so that no value can drive the terminal."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def one_line(text: str) -> str:
    """The same with line breaks escaped too, so that no value can begin a line that looks like the command's own."""
    return printable(text).replace("\n", "\\n")


def print_text(text: str = "") -> None:
    """Print for people, to stdout."""
    typer.echo(printable(text))


def print_json(document: object) -> None:
    """Print the command's one JSON document, to stdout."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    # JSON lets C1 controls and bidirectional marks stand as they are; inside its strings an escape means the same.
    typer.echo(printable_json(text))


def printable_json(text: str) -> str:
    """The same JSON, with what could drive the terminal escaped."""
    return "".join(char if char.isprintable() or char == "\n" else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


def print_error(code: str, message: str, data: Mapping[str, object], *, as_json: bool) -> None:
    """Print an error: to stderr for people, as the one JSON document for programs."""
    if as_json:
        print_json({"error": {"code": code, "message": message, **data}})
    else:
        typer.echo(f"twogate: {printable(message)}", err=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, to stdout; without colours and line breaks when that is not a terminal."""
    # Here, because few commands print tables.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    terminal = sys.stdout.isatty()
    console = Console(
        file=sys.stdout,
        color_system="auto" if terminal else None,
        force_terminal=terminal,
        width=None if terminal else _PIPE_WIDTH,
        markup=False,
        highlight=False,
        emoji=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console.print(table)
