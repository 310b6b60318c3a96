"""What every OperationStore does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest
from sqlalchemy import insert, text

from contracts.stores import NOW, SQLITE, Stores, open_stores
from twogate.core.errors import ErrorCode, GateError
from twogate.core.operation import State
from twogate.flows.operations.store import STALE, Lost, Operation
from twogate.stores.sql.engine import writing
from twogate.stores.sql.opening import open_engine
from twogate.stores.sql.operations import KEEP, PURGE_EVERY, SqlOperationStore
from twogate.stores.sql.tables import leases

OPERATION = Operation("j-1", "acme", "ab" * 32, NOW + 120)


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[SqlOperationStore]:
    engine = open_engine(stores.url)
    yield SqlOperationStore(engine)
    await engine.dispose()


async def nothing(_lost: Sequence[Lost]) -> None:
    """Announce to nobody."""


async def test_of_many_starts_at_once_one_is_made(store: SqlOperationStore) -> None:
    answers = await asyncio.gather(*(store.start(OPERATION, f"e{n}", "me", NOW) for n in range(20)))
    assert answers.count(None) == 1
    assert set(answers) == {None, State.STARTED}


async def test_of_many_starts_of_a_deposited_one_at_once_one_is_made(store: SqlOperationStore) -> None:
    assert await store.deposit(OPERATION)
    assert not await store.deposit(OPERATION)
    assert await store.state("j-1", NOW) is State.READY
    answers = await asyncio.gather(*(store.start(OPERATION, f"e{n}", "me", NOW) for n in range(20)))
    assert answers.count(None) == 1


@pytest.mark.parametrize("change", [{"digest": "cd" * 32}, {"tenant": "globex"}])
async def test_a_deposited_one_starts_only_as_what_it_was_deposited_for(
    store: SqlOperationStore, change: dict[str, str]
) -> None:
    await store.deposit(OPERATION)
    assert await store.start(msgspec.structs.replace(OPERATION, **change), "e", "me", NOW) is State.READY
    assert await store.start(OPERATION, "e", "me", NOW) is None


async def test_a_start_is_undone_by_who_made_it_and_may_be_made_again(store: SqlOperationStore) -> None:
    assert await store.start(OPERATION, "e1", "me", NOW) is None
    assert not await store.undo("j-1", "e2")
    assert not await store.undo("j-2", "e1")
    assert await store.undo("j-1", "e1")
    assert not await store.undo("j-1", "e1")
    assert await store.start(OPERATION, "e2", "me", NOW) is None
    # The first start is over: it cannot speak for the second.
    assert not await store.undo("j-1", "e1")
    assert not await store.finish("j-1", "e1", "answered", NOW)


async def test_what_is_finished_stays_so(store: SqlOperationStore) -> None:
    await store.start(OPERATION, "e1", "me", NOW)
    assert await store.finish("j-1", "e1", "answered", NOW + 1)
    assert not await store.undo("j-1", "e1")
    assert not await store.finish("j-1", "e1", "failed", NOW + 2)
    assert await store.start(OPERATION, "e2", "me", NOW + 3) is State.FINISHED
    assert await store.state("j-1", NOW + STALE * 2) is State.FINISHED
    assert not await store.deposit(OPERATION)


async def test_nothing_is_known_of_what_was_never_used(store: SqlOperationStore) -> None:
    assert await store.state("j-1", NOW) is None
    assert not await store.undo("j-1", "e1")
    assert not await store.finish("j-1", "e1", "answered", NOW)


async def test_a_call_that_takes_too_long_is_given_up_until_it_is_known_better(store: SqlOperationStore) -> None:
    await store.start(OPERATION, "e1", "me", NOW)
    assert await store.start(OPERATION, "e2", "me", NOW + STALE - 1) is State.STARTED
    assert await store.state("j-1", NOW + STALE) is State.OUTCOME_UNKNOWN
    assert await store.start(OPERATION, "e2", "me", NOW + STALE) is State.OUTCOME_UNKNOWN
    # Others were told that it may have run, so it is not undone any more.
    assert not await store.undo("j-1", "e1")
    assert await store.finish("j-1", "e1", "answered", NOW + STALE)
    assert await store.start(OPERATION, "e2", "me", NOW + STALE) is State.FINISHED


async def test_what_a_process_that_is_gone_had_started_is_given_up(
    store: SqlOperationStore, stores: Stores, kind: str
) -> None:
    engine = open_engine(stores.url)
    if kind != SQLITE:
        async with writing(engine) as connection:
            await connection.execute(insert(leases).values(replica="alive", acknowledged=0))
    for number, owner in enumerate(("gone", "alive", "me")):
        await store.start(msgspec.structs.replace(OPERATION, jti=f"j-{number}"), f"e{number}", owner, NOW)
    await store.start(msgspec.structs.replace(OPERATION, jti="j-3"), "e3", "gone", NOW)
    await store.finish("j-3", "e3", "answered", NOW)
    announced: list[Lost] = []

    async def announce(lost: Sequence[Lost]) -> None:
        announced.extend(lost)

    lost = await store.give_up("me", NOW + 1, announce)
    assert sorted(one.jti for one in lost) == (["j-0", "j-1"] if kind == SQLITE else ["j-0"])
    assert announced == list(lost)
    assert lost[0].event.startswith("e")
    assert await store.state("j-0", NOW + 1) is State.OUTCOME_UNKNOWN
    assert await store.state("j-2", NOW + 1) is State.STARTED
    assert await store.start(msgspec.structs.replace(OPERATION, jti="j-0"), "e9", "me", NOW + 1) is (
        State.OUTCOME_UNKNOWN
    )
    if kind != SQLITE:
        # A lease does not help what has been under way for too long.
        again = await store.give_up("me", NOW + STALE, announce)
        assert [one.jti for one in again] == ["j-1"]
    await engine.dispose()


async def test_nothing_is_given_up_that_cannot_be_written_down(store: SqlOperationStore) -> None:
    await store.start(OPERATION, "e1", "gone", NOW)

    async def unwritable(_lost: Sequence[Lost]) -> None:
        raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")

    with pytest.raises(GateError):
        await store.give_up("me", NOW, unwritable)
    assert await store.state("j-1", NOW) is State.STARTED


async def test_old_uses_are_purged_in_time(store: SqlOperationStore) -> None:
    await store.start(OPERATION, "e", "me", NOW)
    later = OPERATION.expires_at + KEEP
    for number in range(PURGE_EVERY):
        used = Operation(f"n-{number}", "acme", "00", later + 120)
        assert await store.start(used, f"n{number}", "me", later) is None
    assert await store.state("j-1", later) is None
    assert await store.state("n-0", later) is State.STARTED


async def test_another_process_sees_it(store: SqlOperationStore, stores: Stores) -> None:
    await store.start(OPERATION, "e1", "me", NOW)
    async with open_stores(stores.url):
        engine = open_engine(stores.url)
        assert await SqlOperationStore(engine).start(OPERATION, "e2", "other", NOW) is State.STARTED
        await engine.dispose()


async def test_without_its_table_everything_is_unavailable(store: SqlOperationStore, stores: Stores) -> None:
    engine = open_engine(stores.url)
    async with writing(engine) as connection:
        await connection.execute(text("DROP TABLE operations"))
    for ask in (
        store.deposit(OPERATION), store.start(OPERATION, "e", "me", NOW), store.undo("j", "e"),
        store.finish("j", "e", "answered", NOW), store.state("j", NOW), store.give_up("me", NOW, nothing),
    ):  # fmt: skip
        with pytest.raises(GateError) as refused:
            await ask
        assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
    await engine.dispose()
