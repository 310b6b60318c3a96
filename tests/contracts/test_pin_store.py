"""What every PinStore does, and what the book over it shows (DESIGN decision 18)."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from sqlalchemy import update

from contracts.stores import NOW, Stores, open_stores
from gatelab import FakeClock, RecordingAudit
from harness.database import open_migrated
from pinlab import a_pin
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.pins import PinBook
from twogate.stores.sql.engine import writing
from twogate.stores.sql.pins import BATCH
from twogate.stores.sql.tables_gates import pins as table

LOOK: dict[str, Any] = {
    "name": "look",
    "description": "Look at it\n\u202eevil\x00",
    "inputSchema": {"maximum": 2**63 - 1},
}
PIN = a_pin("files.look", LOOK)


def book(stores: Stores) -> PinBook:
    return PinBook(stores.pins, stores.revision, RecordingAudit(), FakeClock())


async def test_a_pin_comes_back_as_it_was_approved(stores: Stores) -> None:
    assert await stores.pins.get("acme", "files", "files.look") is None
    await stores.pins.approve([PIN])
    assert await stores.pins.get("acme", "files", "files.look") == PIN
    assert await stores.pins.digests("acme", "files") == {"files.look": PIN.digest}
    assert await stores.pins.list() == [PIN]


async def test_a_pin_is_of_one_tenant_and_one_server(stores: Stores) -> None:
    theirs = msgspec.structs.replace(PIN, tenant="globex")
    other = a_pin("notes.look", LOOK, server="notes")
    await stores.pins.approve([PIN, theirs, other])
    assert await stores.pins.digests("acme", "files") == {"files.look": PIN.digest}
    assert await stores.pins.digests("initech", "files") == {}
    assert await stores.pins.list("globex") == [theirs]
    assert await stores.pins.list(server="notes") == [other]
    assert await stores.pins.list() == [PIN, other, theirs]
    await stores.pins.withdraw("acme", "files", ["files.look", "notes.look"])
    assert await stores.pins.list() == [other, theirs]


async def test_approving_again_replaces_what_was_approved(stores: Stores) -> None:
    await stores.pins.approve([PIN])
    again = msgspec.structs.replace(a_pin("files.look", {"name": "look"}), approved_at=NOW + 1, approved_by="bob")
    await stores.pins.approve([again, a_pin("files.prompt:look", LOOK)])
    assert await stores.pins.get("acme", "files", "files.look") == again
    assert len(await stores.pins.digests("acme", "files")) == 2


async def test_a_change_moves_the_revision_and_a_book_shows_it_at_the_next_look(stores: Stores) -> None:
    shown = book(stores)
    before = await shown.of("acme", "files")
    assert await shown.of("acme", "files") is before
    await stores.pins.approve([PIN])
    assert (await shown.of("acme", "files")).digests == {"files.look": PIN.digest}
    await stores.pins.withdraw("acme", "files", ["files.look"])
    assert (await shown.of("acme", "files")).digests == {}
    assert before.digests == {}


async def test_every_other_replica_sees_an_approval_and_its_withdrawal_when_they_return(stores: Stores) -> None:
    async with open_stores(stores.url) as other:
        theirs = book(other)
        for number in range(5):
            pin = a_pin(f"files.t{number}", {"name": f"t{number}"})
            await theirs.of("acme", "files")
            await stores.pins.approve([pin])
            assert (await theirs.of("acme", "files")).digests == {pin.target: pin.digest}
            await stores.pins.withdraw("acme", "files", [pin.target])
            assert (await theirs.of("acme", "files")).digests == {}


async def test_more_targets_than_one_statement_takes_are_approved_and_withdrawn(stores: Stores) -> None:
    many = [a_pin(f"files.t{number:04}", {"name": f"t{number}"}) for number in range(2 * BATCH + 1)]
    await stores.pins.approve(many)
    assert await stores.pins.list() == many
    await stores.pins.withdraw("acme", "files", [pin.target for pin in many])
    assert await stores.pins.list() == []


async def test_two_approvals_of_one_target_at_once_leave_one_of_them_whole(stores: Stores) -> None:
    rivals = [a_pin("files.look", {"name": "look", "title": str(number)}) for number in range(8)]
    await asyncio.gather(*(stores.pins.approve([pin]) for pin in rivals))
    assert await stores.pins.get("acme", "files", "files.look") in rivals


async def test_approvals_survive_reopening(stores: Stores) -> None:
    await stores.pins.approve([PIN])
    async with open_stores(stores.url) as again:
        assert await again.pins.list() == [PIN]


async def test_all_or_nothing_of_several_is_approved(stores: Stores) -> None:
    with pytest.raises(GateError) as refused:
        await stores.pins.approve([PIN, a_pin("files.\ud800", {})])
    assert refused.value.code is ErrorCode.REQUEST_MALFORMED
    assert await stores.pins.list() == []


async def test_a_definition_that_somebody_wrote_into_the_database_is_not_taken_for_approved(stores: Stores) -> None:
    await stores.pins.approve([PIN])
    engine = await open_migrated(stores.url)
    try:
        async with writing(engine) as connection:
            await connection.execute(update(table).values(definition='{"name":"look"}'))
    finally:
        await engine.dispose()
    with pytest.raises(GateError) as refused:
        await stores.pins.get("acme", "files", "files.look")
    assert refused.value.code is ErrorCode.STORE_UNAVAILABLE
