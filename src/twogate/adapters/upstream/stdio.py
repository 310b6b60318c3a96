"""A stdio server as an upstream: child processes, one for each principal, era and session (DESIGN decision 13)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.stdio_plan import SANDBOX_HOME, SandboxPlan
from twogate.adapters.upstream.stdio_process import StdioCommand, StdioCredential, StdioLimits, StdioProcess
from twogate.core.principal import PrincipalKey
from twogate.flows.environment import Clock

__all__ = ["StdioLimits", "StdioUpstream"]

MASK: Final = "[secret]"
_SHOWN: Final = 4
"""Characters of a secret that may stand at the end of a line, which may be cut there."""


class StdioUpstream(DuplexUpstream):
    """Implements `flows.gateway.upstream.Upstream` over child processes. `log` takes the server's name and a line.

    With a `sandbox` each process runs as `stdio_sandbox` says, for its principal's tenant. `credential` makes what each
    process gets of its tenant's; where it writes that to stderr, the log has MASK instead.

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
        sandbox: SandboxPlan | None = None,
        credential: Callable[[str], Awaitable[StdioCredential]] | None = None,
    ) -> None:
        if not command:
            raise ValueError("the command is empty")
        name = name or Path(command[0]).name
        plain = StdioCommand(name, command, cwd, environment)
        inside = None if cwd is None else cwd.resolve()

        async def start(owner: PrincipalKey) -> StdioProcess:
            what = plain
            if sandbox is not None:
                whole = (*sandbox.launcher(owner.tenant, inside), *command)
                what = StdioCommand(name, whole, Path("/"), environment, SANDBOX_HOME)
            if credential is None:
                return await StdioProcess.start(what, limits, clock, log)
            given = await credential(owner.tenant)
            what = msgspec.structs.replace(what, credential=given)
            return await StdioProcess.start(
                what, limits, clock, lambda server, line: log(server, masked(line, given.value))
            )

        super().__init__(
            start,
            limits=limits,
            clock=clock,
            log=lambda line: log(name, line),
        )


def masked(line: str, secret: str) -> str:
    """A line of a server's own without the secret that it was given, also where the line was cut within it."""
    line = line.replace(secret, MASK)
    for length in range(min(len(secret) - 1, len(line)), _SHOWN, -1):
        if line.endswith(secret[:length]):
            return line[:-length] + MASK
    return line
