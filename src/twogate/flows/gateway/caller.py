"""Who sent a request, proven anew whenever time has passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.principal import Principal
from twogate.flows.environment import Clock
from twogate.flows.gateway.exchange import Head
from twogate.flows.gateway.read import Authenticated

PROVEN_FOR: Final = 0.01
"""Seconds after which a caller is proven again: a client decides how long its body takes, and within that time its
token may expire or an operator may cut it off."""

Prove = Callable[[int], Awaitable[Principal]]
"""Gate one, for one credential at a Unix time."""


class Caller:
    """The caller of one request. `authenticated` was true at `now` (Unix seconds)."""

    def __init__(self, head: Head, prove: Prove, clock: Clock, principal: Principal, now: int, at: float) -> None:
        self._prove = prove
        self._clock = clock
        self._at = at
        self.authenticated = Authenticated(head, principal)
        self.now = now

    @classmethod
    async def prove(cls, head: Head, prove: Prove, clock: Clock) -> Caller:
        """Take the caller of a request through gate one.

        Raises:
            GateError: what gate one raises.
        """
        now, at = clock.now(), clock.monotonic()
        return cls(head, prove, clock, await prove(now), now, at)

    def of(self, head: Head) -> Caller:
        """The same caller, of a request that another one stands for."""
        return Caller(head, self._prove, self._clock, self.authenticated.principal, self.now, self._at)

    async def current(self) -> Authenticated:
        """The caller as of this moment, give or take `PROVEN_FOR`.

        Raises:
            GateError: as `renewed`.
        """
        if self._clock.monotonic() - self._at > PROVEN_FOR:
            return await self.renewed()
        return self.authenticated

    async def still(self) -> Authenticated:
        """The caller as of when it was last proven, by what was revoked, disabled or unbound since.

        A credential that ran out meanwhile takes nothing back: the call began while it was good.

        Raises:
            GateError: as `renewed`.
        """
        return self._same(await self._prove(self.now))

    async def renewed(self) -> Authenticated:
        """The caller, proven again.

        Raises:
            GateError: what gate one raises; AGENT_UNBOUND if the credential meanwhile means another agent.
        """
        self.now, self._at = self._clock.now(), self._clock.monotonic()
        return self._same(await self._prove(self.now))

    def _same(self, principal: Principal) -> Authenticated:
        if principal.key != self.authenticated.principal.key:
            # What was opened for the one (an MCP session) must not serve the other.
            raise GateError(ErrorCode.AGENT_UNBOUND, "the identity was bound to another agent meanwhile")
        self.authenticated = Authenticated(self.authenticated.head, principal)
        return self.authenticated
