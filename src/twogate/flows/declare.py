"""`POST /sessions`: an agent declares a task and gets the handle of its session (DESIGN decision 6b)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.session import Session
from twogate.core.strict_json import decode
from twogate.flows.environment import Clock
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import parse_credential
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
        self, *, resource: str, authenticator: Authenticator, registry: Registry, sessions: Sessions, clock: Clock
    ) -> None:
        self._resource = resource
        self._authenticator = authenticator
        self._registry = registry
        self._sessions = sessions
        self._clock = clock

    async def respond(self, headers: Mapping[str, str], body: bytes, address: str) -> Session:
        """The principal's session for the declared task.

        Raises:
            GateError: any code of gate one, of the message, TASK_UNKNOWN, TASK_LIMIT, SESSION_ENDED.
        """
        now = self._clock.now()
        bearer = parse_credential(headers)
        view = await self._registry.view()
        principal = await self._authenticator.authenticate(bearer, self._resource, view, now)
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise GateError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "content-type")
        try:
            declaration = msgspec.convert(decode(body, max_bytes=MAX_BODY, max_depth=_MAX_DEPTH), Declaration)
        except msgspec.ValidationError as error:
            raise GateError(ErrorCode.INVALID_PARAMS, 'the body is not {"task": NAME}') from error
        return await self._sessions.declare(declaration.task, principal, now, address)
