"""One request through both gates: what happens in which order, and that a refusal reaches no upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from gatelab import (
    AGENT,
    BINDING,
    FILES,
    ISSUER,
    NOW,
    POLICY,
    PRINCIPAL,
    ROBOT,
    CountingRng,
    FakeAnswer,
    FakeClock,
    FakeExchange,
    FakeUpstream,
    MemorySessions,
    RecordingAudit,
    accessors,
    response,
)
from harness.issuer import new_key, sign
from twogate.core.audit.record import AuditEvent, EventKind, Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.principal import Agent, AgentId, Binding
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, TrustedIssuer
from twogate.flows.gateway.limit import AddressLimit, UnderWay
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.upstream_session import UpstreamSessions
from twogate.flows.registry import Registry, RegistryState
from twogate.flows.sessions import Sessions

KEY = new_key()
TRUSTED = TrustedIssuer(
    issuer=ISSUER,
    algorithms=frozenset({Algorithm.ES256}),
    types=frozenset({"at+jwt"}),
    tenants=frozenset({"acme"}),
    roles=frozenset(),
    pointers=ClaimPointers(agent="/azp", tenant="/tenant", scope="/scope"),
    max_lifetime=3600,
)
ANSWER: dict[str, Any] = {"content": []}


@dataclass
class RecordingRefusals:
    """Where refusals of strangers go."""

    journal: list[str]
    events: list[AuditEvent] = field(default_factory=list)
    broken: bool = False

    async def record(self, event: AuditEvent) -> None:
        if self.broken:
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE)
        self.journal.append("stranger")
        self.events.append(event)


class FixedRegistry:
    """A registry store of one revision."""

    def __init__(self) -> None:
        self.state = RegistryState({}, {BINDING: ROBOT}, frozenset())
        self.revision = 1

    def current(self) -> int:
        return self.revision

    async def load(self) -> RegistryState:
        return self.state

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        raise NotImplementedError

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        self.state = msgspec.structs.replace(self.state, disabled=frozenset({agent}))
        self.revision += 1
        return True


class SlowExchange(FakeExchange):
    """An exchange whose body takes its time; `meanwhile` happens within it."""

    meanwhile: Callable[[], Any]

    async def read_body(self, limit: int) -> bytes:
        body = await super().read_body(limit)
        waited = self.meanwhile()
        if waited is not None:
            await waited
        return body


class Lab:
    """A pipeline in front of `files` (which answers) and `notes`."""

    def __init__(self, burst: int = 100, under_way: int = 4) -> None:
        self.journal: list[str] = []
        self.audit = RecordingAudit(self.journal)
        self.refusals = RecordingRefusals(self.journal)
        self.clock = FakeClock()
        self.registry = FixedRegistry()
        self.store = MemorySessions()
        self.upstream = FakeUpstream(FakeAnswer([response(ANSWER)]), self.journal)
        self.sealed = UpstreamSessions(bytes(32), CountingRng())
        (key,) = parse_jwks(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}).encode())
        recorder = Recorder(self.audit, accessors(), self.clock, CountingRng())
        servers = {"files": Server(self.upstream, 30.0), "notes": Server(self.upstream, 30.0)}
        self.pipeline = Pipeline(
            resource=lambda server: FILES.replace("files", server),
            limit=AddressLimit(rate=1, burst=burst),
            under_way=UnderWay(under_way),
            refusals=self.refusals,
            authenticator=Authenticator(Issuers({ISSUER: TRUSTED}, {ISSUER: FixedKeys((key,))}), accessors()),
            registry=Registry(self.registry, self.registry, {ROBOT: AGENT}, {}),
            sessions=Sessions(self.store, self.store, lambda: POLICY, self.audit, self.clock, CountingRng()),
            policy=POLICY,
            recorder=recorder,
            sealed=self.sealed,
            forwarder=Forwarder(servers, recorder, self.sealed, POLICY),
            clock=self.clock,
            max_body=10_000,
        )

    async def handle(
        self,
        message: Any = None,
        *,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        server: str = "files",
        query: bytes = b"",
        exchange: FakeExchange | None = None,
        **claims: Any,
    ) -> FakeExchange:
        """One request; headers changed to the empty string are left out."""
        body = message if isinstance(message, bytes) else json.dumps(message or tool_call("look")).encode()
        exchange = exchange or FakeExchange()
        exchange.body, exchange.journal = body, self.journal
        every = {
            "authorization": f"Bearer {token(server, **claims)}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2025-11-25",
            **(headers or {}),
        }
        head = Head(method, server, {name: value for name, value in every.items() if value}, query, "192.0.2.1")
        await self.pipeline.handle(head, exchange)
        return exchange


def token(server: str = "files", **claims: Any) -> str:
    every = {
        "iss": ISSUER, "sub": "robot", "azp": "robot", "tenant": "acme", "iat": NOW, "exp": NOW + 60,
        "aud": FILES.replace("files", server), **claims,
    }  # fmt: skip
    return sign({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, every, KEY, "ES256")


def tool_call(name: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.fixture
def lab() -> Lab:
    return Lab()


# The way through.


async def test_a_call_passes_every_stage_in_order(lab: Lab) -> None:
    exchange = await lab.handle()
    assert lab.journal == [
        "body read", "session.opened", "call.intent", "upstream", "call.outcome", "head", "last piece",
    ]  # fmt: skip
    assert exchange.message() == {"jsonrpc": "2.0", "id": 1, "result": ANSWER}
    intent = lab.audit.events[1]
    assert (intent.agent, intent.task, intent.target, intent.decision) == ("robot", "report", "files.look", "allow")
    assert lab.refusals.events == []


async def test_the_upstream_gets_the_parsed_message_anew_and_no_header_of_the_caller(lab: Lab) -> None:
    body = (
        b'{ "params":{"arguments":{"a":1.50,"\\u0062":2},"name":"look"}, "method":"tools/call","id":1,"jsonrpc":"2.0" }'
    )
    secrets = {"cookie": "a=b", "x-custom": "c", "twogate-task": "report"}
    await lab.handle(body, headers=secrets, jti="secret-token")
    (request,) = lab.upstream.seen
    assert json.loads(request.body) == json.loads(body)
    assert request.body != body
    names = {name for name, _ in request.headers}
    assert names == {b"content-type", b"accept", b"mcp-protocol-version"}
    assert request.owner.agent == "robot"


async def test_what_is_recorded_are_names_and_digests_and_no_argument_or_token(lab: Lab) -> None:
    await lab.handle(tool_call("look", password="hunter2"))
    await lab.handle(tool_call("find", password="hunter2"))
    written = msgspec.json.encode(lab.audit.events)
    assert b"hunter2" not in written
    assert token().split(".")[2].encode() not in written


async def test_equal_arguments_give_equal_digests_however_they_were_spelled(lab: Lab) -> None:
    plain = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"look","arguments":{"a":"b"}}}'
    for body in (plain, plain.replace(b'"b"', b'"\\u0062"').replace(b":", b" : ")):
        lab.upstream.answer = FakeAnswer([response(ANSWER)])
        await lab.handle(body)
    digests = [event.arguments for event in lab.audit.events if event.kind is EventKind.CALL_INTENT]
    assert digests[0] == digests[1]


async def test_each_request_has_its_own_id_in_the_trail(lab: Lab) -> None:
    for _ in range(3):
        await lab.handle(tool_call("find"))
    requests = [event.request for event in lab.audit.events if event.kind is EventKind.CALL_REFUSED]
    assert len(set(requests)) == 3


# Refusals, stage by stage: each is written down before it is answered, and nothing reaches the upstream.

STRANGERS: dict[str, tuple[dict[str, Any], ErrorCode]] = {
    "unknown server": ({"server": "ghost"}, ErrorCode.NOT_FOUND),
    "server with a path": ({"server": "files/../notes"}, ErrorCode.NOT_FOUND),
    "query": ({"query": b"access_token=x"}, ErrorCode.REQUEST_MALFORMED),
    "no credential": ({"headers": {"authorization": ""}}, ErrorCode.CREDENTIAL_MISSING),
    "two credentials": ({"headers": {"x-api-key": "k"}}, ErrorCode.CREDENTIAL_AMBIGUOUS),
    "no token": ({"headers": {"authorization": "Bearer abc"}}, ErrorCode.TOKEN_MALFORMED),
    "expired": ({"exp": NOW}, ErrorCode.TOKEN_EXPIRED),
    "other audience": ({"aud": FILES + "2"}, ErrorCode.AUDIENCE_MISMATCH),
    "unbound": ({"azp": "nobody"}, ErrorCode.AGENT_UNBOUND),
}


@pytest.mark.parametrize("name", STRANGERS)
async def test_a_stranger_is_refused_before_its_body_is_read(lab: Lab, name: str) -> None:
    changes, code = STRANGERS[name]
    exchange = await lab.handle(**changes)
    assert exchange.refused is code
    assert lab.journal == ["stranger", "refused"]
    (event,) = lab.refusals.events
    assert (event.reason, event.address, event.agent) == (code, "192.0.2.1", "")


MESSAGES: dict[str, tuple[dict[str, Any], ErrorCode, object]] = {
    "not json": ({"message": b"{"}, ErrorCode.PARSE_ERROR, None),
    "duplicate key": ({"message": b'{"id":1,"id":2}'}, ErrorCode.DUPLICATE_KEY, None),
    "too large": ({"message": b" " * 10_001}, ErrorCode.TOO_LARGE, None),
    "a batch": ({"message": b"[]"}, ErrorCode.BATCH_NOT_SUPPORTED, None),
    "wrong type": ({"headers": {"content-type": "text/plain"}}, ErrorCode.UNSUPPORTED_MEDIA_TYPE, None),
    "no type": ({"headers": {"content-type": ""}}, ErrorCode.UNSUPPORTED_MEDIA_TYPE, None),
    "wrong accept": ({"headers": {"accept": "application/json"}}, ErrorCode.NOT_ACCEPTABLE, None),
    "a response": (
        {"message": {"jsonrpc": "2.0", "id": 3, "result": {}}}, ErrorCode.METHOD_NOT_PERMITTED, 3,
    ),
    "unknown method": (
        {"message": {"jsonrpc": "2.0", "id": 4, "method": "tools/run"}}, ErrorCode.METHOD_NOT_FOUND, 4,
    ),
    "header says another tool": (
        {"headers": {"mcp-name": "find"}}, ErrorCode.HEADER_MISMATCH, 1,
    ),
    "foreign MCP session": ({"headers": {"mcp-session-id": "abc"}}, ErrorCode.MCP_SESSION_UNKNOWN, 1),
    "GET": ({"method": "GET"}, ErrorCode.METHOD_NOT_ALLOWED, None),
    "PUT": ({"method": "PUT"}, ErrorCode.METHOD_NOT_ALLOWED, None),
    "DELETE of nothing": ({"method": "DELETE"}, ErrorCode.METHOD_NOT_ALLOWED, None),
    "DELETE of a foreign session": (
        {"method": "DELETE", "headers": {"mcp-session-id": "abc"}}, ErrorCode.MCP_SESSION_UNKNOWN, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
async def test_a_request_that_is_no_acceptable_message_is_refused_and_recorded_with_its_agent(
    lab: Lab, name: str
) -> None:
    changes, code, request_id = MESSAGES[name]
    exchange = await lab.handle(**changes)
    assert exchange.refused is code
    assert exchange.refusals[0].request_id == request_id
    assert [entry for entry in lab.journal if entry != "body read"] == ["call.refused", "refused"]
    (event,) = lab.audit.events
    assert (event.reason, event.agent, event.decision) == (code, "robot", "deny")


CALLS: dict[str, tuple[str, dict[str, str], ErrorCode, bool]] = {
    "task": ("find", {}, ErrorCode.TASK_NOT_PERMITTED, True),
    "role": ("wipe", {}, ErrorCode.ROLE_NOT_PERMITTED, True),
    "unclassified": ("unlisted", {}, ErrorCode.TARGET_UNCLASSIFIED, True),
    "unknown task": ("look", {"twogate-task": "ghost"}, ErrorCode.TASK_UNKNOWN, True),
    "unknown session": ("look", {"twogate-session": "ghost"}, ErrorCode.SESSION_UNKNOWN, False),
    "needs a token": ("change", {"twogate-task": "edit"}, ErrorCode.OPERATION_TOKEN_REQUIRED, False),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_gate_two_refuses_is_recorded_before_it_is_answered(lab: Lab, name: str) -> None:
    tool, headers, code, anomaly = CALLS[name]
    exchange = await lab.handle(tool_call(tool), headers=headers)
    assert exchange.refused is code
    assert exchange.refusals[0].request_id == 1
    assert lab.journal[-2:] == ["call.refused", "refused"]
    assert lab.upstream.seen == []
    event = lab.audit.events[-1]
    assert (event.reason, event.method, event.anomaly) == (code, "tools/call", anomaly)


async def test_a_server_of_another_tenant_is_refused(lab: Lab) -> None:
    exchange = await lab.handle(server="notes")
    assert exchange.refused is ErrorCode.TENANT_SERVER_REFUSED
    assert lab.upstream.seen == []


async def test_an_address_over_its_limit_is_refused_before_anything_else_and_told_when_to_come_back() -> None:
    lab = Lab(burst=2)
    for _ in range(2):
        assert (await lab.handle(headers={"authorization": ""})).refused is ErrorCode.CREDENTIAL_MISSING
    exchange = await lab.handle()
    assert exchange.refused is ErrorCode.RATE_LIMITED
    assert exchange.refusals[0].error.data == {"retry_after": 1}
    lab.clock.advance(1)
    assert (await lab.handle()).status == 200


async def test_the_end_of_an_mcp_session_reaches_the_upstream_it_belongs_to(lab: Lab) -> None:
    owner = lab.sealed.seal("up-1", PRINCIPAL.key, "files")
    lab.upstream.answer = FakeAnswer([], status=204, content_type="")
    exchange = await lab.handle(method="DELETE", headers={"mcp-session-id": owner})
    assert exchange.status == 204
    (request,) = lab.upstream.seen
    assert (request.http_method, request.body) == ("DELETE", b"")
    assert (b"mcp-session-id", b"up-1") in request.headers


# An audit trail that cannot be written.


async def test_without_a_written_intent_the_upstream_sees_nothing(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_INTENT})
    exchange = await lab.handle()
    assert exchange.refused is ErrorCode.AUDIT_UNAVAILABLE
    assert exchange.refusals[0].request_id == 1
    assert lab.upstream.seen == []


async def test_a_refusal_that_cannot_be_written_is_answered_as_unavailable(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.CALL_REFUSED})
    lab.refusals.broken = True
    for exchange in (
        await lab.handle(tool_call("find")),
        await lab.handle(b"{"),
        await lab.handle(headers={"authorization": ""}),
    ):
        assert exchange.refused is ErrorCode.AUDIT_UNAVAILABLE
        assert exchange.refusals[0].scopes == ()
    assert lab.upstream.seen == []


async def test_without_a_written_session_the_upstream_sees_nothing(lab: Lab) -> None:
    lab.audit.refuses = frozenset({EventKind.SESSION_OPENED})
    exchange = await lab.handle()
    assert exchange.refused is ErrorCode.AUDIT_UNAVAILABLE
    assert exchange.refusals[0].request_id == 1
    assert lab.upstream.seen == []


# A body that takes its time.


async def test_an_agent_disabled_while_its_body_arrived_is_refused(lab: Lab) -> None:
    exchange = SlowExchange()

    async def disable() -> None:
        lab.clock.advance(5)
        await lab.registry.disable_agent(ROBOT, 0)

    exchange.meanwhile = disable
    assert (await lab.handle(exchange=exchange)).refused is ErrorCode.AGENT_DISABLED
    assert lab.upstream.seen == []


async def test_a_token_that_expired_while_the_body_arrived_is_refused(lab: Lab) -> None:
    exchange = SlowExchange()
    exchange.meanwhile = lambda: lab.clock.advance(60)
    assert (await lab.handle(exchange=exchange)).refused is ErrorCode.TOKEN_EXPIRED
    assert lab.upstream.seen == []


async def test_a_session_that_expired_while_the_body_arrived_is_refused(lab: Lab) -> None:
    await lab.handle()
    (session,) = lab.store.rows.values()
    lab.store.rows[session.id] = msgspec.structs.replace(session, deadline=NOW + 10)
    lab.store.revision += 1
    exchange = SlowExchange()
    exchange.meanwhile = lambda: lab.clock.advance(10)
    sent = len(lab.upstream.seen)
    refused = await lab.handle(exchange=exchange, headers={"twogate-session": session.id})
    assert refused.refused is ErrorCode.SESSION_EXPIRED
    assert len(lab.upstream.seen) == sent


async def test_an_identity_that_was_bound_to_another_agent_while_the_body_arrived_is_refused(lab: Lab) -> None:
    other = AgentId("acme", "other")
    agents = {other: Agent(other, "executor", ("report",), "report")}
    exchange = SlowExchange()

    def rebind() -> None:
        lab.clock.advance(5)
        lab.registry.state = RegistryState(agents, {BINDING: other}, frozenset())
        lab.registry.revision += 1

    exchange.meanwhile = rebind
    assert (await lab.handle(exchange=exchange)).refused is ErrorCode.AGENT_UNBOUND
    assert lab.upstream.seen == []


# Calls under way, and calls that are given up.


async def until(journal: list[str], entry: str) -> None:
    async with asyncio.timeout(5):
        while entry not in journal:
            await asyncio.sleep(0)


async def test_a_principal_has_only_so_many_calls_under_way_and_each_that_ends_makes_room() -> None:
    lab = Lab(under_way=1)
    gate = asyncio.Event()
    lab.upstream.answer = gate
    first = asyncio.create_task(lab.handle())
    await until(lab.journal, "upstream")
    refused = await lab.handle()
    assert refused.refused is ErrorCode.RATE_LIMITED
    assert refused.refusals[0].error.data == {"retry_after": 1}
    assert len(lab.upstream.seen) == 1
    gate.set()
    assert (await first).refused is ErrorCode.UPSTREAM_BROKEN
    lab.upstream.answer = FakeAnswer([response(ANSWER)])
    assert (await lab.handle()).status == 200


async def test_a_refused_call_takes_no_room() -> None:
    lab = Lab(under_way=1)
    for _ in range(3):
        assert (await lab.handle(tool_call("find"))).refused is ErrorCode.TASK_NOT_PERMITTED
    assert (await lab.handle()).status == 200


async def test_a_call_given_up_while_its_intent_was_written_has_an_outcome_and_reaches_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, writing = lab.audit.append, asyncio.Event()

    async def slow(event: AuditEvent) -> None:
        await append(event)
        if event.kind is EventKind.CALL_INTENT:
            writing.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(lab.audit, "append", slow)
    running = asyncio.create_task(lab.handle())
    await writing.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert lab.audit.kinds[-2:] == [EventKind.CALL_INTENT, EventKind.CALL_OUTCOME]
    assert lab.audit.events[-1].outcome == Outcome.ABORTED
    assert lab.upstream.seen == []
