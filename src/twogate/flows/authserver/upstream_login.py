"""Logging in through an upstream provider: out to it, and back with a code (OpenID Connect Core section 3.1; row R-24).

What keeps one login apart from every other, on the way back:

1. `state` is random, kept by its digest, works once, and only in the browser that it was given to;
2. it belongs to one provider, whose redirect URI nobody else uses (RFC 9700 section 4.4.2), and the response must not
   say that another sent it (RFC 9207);
3. the code goes to that provider's token endpoint only, with a PKCE verifier that never left this server;
4. the ID token is that provider's, for us, and holds the nonce of this login;
5. the person may come into the tenant of the login page, and is not disabled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.id_token import IdToken
from twogate.core.oauth.provider import (
    AuthorizationResponse,
    ProviderTokens,
    parse_authorization_response,
    verify_sender,
)
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.begin_limit import BeginLimit
from twogate.flows.authserver.logins import Login
from twogate.flows.authserver.people import User
from twogate.flows.authserver.upstream_grants import UpstreamGrants
from twogate.flows.authserver.upstream_pending import Carried, PendingLogins
from twogate.flows.authserver.upstream_provider import LOGIN_PATH, Person, UpstreamProvider, read_person
from twogate.flows.environment import Clock

METHOD: Final = "upstream"
"""How logins and audit events call this way of logging in."""


class UpstreamUsers(Protocol):
    """Finds the people whom providers vouch for."""

    async def upstream_user(
        self,
        provider_issuer: str,
        provider_subject: str,
        tenant: str,
        name: str,
        display_name: str,
        groups: Sequence[str],
        now: int,
    ) -> User:
        """The person that this provider's subject is in the tenant, found or made, with these groups.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        ...


