"""A stdio server as an upstream: child processes, one for each principal, era and session (DESIGN decision 13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.stdio_process import StdioCommand, StdioLimits, StdioProcess
from twogate.flows.environment import Clock

__all__ = ["StdioLimits", "StdioUpstream"]


class StdioUpstream(DuplexUpstream):
    """Implements `flows.gateway.upstream.Upstream` over child processes. `log` takes the server's name and a line.

    Raises:
        ValueError: the command is empty.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        *,
        cwd: Path | None,
        environment: Mapping[str, str],
        limits: StdioLimits,
        clock: Clock,
        log: Callable[[str, str], None],
        name: str = "",
    ) -> None:
        if not command:
            raise ValueError("the command is empty")
        what = StdioCommand(name or Path(command[0]).name, command, cwd, environment)
        super().__init__(
            lambda: StdioProcess.start(what, limits, clock, log),
            limits=limits,
            clock=clock,
            log=lambda line: log(what.name, line),
        )
