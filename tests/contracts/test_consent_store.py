"""What every ConsentStore does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from contracts.stores import NOW, Stores
from twogate.flows.authserver.consent import Consent, ConsentStore
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.opening import open_engine

FILES = "https://mcp.example.com/mcp/files"
CONSENT = Consent("acme", "alice", "client-1", FILES, "review", ("reports",), "ab" * 32, NOW)


@pytest.fixture
async def store(stores: Stores) -> AsyncIterator[ConsentStore]:
    engine = open_engine(stores.url)
    yield SqlConsentStore(engine)
    await engine.dispose()


def changed(**changes: object) -> Consent:
    return msgspec.structs.replace(CONSENT, **changes)


async def get(store: ConsentStore, consent: Consent = CONSENT) -> Consent | None:
    return await store.get(consent.tenant, consent.subject, consent.client_id, consent.resource, consent.task)


async def test_a_consent_is_found_as_it_was_put(store: ConsentStore) -> None:
    assert await get(store) is None
    await store.put(CONSENT)
    assert await get(store) == CONSENT


@pytest.mark.parametrize(
    "other",
    [
        {"tenant": "globex"},
        {"subject": "bob"},
        {"client_id": "client-2"},
        {"resource": f"{FILES}/"},
        {"task": ""},
    ],
)
async def test_a_consent_is_for_exactly_this(store: ConsentStore, other: dict[str, str]) -> None:
    await store.put(CONSENT)
    assert await get(store, changed(**other)) is None
    await store.put(changed(**other, scopes=("admin",)))
    assert await get(store) == CONSENT


async def test_scopes_add_up_while_the_client_is_the_same(store: ConsentStore) -> None:
    await store.put(CONSENT)
    await store.put(changed(scopes=("admin",), granted_at=NOW + 5))
    assert await get(store) == changed(scopes=("admin", "reports"), granted_at=NOW + 5)


async def test_what_was_allowed_to_the_client_as_it_was_is_replaced(store: ConsentStore) -> None:
    await store.put(CONSENT)
    await store.put(changed(scopes=("admin",), client_digest="cd" * 32))
    assert await get(store) == changed(scopes=("admin",), client_digest="cd" * 32)


async def test_parallel_consents_lose_no_scope(store: ConsentStore) -> None:
    await asyncio.gather(*(store.put(changed(scopes=(f"s{number}",))) for number in range(20)))
    found = await get(store)
    assert found is not None
    assert set(found.scopes) == {f"s{number}" for number in range(20)}


async def test_withdrawing_forgets_all_that_this_person_allowed_this_client(store: ConsentStore) -> None:
    for other in ({}, {"task": ""}, {"subject": "bob"}, {"client_id": "client-2"}, {"tenant": "globex"}):
        await store.put(changed(**other))
    assert await store.withdraw("acme", "alice", "client-1") == 2
    assert await store.withdraw("acme", "alice", "client-1") == 0
    assert await get(store) is None
    for other in ({"subject": "bob"}, {"client_id": "client-2"}, {"tenant": "globex"}):
        assert await get(store, changed(**other)) is not None


async def test_a_persons_consents_are_listed_newest_first_and_nobody_elses(store: ConsentStore) -> None:
    await store.put(CONSENT)
    await store.put(changed(client_id="client-2", granted_at=NOW + 1))
    await store.put(changed(subject="bob"))
    await store.put(changed(tenant="globex"))
    listed = await store.list_for_user("acme", "alice")
    assert [consent.client_id for consent in listed] == ["client-2", "client-1"]
    assert await store.list_for_user("acme", "nobody") == []
