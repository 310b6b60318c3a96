"""`POST /sessions`: an agent declares a task and gets the handle of its session (DESIGN decision 6b)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.confirmation import ClientCertificate
from twogate.core.principal import Principal
from twogate.core.session import Session
from twogate.core.strict_json import decode
from twogate.flows.audit import Refusals
from twogate.flows.environment import Clock
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import parse_credential
from twogate.flows.gateway.possession import Possession, proven_by
from twogate.flows.gateway.record import refused_event
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions

MAX_BODY = 4096
"""Bytes that a declaration may have."""

_MAX_DEPTH = 4


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body: the one task."""

    task: str


class DeclareTask:
    """Opens sessions for agents that prove who they are with a token for the sessions resource."""

    def __init__(
        self,
        *,
        resource: str,
        authenticator: Authenticator,
        possession: Possession,
        registry: Registry,
        sessions: Sessions,
        refusals: Refusals,
        clock: Clock,
    ) -> None:
        self._resource = resource
        self._authenticator = authenticator
        self._possession = possession
        self._registry = registry
        self._sessions = sessions
        self._refusals = refusals
        self._clock = clock

    async def respond(
        self,
        headers: Mapping[str, str],
        read_body: Callable[[], Awaitable[bytes]],
        address: str,
        certificate: ClientCertificate | None = None,
    ) -> Session:
        """The principal's session for the declared task. The body is read after gate one only.

        `certificate` is the client's, of the TLS connection.

        Raises:
            GateError: any code of gate one, of the message, TASK_UNKNOWN, TASK_LIMIT, SESSION_ENDED. It is recorded.
        """
        now = self._clock.now()
        try:
            principal = await self._authenticate(headers, certificate, now)
            task = _parse(headers, await read_body()).task
        except GateError as error:
            at = self._clock.now_us()
            await self._refusals.record(refused_event(error, at=at, address=address, detail=f"sessions: {error.debug}"))
            raise
        return await self._sessions.declare(task, principal, now, address)

    async def _authenticate(
        self, headers: Mapping[str, str], certificate: ClientCertificate | None, now: int
    ) -> Principal:
        bearer = parse_credential(headers)
        proof = self._possession.verify(bearer, "POST", self._resource, now)
        view = await self._registry.view()
        proven = proven_by(proof, certificate)
        principal = await self._authenticator.authenticate(bearer, self._resource, view, now, proven)
        await self._possession.redeem(proof, principal, now)
        return principal


def _parse(headers: Mapping[str, str], body: bytes) -> Declaration:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise GateError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "content-type")
    try:
        return msgspec.convert(decode(body, max_bytes=MAX_BODY, max_depth=_MAX_DEPTH), Declaration)
    except msgspec.ValidationError as error:
        raise GateError(ErrorCode.INVALID_PARAMS, 'the body is not {"task": NAME}') from error
