"""`POST /sessions`: gate one first, then one small body, then the session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gatelab import (
    AGENT,
    BINDING,
    ISSUER,
    NOW,
    ROBOT,
    URL,
    CountingRng,
    FakeClock,
    MemorySessions,
    RecordingAudit,
    accessors,
    policy,
    possession,
)
from harness.issuer import new_key, sign
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.principal import Agent, AgentId
from twogate.flows.declare import MAX_BODY, DeclareTask
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, TrustedIssuer
from twogate.flows.registry import Registry, RegistryState
from twogate.flows.sessions import Sessions

RESOURCE = f"{URL}/sessions"
KEY = new_key()
TRUSTED = TrustedIssuer(
    issuer=ISSUER,
    algorithms=frozenset({Algorithm.ES256}),
    types=frozenset({"at+jwt"}),
    tenants=frozenset({"acme"}),
    roles=frozenset(),
    pointers=ClaimPointers(agent="/azp"),
    max_lifetime=3600,
)


class Lab:
    """The use case, with everything around it in memory."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self.refused: list[AuditEvent] = []
        self.audit = RecordingAudit(self.journal)
        self.store = MemorySessions()
        clock = FakeClock()
        (key,) = parse_jwks(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}).encode())
        self.declare = DeclareTask(
            resource=RESOURCE,
            authenticator=Authenticator(Issuers({ISSUER: TRUSTED}, {ISSUER: FixedKeys((key,))}), accessors()),
            possession=possession(),
            registry=Registry(self, self, {ROBOT: AGENT}, {BINDING: ROBOT}),
            sessions=Sessions(self.store, self.store, policy, self.audit, clock, CountingRng()),
            refusals=self,
            clock=clock,
        )

    async def record(self, event: AuditEvent) -> None:
        self.journal.append("refusal")
        self.refused.append(event)

    def current(self) -> int:
        return 1

    async def read(self) -> int:
        return self.current()

    async def enable_agent(self, agent: AgentId) -> bool:
        raise NotImplementedError

    async def load(self) -> RegistryState:
        return RegistryState({}, {}, frozenset())

    async def add_agent(self, agent: Agent, bindings: Any, now: int) -> None:
        raise NotImplementedError

    async def disable_agent(self, agent: AgentId, now: int) -> bool:
        raise NotImplementedError

    async def ask(self, body: bytes = b'{"task":"report"}', headers: dict[str, str] | None = None) -> str:
        async def read() -> bytes:
            self.journal.append("body read")
            return body

        sent = {"authorization": f"Bearer {token()}", "content-type": "application/json", **(headers or {})}
        return (await self.declare.respond(sent, read, "192.0.2.1")).task

    async def code(self, *args: Any, **changes: Any) -> ErrorCode:
        with pytest.raises(GateError) as refusal:
            await self.ask(*args, **changes)
        return refusal.value.code


def token(**claims: Any) -> str:
    every = {"iss": ISSUER, "sub": "x", "azp": "robot", "aud": RESOURCE, "iat": NOW, "exp": NOW + 60, **claims}
    return sign({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}, every, KEY, "ES256")


@pytest.fixture
def lab() -> Lab:
    return Lab()


async def test_a_declared_task_opens_its_session_and_again_gives_the_same(lab: Lab) -> None:
    assert await lab.ask() == "report"
    assert await lab.ask(headers={"content-type": "Application/JSON; charset=utf-8"}) == "report"
    (session,) = lab.store.rows.values()
    assert session.principal.agent == ROBOT.agent
    assert lab.journal == ["body read", "session.opened", "body read"]


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": "Bearer abc"}, ErrorCode.TOKEN_MALFORMED),
        ({"authorization": "Basic abc"}, ErrorCode.CREDENTIAL_AMBIGUOUS),
        ({"authorization": f"Bearer {token(aud=URL + '/mcp/files')}"}, ErrorCode.AUDIENCE_MISMATCH),
        ({"authorization": f"Bearer {token(azp='nobody')}"}, ErrorCode.AGENT_UNBOUND),
        ({"x-api-key": "k"}, ErrorCode.CREDENTIAL_AMBIGUOUS),
    ],
    ids=["no token", "basic", "a server's token", "unbound", "two credentials"],
)
async def test_who_is_not_proven_is_refused_and_recorded_before_the_body_is_read(
    lab: Lab, headers: dict[str, str], code: ErrorCode
) -> None:
    assert await lab.code(headers=headers) is code
    assert lab.journal == ["refusal"]
    assert (lab.refused[0].reason, lab.refused[0].address) == (code, "192.0.2.1")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", ErrorCode.PARSE_ERROR),
        (b"{", ErrorCode.PARSE_ERROR),
        (b'{"task":"report","task":"edit"}', ErrorCode.DUPLICATE_KEY),
        (b"[]", ErrorCode.INVALID_PARAMS),
        (b'"report"', ErrorCode.INVALID_PARAMS),
        (b"{}", ErrorCode.INVALID_PARAMS),
        (b'{"task":5}', ErrorCode.INVALID_PARAMS),
        (b'{"task":["report"]}', ErrorCode.INVALID_PARAMS),
        (b'{"task":"report","deadline":9999999999}', ErrorCode.INVALID_PARAMS),
        (b'{"Task":"report"}', ErrorCode.INVALID_PARAMS),
        (b'{"task":[[[[[1]]]]]}', ErrorCode.TOO_DEEP),
        (b'{"task":"%b"}' % (b"x" * MAX_BODY), ErrorCode.TOO_LARGE),
    ],
    ids=range(12),
)
async def test_a_body_that_is_not_one_task_is_refused_and_recorded(lab: Lab, body: bytes, code: ErrorCode) -> None:
    assert await lab.code(body) is code
    assert lab.journal == ["body read", "refusal"]
    assert lab.store.rows == {}


@pytest.mark.parametrize("content_type", ["text/plain", "", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_refused(lab: Lab, content_type: str) -> None:
    # A browser sends these without asking first (CORS).
    assert await lab.code(headers={"content-type": content_type}) is ErrorCode.UNSUPPORTED_MEDIA_TYPE


async def test_a_task_that_may_not_be_declared_is_refused_by_the_session_and_recorded_there(lab: Lab) -> None:
    assert await lab.code(b'{"task":"ghost"}') is ErrorCode.TASK_UNKNOWN
    await lab.ask()
    assert await lab.code(b'{"task":"edit"}') is ErrorCode.TASK_LIMIT
    assert lab.audit.kinds.count(EventKind.SESSION_REFUSED) == 2
    assert lab.refused == []
