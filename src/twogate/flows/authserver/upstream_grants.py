"""What upstream providers gave for people who logged in there, and asking them again (rows R-24, R-25).

A person who is gone at the provider loses access at the next refresh: the provider's refresh token is redeemed first.
Providers rotate these tokens and take a second use of one for theft, so of all processes one asks at a time, and what
came back is kept before anything else is done with it. Who asked a moment ago asked for everybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, NoReturn, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.provider import ProviderRefusal, ProviderTokens
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.people import User
from twogate.flows.authserver.upstream_provider import ProviderRules, UpstreamProvider
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Clock, Rng

FRESH: Final = 30
"""Seconds for which an answer of the provider counts."""

ASKING: Final = 40
"""Seconds for which one request has the provider to itself; more than asking, storing and verifying may take."""

WAIT_PAUSE: Final = 0.1
WAIT_ROUNDS: Final = 150
"""How long a request waits for another process that asks: this many pauses of that many seconds."""

KEEP_ATTEMPTS: Final = 3
"""How often storing a rotated refresh token is tried."""

PURPOSE: Final = "upstream refresh token"
ID_BYTES: Final = 32
_ASKER_BYTES: Final = 16


class UpstreamGrant(msgspec.Struct, frozen=True):
    """One login at a provider, from which families of tokens come. Times are Unix seconds.

    `refresh_token` is sealed, b"" if the provider gave none. `issuer` and `client_id` say whose token it is: it is
    never shown to another provider, whatever the configuration comes to say.
    """

    id: str
    tenant: str
    subject: str
    issuer: str
    client_id: str
    confirmed_at: int
    expires_at: int
    refresh_token: bytes = b""
    ended_at: int | None = None


class UpstreamGrantStore(Protocol):
    """Keeps upstream grants."""

    async def add(self, grant: UpstreamGrant, now: int) -> None:
        """Keep a new grant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, grant_id: str) -> UpstreamGrant | None:
        """The grant of this id, ended or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def ask(self, grant_id: str, asker: str, confirmed_at: int, now: int, until: int) -> UpstreamGrant | None:
        """Give the provider to one asker until `until`: the grant as it is now, or None.

        None if somebody else has it, or if the grant ended or was confirmed at another moment than `confirmed_at`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def keep(self, grant_id: str, asker: str, refresh_token: bytes) -> bool:
        """Replace the refresh token; False if the grant is not this asker's any more.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def settle(self, grant_id: str, asker: str, confirmed_at: int | None) -> None:
        """Let others ask again; with `confirmed_at`, the person was there then.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def end(self, grant_id: str, now: int) -> bool:
        """End a grant for ever, and every browser's login that came from it; whether it had not ended yet.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class UpstreamPeople(Protocol):
    """Finds the people whom providers vouch for."""

    async def user(self, tenant: str, subject: str) -> User | None:
        """A person as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def by_identity(self, issuer: str, provider_subject: str, tenant: str) -> User | None:
        """The person that a provider's subject is in a tenant.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

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


class UpstreamGrants:
    """Keeps what providers gave, and confirms it."""

    def __init__(
        self,
        issuer: str,
        providers: Iterable[UpstreamProvider],
        store: UpstreamGrantStore,
        people: UpstreamPeople,
        envelope: Envelope,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._issuer = issuer
        self._providers = tuple(providers)
        self._store = store
        self._people = people
        self._envelope = envelope
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._asking: dict[str, asyncio.Task[None]] = {}
        # Rotated refresh tokens that the store did not take, still sealed: the next request tries again.
        self._unstored: dict[str, bytes] = {}

    async def begin(
        self,
        rules: ProviderRules,
        tenant: str,
        subject: str,
        refresh_token: str | None,
        now: int,
        expires_at: int,
    ) -> str:
        """Keep what a provider gave at a login, `refresh_token` None if it gave none; the new grant's id.

        Raises:
            GateError: KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        grant_id = encode_base64url(self._rng.token(ID_BYTES))
        sealed = b"" if refresh_token is None else await self._envelope.seal(PURPOSE, grant_id, refresh_token.encode())
        grant = UpstreamGrant(grant_id, tenant, subject, rules.issuer, rules.client_id, now, expires_at, sealed)
        await self._store.add(grant, now)
        return grant_id

    async def confirm(self, upstream: str, now: int) -> None:
        """Make sure that the person behind a login is still there; within `FRESH` seconds, by what was heard last.

        Raises:
            GateError: GRANT_INVALID if not, IDENTITY_PROVIDER_UNAVAILABLE if nobody can tell; KEYS_UNAVAILABLE,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        task = self._asking.get(upstream)
        if task is None:
            # A task of its own: once the provider was asked, its answer must be kept even if the client has gone.
            task = asyncio.create_task(self._confirm(upstream, now))
            self._asking[upstream] = task
            task.add_done_callback(lambda done: self._forget(upstream, done))
        await asyncio.shield(task)

    def _forget(self, upstream: str, task: asyncio.Task[None]) -> None:
        del self._asking[upstream]
        if not task.cancelled():
            task.exception()  # Whoever waited has it; nobody may have.

    async def _confirm(self, upstream: str, now: int) -> None:
        for _ in range(WAIT_ROUNDS):
            grant = await self._live(upstream, now)
            provider = self._provider_of(grant)
            if provider is None:
                await self._end(grant, "the identity provider is none of the tenant's any more", now)
            if abs(now - grant.confirmed_at) < FRESH or not grant.refresh_token:
                await self._admit(provider, grant, now)
                return
            # Before anything is taken hold of: without it nothing can be asked.
            await provider.metadata()
            asker = encode_base64url(self._rng.token(_ASKER_BYTES))
            held = await self._store.ask(upstream, asker, grant.confirmed_at, now, now + ASKING)
            if held is not None:
                await self._ask(provider, held, asker, now)
                return
            await asyncio.sleep(WAIT_PAUSE)
        raise GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, "another process asks the provider, and has no answer")

    async def _live(self, upstream: str, now: int) -> UpstreamGrant:
        grant = await self._store.get(upstream)
        if grant is None or grant.ended_at is not None or now >= grant.expires_at:
            raise GateError(ErrorCode.GRANT_INVALID, "the login at the identity provider has ended")
        return grant

    def _provider_of(self, grant: UpstreamGrant) -> UpstreamProvider | None:
        for provider in self._providers:
            rules = provider.rules
            if (rules.issuer, rules.client_id) == (grant.issuer, grant.client_id) and grant.tenant in rules.tenants:
                return provider
        return None

    async def _admit(self, provider: UpstreamProvider, grant: UpstreamGrant, now: int) -> None:
        """Judge by the groups that are known here."""
        user = await self._people.user(grant.tenant, grant.subject)
        if user is None or user.disabled:
            raise GateError(ErrorCode.GRANT_INVALID, "the user is disabled or gone")
        try:
            provider.rules.admit(grant.tenant, user.groups)
        except GateError as error:
            await self._end(grant, error.debug, now)

    async def _ask(self, provider: UpstreamProvider, grant: UpstreamGrant, asker: str, now: int) -> None:
        confirmed_at = None
        try:
            answer = await self._redeem(provider, grant, asker, now)
            if isinstance(answer, ProviderRefusal):
                await self._end(grant, f"the identity provider said {answer.error}", now)
            elif answer.id_token is None:
                await self._admit(provider, grant, now)
            else:
                await self._reread(provider, grant, answer.id_token, answer.access_token, now)
            confirmed_at = now
        finally:
            await self._store.settle(grant.id, asker, confirmed_at)

    async def _redeem(
        self, provider: UpstreamProvider, grant: UpstreamGrant, asker: str, now: int
    ) -> ProviderTokens | ProviderRefusal:
        sealed = self._unstored.get(grant.id, grant.refresh_token)
        token = (await self._envelope.open(PURPOSE, grant.id, sealed)).decode()
        answer = await provider.refresh(token, now)
        if isinstance(answer, ProviderRefusal):
            self._unstored.pop(grant.id, None)
            if not answer.gone:
                # About our request, such as a secret that was changed: the person may be there all the same.
                raise GateError(
                    ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, f"{provider.rules.issuer} refused: {answer.error}"
                )
            return answer
        if answer.refresh_token is not None and answer.refresh_token != token:
            await self._keep(grant, asker, answer.refresh_token)
        return answer

    async def _keep(self, grant: UpstreamGrant, asker: str, refresh_token: str) -> None:
        """Store a rotated token at once: the old one is of no more use."""
        sealed = await self._envelope.seal(PURPOSE, grant.id, refresh_token.encode())
        self._unstored[grant.id] = sealed
        for attempt in range(KEEP_ATTEMPTS):
            try:
                kept = await self._store.keep(grant.id, asker, sealed)
            except GateError as error:
                if attempt == KEEP_ATTEMPTS - 1:
                    reason = "the identity provider's new refresh token could not be stored"
                    raise GateError(error.code, f"{reason}: {error.debug}") from error
            else:
                break
        else:
            kept = False
        del self._unstored[grant.id]
        if not kept:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, "the login ended, or took too long, meanwhile")

    async def _reread(
        self, provider: UpstreamProvider, grant: UpstreamGrant, id_token: str, access_token: str | None, now: int
    ) -> None:
        """Take over what the provider says of the person now."""
        rules = provider.rules
        try:
            token = await provider.verify_refreshed(id_token, access_token, now)
            person = rules.person(token)
        except GateError as error:
            if error.code is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE:
                raise
            # Nothing that can be relied on was said; the person may be there all the same.
            raise GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, error.debug) from error
        user = await self._people.by_identity(rules.issuer, person.subject, grant.tenant)
        if user is None or user.subject != grant.subject:
            await self._end(grant, "the new ID token is of somebody else", now)
        if frozenset(user.groups) != frozenset(person.groups):
            # Before they are judged: what a person lost is lost for every other client too.
            user = await self._people.upstream_user(
                rules.issuer, person.subject, grant.tenant, user.name, user.display_name, person.groups, now
            )
        await self._admit(provider, grant, now)

    async def _end(self, grant: UpstreamGrant, reason: str, now: int) -> NoReturn:
        await self._audit.append(
            AuditEvent(
                kind=EventKind.GRANT_REVOKED,
                at=self._clock.now_us(),
                issuer=self._issuer,
                tenant=grant.tenant,
                user_issuer=self._issuer,
                user=grant.subject,
                method="upstream",
                reason=ErrorCode.IDENTITY_PROVIDER_REFUSED.value,
                detail=f"{grant.issuer}: {reason}",
            )
        )
        await self._store.end(grant.id, now)
        raise GateError(ErrorCode.GRANT_INVALID, reason)
