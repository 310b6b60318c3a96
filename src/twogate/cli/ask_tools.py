"""Asking the configured servers what they have, for one command: in each tenant's name, as the gateway itself asks.

Apart from `tool.py` because it loads the gateway's own code, for which no other command should have to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec
import typer

from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.output import printable
from twogate.config import Settings
from twogate.core.errors import GateError
from twogate.flows.gateway.catalogue_fetch import Offer, fetch_offer, fetch_tools
from twogate.flows.gateway.tool_list import NO_TOOLS, Tool
from twogate.flows.gateway.upstream import Upstream
from twogate.flows.secrets import TenantSecrets
from twogate.upstreams import GuardedElsewhereError, command_secrets, open_upstream

AT_ONCE: Final = 8
"""Servers that are asked at the same time."""
PATIENCE: Final = 2.0
"""Seconds after which a person is told what is being waited for; then again every five times as many."""
LAST_WORDS: Final = 5
"""Lines of a failed server's stderr that are shown."""


class Failure(msgspec.Struct, frozen=True):
    """Why a server could not be asked; `stderr` is the end of what its process said."""

    code: str
    message: str
    stderr: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """What came of asking one server in one tenant's name."""

    tenant: str
    server: str
    tools: Mapping[str, Tool] = NO_TOOLS
    offer: Offer = Offer({}, {})
    failure: Failure | None = None


def ask(settings: Settings, pairs: Sequence[tuple[str, str]], *, everything: bool = False) -> list[Asked]:
    """Ask for each pair of tenant and server; failures are told, not raised. Says on stderr what takes long.

    The answer is in `tools`, or, if `everything` that can be approved is asked for, in `offer`.
    """
    return asyncio.run(_ask_all(settings, pairs, everything))


async def _ask_all(settings: Settings, pairs: Sequence[tuple[str, str]], everything: bool) -> list[Asked]:
    clock = SystemClock()
    said: dict[str, deque[str]] = {server: deque(maxlen=LAST_WORDS) for _, server in pairs}
    places = asyncio.Semaphore(AT_ONCE)
    waiting: set[str] = set()
    secrets = command_secrets(settings, SystemRng())

    async with AsyncExitStack() as stack:
        upstreams: dict[str, Upstream | Failure] = {}
        for server in said:
            upstreams[server] = opened = _open(server, settings, clock, said, secrets)
            if not isinstance(opened, Failure):
                stack.push_async_callback(opened.aclose)

        async def one(tenant: str, server: str) -> Asked:
            upstream = upstreams[server]
            if isinstance(upstream, Failure):
                return Asked(tenant, server, failure=upstream)
            async with places:
                waiting.add(f"{tenant}/{server}")
                try:
                    patience = settings.servers[server].timeout
                    if everything:
                        return Asked(tenant, server, offer=await fetch_offer(upstream, tenant, patience))
                    return Asked(tenant, server, (await fetch_tools(upstream, tenant, patience)).tools)
                except GateError as error:
                    return Asked(tenant, server, failure=_failure(error))
                finally:
                    waiting.discard(f"{tenant}/{server}")

        progress = asyncio.create_task(_tell(waiting))
        try:
            asked = await asyncio.gather(*(one(tenant, server) for tenant, server in pairs))
        finally:
            progress.cancel()
    # Only now, when every process has ended, everything that it had to say has been read.
    return [item if item.failure is None else _with_last_words(item, said[item.server]) for item in asked]


def _open(
    server: str,
    settings: Settings,
    clock: SystemClock,
    said: Mapping[str, deque[str]],
    secrets: TenantSecrets,
) -> Upstream | Failure:
    try:
        return open_upstream(server, settings, clock, lambda name, line: said[name].append(line), secrets)
    except GuardedElsewhereError as error:
        return Failure("library", str(error))
    except OSError as error:
        return Failure("system", f"{error.filename or server}: {error.strerror or type(error).__name__}")


def _failure(error: GateError) -> Failure:
    return Failure(error.code.value, error.debug or error.face.text)


def _with_last_words(asked: Asked, said: deque[str]) -> Asked:
    if asked.failure is None or not said:
        return asked
    return msgspec.structs.replace(asked, failure=msgspec.structs.replace(asked.failure, stderr=tuple(said)))


async def _tell(waiting: set[str]) -> None:
    pause = PATIENCE
    while True:
        await asyncio.sleep(pause)
        pause = 5 * PATIENCE
        if waiting:
            typer.echo(printable(f"twogate: waiting for {', '.join(sorted(waiting))}"), err=True)
