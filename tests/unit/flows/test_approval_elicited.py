"""Which clients are to be told that people decided, and that there are never more of them than fit."""

from __future__ import annotations

import msgspec

from twogate.flows.gateway import approval_elicited as module
from twogate.flows.gateway.approval_elicited import Elicited
from twogate.flows.gateway.read import Call
from twogate.flows.gateway.seal import McpSession
from unit.flows.test_answers import call as any_call

SESSION = McpSession(None, "s", "2025-11-25", url=True, client="r-1")


def call(session: McpSession | None = SESSION) -> Call:
    return msgspec.structs.replace(any_call("tools/call"), mcp=session)


def test_a_client_is_told_once_of_what_it_was_told_to_have_decided() -> None:
    elicited = Elicited()
    elicited.note(call(), "a")
    elicited.note(call(), "b")
    assert elicited.open(call()) == ("a", "b")
    assert elicited.take(call(), "a")
    assert not elicited.take(call(), "a")
    assert elicited.open(call()) == ("b",)


def test_another_session_or_principal_or_server_is_another_client() -> None:
    elicited = Elicited()
    elicited.note(call(), "a")
    others = [
        call(msgspec.structs.replace(SESSION, client="r-2")),
        call(msgspec.structs.replace(SESSION, upstream="up-1")),
        call(None),
    ]
    mine = call()
    principal = msgspec.structs.replace(mine.principal, issuer="https://other.example")
    others.append(msgspec.structs.replace(mine, principal=principal))
    others.append(msgspec.structs.replace(mine, head=msgspec.structs.replace(mine.head, server="notes")))
    for other in others:
        assert elicited.open(other) == ()
        assert not elicited.take(other, "a")
    assert elicited.take(mine, "a")


def test_a_client_that_cannot_open_urls_is_not_remembered() -> None:
    elicited, plain = Elicited(), call(msgspec.structs.replace(SESSION, url=False))
    elicited.note(plain, "a")
    assert elicited.open(plain) == ()


def test_there_are_never_too_many() -> None:
    elicited = Elicited()
    for number in range(module.MAX_EACH + 1):
        elicited.note(call(), str(number))
    assert len(elicited.open(call())) == module.MAX_EACH
    assert "0" not in elicited.open(call())
    for number in range(module.MAX_CLIENTS):
        elicited.note(call(msgspec.structs.replace(SESSION, client=f"c-{number}")), "a")
    assert elicited.open(call()) == ()
    assert elicited.open(call(msgspec.structs.replace(SESSION, client="c-0"))) == ("a",)
