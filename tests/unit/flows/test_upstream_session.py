"""The sealed `Mcp-Session-Id`: it opens for its principal and server only."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from gatelab import ALICE, PRINCIPAL, CountingRng
from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream_session import UpstreamSessions

KEY = PRINCIPAL.key
SEALER = UpstreamSessions(bytes(32), CountingRng())


def opened_by(sealer: UpstreamSessions, presented: str, owner: PrincipalKey = KEY, server: str = "files") -> str | None:
    try:
        return sealer.open(presented, owner, server)
    except GateError as error:
        assert error.code is ErrorCode.MCP_SESSION_UNKNOWN  # noqa: PT017 - both outcomes are results here
        return None


@pytest.mark.parametrize("upstream_id", ["a", "1868a90c-c6b2-4a4d", "!~" * 500])
def test_what_was_sealed_opens_and_is_visible_ascii(upstream_id: str) -> None:
    sealed = SEALER.seal(upstream_id, KEY, "files")
    assert upstream_id not in sealed or len(upstream_id) == 1
    # MCP 2025-03-26, "Session Management": visible ASCII only.
    assert sealed.isascii()
    assert sealed.replace("-", "").replace("_", "").isalnum()
    assert opened_by(SEALER, sealed) == upstream_id


def test_another_replica_with_the_same_key_opens_it_and_one_with_another_key_does_not() -> None:
    sealed = SEALER.seal("s", KEY, "files")
    assert opened_by(UpstreamSessions(bytes(32), CountingRng()), sealed) == "s"
    assert opened_by(UpstreamSessions(b"k" * 32, CountingRng()), sealed) is None


@pytest.mark.parametrize(
    ("owner", "server"),
    [
        (msgspec.structs.replace(KEY, tenant="globex"), "files"),
        (msgspec.structs.replace(KEY, issuer="https://other.example.com"), "files"),
        (msgspec.structs.replace(KEY, agent="other"), "files"),
        (msgspec.structs.replace(KEY, user=ALICE), "files"),
        (KEY, "notes"),
    ],
    ids=["tenant", "issuer", "agent", "user", "server"],
)
def test_a_stolen_id_does_not_open(owner: PrincipalKey, server: str) -> None:
    assert opened_by(SEALER, SEALER.seal("s", KEY, "files"), owner, server) is None


def test_two_seals_of_one_id_differ() -> None:
    assert SEALER.seal("s", KEY, "files") != SEALER.seal("s", KEY, "files")


CHANGES: dict[str, Callable[[str], str]] = {
    "empty": lambda _: "",
    "short": lambda _: "AAAA",
    "nonce only": lambda sealed: sealed[:16],
    "cut": lambda sealed: sealed[:-4],
    "longer": lambda sealed: sealed + "AAAA",
    "no base64": lambda _: "!",
    "no ascii": lambda sealed: "ä" + sealed[1:],
    "huge": lambda _: "A" * 100_000,
    "the upstream's own": lambda _: "1868a90c-c6b2-4a4d",
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_not_sealed_here_does_not_open(name: str) -> None:
    assert opened_by(SEALER, CHANGES[name](SEALER.seal("s", KEY, "files"))) is None


def test_no_single_changed_character_opens() -> None:
    sealed = SEALER.seal("session-1", KEY, "files")
    for index, character in enumerate(sealed):
        changed = sealed[:index] + ("A" if character != "A" else "B") + sealed[index + 1 :]
        assert opened_by(SEALER, changed) in (None, "session-1" if index == len(sealed) - 1 else None)
