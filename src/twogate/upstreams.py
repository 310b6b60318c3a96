"""Opening the configured MCP servers: what the gateway and the commands that ask servers share.

A part of the composition root, apart from `app.py` because commands need no HTTP.
"""

from __future__ import annotations

from collections.abc import Callable

from twogate.adapters.upstream.http import HttpUpstream
from twogate.adapters.upstream.sse import SseUpstream
from twogate.adapters.upstream.stdio import StdioUpstream
from twogate.adapters.upstream.stdio_process import StdioLimits
from twogate.config import Settings
from twogate.config.servers import HttpServer, StdioServer
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import Upstream
from twogate.sandboxes import sandbox_plan


def open_upstream(name: str, settings: Settings, clock: Clock, log: Callable[[str, str], None]) -> Upstream:
    """The way to one configured server; nothing is connected or started before the first message.

    `log` takes the server's name and a line, mostly what its process wrote to stderr.

    Raises:
        OSError: the server's CA file cannot be read, or an account of its sandbox does not exist.
    """
    match settings.servers[name]:
        case HttpServer(url=url, ca=ca, transport="sse"):
            return SseUpstream(url, ca_file=ca, name=name, clock=clock, log=log)
        case HttpServer(url=url, ca=ca):
            return HttpUpstream(url, ca_file=ca)
        case StdioServer(command=command, cwd=cwd, env=env) as server:
            return StdioUpstream(
                command,
                cwd=cwd,
                environment=env,
                limits=StdioLimits(),
                name=name,
                clock=clock,
                log=log,
                sandbox=sandbox_plan(server, settings),
            )
