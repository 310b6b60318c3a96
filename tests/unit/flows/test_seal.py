"""Sealed handles: each opens for its principal, its server and its kind only."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatelab import ALICE, PRINCIPAL
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.seal import (
    MAX_HANDLE,
    McpSession,
    RequestState,
    Seal,
    Sealed,
    ServerRequest,
    StreamEvent,
    TaskId,
)

KEY = PRINCIPAL.key
SEAL = Seal(bytes(32))
HANDLES: list[Sealed] = [
    McpSession("up-1", None, "2025-11-25"),
    McpSession(None, "s1", ""),
    McpSession("!~" * 500, "s1", "2025-03-26"),
    StreamEvent("7", "up-1"),
    StreamEvent("ä\n7", None, "x", "tools/call", "files.look"),
    ServerRequest(9, "sampling/createMessage", "up-1"),
    ServerRequest("9", "ping", None),
    TaskId("t-1", "files.look"),
    RequestState("s" * 1000, "tools/call", "files.look"),
]


@pytest.mark.parametrize("handle", HANDLES, ids=repr)
def test_what_was_sealed_opens_as_it_was_and_is_visible_ascii(handle: Sealed) -> None:
    sealed = SEAL.seal(handle, KEY, "files")
    # MCP 2025-03-26, "Session Management": visible ASCII only.
    assert sealed.isascii()
    assert sealed.replace("-", "").replace("_", "").isalnum()
    assert SEAL.open(sealed, type(handle), KEY, "files") == handle


def test_an_id_of_the_upstream_cannot_be_read_from_its_seal() -> None:
    assert "secret-upstream-id" not in SEAL.seal(TaskId("secret-upstream-id", "files.look"), KEY, "files")


def test_one_thing_keeps_one_name_and_two_things_have_two() -> None:
    assert SEAL.seal(TaskId("t", "files.a"), KEY, "files") == SEAL.seal(TaskId("t", "files.a"), KEY, "files")
    assert SEAL.seal(TaskId("t", "files.a"), KEY, "files") != SEAL.seal(TaskId("t", "files.b"), KEY, "files")


def test_another_replica_with_the_same_key_opens_it_and_one_with_another_key_does_not() -> None:
    sealed = SEAL.seal(HANDLES[0], KEY, "files")
    assert Seal(bytes(32)).open(sealed, McpSession, KEY, "files") == HANDLES[0]
    assert Seal(b"k" * 32).open(sealed, McpSession, KEY, "files") is None


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
@pytest.mark.parametrize("handle", HANDLES, ids=repr)
def test_a_stolen_handle_does_not_open(handle: Sealed, owner: PrincipalKey, server: str) -> None:
    assert SEAL.open(SEAL.seal(handle, KEY, "files"), type(handle), owner, server) is None


@pytest.mark.parametrize("handle", HANDLES, ids=repr)
@pytest.mark.parametrize("kind", [McpSession, StreamEvent, ServerRequest, TaskId, RequestState])
def test_a_handle_of_one_kind_does_not_pass_for_another(handle: Sealed, kind: type[McpSession]) -> None:
    opened = SEAL.open(SEAL.seal(handle, KEY, "files"), kind, KEY, "files")
    assert (opened is None) == (type(handle) is not kind)


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=7))
def test_a_handle_with_one_bit_changed_does_not_open(place: int, bit: int) -> None:
    sealed = bytearray(SEAL.seal(HANDLES[0], KEY, "files").encode())
    sealed[place % (len(sealed) - 1)] ^= 1 << bit  # the last character has bits that stand for nothing
    assert SEAL.open(sealed.decode("latin-1"), McpSession, KEY, "files") is None


@given(st.text(max_size=200))
def test_no_text_of_a_strangers_opens_or_raises(text: str) -> None:
    assert SEAL.open(text, McpSession, KEY, "files") is None


def test_a_handle_longer_than_any_of_ours_is_not_looked_at() -> None:
    assert SEAL.open("A" * (MAX_HANDLE + 1), McpSession, KEY, "files") is None
