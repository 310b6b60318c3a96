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
    NoTools,
    RecordingAudit,
    accessors,
    identifier,
    possession,
    response,
)
from harness.issuer import new_key, sign
from pinlab import a_book
from twogate.adapters.argument_schema import ArgumentSchema
from twogate.core.audit.record import AuditEvent, EventKind, Outcome
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.principal import Agent, AgentId, Binding
from twogate.flows.gateway.arguments import ArgumentChecks
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.forward import Forwarder, Server
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, TrustedIssuer
from twogate.flows.gateway.limit import AddressLimit, CallRates, UnderWay
from twogate.flows.gateway.pipeline import Pipeline
from twogate.flows.gateway.record import Recorder
from twogate.flows.gateway.seal import McpSession, RequestState, Seal, ServerRequest, StreamEvent, TaskId
from twogate.flows.gateway.tool_check import ToolCheck
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

    async def read(self) -> int:
        return self.current()

    async def load(self) -> RegistryState:
        return self.state

    async def add_agent(self, agent: Agent, bindings: Sequence[Binding], now: int) -> None:
        raise NotImplementedError

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        self.state = msgspec.structs.replace(self.state, disabled=frozenset({agent}))
        self.revision += 1
        return True

    async def enable_agent(self, agent: AgentId) -> bool:
        self.state = msgspec.structs.replace(self.state, disabled=self.state.disabled - {agent})
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
        self.seal = Seal(bytes(32))
        self.closing = asyncio.Event()
        (key,) = parse_jwks(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}).encode())
        recorder = Recorder(self.audit, accessors(), self.clock, CountingRng())
        servers = self.servers = {
            "files": Server(self.upstream, 30.0, frozenset({"sampling"})),
            "notes": Server(self.upstream, 30.0),
        }
        book = a_book()
        checks = ArgumentChecks(book, ArgumentSchema)
        self.pipeline = Pipeline(
            resource=lambda server: FILES.replace("files", server),
            limit=AddressLimit(rate=1, burst=burst),
            rates=CallRates(),
            under_way=UnderWay(under_way),
            streams=UnderWay(2),
            refusals=self.refusals,
            authenticator=Authenticator(Issuers({ISSUER: TRUSTED}, {ISSUER: FixedKeys((key,))}), accessors()),
            possession=possession(),
            registry=Registry(self.registry, self.registry, {ROBOT: AGENT}, {}),
            sessions=Sessions(self.store, self.store, lambda: POLICY, self.audit, self.clock, CountingRng()),
            policy=POLICY,
            recorder=recorder,
            tools=ToolCheck(book, checks, NoTools(), required=frozenset(), validated=frozenset()),
            seal=self.seal,
            forwarder=Forwarder(
                servers,
                recorder,
                self.seal,
                POLICY,
                lambda _: None,
                (self.closing,),
                identifier(self.clock),
                book,
                frozenset(),
            ),
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
    "an empty batch": ({"message": b"[]"}, ErrorCode.INVALID_REQUEST, None),
    "a batch": ({"message": b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]'}, ErrorCode.BATCH_NOT_SUPPORTED, None),
    "wrong type": ({"headers": {"content-type": "text/plain"}}, ErrorCode.UNSUPPORTED_MEDIA_TYPE, None),
    "no type": ({"headers": {"content-type": ""}}, ErrorCode.UNSUPPORTED_MEDIA_TYPE, None),
    "wrong accept": ({"headers": {"accept": "application/json"}}, ErrorCode.NOT_ACCEPTABLE, None),
    "a response": (
        {"message": {"jsonrpc": "2.0", "id": 3, "result": {}}}, ErrorCode.SERVER_REQUEST_UNKNOWN, 3,
    ),
    "unknown method": (
        {"message": {"jsonrpc": "2.0", "id": 4, "method": "tools/run"}}, ErrorCode.METHOD_NOT_FOUND, 4,
    ),
    "header says another tool": (
        {"headers": {"mcp-name": "find"}}, ErrorCode.HEADER_MISMATCH, 1,
    ),
    "foreign MCP session": ({"headers": {"mcp-session-id": "abc"}}, ErrorCode.MCP_SESSION_UNKNOWN, 1),
    "GET of a later version": (
        {"method": "GET", "headers": {"mcp-protocol-version": "2026-07-28"}}, ErrorCode.METHOD_NOT_ALLOWED, None,
    ),
    "GET without events": (
        {"method": "GET", "headers": {"accept": "application/json"}}, ErrorCode.NOT_ACCEPTABLE, None,
    ),
    "GET of an unknown version": (
        {"method": "GET", "headers": {"mcp-protocol-version": "2027-01-01"}},
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION, None,
    ),
    "GET of a foreign session": (
        {"method": "GET", "headers": {"mcp-session-id": "abc"}}, ErrorCode.MCP_SESSION_UNKNOWN, None,
    ),
    "GET of a foreign stream": (
        {"method": "GET", "headers": {"last-event-id": "7"}}, ErrorCode.EVENT_UNKNOWN, None,
    ),
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
    owner = lab.seal.seal(McpSession("up-1", None, ""), PRINCIPAL.key, "files")
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


# Handles: what the upstream named comes back from the client it was given to.


async def test_an_answer_to_the_servers_request_goes_to_that_server_under_its_own_id(lab: Lab) -> None:
    session = lab.seal.seal(McpSession("up-1", None, ""), PRINCIPAL.key, "files")
    asked = lab.seal.seal(ServerRequest(9, "sampling/createMessage", "up-1"), PRINCIPAL.key, "files")
    lab.upstream.answer = FakeAnswer([], status=202, content_type="")
    message = {"jsonrpc": "2.0", "id": asked, "result": {"role": "assistant"}}
    exchange = await lab.handle(message, headers={"mcp-session-id": session})
    assert exchange.status == 202
    (request,) = lab.upstream.seen
    assert json.loads(request.body) == {**message, "id": 9}
    assert lab.audit.events[0].method == "answer:sampling/createMessage"


@pytest.mark.parametrize(
    ("session", "asked"),
    [("up-2", ServerRequest(9, "sampling/createMessage", "up-1")), (None, ServerRequest(9, "ping", "up-1"))],
    ids=["of another session", "without its session"],
)
async def test_an_answer_to_a_request_of_another_session_is_refused(
    lab: Lab, session: str | None, asked: ServerRequest
) -> None:
    headers = {} if session is None else {
        "mcp-session-id": lab.seal.seal(McpSession(session, None, ""), PRINCIPAL.key, "files")
    }  # fmt: skip
    sealed = lab.seal.seal(asked, PRINCIPAL.key, "files")
    exchange = await lab.handle({"jsonrpc": "2.0", "id": sealed, "result": {}}, headers=headers)
    assert exchange.refused is ErrorCode.SERVER_REQUEST_UNKNOWN
    assert lab.upstream.seen == []


async def test_an_answer_to_what_the_server_may_not_ask_any_more_is_refused(lab: Lab) -> None:
    session = lab.seal.seal(McpSession("up-1", None, ""), PRINCIPAL.key, "files")
    asked = lab.seal.seal(ServerRequest(9, "elicitation/create", "up-1"), PRINCIPAL.key, "files")
    message = {"jsonrpc": "2.0", "id": asked, "result": {"action": "accept"}}
    exchange = await lab.handle(message, headers={"mcp-session-id": session})
    assert exchange.refused is ErrorCode.METHOD_NOT_PERMITTED
    assert lab.upstream.seen == []


async def test_a_state_comes_back_only_for_the_call_that_it_was_given_for(lab: Lab) -> None:
    state = lab.seal.seal(RequestState("s-1", "tools/call", "files.look"), PRINCIPAL.key, "files")
    await lab.handle({**tool_call("look"), "params": {"name": "look", "requestState": state}})
    assert json.loads(lab.upstream.seen[0].body)["params"]["requestState"] == "s-1"
    other = Lab()
    params = {"name": "find", "requestState": state}
    exchange = await other.handle({**tool_call("find"), "params": params}, headers={"twogate-task": "edit"})
    assert exchange.refused is ErrorCode.REQUEST_STATE_UNKNOWN
    exchange = await other.handle({**tool_call("look"), "params": {"name": "look", "requestState": "s-1"}})
    assert exchange.refused is ErrorCode.REQUEST_STATE_UNKNOWN
    assert other.upstream.seen == []


async def test_a_resumed_stream_is_decided_as_its_call_was(lab: Lab) -> None:
    session = lab.seal.seal(McpSession("up-1", None, ""), PRINCIPAL.key, "files")

    def last(target: str, upstream: str | None = "up-1") -> dict[str, str]:
        event = StreamEvent("7", upstream, 1, "tools/call", target)
        return {"mcp-session-id": session, "last-event-id": lab.seal.seal(event, PRINCIPAL.key, "files")}

    exchange = await lab.handle(method="GET", headers=last("files.wipe"))
    assert exchange.refused is ErrorCode.ROLE_NOT_PERMITTED
    exchange = await lab.handle(method="GET", headers=last("files.look", "up-2"))
    assert exchange.refused is ErrorCode.EVENT_UNKNOWN
    assert lab.upstream.seen == []
    await lab.handle(method="GET", headers=last("files.look"))
    (request,) = lab.upstream.seen
    assert (request.http_method, request.stream) == ("GET", True)
    assert (b"last-event-id", b"7") in request.headers


LISTEN = "subscriptions/listen"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


async def listen(lab: Lab, **wanted: Any) -> FakeExchange:
    message = {"jsonrpc": "2.0", "id": 1, "method": LISTEN, "params": {"notifications": wanted, "_meta": MODERN_META}}
    return await lab.handle(message, headers={"mcp-protocol-version": "2026-07-28", "mcp-method": LISTEN})


async def test_who_listens_may_name_only_what_it_may_read(lab: Lab) -> None:
    assert (await listen(lab, resourceSubscriptions=["file:///hidden"])).refused is ErrorCode.TARGET_UNCLASSIFIED
    assert (await listen(lab, resource_subscriptions=["file:///hidden"])).refused is ErrorCode.INVALID_PARAMS
    assert (await listen(lab, everything=True)).refused is ErrorCode.INVALID_PARAMS
    assert (await listen(lab, taskIds=["t-1"])).refused is ErrorCode.MCP_TASK_UNKNOWN
    assert lab.upstream.seen == []
    task = lab.seal.seal(TaskId("t-1", "files.look"), PRINCIPAL.key, "files")
    await listen(lab, toolsListChanged=True, taskIds=[task])
    (request,) = lab.upstream.seen
    assert request.stream
    assert json.loads(request.body)["params"]["notifications"] == {"toolsListChanged": True, "taskIds": ["t-1"]}


async def test_streams_have_a_limit_of_their_own(lab: Lab) -> None:
    lab.upstream.answer = FakeAnswer([asyncio.Event()], content_type="text/event-stream")
    open_streams = [asyncio.create_task(lab.handle(method="GET")) for _ in range(2)]
    async with asyncio.timeout(5):
        while len(lab.upstream.seen) < 2:
            await asyncio.sleep(0)
    assert (await lab.handle(method="GET")).refused is ErrorCode.RATE_LIMITED
    lab.closing.set()
    assert [exchange.status for exchange in await asyncio.gather(*open_streams)] == [200, 200]


# Batches (MCP 2025-03-26).

BATCHES = {"mcp-protocol-version": "2025-03-26"}


async def test_each_member_of_a_batch_is_decided_alone_and_answered_in_one_array(lab: Lab) -> None:
    lab.upstream.answer = FakeAnswer([response(ANSWER, 2)])
    members = [{**tool_call("wipe"), "id": "a"}, {**tool_call("look"), "id": 2}, {"jsonrpc": "1.0"}]
    exchange = await lab.handle(json.dumps(members).encode(), headers=BATCHES)
    assert (exchange.status, exchange.complete) == (200, True)
    refused, answered, malformed = exchange.message()
    assert (refused["id"], refused["error"]["data"]["reason"]) == ("a", "not_permitted")
    assert answered == {"jsonrpc": "2.0", "id": 2, "result": ANSWER}
    assert (malformed["id"], malformed["error"]["data"]["reason"]) == (None, "invalid_request")
    assert len(lab.upstream.seen) == 1
    assert [event.reason for event in lab.audit.events if event.kind is EventKind.CALL_REFUSED] == [
        "role_not_permitted", "invalid_request",
    ]  # fmt: skip


async def test_a_batch_without_requests_is_answered_like_a_notification(lab: Lab) -> None:
    lab.upstream.answer = FakeAnswer([], status=202, content_type="")
    exchange = await lab.handle(b'[{"jsonrpc":"2.0","method":"notifications/initialized"}]', headers=BATCHES)
    assert (exchange.status, exchange.answer) == (202, b"")


@pytest.mark.parametrize(
    "members",
    [[], [tool_call("look")] * 2, [{**tool_call("look"), "id": n} for n in range(51)]],
    ids=["none", "one id twice", "too many"],
)
async def test_a_batch_that_is_none_is_refused_as_a_whole(lab: Lab, members: list[Any]) -> None:
    exchange = await lab.handle(json.dumps(members).encode(), headers=BATCHES)
    assert exchange.refused is ErrorCode.INVALID_REQUEST
    assert lab.upstream.seen == []


async def test_no_session_begins_in_a_batch(lab: Lab) -> None:
    # MCP 2025-03-26, "Initialization": "The initialize request MUST NOT be part of a JSON-RPC batch".
    start = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-03-26"}}
    exchange = await lab.handle(json.dumps([start]).encode(), headers=BATCHES)
    assert exchange.message()[0]["error"]["data"]["reason"] == "invalid_request"
    assert lab.upstream.seen == []


async def test_a_batch_is_for_the_version_that_was_negotiated(lab: Lab) -> None:
    batch = json.dumps([{**tool_call("look"), "id": 1}]).encode()
    for version, code in (("2025-11-25", ErrorCode.BATCH_NOT_SUPPORTED), ("2025-03-26", None)):
        session = lab.seal.seal(McpSession(None, None, version), PRINCIPAL.key, "files")
        headers = {"mcp-session-id": session, "mcp-protocol-version": ""}
        exchange = await lab.handle(batch, headers=headers)
        assert (exchange.refusals[0].error.code if exchange.refusals else None) is code


async def test_an_agent_cut_off_during_a_batch_runs_no_more_of_it(lab: Lab) -> None:
    class Slow(FakeUpstream):
        async def send(self, request: Any) -> FakeAnswer:
            lab.clock.advance(1)
            await lab.registry.disable_agent(ROBOT, NOW)
            return await super().send(request)

    slow = Slow(FakeAnswer([response(ANSWER, 1)]))
    lab.servers["files"] = Server(slow, 30.0)
    members = [{**tool_call("look"), "id": n} for n in (1, 2)]
    exchange = await lab.handle(json.dumps(members).encode(), headers=BATCHES)
    first, second = exchange.message()
    assert first["result"] == ANSWER
    assert second["error"]["data"]["reason"] == "invalid_token"
    assert len(slow.seen) == 1