class BrowserLogins(Protocol):
    """Makes browsers logged in."""

    async def begin(self, login: Login, now: int, replaces: str | None = None) -> str:
        """The value of the browser's cookie; `replaces` is the value that it had, whose login ends.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class LoginSettings(msgspec.Struct, frozen=True):
    """Whose events these are, and seconds: how long a browser's login, and a family of tokens, live at most.

    `grant_without_refresh` is how long, where the provider gave nothing to ask it again with.
    """

    issuer: str
    login: int
    grant: int
    grant_without_refresh: int


class Finished(msgspec.Struct, frozen=True):
    """A person is logged in: the cookie for the browser, and where it goes on to."""

    cookie: str
    to: str

    def __repr__(self) -> str:
        """Never the cookie."""
        return f"Finished(to={self.to!r})"


class UpstreamLogins:
    """Logs people in at the configured providers. `is_target` says where a browser may go on to."""

    def __init__(
        self,
        settings: LoginSettings,
        providers: Iterable[UpstreamProvider],
        pending: PendingLogins,
        grants: UpstreamGrants,
        users: UpstreamUsers,
        logins: BrowserLogins,
        is_target: Callable[[str], bool],
        trail: tuple[AuditSink, Refusals],
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._providers: Mapping[str, UpstreamProvider] = {provider.rules.name: provider for provider in providers}
        self._pending = pending
        self._grants = grants
        self._users = users
        self._logins = logins
        self._is_target = is_target
        self._audit, self._refusals = trail
        self._clock = clock
        self._limit = BeginLimit(clock)

    def providers_of(self, tenant: str) -> Sequence[tuple[str, str]]:
        """Where a tenant's people may log in: the path that a form is posted to, and what the provider is called."""
        return [
            (f"{LOGIN_PATH}/{name}", provider.rules.label)
            for name, provider in self._providers.items()
            if tenant in provider.rules.tenants
        ]

    def label_of(self, name: str) -> str:
        """What a provider is called; its name if there is none."""
        provider = self._providers.get(name)
        return name if provider is None else provider.rules.label

    async def begin(self, name: str, tenant: str, to: str, browser: str, address: str, *, again: bool = False) -> str:
        """Begin a login in a browser (its digest): the URL at the provider that it goes to.

        `again`: the person shall log in there anew.

        Raises:
            GateError: NOT_FOUND, REQUEST_MALFORMED, RATE_LIMITED, IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        try:
            provider = self._provider(name)
            if tenant not in provider.rules.tenants:
                raise GateError(ErrorCode.NOT_FOUND, "the provider is none of the tenant's")
            if not self._is_target(to):
                raise GateError(ErrorCode.REQUEST_MALFORMED, "to is no page that a login leads to")
            self._limit.count(address)
            outbound = self._pending.draw(name, tenant, to)
            # First, so that nothing is kept of a login that cannot begin.
            url = await provider.authorization_url(
                outbound.state, outbound.carried.nonce, outbound.challenge, again=again
            )
            await self._pending.keep(outbound, browser, now)
        except GateError as error:
            await self._refuse(error, name, "", address)
            raise
        return url

    async def finish(
        self, name: str, query: bytes, browser: str, address: str, replaces: str | None = None
    ) -> Finished:
        """Take a browser (its digest) back from a provider, and log its person in.

        `replaces` is the cookie of an earlier login in that browser, which ends with this one.

        Raises:
            GateError: REQUEST_MALFORMED, PARAMETER_REPEATED, INTERACTION_EXPIRED, IDENTITY_PROVIDER_REFUSED,
                IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        tenant = ""
        try:
            response = parse_authorization_response(query)
            # 1.
            carried = await self._pending.redeem(response.state, browser, now)
            tenant = carried.tenant
            # 2.
            if carried.provider != name:
                raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, f"the login began at {carried.provider}: mixed up")
            provider = self._provider(name)
            tokens = await self._exchange(provider, response, carried, now)
            # 4.
            token = await provider.verify_login(tokens, carried.nonce, now)
            return await self._log_in(provider, token, tokens.refresh_token, carried, (address, replaces), now)
        except GateError as error:
            await self._refuse(error, name, tenant, address)
            raise

    def _provider(self, name: str) -> UpstreamProvider:
        provider = self._providers.get(name)
        if provider is None:
            raise GateError(ErrorCode.NOT_FOUND, "no provider of this name")
        return provider

    async def _exchange(
        self, provider: UpstreamProvider, response: AuthorizationResponse, carried: Carried, now: int
    ) -> ProviderTokens:
        # 2. Errors too are responses that say who sends them (RFC 9207 section 2).
        verify_sender(response, await provider.metadata())
        if response.code is None:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, f"the provider said {response.error}")
        # 3.
        return await provider.redeem_code(response.code, carried.verifier, now)

    async def _log_in(
        self,
        provider: UpstreamProvider,
        token: IdToken,
        refresh_token: str | None,
        carried: Carried,
        browser: tuple[str, str | None],
        now: int,
    ) -> Finished:
        address, replaces = browser
        rules, tenant, settings = provider.rules, carried.tenant, self._settings
        # 5.
        person = read_person(rules, token)
        rules.admit(tenant, person.groups)
        user = await self._user(rules.issuer, person, tenant, now)
        if user.disabled:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, f"user {user.subject} is disabled")
        # Without a refresh token nobody can ask again whether the person is still there, so it ends soon.
        ends_at = None if refresh_token is not None else now + settings.grant_without_refresh
        await self._audit.append(
            AuditEvent(
                kind=EventKind.LOGIN_SUCCEEDED,
                at=self._clock.now_us(),
                address=address,
                issuer=settings.issuer,
                tenant=tenant,
                user_issuer=settings.issuer,
                user=user.subject,
                method=METHOD,
                detail=f"at {rules.name}, {rules.issuer}",
            )
        )
        # Families may begin as long as the browser is logged in.
        expires_at = now + settings.login + settings.grant if ends_at is None else ends_at
        upstream = await self._grants.begin(rules, tenant, user.subject, refresh_token, now, expires_at)
        authenticated_at = now if token.authenticated_at is None else token.authenticated_at
        login = Login(tenant, user.subject, METHOD, authenticated_at, upstream, ends_at)
        cookie = await self._logins.begin(login, now, replaces)
        return Finished(cookie, carried.to)

    async def _user(self, issuer: str, person: Person, tenant: str, now: int) -> User:
        return await self._users.upstream_user(
            issuer, person.subject, tenant, person.name or person.subject, person.display_name, person.groups, now
        )

    async def _refuse(self, error: GateError, name: str, tenant: str, address: str) -> None:
        # Strangers can cause all of these, so they are coalesced.
        await self._refusals.record(
            AuditEvent(
                kind=EventKind.LOGIN_REFUSED,
                at=self._clock.now_us(),
                address=address,
                issuer=self._settings.issuer,
                tenant=tenant,
                method=METHOD,
                target=name if name in self._providers else "",
                reason=error.code.value,
                detail=error.debug,
            )
        )
