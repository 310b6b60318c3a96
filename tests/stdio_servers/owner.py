"""Owns a StdioUpstream, prints the process ids of its server, and waits to be killed."""

import asyncio
import os
import sys
from pathlib import Path

from twogate.adapters.clock import SystemClock
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.core.message import Kind, Message
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamRequest


async def main() -> None:
    upstream = StdioUpstream(
        tuple(sys.argv[1:]),
        cwd=Path("/"),
        environment={},
        limits=StdioLimits(grace=0.2),
        clock=SystemClock(),
        log=lambda name, line: None,
    )
    message = Message(Kind.REQUEST, 1, "tools/call", {"name": "pid"})
    owner = PrincipalKey("acme", "https://issuer.example", "bot", None)
    answer = await upstream.send(UpstreamRequest(owner, "POST", (), b"", message, modern=False, timeout=20.0))
    async for chunk in answer.chunks():
        os.write(1, chunk + b"\n")
    await asyncio.Event().wait()


asyncio.run(main())
