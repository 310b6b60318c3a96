"""The `twogate` command. Exit codes: 0 done, 1 refused or failed, 2 wrong use. No traceback reaches a user."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import typer
from typer.core import TyperGroup

from twogate import __version__
from twogate.cli.nouns import Nouns
from twogate.cli.output import CommandError, print_error
from twogate.core.errors import GateError

FAILED = 1


class Frame(TyperGroup):
    """Turns what a command raises into one clear message and an exit code, as JSON if `--json` was given."""

    _as_json = False

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - handed on to Typer
        super().__init__(**options)
        # A frame with commands of its own keeps them; the one of `app` has none yet.
        self.commands = self.commands or cast("Any", Nouns())

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - the type is private to Typer
        """Note whether errors are to be JSON, then parse."""
        # Asked here because a command whose own options are wrong never gets to know its `--json`.
        self._as_json = "--json" in args[: args.index("--")] if "--" in args else "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as in Typer
        """Run the command; end with exit code 1 and one message if it raises."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except typer.TyperException as error:
            if not self._as_json:
                raise  # Typer prints usage errors itself
            self._report("usage", error.format_message())
            raise typer.Exit(error.exit_code) from None
        except CommandError as error:
            self._report(error.code, error.message, error.data)
        except GateError as error:
            self._report(error.code.value, error.debug or error.face.text)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # the reader went away; Typer ends quietly
            place = f"{error.filename}: " if error.filename else ""
            self._report("system", f"{place}{error.strerror or type(error).__name__}")
        except Exception as error:  # noqa: BLE001 - the very edge: say what broke, not its values
            self._report_other(error)
        raise typer.Exit(FAILED)

    def _report_other(self, error: Exception) -> None:
        # Here, because not every command has a configuration to load.
        from twogate.config import ConfigError  # noqa: PLC0415

        if isinstance(error, ConfigError):
            problems = [
                {"file": str(error.path), "line": item.line, "key": item.key, "message": item.message}
                for item in error.problems
            ]
            self._report("configuration_invalid", str(error), {"problems": problems})
        else:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            self._report(
                "internal", f"internal error: {type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
            )

    def _report(self, code: str, message: str, data: Mapping[str, object] | None = None) -> None:
        print_error(code, message, data or {}, as_json=self._as_json)


app = typer.Typer(
    name="twogate",
    cls=Frame,
    help="The identity and access layer for MCP: two gates in front of any MCP server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None: ...


def run() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
