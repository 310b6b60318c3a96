"""Messages leave while a process serves, under the settings that are current, and it ends without waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gatelab import FakeClock, RecordingAudit
from noticelab import NoticeLab, secret_file
from rawlab import RawServer, answering, http_answer, silent_after, until
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.fetch import GuardedFetch
from twogate.app import build_app
from twogate.config import Settings, load_settings
from twogate.core.approval import ParkedCall, State
from twogate.core.principal import AgentId
from twogate.notices import Clockwork, asks_people
from twogate.state import State as Opened
from twogate.state import open_state
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.notices import SqlNoticeStore

TAKEN = http_answer(b"")


def written(directory: Path, *ports: int) -> Settings:
    """A configuration with a Slack channel for each port."""
    channels = ""
    for number, port in enumerate(ports):
        path = secret_file(directory, f"url-{port}", f"http://127.0.0.1:{port}/services/x")
        channels += f"  c{number}: {{slack: {{url: {path}}}}}\n"
    file = directory / "twogate.yaml"
    file.write_text(
        "public_url: http://localhost:8080\nlisten: 127.0.0.1:8080\nstore: sqlite:///./state/twogate.db\n"
        "tenants: {acme: {}}\n" + (f"notify:\n{channels}" if channels else "")
    )
    return load_settings(file)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Opened]:
    state = await open_state(settings)
    try:
        yield state
    finally:
        await state.close()


async def park(state: Opened, number: int = 1) -> ParkedCall:
    clock = FakeClock(state.clock.now())
    store = SqlNoticeStore(state.engine)
    lab = NoticeLab(state.engine, clock, RecordingAudit(), SqlParkedStore(state.engine), store)
    return await lab.park(id=f"call-{number}", digest=f"{number:064x}")


async def look_until(clockwork: Clockwork, condition: Callable[[], bool]) -> None:
    """Look again and again, as the clockwork does by itself."""
    async with asyncio.timeout(10):
        while not condition():
            await clockwork.look()
            await asyncio.sleep(0.01)


async def test_an_application_tells_people_as_soon_as_it_serves(tmp_path: Path) -> None:
    async with RawServer(answering(TAKEN)) as server, opened(written(tmp_path, server.port)) as state:
        call = await park(state)
        app = build_app(state)
        await app.open()
        await until(lambda: bool(server.requests))
        await app.close()
        assert f"http://localhost:8080/approvals/{call.id}".encode() in server.requests[0][1]
        # Nothing is due any more for whoever comes next.
        assert await SqlNoticeStore(state.engine).claim("c0", state.clock.now() + 600, state.clock.now() + 700) is None


async def test_a_channel_that_hangs_holds_up_no_other_and_not_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twogate.notices.GRACE", 0.0)
    async with (
        RawServer(silent_after(b"")) as stuck,
        RawServer(answering(TAKEN)) as server,
        opened(written(tmp_path, stuck.port, server.port)) as state,
    ):
        clockwork = Clockwork(state, lambda: state.settings, GuardedFetch, LocalEnvelope(bytes(32), state.rng))
        await park(state)
        await clockwork.look()
        await until(lambda: bool(server.requests) and stuck.connections == 1)
        call = await park(state, 2)
        await look_until(clockwork, lambda: len(server.requests) == 2)
        async with asyncio.timeout(2):
            await clockwork.close()
        assert stuck.connections == 1
        kept = await SqlParkedStore(state.engine).get(call.id)
        assert kept is not None
        assert kept.state is State.PENDING


async def test_other_settings_are_used_from_the_next_look_on(tmp_path: Path) -> None:
    async with RawServer(answering(TAKEN)) as first, RawServer(answering(TAKEN)) as second:
        async with opened(written(tmp_path, first.port)) as state:
            current = [state.settings]
            clockwork = Clockwork(state, lambda: current[0], GuardedFetch, LocalEnvelope(bytes(32), state.rng))
            await park(state)
            await clockwork.look()
            await until(lambda: bool(first.requests))
            await clockwork.close()
            current[0] = written(tmp_path, second.port)
            await park(state, 2)
            await look_until(clockwork, lambda: bool(second.requests))
            await clockwork.close()
        assert (len(first.requests), len(second.requests)) == (1, 1)


async def test_a_store_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    async with RawServer(answering(TAKEN)) as server, opened(written(tmp_path, server.port)) as state:
        clockwork = Clockwork(state, lambda: state.settings, GuardedFetch, LocalEnvelope(bytes(32), state.rng))
        await park(state)
        async with state.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE notices RENAME TO hidden")
        await clockwork.look()
        async with state.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO notices")
        await clockwork.look()
        await until(lambda: bool(server.requests))
        await clockwork.close()
        assert len(server.requests) == 1


async def test_a_look_that_fails_as_nobody_thought_of_is_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twogate.notices.EVERY", 0.01)
    async with RawServer(answering(TAKEN)) as server, opened(written(tmp_path, server.port)) as state:
        call = await park(state)
        looks = iter([True])

        def settings() -> Settings:
            if next(looks, False):
                raise KeyError("unexpected")
            return state.settings

        clockwork = Clockwork(state, settings, GuardedFetch, LocalEnvelope(bytes(32), state.rng))
        clockwork.start()
        await until(lambda: bool(server.requests))
        await clockwork.close()
        assert call.id.encode() in server.requests[0][1]


async def test_without_rules_and_channels_what_still_waits_ends_all_the_same(tmp_path: Path) -> None:
    async with opened(written(tmp_path)) as state:
        assert not asks_people(state.settings)
        call = await park(state)
        clockwork = Clockwork(state, lambda: state.settings, GuardedFetch, LocalEnvelope(bytes(32), state.rng))
        await clockwork.look()
        kept = await SqlParkedStore(state.engine).get(call.id)
        assert kept is not None
        assert kept.state is State.PENDING
        await state.registry_store.disable_agent(AgentId("acme", call.agent), state.clock.now())
        await clockwork.look()
        kept = await SqlParkedStore(state.engine).get(call.id)
        assert kept is not None
        assert kept.state is State.CANCELLED
        await clockwork.close()


async def test_agents_whom_a_reload_drops_are_dropped_once_it_can_be_written_down(tmp_path: Path) -> None:
    agent = "agents: {acme/reporter: {role: reader, tasks: [t], bindings: [{issuer: embedded, client_id: r}]}}\n"
    plain = written(tmp_path)
    file = tmp_path / "twogate.yaml"
    file.write_text(file.read_text() + "tasks: {t: {tools: [read]}}\n" + agent)
    async with opened(load_settings(file)) as state:
        current = [state.settings]
        clockwork = Clockwork(state, lambda: current[0], GuardedFetch, LocalEnvelope(bytes(32), state.rng))
        await clockwork.look()
        dropped, other = await park(state), await park(state, 2)
        async with state.engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE approvals SET agent = 'another' WHERE id = 'call-2'")
        current[0] = plain
        async with state.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE disabled_agents RENAME TO hidden")
        await clockwork.look()
        async with state.engine.begin() as connection:
            await connection.exec_driver_sql("ALTER TABLE hidden RENAME TO disabled_agents")
        await clockwork.look()
        found = [await SqlParkedStore(state.engine).get(call.id) for call in (dropped, other)]
        # Whom these settings never knew may be another replica's agent.
        assert [one and one.state for one in found] == [State.CANCELLED, State.PENDING]
        await clockwork.close()
