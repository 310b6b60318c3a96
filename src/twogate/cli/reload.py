"""`twogate reload`: let a running `twogate serve` take the configuration file as it is now."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import msgspec
import typer

from twogate.adapters.serving import Reload, ServingError, Status, find_serving
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_text
from twogate.config import load_settings

ANSWER_SECONDS: Final = 60.0
"""How long the process may take to say that it took the file, or why not."""
_TICK: Final = 0.02


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reload")(reload)


def reload(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Let the running `twogate serve` take the file as it is now, without dropping a call."""
    directory = load_settings(config).state_directory
    try:
        status, outcome = request_reload(directory, config)
    except ServingError as error:
        raise CommandError(str(error), code="not_trusted") from error
    if outcome.code:
        problems = {"problems": msgspec.to_builtins(outcome.problems)} if outcome.problems else {}
        raise CommandError(outcome.message, code=outcome.code, data={"generation": outcome.generation, **problems})
    if as_json:
        print_json({"pid": status.pid, "before": outcome.before, "generation": outcome.generation})
    elif outcome.before == outcome.generation:
        print_text(f"Process {status.pid} read {config} again; its settings are the same ({outcome.generation}).")
    else:
        print_text(f"Process {status.pid} serves generation {outcome.generation} now (before: {outcome.before}).")


def request_reload(directory: Path, config: Path, *, seconds: float = ANSWER_SECONDS) -> tuple[Status, Reload]:
    """Signal the process that serves over a state directory and wait for the end of an attempt begun after this call.

    Raises:
        CommandError: no process serves, it serves another file, ends meanwhile, or does not answer in time.
        ServingError: what says which process serves cannot be trusted.
    """
    status = find_serving(directory)
    if status is None:
        raise CommandError(
            f"no `twogate serve` that is ready serves over {directory}; after a change of `state` or `store`, restart "
            "it instead",
            code="not_serving",
        )
    if not _same_file(Path(status.config), config):
        raise CommandError(
            f"process {status.pid} serves {status.config}, not {config}; name that file, or restart it with this one",
            code="other_file",
        )
    with contextlib.suppress(ProcessLookupError):  # it ended: said below
        os.kill(status.pid, signal.SIGHUP)
    deadline = time.monotonic() + seconds  # noqa: TID251 - a command line has no Clock
    while True:
        now = find_serving(directory)
        if now is None or (now.pid, now.started) != (status.pid, status.started):
            raise CommandError(f"process {status.pid} ended before it reloaded; see its log", code="ended")
        if now.last is not None and now.last.number > status.begun:
            return now, now.last
        if time.monotonic() >= deadline:  # noqa: TID251 - as above
            raise CommandError(
                f"process {status.pid} did not answer within {seconds:g} s; see its log for how the reload ended",
                code="timeout",
            )
        time.sleep(_TICK)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    except OSError:
        return False
