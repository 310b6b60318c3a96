"""Logins as those places see them where new access begins: a person who is gone at the provider is not logged in.

A browser stays logged in for hours, and each code that it gets for an application would be a new family of tokens.
"""

from __future__ import annotations

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.logins import Login, Logins, LoginStore
from twogate.flows.authserver.refresh import Upstreams
from twogate.flows.environment import Rng


class ConfirmedLogins(Logins):
    """Logins, each of which the provider that it came from has confirmed a moment ago."""

    def __init__(self, store: LoginStore, rng: Rng, lifetime: int, upstreams: Upstreams) -> None:
        super().__init__(store, rng, lifetime)
        self._upstreams = upstreams

    async def current(self, cookie: str | None, tenant: str | None, now: int) -> Login | None:
        """The live login that a cookie stands for; None also if the person's provider lets nobody be them any more.

        Raises:
            GateError: IDENTITY_PROVIDER_UNAVAILABLE if nobody can tell; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        login = await super().current(cookie, tenant, now)
        if login is None or login.upstream is None:
            return login
        try:
            await self._upstreams.confirm(login.upstream, now)
        except GateError as error:
            if error.code is ErrorCode.GRANT_INVALID:
                return None
            raise
        return login
