"""Conditions beside the decision: what they are asked, when, and that they only ever take away."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gatelab import AGENT, NOW, POLICY, PRINCIPAL, CountingRng, FakeClock, MemorySessions, RecordingAudit, policy
from twogate.core.access import Policy
from twogate.core.conditions import Asked
from twogate.core.errors import ErrorCode
from twogate.core.message import Kind, Message
from twogate.core.principal import Principal
from twogate.flows.gateway.admit import MAX_JUDGED, Admitted, Refused, admit
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.read import Authenticated, read_call
from twogate.flows.gateway.seal import Seal, TaskId
from twogate.flows.sessions import Sessions

SEAL = Seal(bytes(32))
EDITOR = msgspec.structs.replace(PRINCIPAL, agent=msgspec.structs.replace(AGENT, default_task="edit"))


@dataclass
class Noting:
    """Conditions that note what they are asked, and forbid some targets."""

    forbids: frozenset[str] = frozenset()
    asked: list[Asked] = field(default_factory=list)

    def forbidden(self, asked: Asked) -> str | None:
        self.asked.append(asked)
        return "told to" if asked.target in self.forbids else None


async def decided(
    conditions: Noting | None,
    method: str = "tools/call",
    params: dict[str, Any] | None = None,
    *,
    version: str = "2025-11-25",
    principal: Principal = PRINCIPAL,
    of: Policy = POLICY,
    **headers: str,
) -> Admitted | Refused:
    store = MemorySessions()
    sessions = Sessions(store, store, lambda: of, RecordingAudit(), FakeClock(), CountingRng())
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    head = Head("POST", "files", {"mcp-protocol-version": version, **given}, b"", "192.0.2.1")
    message = Message(Kind.REQUEST, 1, method, {"name": "look"} if params is None else params)
    call = read_call(Authenticated(head, principal), message, SEAL)
    return await admit(call, sessions, of, NOW, conditions)


async def test_what_is_allowed_is_put_to_the_conditions_with_all_that_is_known() -> None:
    noting = Noting()
    assert isinstance(await decided(noting, params={"name": "look", "arguments": {"a": 1}}), Admitted)
    (asked,) = noting.asked
    assert (asked.target, asked.entry, asked.method) == ("files.look", "files.look", "tools/call")
    assert (asked.params["arguments"], asked.address, asked.now) == ({"a": 1}, "192.0.2.1", NOW)
    assert asked.principal is PRINCIPAL
    assert asked.session is not None
    assert asked.session.task == "report"


async def test_a_resource_is_put_to_them_under_the_entry_that_classifies_it() -> None:
    noting = Noting()
    pattern = "files.resource:file:///reports/**"
    of = policy(classes={**POLICY.classes, pattern: "read"}, tasks={"report": frozenset({"read"})})
    await decided(noting, "resources/read", {"uri": "file:///reports/a"}, of=of)
    assert [(asked.target, asked.entry) for asked in noting.asked] == [("files.resource:file:///reports/a", pattern)]


async def test_what_they_forbid_is_refused_with_their_words() -> None:
    refused = await decided(Noting(frozenset({"files.look"})))
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.error.debug, refused.target) == (
        ErrorCode.POLICY_DENIED,
        "told to",
        "files.look",
    )


@pytest.mark.parametrize(
    ("name", "principal", "code"),
    [
        ("find", PRINCIPAL, ErrorCode.TASK_NOT_PERMITTED),
        ("wipe", EDITOR, ErrorCode.ROLE_NOT_PERMITTED),
        ("nothing", PRINCIPAL, ErrorCode.TARGET_UNCLASSIFIED),
    ],
)
async def test_what_is_refused_anyway_is_refused_as_ever_and_they_are_not_asked(
    name: str, principal: Principal, code: ErrorCode
) -> None:
    noting = Noting()
    refused = await decided(noting, params={"name": name}, principal=principal)
    assert isinstance(refused, Refused)
    assert refused.error.code is code
    assert noting.asked == []


async def test_what_needs_an_operation_token_is_judged_before_one_is_asked_for() -> None:
    refused = await decided(Noting(frozenset({"files.change"})), params={"name": "change"}, principal=EDITOR)
    assert isinstance(refused, Refused)
    assert refused.error.code is ErrorCode.POLICY_DENIED


@pytest.mark.parametrize("name", ["find", "look"])
async def test_what_is_only_observed_is_judged_and_refused(name: str) -> None:
    of = policy(observe_until=NOW + 60)
    noting = Noting()
    assert isinstance(await decided(noting, params={"name": name}, of=of), Admitted)
    refused = await decided(Noting(frozenset({f"files.{name}"})), params={"name": name}, of=of)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.observing) == (ErrorCode.POLICY_DENIED, True)


async def test_a_stream_of_more_than_can_be_judged_is_refused_and_without_conditions_is_not() -> None:
    uris = [f"file:///reports/{number}" for number in range(MAX_JUDGED + 1)]
    pattern = "files.resource:file:///reports/**"
    of = policy(classes={**POLICY.classes, pattern: "read"}, tasks={"report": frozenset({"read"})})
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    headers: dict[str, Any] = {"version": "2026-07-28", "mcp_method": "subscriptions/listen"}

    async def listen(conditions: Noting | None, uris: list[str]) -> Admitted | Refused:
        params = {"notifications": {"resourceSubscriptions": uris}, "_meta": meta}
        return await decided(conditions, "subscriptions/listen", params, of=of, **headers)

    noting = Noting()
    refused = await listen(noting, uris)
    assert isinstance(refused, Refused)
    assert (refused.error.code, noting.asked) == (ErrorCode.POLICY_DENIED, [])
    assert isinstance(await listen(noting, uris[1:]), Admitted)
    assert len(noting.asked) == MAX_JUDGED
    assert isinstance(await listen(None, uris), Admitted)


async def test_every_target_of_a_call_is_judged() -> None:
    uris = ["file:///a", "file:///b"]
    of = policy(classes={**POLICY.classes, "files.resource:file:///b": "read"}, tasks={"report": frozenset({"read"})})
    params = {
        "notifications": {"resourceSubscriptions": uris},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    }
    headers: dict[str, Any] = {"version": "2026-07-28", "mcp_method": "subscriptions/listen"}
    noting = Noting()
    assert isinstance(await decided(noting, "subscriptions/listen", params, of=of, **headers), Admitted)
    assert [asked.target for asked in noting.asked] == [f"files.resource:{uri}" for uri in uris]
    second = Noting(frozenset({"files.resource:file:///b"}))
    refused = await decided(second, "subscriptions/listen", params, of=of, **headers)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.target) == (ErrorCode.POLICY_DENIED, "files.resource:file:///b")


async def test_a_poll_of_a_task_is_judged_as_what_it_is() -> None:
    sealed = SEAL.seal(TaskId("t1", "files.look"), PRINCIPAL.key, "files")
    noting = Noting()
    assert isinstance(await decided(noting, "tasks/get", {"taskId": sealed}), Admitted)
    assert [(asked.target, asked.method) for asked in noting.asked] == [("files.look", "tasks/get")]


@pytest.mark.parametrize(("method", "params"), [("tools/list", {}), ("ping", {})])
async def test_lists_and_what_names_no_target_are_not_put_to_them(method: str, params: dict[str, Any]) -> None:
    noting = Noting(frozenset({"", "files.look"}))
    assert isinstance(await decided(noting, method, params), Admitted)
    assert noting.asked == []
