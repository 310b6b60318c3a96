"""What every DeviceStore does."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from contracts.stores import NOW, Stores, open_stores
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.device import DeviceState
from twogate.flows.authserver.device import DeviceCode, DeviceRequest
from twogate.flows.authserver.grant import Authorization
from twogate.stores.sql.device_codes import KEEP_EXPIRED

LATER = NOW + 600
REQUEST = DeviceRequest("https://mcp.example/mcp/files", ("reports",), "review", "thumbprint", "203.0.113.7")
CODE = DeviceCode("ab" * 32, "WDJBMJHT", "cli", REQUEST, LATER)
GRANTED = Authorization("acme", "cli", REQUEST.resource, REQUEST.scopes, user="alice", task="review", ends_at=LATER)


async def nothing() -> None:
    """Announce to nobody."""


async def allow(stores: Stores, now: int = NOW) -> bool:
    return await stores.devices.decide(CODE.user_code, GRANTED, now, nothing)


async def test_a_code_is_kept_whole_and_found_by_both_codes(stores: Stores) -> None:
    assert await stores.devices.add(CODE, NOW) is True
    assert await stores.devices.get(CODE.digest) == CODE
    assert await stores.devices.waiting(CODE.user_code, NOW) == CODE
    assert await stores.devices.get("cd" * 32) is None
    assert await stores.devices.waiting("BBBBBBBB", NOW) is None


async def test_a_user_code_is_given_out_once_at_a_time(stores: Stores) -> None:
    assert await stores.devices.add(CODE, NOW) is True
    assert await stores.devices.add(msgspec.structs.replace(CODE, digest="cd" * 32), NOW) is False
    assert await stores.devices.get("cd" * 32) is None
    assert await stores.devices.get(CODE.digest) == CODE


async def test_only_a_code_that_waits_is_found_by_its_user_code(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    assert await stores.devices.waiting(CODE.user_code, LATER) is None
    assert await allow(stores) is True
    assert await stores.devices.waiting(CODE.user_code, NOW) is None


@pytest.mark.parametrize(("granted", "state"), [(GRANTED, DeviceState.ALLOWED), (None, DeviceState.DENIED)])
async def test_a_decision_is_made_once(stores: Stores, granted: Authorization | None, state: DeviceState) -> None:
    await stores.devices.add(CODE, NOW)
    assert await stores.devices.decide(CODE.user_code, granted, NOW, nothing) is True
    assert await stores.devices.decide(CODE.user_code, None, NOW, nothing) is False
    assert await allow(stores) is False
    kept = await stores.devices.get(CODE.digest)
    assert kept == msgspec.structs.replace(CODE, state=state, authorization=granted)


async def test_an_expired_code_can_be_neither_decided_on_nor_redeemed(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    assert await allow(stores, LATER) is False
    assert await allow(stores, LATER - 1) is True
    assert await stores.devices.redeem(CODE.digest, LATER) is False
    assert await stores.devices.redeem(CODE.digest, LATER - 1) is True


async def test_a_decision_that_cannot_be_announced_is_not_made(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)

    async def fail() -> None:
        raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")

    with pytest.raises(GateError) as refused:
        await stores.devices.decide(CODE.user_code, GRANTED, NOW, fail)
    assert refused.value.code is ErrorCode.AUDIT_UNAVAILABLE
    assert await stores.devices.get(CODE.digest) == CODE


async def test_only_what_was_allowed_is_redeemed_and_once(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    assert await stores.devices.redeem(CODE.digest, NOW) is False
    await allow(stores)
    assert await stores.devices.redeem("cd" * 32, NOW) is False
    assert await stores.devices.redeem(CODE.digest, NOW) is True
    assert await stores.devices.redeem(CODE.digest, NOW) is False
    kept = await stores.devices.get(CODE.digest)
    assert kept is not None
    assert (kept.state, kept.authorization) == (DeviceState.REDEEMED, GRANTED)


async def test_of_fifty_parallel_redemptions_one_wins(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    await allow(stores)
    results = await asyncio.gather(*(stores.devices.redeem(CODE.digest, NOW) for _ in range(50)))
    assert sorted(results) == [False] * 49 + [True]


async def test_of_parallel_decisions_one_is_made(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    decisions = [stores.devices.decide(CODE.user_code, GRANTED if n % 2 else None, NOW, nothing) for n in range(20)]
    results = await asyncio.gather(*decisions)
    assert sorted(results) == [False] * 19 + [True]
    kept = await stores.devices.get(CODE.digest)
    assert kept is not None
    assert (kept.authorization == GRANTED) is bool(results.index(True) % 2)


async def test_polls_are_noted_only_while_the_code_waits(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    await stores.devices.note_poll(CODE.digest, 10, NOW + 3)
    kept = await stores.devices.get(CODE.digest)
    assert kept == msgspec.structs.replace(CODE, interval=10, polled_at=NOW + 3)
    await allow(stores)
    await stores.devices.note_poll(CODE.digest, 15, NOW + 4)
    kept = await stores.devices.get(CODE.digest)
    assert kept is not None
    assert (kept.state, kept.interval) == (DeviceState.ALLOWED, 10)


async def test_codes_survive_reopening(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    await allow(stores)
    async with open_stores(stores.url) as again:
        assert await again.devices.redeem(CODE.digest, NOW) is True
    assert await stores.devices.redeem(CODE.digest, NOW) is False


async def test_expired_codes_are_forgotten_after_a_while_and_their_user_code_is_free_again(stores: Stores) -> None:
    await stores.devices.add(CODE, NOW)
    again = msgspec.structs.replace(CODE, digest="cd" * 32, expires_at=LATER + 9_000)
    assert await stores.devices.add(again, LATER + KEEP_EXPIRED - 1) is False
    assert await stores.devices.get(CODE.digest) == CODE
    assert await stores.devices.add(again, LATER + KEEP_EXPIRED) is True
    assert await stores.devices.get(CODE.digest) is None


async def test_forgetting_takes_what_a_person_allowed_devices_of_one_client_and_nothing_else(stores: Stores) -> None:
    others = {
        "waiting": None,
        "bobs": msgspec.structs.replace(GRANTED, user="bob"),
        "elsewhere": msgspec.structs.replace(GRANTED, tenant="globex"),
        "redeemed": GRANTED,
    }
    for number, (digest, granted) in enumerate({"the-one": GRANTED, **others}.items()):
        code = msgspec.structs.replace(CODE, digest=digest, user_code=f"BBBBBBB{number}")
        await stores.devices.add(code, NOW)
        if granted is not None:
            assert await stores.devices.decide(code.user_code, granted, NOW, nothing)
    assert await stores.devices.redeem("redeemed", NOW) is True
    await stores.devices.forget("acme", "alice", "another-client")
    assert await stores.devices.get("the-one") is not None
    await stores.devices.forget("acme", "alice", "cli")
    assert await stores.devices.get("the-one") is None
    assert [digest for digest in others if await stores.devices.get(digest) is None] == []
