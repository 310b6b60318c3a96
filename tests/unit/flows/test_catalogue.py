"""The tool catalogue: how long a list serves, who waits for a new one, and what a failure does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from cataloguelab import Reply, ToolServer, result_of, status, tool
from gatelab import FakeClock
from harness.upstream import Seen
from rawlab import PATIENCE, until
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.catalogue import AHEAD, MAX_AGE, MIN_AGE, PAUSE, Catalogue
from twogate.flows.gateway.tool_list import ToolList

ONE = ((tool("look"),),)


class Lab:
    """A catalogue over one scripted server, on a clock that stands still."""

    def __init__(self, server: ToolServer) -> None:
        self.server = server
        self.clock = FakeClock()
        self.catalogue = Catalogue({"files": server, "notes": server}, self.clock)

    async def tools(self, tenant: str = "acme", server: str = "files", newer_than: ToolList | None = None) -> ToolList:
        return await self.catalogue.tools(tenant, server, newer_than=newer_than)

    async def names(self) -> list[str]:
        return list((await self.tools()).tools)

    async def refusal(self) -> GateError:
        with pytest.raises(GateError) as caught:
            await self.tools()
        return caught.value

    def offer(self, *names: str) -> None:
        """From now on the server has these tools."""
        self.server.pages = ([tool(name) for name in names],)

    def answer(self, reply: Callable[[Seen], Reply]) -> None:
        """From now on the server answers every message in this way."""
        self.server.override = reply


@asynccontextmanager
async def a_lab(server: ToolServer) -> AsyncIterator[Lab]:
    async with server:
        lab = Lab(server)
        try:
            yield lab
        finally:
            await lab.catalogue.aclose()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with a_lab(ToolServer(ONE)) as made:
        yield made


DOWN = status(b"503 Service Unavailable")


async def test_many_callers_at_once_cost_one_asking(lab: Lab) -> None:
    lists = await asyncio.gather(*(lab.tools() for _ in range(50)))
    assert all(listed is lists[0] for listed in lists)
    assert lab.server.methods == ["server/discover", "tools/list"]
    assert await lab.tools() is lists[0]
    assert lab.server.lists == 1


@pytest.mark.parametrize(
    ("ttl_ms", "life"),
    [(None, MAX_AGE), (0, MIN_AGE), (1, MIN_AGE), (60_000, 60.0), (10**12, MAX_AGE), (1e300, MAX_AGE)],
)
async def test_a_list_serves_as_long_as_the_server_vouches_for_it_within_bounds(ttl_ms: object, life: float) -> None:
    async with a_lab(ToolServer(ONE, ttl_ms=ttl_ms)) as lab:
        first = await lab.tools()
        lab.clock.advance(life * AHEAD - 0.01)
        assert await lab.tools() is first
        assert lab.server.lists == 1
        lab.clock.advance(life * (1 - AHEAD) + 0.02)
        assert await lab.tools() is not first
        assert lab.server.lists == 2


async def test_a_list_near_its_end_is_asked_for_anew_while_nobody_waits(lab: Lab) -> None:
    first = await lab.tools()
    lab.clock.advance(MAX_AGE * AHEAD)
    hold = asyncio.Event()
    lab.answer(lambda seen: hold)
    # The server does not answer, and still the caller has a list at once.
    assert await lab.tools() is first
    await until(lambda: len(lab.server.seen) == 3)
    lab.offer("other")
    hold.set()

    async def renewed() -> bool:
        return await lab.tools() is not first

    async with asyncio.timeout(PATIENCE):
        while not await renewed():
            await asyncio.sleep(0.005)
    assert await lab.names() == ["other"]
    assert lab.server.lists == 2


async def test_tenants_and_servers_have_lists_of_their_own(lab: Lab) -> None:
    lists = [await lab.tools(tenant, server) for tenant in ("acme", "globex") for server in ("files", "notes")]
    assert len({id(listed) for listed in lists}) == 4
    assert lab.server.lists == 4


async def test_a_change_that_the_server_told_of_is_asked_for_before_the_next_use(lab: Lab) -> None:
    await lab.tools()
    other = await lab.tools(server="notes")
    lab.offer("look", "new")
    lab.clock.advance(PAUSE)
    lab.catalogue.note_changed("files")
    assert await lab.names() == ["look", "new"]
    assert await lab.tools(server="notes") is other
    # Once asked for, the change is no news any more.
    lab.clock.advance(PAUSE)
    assert await lab.names() == ["look", "new"]
    assert lab.server.lists == 3


async def test_a_change_of_a_server_that_nobody_asked_yet_is_no_news(lab: Lab) -> None:
    lab.catalogue.note_changed("files")
    lab.catalogue.note_changed("nonsense")
    assert lab.server.seen == []


async def test_a_server_that_tells_of_changes_without_end_is_asked_once_a_second(lab: Lab) -> None:
    first = await lab.tools()
    for _ in range(100):
        lab.catalogue.note_changed("files")
        assert await lab.tools() is first
    assert lab.server.lists == 1
    lab.clock.advance(PAUSE)
    assert await lab.tools() is not first
    assert lab.server.lists == 2


async def test_a_change_while_a_list_is_on_its_way_is_not_lost(lab: Lab) -> None:
    def change_under_way(seen: Seen) -> Reply:
        if seen.message["method"] != "tools/list":
            return None
        lab.catalogue.note_changed("files")
        lab.answer(lambda seen: None)
        return result_of(seen, tools=[tool("old")])

    lab.answer(change_under_way)
    assert await lab.names() == ["old"]
    lab.clock.advance(PAUSE)
    assert await lab.names() == ["look"]


async def test_a_list_that_did_not_fit_is_asked_for_anew_at_most_once_a_second(lab: Lab) -> None:
    first = await lab.tools()
    for _ in range(10):
        assert await lab.tools(newer_than=first) is first
    lab.clock.advance(PAUSE)
    second = await lab.tools(newer_than=first)
    assert second is not first
    # A list that another caller had asked for meanwhile will do.
    assert await lab.tools(newer_than=first) is second
    assert lab.server.lists == 2


async def test_while_the_server_fails_the_last_list_serves_to_its_age_limit_and_no_longer(lab: Lab) -> None:
    first = await lab.tools()
    lab.answer(lambda seen: DOWN)
    lab.clock.advance(PAUSE)
    lab.catalogue.note_changed("files")
    assert await lab.tools() is first
    assert await lab.tools(newer_than=first) is first
    lab.clock.advance(MAX_AGE - PAUSE - 0.01)
    assert await lab.tools() is first
    lab.clock.advance(0.01)
    error = await lab.refusal()
    # It was not called, whatever went wrong with the list.
    assert error.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert "the tools of files cannot be listed" in error.debug
    assert "status 503" in error.debug


async def test_a_change_is_asked_for_again_after_a_failure(lab: Lab) -> None:
    await lab.tools()
    lab.offer("new")
    lab.answer(lambda seen: DOWN)
    lab.clock.advance(PAUSE)
    lab.catalogue.note_changed("files")
    assert await lab.names() == ["look"]
    lab.answer(lambda seen: None)
    lab.clock.advance(PAUSE)
    assert await lab.names() == ["new"]


async def test_a_failure_is_remembered_for_a_second_and_then_tried_again() -> None:
    async with a_lab(ToolServer(ONE, override=lambda seen: DOWN)) as lab:
        for _ in range(10):
            assert (await lab.refusal()).code is ErrorCode.UPSTREAM_UNAVAILABLE
        assert len(lab.server.seen) == 1
        lab.clock.advance(PAUSE)
        lab.answer(lambda seen: None)
        assert await lab.names() == ["look"]


@pytest.mark.parametrize(
    "answer", [b"nonsense", b'{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"a"},{"name":"a"}]}}']
)
async def test_a_list_that_is_invalid_refuses_the_call_as_not_run(answer: bytes) -> None:
    def bad(seen: Seen) -> Reply:
        return status(b"200 OK", answer, b"application/json") if seen.message["method"] == "tools/list" else None

    async with a_lab(ToolServer(override=bad)) as lab:
        error = await lab.refusal()
        assert error.code is ErrorCode.UPSTREAM_UNAVAILABLE
        assert "upstream_invalid" in error.debug


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(lab: Lab) -> None:
    hold = asyncio.Event()
    lab.answer(lambda seen: hold if seen.message["method"] == "tools/list" else None)
    impatient, patient = asyncio.create_task(lab.tools()), asyncio.create_task(lab.tools())
    await until(lambda: lab.server.lists == 1)
    impatient.cancel()
    await asyncio.gather(impatient, return_exceptions=True)
    assert impatient.cancelled()
    assert not patient.done()
    hold.set()
    assert list((await patient).tools) == ["look"]
    assert lab.server.lists == 1


async def test_how_a_server_is_asked_is_learned_once_and_forgotten_after_a_failure(lab: Lab) -> None:
    listed = await lab.tools()
    lab.clock.advance(PAUSE)
    listed = await lab.tools(newer_than=listed)
    assert lab.server.methods == ["server/discover", "tools/list", "tools/list"]
    lab.answer(lambda seen: DOWN)
    lab.clock.advance(PAUSE)
    assert await lab.tools(newer_than=listed) is listed
    lab.answer(lambda seen: None)
    lab.clock.advance(PAUSE)
    assert await lab.tools(newer_than=listed) is not listed
    assert lab.server.methods[4:] == ["server/discover", "tools/list"]


async def test_closing_ends_what_is_under_way_and_nothing_can_be_had_afterwards(lab: Lab) -> None:
    never = asyncio.Event()
    lab.answer(lambda seen: never)
    waiting = asyncio.create_task(lab.tools())
    await until(lambda: len(lab.server.seen) == 1)
    await lab.catalogue.aclose()
    with pytest.raises(GateError) as caught:
        await waiting
    assert caught.value.code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert "closing" in caught.value.debug
    assert (await lab.refusal()).code is ErrorCode.UPSTREAM_UNAVAILABLE
    assert len(lab.server.seen) == 1


async def test_what_a_person_compares_with_is_asked_anew_kept_nowhere_and_by_one_at_a_time(lab: Lab) -> None:
    first = await lab.tools()
    lab.offer("other")
    assert list((await lab.catalogue.offer("acme", "files")).tools) == ["other"]
    assert await lab.tools() is first
    hold = asyncio.Event()
    usual = lab.server.override
    lab.answer(lambda seen: hold)
    asking = asyncio.create_task(lab.catalogue.offer("acme", "files"))
    seen = len(lab.server.seen)
    await until(lambda: len(lab.server.seen) > seen)
    with pytest.raises(GateError) as refused:
        await lab.catalogue.offer("acme", "files")
    assert refused.value.code is ErrorCode.RATE_LIMITED
    asking.cancel()
    await asyncio.wait({asking})
    lab.server.override = usual
    # Whoever gave up keeps nobody out.
    assert list((await lab.catalogue.offer("acme", "files")).tools) == ["other"]
