"""`POST /operations/tokens`: a minter signs for one call, and gets the token that lets it run once (R-33).

The minter sends the call itself and not its digest, so that nobody signs for what it has not seen. What the agent may
not do, no token lets it do: role, user, task and session are decided here as far as they are known, and again in full
when the call comes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from twogate.core.access import Classified, Deny, Policy, covers, decide
from twogate.core.audit.accessor import Accessors
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import MAX_DEPTH, MAX_NAME, check_name
from twogate.core.oauth.access_token import JTI_BYTES, encode_base64url
from twogate.core.oauth.confirmation import ClientCertificate
from twogate.core.oauth.resource import server_path
from twogate.core.operation import MAX_CALL, TYPE, Bound, OperationToken, canonical, default_method, digest_call
from twogate.core.principal import Agent, AgentId, Principal
from twogate.core.session import Session, verify_session
from twogate.core.strict_json import decode
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.clients import ClientKind
from twogate.flows.authserver.people import People
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.record import refused_event
from twogate.flows.hypothetical import hypothetical_principal
from twogate.flows.operations.minter import Minter, Minters
from twogate.flows.registry import Registry
from twogate.flows.signer import Signer, sign_jwt

MAX_BODY: Final = MAX_CALL + 16 * 1024
"""Bytes that a request may have: the call, and what it belongs to."""

MAX_TARGET: Final = MAX_NAME + 128
"""Characters of a target: the longest name, behind its server's and the kind."""

# What `params` may not say, because it is said elsewhere, or not signed for at all.
_SAID_ELSEWHERE: Final = frozenset({"name", "uri", "arguments", "inputResponses", "_meta", "requestState"})
_TELLS_TASK: Final = "tasks/update"
_METHODS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "tools/call": frozenset({"tools/call", _TELLS_TASK}),
        "prompts/get": frozenset({"prompts/get", "completion/complete"}),
        "resources/read": frozenset(
            {"resources/read", "resources/subscribe", "resources/unsubscribe", "completion/complete"}
        ),
    }
)
"""By what a target is used by usually: every method that may act on it."""

