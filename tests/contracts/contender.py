"""One process of a race: `contender.py URL WORK NUMBER COUNT`; waits for a line, then prints what each task got."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from twogate.core.errors import GateError
from twogate.core.principal import Agent, AgentId, PrincipalKey
from twogate.core.session import Session
from twogate.flows.authserver.families import Rotation
from twogate.flows.authserver.interaction import RequestKind
from twogate.stores.sql.authorize_requests import SqlAuthorizeRequestStore
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.migrate import current_version, upgrade
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import SqlReplayStore
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.sessions import SqlSessionStore
from twogate.stores.sql.upstream_grants import SqlUpstreamGrantStore
from twogate.stores.sql.upstream_logins import SqlUpstreamLoginStore

NOW = 1_800_000_000


async def main(url: str, work: str, number: int, count: int) -> None:
    """Take part in one race."""
    if url.startswith("redis://"):
        await redeem_shared(url, count)
    else:
        await _on_a_database(url, work, number, count)


async def _on_a_database(url: str, work: str, number: int, count: int) -> None:
    if work == "start":
        # Nothing exists yet: making the file and its tables is the race.
        _wait_for_start()
        engine = open_engine(url)
    else:
        engine = open_engine(url)
        await current_version(engine)
        _wait_for_start()
    agent = Agent(AgentId("acme", "builder"), "developer", tuple(f"task-{n}-{i}" for n in range(9) for i in range(99)))
    sessions, replay, registry = SqlSessionStore(engine), SqlReplayStore(engine), SqlRegistryStore(engine)

    async def attempt(index: int) -> object:
        try:
            if work == "start":
                await upgrade(engine)
                return await current_version(engine)
            if work == "open":
                name = f"{number}-{index}"
                principal = PrincipalKey("acme", "https://as.example", "builder", None)
                candidate = Session(name, principal, f"task-{name}", frozenset({"git.git_log"}), NOW, NOW + 900)
                return (await sessions.open(candidate, agent, NOW)).id
            if work in ("revoke", "come back", "ask"):
                return await _more(engine, work, f"{number}-{index}")
            if work == "answer":
                requests = SqlAuthorizeRequestStore(engine)
                return await requests.redeem(
                    RequestKind.INTERACTION, "the-one", client_id="client-1", browser="browser-1", now=NOW
                )
            if work in ("code", "rotate"):
                return await _use_grant(engine, work, f"secret-{number}-{index}")
            if work == "disable":
                return await registry.disable_agent(agent.id, NOW)
            return await replay.redeem("jti", "client-1", "the-one", NOW + 60, NOW)
        except GateError as error:
            return error.code.value

    results = await asyncio.gather(*(attempt(index) for index in range(count)))
    await engine.dispose()
    print(json.dumps(results))  # noqa: T201 - read by the test that started this


async def redeem_shared(url: str, count: int) -> None:
    """The race for one value on Valkey; see `contracts.shared.shared_url`."""
    # Here, because every other race would start later for it.
    from twogate.adapters.clock import SystemClock
    from twogate.adapters.rng import SystemRng
    from twogate.config.shared_url import shared_address
    from twogate.stores.shared.redis_link import RedisLink
    from twogate.stores.shared.redis_replay import RedisReplayStore

    server, password, public_url = url.split(" ")
    link = RedisLink(shared_address(server), SystemClock(), password=Path(password))
    replay = RedisReplayStore(link, public_url, SystemRng())
    await replay.remember()
    _wait_for_start()
    results = await asyncio.gather(
        *(replay.redeem("jti", "client-1", "the-one", NOW + 60, NOW) for _ in range(count)), return_exceptions=True
    )
    await link.aclose()
    print(json.dumps([result if isinstance(result, bool) else repr(result) for result in results]))  # noqa: T201


async def _use_grant(engine: AsyncEngine, work: str, secret: str) -> bool:
    if work == "code":
        return await SqlCodeStore(engine).redeem("the-one", None, NOW)
    rotation = Rotation(secret, "answer", None, NOW, NOW + 60)
    return await SqlGrantStore(engine).rotate("the-one", "secret", rotation)


async def _more(engine: AsyncEngine, work: str, name: str) -> bool:
    if work == "revoke":
        await SqlRevocationStore(engine).add("token", "the-one", NOW + 60, NOW)
        return True
    if work == "come back":
        return await SqlUpstreamLoginStore(engine).redeem("the-one", "browser-1", NOW) is not None
    return await SqlUpstreamGrantStore(engine).ask("the-one", name, NOW - 60, NOW, NOW + 40) is not None


def _wait_for_start() -> None:
    print("ready", flush=True)  # noqa: T201 - read by the test that started this
    sys.stdin.readline()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
