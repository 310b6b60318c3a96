"""A stdio server as an upstream: child processes, one for each principal, era and session (DESIGN decision 13)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.stdio_plan import SANDBOX_HOME, SandboxPlan
from twogate.adapters.upstream.stdio_process import StdioCommand, StdioLimits, StdioProcess
from twogate.core.principal import PrincipalKey
from twogate.flows.environment import Clock

__all__ = ["StdioLimits", "StdioUpstream"]


class StdioUpstream(DuplexUpstream):
    """Implements `flows.gateway.upstream.Upstream` over child processes. `log` takes the server's name and a line.

    With a `sandbox` each process runs as `stdio_sandbox` says, for its principal's tenant.

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
            return await StdioProcess.start(what, limits, clock, log)

        super().__init__(
            start,
            limits=limits,
            clock=clock,
            log=lambda line: log(name, line),
        )