_ARGUED: Final = frozenset({"tools/call", "prompts/get"})


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body: the call as the agent will make it.

    `sid` is the agent's session, `tool` the target in the policy's words (`server.tool`). `params` are members of the
    message's `params` besides `arguments` and `inputResponses`. `method` is needed only where the target leaves a
    choice.
    """

    sid: str
    tool: str
    arguments: dict[str, Any] = {}
    input_responses: dict[str, Any] | None = None
    method: str | None = None
    params: dict[str, Any] = {}

    def call(self) -> tuple[str, dict[str, Any]]:
        """The method, and the `params` that count.

        Raises:
            GateError: INVALID_PARAMS.
        """
        usual = default_method(self.tool)
        method = self.method or usual
        if method not in _METHODS[usual]:
            raise GateError(ErrorCode.INVALID_PARAMS, "no such method acts on such a target")
        if not self.params.keys().isdisjoint(_SAID_ELSEWHERE):
            raise GateError(ErrorCode.INVALID_PARAMS, "params holds what is said elsewhere, or is not signed for")
        params = dict(self.params)
        if method == _TELLS_TASK:
            # Nobody signs for input to whichever task of this tool's.
            check_name(params.get("taskId"), "params.taskId")
        elif "taskId" in params:
            raise GateError(ErrorCode.INVALID_PARAMS, f"{method} has no taskId")
        if method in _ARGUED:
            params["arguments"] = self.arguments
        elif self.arguments:
            raise GateError(ErrorCode.INVALID_PARAMS, f"{method} has no arguments")
        if self.input_responses is not None:
            params["inputResponses"] = self.input_responses
        return method, params


class Minted(msgspec.Struct, frozen=True):
    """A token as its minter gets it; `expires_in` in seconds, `digest` in lower-case hex."""

    token: str
    expires_in: int
    digest: str

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"Minted(expires_in={self.expires_in}, digest={self.digest!r})"


class SessionSource(Protocol):
    """Finds sessions, whoever's they are; `flows.sessions.SessionStore` does."""

    async def get(self, session_id: str) -> Session | None:
        """The session, live or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class MintSettings(msgspec.Struct, frozen=True):
    """What one configuration says: the server's own address, the policy, and how long a token lives.

    `lifetime` takes a tenant and the entry that classifies the target, and gives seconds.
    """

    issuer: str
    policy: Policy
    lifetime: Callable[[str, str], int]


class MintToken:
    """Issues operation tokens."""

    def __init__(  # noqa: PLR0913 - one per port
        self,
        *,
        settings: MintSettings,
        minters: Minters,
        sessions: SessionSource,
        registry: Registry,
        people: People,
        signer: Signer,
        accessors: Accessors,
        audit: AuditSink,
        refusals: Refusals,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._settings = settings
        self._minters = minters
        self._sessions = sessions
        self._registry = registry
        self._people = people
        self._signer = signer
        self._accessors = accessors
        self._audit = audit
        self._refusals = refusals
        self._clock = clock
        self._rng = rng

    async def respond(
        self,
        headers: Mapping[str, str],
        read_body: Callable[[], Awaitable[bytes]],
        uri: str,
        address: str,
        certificate: ClientCertificate | None = None,
    ) -> Minted:
        """The token for the call in the body, which is read once the minter is proven. Every refusal is recorded.

        Raises:
            GateError: any code of gate one and of the body; MINT_REFUSED, USER_DISABLED, AGENT_DISABLED,
                SESSION_ENDED, SESSION_EXPIRED; KEYS_UNAVAILABLE, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        try:
            minter = await self._minters.authenticate(headers, "POST", uri, certificate, now)
        except GateError as error:
            at = self._clock.now_us()
            await self._refusals.record(
                refused_event(error, at=at, address=address, detail=f"operations: {error.debug}")
            )
            raise

        async def read() -> Wanted:
            return _parse(headers, await read_body())

        return await self._issue(minter, read, address, now)

    async def sign(self, minter: Minter, wanted: Wanted, address: str) -> Minted:
        """The token for a call of which `minter` is proven already. Every refusal is recorded.

        Raises:
            GateError: as `respond`, but for gate one.
        """

        async def read() -> Wanted:
            return _checked(wanted)

        return await self._issue(minter, read, address, self._clock.now())

    async def _issue(self, minter: Minter, read: Callable[[], Awaitable[Wanted]], address: str, now: int) -> Minted:
        wanted = session = None
        try:
            wanted = await read()
            session = await self._session(wanted.sid, minter, now)
            return await self._mint(wanted, session, minter, address, now)
        except GateError as error:
            event = self._event(EventKind.OPERATION_REFUSED, minter, session, wanted, address)
            refused = msgspec.structs.replace(
                event, decision="deny", reason=error.code, detail=error.debug, anomaly=error.code in _ANOMALIES
            )
            await self._audit.append(refused)
            raise

    async def _session(self, sid: str, minter: Minter, now: int) -> Session:
        session = await self._sessions.get(sid)
        # One answer for all of these: who may not know of a session must not learn that it exists.
        if session is None or session.principal.tenant != minter.client.tenant:
            raise GateError(ErrorCode.MINT_REFUSED, "no such session of this tenant")
        agent = AgentId(session.principal.tenant, session.principal.agent)
        if minter.client.kind is ClientKind.HOST:
            # No person, no host: what an agent does for itself is nobody's to allow from a desktop.
            if session.principal.user is None or session.principal.user != minter.user:
                raise GateError(ErrorCode.MINT_REFUSED, f"session {session.id} is another person's, or nobody's")
        elif agent not in minter.client.agents:
            raise GateError(ErrorCode.MINT_REFUSED, f"agent {agent} is not among the authorizer's")
        return verify_session(session, session.principal, now)

    async def _mint(self, wanted: Wanted, session: Session, minter: Minter, address: str, now: int) -> Minted:
        method, params = wanted.call()
        found = await self._decide(wanted.tool, session, minter)
        if len(canonical(params)) > MAX_CALL:
            raise GateError(ErrorCode.TOO_LARGE, f"a call with an operation token has at most {MAX_CALL} bytes")
        digest = digest_call(method, wanted.tool, params).digest
        # A token for a session that is over would be of no use.
        lifetime = min(self._settings.lifetime(session.principal.tenant, found.entry), session.deadline - now)
        owner = session.principal
        token = OperationToken(
            issuer=self._settings.issuer,
            jti=encode_base64url(self._rng.token(JTI_BYTES)),
            issued_at=now,
            expires_at=now + lifetime,
            minter=minter.client.client_id,
            bound=Bound(
                audience=self._settings.issuer + server_path(wanted.tool.partition(".")[0]),
                tenant=owner.tenant,
                agent_issuer=owner.issuer,
                agent=owner.agent,
                user=owner.user,
                session=session.id,
                tool=wanted.tool,
                digest=digest,
            ),
        )
        signed = await sign_jwt(self._signer, token.claims, TYPE)
        event = self._event(EventKind.OPERATION_ISSUED, minter, session, wanted, address)
        named = msgspec.structs.replace(
            event,
            decision="allow",
            method=method,
            # Keyed: the digest itself would let anybody who reads the trail try arguments out.
            arguments=self._accessors.of("operation", digest.encode()),
            detail=f"operation {token.jti}, {lifetime} s",
        )
        await self._audit.append(named)
        return Minted(signed, lifetime, digest)

    async def _decide(self, target: str, session: Session, minter: Minter) -> Classified:
        """What classifies the target, if the session's agent may act on it at all."""
        owner = session.principal
        policy = self._settings.policy.of(owner.tenant)
        view = await self._registry.view()
        agent = view.agents.get(AgentId(owner.tenant, owner.agent))
        if agent is None or agent.disabled:
            raise GateError(ErrorCode.MINT_REFUSED, f"agent {owner.tenant}/{owner.agent} is disabled or gone")
        caller = await self._caller(agent, session, policy)
        server = target.partition(".")[0]
        decision = decide(caller, session, server, target, policy)
        if isinstance(decision, Deny):
            raise GateError(ErrorCode.MINT_REFUSED, f"the agent may not: {decision.code.value}")
        found = policy.classify(target)
        if found is None:
            raise GateError(ErrorCode.MINT_REFUSED, "no entry classifies the target")
        listed = minter.client.tools
        if minter.client.kind is ClientKind.AUTHORIZER and not covers(listed, found.entry, found.tool_class):
            raise GateError(ErrorCode.MINT_REFUSED, f"{found.entry} is not among the authorizer's tools")
        return found

    async def _caller(self, agent: Agent, session: Session, policy: Policy) -> Principal:
        """The agent as its call will show it, as far as that is known now: its token's scopes are not."""
        owner = session.principal
        roles: tuple[str, ...] = ()
        groups: tuple[str, ...] = ()
        known = owner.user is not None and owner.user.issuer == self._settings.issuer
        if known and owner.user is not None:
            person = await self._people.user(owner.tenant, owner.user.subject)
            if person is None or person.disabled:
                raise GateError(ErrorCode.MINT_REFUSED, "the session's person is disabled or gone")
            roles, groups = person.roles, person.groups
        caller = hypothetical_principal(agent, {}, scopes=tuple(policy.scopes), groups=groups, user_roles=roles)
        # What another issuer says of its users is in their tokens only.
        return msgspec.structs.replace(caller, user=owner.user if known else None)

    def _event(
        self, kind: EventKind, minter: Minter, session: Session | None, wanted: Wanted | None, address: str
    ) -> AuditEvent:
        owner = None if session is None else session.principal
        user = None if owner is None else owner.user
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            address=address,
            tenant=minter.client.tenant,
            issuer="" if owner is None else owner.issuer,
            agent="" if owner is None else owner.agent,
            client=minter.client.client_id,
            user_issuer="" if user is None else user.issuer,
            user="" if user is None else user.subject,
            session="" if session is None else session.id,
            task="" if session is None else session.task,
            server="" if wanted is None else wanted.tool.partition(".")[0],
            target="" if wanted is None else wanted.tool,
            credential=minter.credential,
        )


_ANOMALIES: Final = frozenset({ErrorCode.MINT_REFUSED})


def _parse(headers: Mapping[str, str], body: bytes) -> Wanted:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise GateError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "content-type")
    try:
        wanted = msgspec.convert(decode(body, max_bytes=MAX_BODY, max_depth=MAX_DEPTH), Wanted)
    except msgspec.ValidationError:
        # Not "from": its text may quote a value.
        raise GateError(ErrorCode.INVALID_PARAMS, "the body is not {sid, tool, arguments, …}") from None
    return _checked(wanted)


def _checked(wanted: Wanted) -> Wanted:
    check_name(wanted.sid, "sid")
    if len(wanted.tool) > MAX_TARGET:
        raise GateError(ErrorCode.INVALID_PARAMS, "tool is longer than any target")
    return wanted
