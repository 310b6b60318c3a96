"""What every RegistrationStore does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.stores import CLIENT, NOW, Stores
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.principal import AgentId
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.registered import Registered
from twogate.stores.sql.registrations import PURGE_AFTER, PURGE_BATCH

DAY = 86400
TOKEN = "ab" * 32
REGISTERED = Registered("cd" * 32, AuthMethod.NONE, "native")


def client(name: str = "r1", expires_at: int = NOW + DAY) -> Client:
    return Client(
        name,
        "acme",
        AgentId("acme", "public-client"),
        ClientAuth.NONE,
        created_at=NOW,
        kind=ClientKind.PUBLIC,
        redirect_uris=("https://app.example/cb",),
        source=ClientSource.REGISTERED,
        expires_at=expires_at,
    )


async def add(
    stores: Stores, new: Client, *, by: str | None = None, most: int | None = None, now: int = NOW
) -> ErrorCode | None:
    try:
        await stores.registrations.add(new, REGISTERED, by=by, most=most, now=now)
    except GateError as error:
        return error.code
    return None


async def test_a_registration_comes_back_with_every_field(stores: Stores) -> None:
    assert await add(stores, client()) is None
    assert await stores.registrations.get("r1") == (client(), REGISTERED)
    assert await stores.clients.get("r1") == client()
    assert await stores.registrations.get("r2") is None


async def test_a_client_that_was_not_registered_is_none_here(stores: Stores) -> None:
    await stores.clients.add(CLIENT, None, [], NOW)
    assert await stores.registrations.get(CLIENT.client_id) is None
    assert not await stores.registrations.replace(CLIENT, REGISTERED)


async def test_a_token_is_good_once_for_its_tenant_until_it_expires(stores: Stores) -> None:
    await stores.registrations.allow(TOKEN, "acme", NOW + 60, NOW)
    for tenant, now, good in (("acme", NOW + 59, True), ("globex", NOW, False), ("acme", NOW + 60, False)):
        assert await stores.registrations.is_allowed(TOKEN, tenant, now) is good
    assert await add(stores, client("late"), by=TOKEN, now=NOW + 60) is ErrorCode.REGISTRATION_REFUSED
    foreign = msgspec.structs.replace(client("foreign"), tenant="globex", agent=AgentId("globex", "public-client"))
    assert await add(stores, foreign, by=TOKEN) is ErrorCode.REGISTRATION_REFUSED
    assert await add(stores, client(), by=TOKEN) is None
    assert not await stores.registrations.is_allowed(TOKEN, "acme", NOW)
    assert await add(stores, client("r2"), by=TOKEN) is ErrorCode.REGISTRATION_REFUSED
    assert [found.client_id for found in await stores.clients.list()] == ["r1"]


async def test_of_fifty_registrations_with_one_token_one_wins(stores: Stores) -> None:
    await stores.registrations.allow(TOKEN, "acme", NOW + 60, NOW)
    codes = await asyncio.gather(*(add(stores, client(f"r{n}"), by=TOKEN) for n in range(50)))
    assert codes.count(None) == 1
    assert codes.count(ErrorCode.REGISTRATION_REFUSED) == 49
    assert len(await stores.clients.list()) == 1


async def test_a_token_is_not_used_up_by_what_fails(stores: Stores) -> None:
    await stores.registrations.allow(TOKEN, "acme", NOW + 60, NOW)
    await add(stores, client())
    assert await add(stores, client(), by=TOKEN) is ErrorCode.STORE_UNAVAILABLE
    assert await stores.registrations.is_allowed(TOKEN, "acme", NOW)


async def test_there_are_never_more_than_allowed_at_once(stores: Stores) -> None:
    codes = await asyncio.gather(*(add(stores, client(f"r{n}"), most=5) for n in range(30)))
    assert codes.count(None) == 5
    assert codes.count(ErrorCode.RATE_LIMITED) == 25
    assert len(await stores.clients.list()) == 5


async def test_only_registered_clients_that_live_count(stores: Stores) -> None:
    await stores.clients.add(CLIENT, None, [], NOW)
    await add(stores, client("old", NOW + 10))
    assert await add(stores, client("r1"), most=1, now=NOW + 9) is ErrorCode.RATE_LIMITED
    assert await add(stores, client("r1"), most=1, now=NOW + 10) is None


async def test_expired_clients_go_in_batches(stores: Stores) -> None:
    await stores.clients.add(CLIENT, None, [], NOW)
    for number in range(PURGE_BATCH + 3):
        await add(stores, client(f"old{number}", NOW + 10))
    later = NOW + 10 + PURGE_AFTER
    await add(stores, client("new1", later + DAY), now=later - 1)
    assert len(await stores.clients.list()) == PURGE_BATCH + 5
    await add(stores, client("new2", later + DAY), now=later)
    assert len(await stores.clients.list()) == 3 + 3
    await add(stores, client("new3", later + DAY), now=later)
    assert {found.client_id for found in await stores.clients.list()} == {CLIENT.client_id, "new1", "new2", "new3"}


async def test_a_change_replaces_everything_but_the_expiry(stores: Stores) -> None:
    await add(stores, client())
    changed = msgspec.structs.replace(
        client(expires_at=NOW + 99 * DAY), name="New", redirect_uris=("https://app.example/other",)
    )
    again = Registered("ef" * 32, AuthMethod.POST)
    assert await stores.registrations.replace(changed, again)
    assert await stores.registrations.get("r1") == (msgspec.structs.replace(changed, expires_at=NOW + DAY), again)
    assert not await stores.registrations.replace(client("r2"), again)


async def test_a_use_moves_the_expiry_forward_only_and_not_once_it_has_passed(stores: Stores) -> None:
    await add(stores, client())

    async def expiry() -> int | None:
        found = await stores.clients.get("r1")
        return None if found is None else found.expires_at

    await stores.registrations.keep("r1", NOW + 9 * DAY, NOW)
    assert await expiry() == NOW + 9 * DAY
    await stores.registrations.keep("r1", NOW + 5 * DAY, NOW)
    assert await expiry() == NOW + 9 * DAY
    await stores.registrations.keep("r1", NOW + 40 * DAY, NOW + 9 * DAY)
    assert await expiry() == NOW + 9 * DAY


async def test_a_use_moves_no_client_that_was_not_registered(stores: Stores) -> None:
    added = msgspec.structs.replace(CLIENT, expires_at=NOW + 60)
    await stores.clients.add(added, None, [], NOW)
    await stores.registrations.keep(CLIENT.client_id, NOW + DAY, NOW)
    assert await stores.clients.get(CLIENT.client_id) == added


@pytest.mark.parametrize("expired", [True, False])
async def test_old_tokens_are_forgotten(stores: Stores, expired: bool) -> None:
    await stores.registrations.allow(TOKEN, "acme", NOW + 60, NOW)
    later = NOW + 60 + PURGE_AFTER if expired else NOW + 59
    await stores.registrations.allow("ef" * 32, "acme", later + 60, later)
    # Asked as of then: what was forgotten is not there however the clock stands.
    assert await stores.registrations.is_allowed(TOKEN, "acme", NOW) is not expired
