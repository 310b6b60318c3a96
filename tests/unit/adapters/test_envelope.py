"""The local envelope key: what is sealed opens only where it belongs."""

from __future__ import annotations

import pytest

from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.core.errors import ErrorCode, GateError

KEY = bytes(range(32))


async def refused(envelope: LocalEnvelope, sealed: bytes, purpose: str = "refresh", owner: str = "1") -> None:
    with pytest.raises(GateError) as caught:
        await envelope.open(purpose, owner, sealed)
    assert caught.value.code is ErrorCode.KEYS_UNAVAILABLE
    assert "secret" not in str(caught.value)


async def test_a_sealed_value_opens_for_its_purpose_and_owner_only() -> None:
    envelope = LocalEnvelope(KEY, SystemRng())
    sealed = await envelope.seal("refresh", "1", b"secret")
    assert await envelope.open("refresh", "1", sealed) == b"secret"
    assert await LocalEnvelope(KEY, SystemRng()).open("refresh", "1", sealed) == b"secret"
    await refused(envelope, sealed, owner="2")
    await refused(envelope, sealed, purpose="retry")
    # Purpose and owner do not run together.
    await refused(envelope, sealed, purpose='refresh","1', owner="")


async def test_the_same_value_never_looks_the_same_and_does_not_show() -> None:
    envelope = LocalEnvelope(KEY, SystemRng())
    first, second = [await envelope.seal("refresh", "1", b"secret") for _ in range(2)]
    assert first != second
    assert b"secret" not in first


async def test_an_altered_value_and_another_key_are_refused() -> None:
    envelope = LocalEnvelope(KEY, SystemRng())
    sealed = await envelope.seal("refresh", "1", b"secret")
    for place in range(len(sealed)):
        altered = bytearray(sealed)
        altered[place] ^= 1
        await refused(envelope, bytes(altered))
    for cut in (b"", sealed[:1], sealed[:16], sealed[:17], sealed[:-1]):
        await refused(envelope, cut)
    await refused(LocalEnvelope(bytes(32), SystemRng()), sealed)
