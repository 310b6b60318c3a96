"""Grant families: one grant of a person to a client, and every token that ever comes from it (RFC 9700 section 4.14.2).

Each grant has a family, also one without refresh tokens, so that all of its access tokens can be taken back by its id.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode
from twogate.core.oauth.access_token import encode_base64url
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.refresh_token import (
    HANDLE_BYTES,
    SECRET_BYTES,
    RefreshToken,
    digest_of,
    new_refresh_token,
    parse_refresh_token,
)
from twogate.core.principal import Agent
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.access_tokens import AccessTokens
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.revocations import RevocationKind, outlasts_tokens
from twogate.flows.environment import Clock, Rng

GRANT_ID_BYTES: Final = 16


class Lifespans(msgspec.Struct, frozen=True):
    """Seconds that a refresh token may lie unused, and that a family may live in all, however often it is used."""

    unused: int
    whole: int

    def of_use(self, created_at: int, ends_at: int | None, now: int) -> int:
        """When a family that is used now expires, unless it is used again; Unix seconds."""
        ends = (now + self.unused, created_at + self.whole, ends_at)
        return min(end for end in ends if end is not None)


class Family(msgspec.Struct, frozen=True):
    """A family as the store knows it. Times are Unix seconds.

    `id` is the `grant_id` of its access tokens. `handle`, `current` and `previous` are digests: of its refresh tokens'
    handle, and of the secrets of the one that is good and the one before; '' where there is none. `retry_answer` is the
    sealed answer to the last rotation. `generation` counts rotations. `proof_key` is the thumbprint of the key that its
    refresh tokens are bound to (RFC 9449 section 5), which those of confidential clients are not.
    """

    id: str
    authorization: Authorization
    handle: str
    current: str
    created_at: int
    last_used_at: int
    expires_at: int
    proof_key: str | None = None
    previous: str = ""
    rotated_at: int = 0
    retry_answer: str = ""
    generation: int = 0
    revoked_at: int | None = None

    def __repr__(self) -> str:
        """Name it."""
        return f"Family({self.id!r}, generation={self.generation})"

    def is_alive(self, now: int) -> bool:
        """Whether anything may still come from it."""
        return self.revoked_at is None and now < self.expires_at

    def is_current(self, token: RefreshToken) -> bool:
        """Whether this token of the family is the one that is good."""
        return hmac.compare_digest(self.current, digest_of(token.secret))

    def is_previous(self, token: RefreshToken) -> bool:
        """Whether this token of the family is the one that the current one replaced."""
        return hmac.compare_digest(self.previous, digest_of(token.secret))


class Rotation(msgspec.Struct, frozen=True):
    """What changes when a refresh token is used at `at`."""

    current: str
    retry_answer: str
    proof_key: str | None
    at: int
    expires_at: int


class Start(msgspec.Struct, frozen=True):
    """A family that is not stored yet, and the answer to be given once it is."""

    family: Family
    answer: JsonAnswer


class FamilyStore(Protocol):
    """Keeps families."""

    async def add(self, family: Family, now: int) -> None:
        """Keep a new family.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def get(self, grant_id: str) -> Family | None:
        """The family of this id, alive or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def by_handle(self, handle: str) -> Family | None:
        """The family whose refresh tokens have the handle of this digest, alive or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def rotate(self, grant_id: str, spent: str, rotation: Rotation) -> bool:
        """Replace the secret of digest `spent` if it is the current one of a family alive at `rotation.at`; one step.

        True for exactly one of any number of callers.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def revoke(self, grant_id: str, now: int) -> bool:
        """End a family; False if it was ended or there is none. Its retry answer is forgotten.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def list_alive(self, now: int, **owner: str) -> Sequence[Family]:
        """Families alive at `now`, newest first, of the `tenant` and `subject`, or the `client_id`, given.

        Raises:
            GateError: STORE_UNAVAILABLE.
            ValueError: nobody is given.
        """
        ...


class Revoker(Protocol):
    """Takes access tokens back; `revocations.Revocations` does."""

    async def revoke(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        """Refuse every token of `value` from the next request on, until `until`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Families:
    """Starts families and ends them."""

    def __init__(
        self,
        store: FamilyStore,
        tokens: AccessTokens,
        revoker: Revoker,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
        lifespans: Lifespans,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._revoker = revoker
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self.lifespans = lifespans

    async def start(
        self, authorization: Authorization, client: Client, agent: Agent | None, call: ClientCall, *, refresh: bool
    ) -> JsonAnswer:
        """Begin a family: an access token and, if `refresh` and the client may use them, a refresh token.

        Raises:
            GateError: see `AccessTokens.issue`.
        """
        started = await self.prepare(new_grant_id(self._rng), authorization, client, agent, call, refresh=refresh)
        await self._store.add(started.family, call.now)
        return started.answer

    async def prepare(
        self,
        grant_id: str,
        authorization: Authorization,
        client: Client,
        agent: Agent | None,
        call: ClientCall,
        *,
        refresh: bool,
    ) -> Start:
        """Sign and record what begins a family; the caller stores the family, and only then gives the answer.

        In this order, because a crash in between then loses what nobody was given, and not what somebody needs.

        Raises:
            GateError: see `AccessTokens.issue`.
        """
        now = call.now
        refresh = refresh and GrantType.REFRESH_TOKEN in client.grants
        issued = await self._tokens.issue(
            authorization,
            client,
            agent,
            method=call.trace.method,
            address=call.address,
            proof=call.proof,
            grant_id=grant_id,
            not_after=now + self.lifespans.whole,
        )
        token = new_refresh_token(self._rng.token(HANDLE_BYTES), self._rng.token(SECRET_BYTES))
        family = Family(
            id=grant_id,
            authorization=authorization,
            handle=digest_of(token.handle),
            current=digest_of(token.secret) if refresh else "",
            proof_key=bound_to(client, call) if refresh else None,
            created_at=now,
            last_used_at=now,
            expires_at=(self.lifespans.of_use(now, authorization.ends_at, now) if refresh else now + issued.expires_in),
        )
        return Start(family, JsonAnswer(issued.as_json(refresh_token=token.text if refresh else None)))

    async def find(self, refresh_token: str) -> Family | None:
        """The family that a token is or once was of, alive or not; None for anything else. Changes nothing.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        token = parse_refresh_token(refresh_token)
        return None if token is None else await self._store.by_handle(digest_of(token.handle))

    async def grant_of(self, token: str, client: Client, now: int) -> str | None:  # noqa: ARG002 - of any age
        """The grant that a refresh token of this client comes from, however old it is; None for anything else.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        family = await self.find(token)
        return None if family is None or not is_of(family, client) else family.id

    async def describe(self, token: str, client: Client, now: int) -> Mapping[str, object] | None:
        """What introspection says of a refresh token of this client that is good (RFC 7662 section 2.2); else None.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        parsed = parse_refresh_token(token)
        family = await self.find(token)
        if parsed is None or family is None or not is_of(family, client):
            return None
        authorization = family.authorization
        # As at the token endpoint: the configuration may have become stricter since the family was last used.
        ends = self.lifespans.of_use(family.created_at, authorization.ends_at, family.last_used_at)
        if not (family.is_alive(now) and now < ends and family.is_current(parsed)):
            return None
        described: dict[str, object] = {
            "scope": " ".join(authorization.scopes),
            "client_id": authorization.client_id,
            "sub": authorization.client_id if authorization.user is None else authorization.user,
            "aud": authorization.resource,
            "iss": self._tokens.settings.issuer,
            "iat": family.created_at if family.generation == 0 else family.rotated_at,
            "exp": min(family.expires_at, ends),
            "tenant": authorization.tenant,
            "grant_id": family.id,
            "cnf": None if family.proof_key is None else {"jkt": family.proof_key},
        }
        return {name: value for name, value in described.items() if value}

    async def revoke(self, grant_id: str, now: int, reason: str) -> bool:
        """End a grant: no token of it is good from the next request on. False if it had ended, or there is none.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE; then it may be repeated.
        """
        family = await self._store.get(grant_id)
        if family is None or family.revoked_at is not None:
            return False
        await self._audit.append(self._event(family, reason))
        # The row last: only once it says so may the next attempt find nothing to do.
        await self._revoker.revoke("grant", family.id, outlasts_tokens(now), now)
        return await self._store.revoke(family.id, now)

    async def revoke_user(self, tenant: str, subject: str, now: int, reason: str = "user") -> int:
        """End every grant of a person; how many there were.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        return await self._revoke_all(await self.list_for_user(tenant, subject, now), now, reason)

    async def revoke_client(self, client_id: str, now: int, reason: str = "client") -> int:
        """End every grant to a client; how many there were.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        return await self._revoke_all(await self._store.list_alive(now, client_id=client_id), now, reason)

    async def list_for_user(self, tenant: str, subject: str, now: int) -> Sequence[Family]:
        """A person's grants that are alive, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.list_alive(now, tenant=tenant, subject=subject)

    async def _revoke_all(self, families: Sequence[Family], now: int, reason: str) -> int:
        ended = [await self.revoke(family.id, now, reason) for family in families]
        return sum(ended)

    def _event(self, family: Family, reason: str) -> AuditEvent:
        authorization = family.authorization
        issuer = self._tokens.settings.issuer
        return AuditEvent(
            kind=EventKind.GRANT_REVOKED,
            at=self._clock.now_us(),
            tenant=authorization.tenant,
            issuer=issuer,
            client=authorization.client_id,
            user_issuer="" if authorization.user is None else issuer,
            user=authorization.user or "",
            task=authorization.task or "",
            credential=f"grant {family.id}",
            reason=reason,
            anomaly=reason == ErrorCode.GRANT_REUSED,
        )


def new_grant_id(rng: Rng) -> str:
    """An id for a grant. It is a name and no secret: access tokens and the audit trail carry it."""
    return encode_base64url(rng.token(GRANT_ID_BYTES))


def is_of(family: Family, client: Client) -> bool:
    """Whether a family is this client's."""
    authorization = family.authorization
    return (authorization.tenant, authorization.client_id) == (client.tenant, client.client_id)


def bound_to(client: Client, call: ClientCall) -> str | None:
    """The key that a refresh token for this call is bound to.

    "Refresh tokens issued to public clients MUST be bound"; those of others are "already sender-constrained with a
    different existing mechanism", the client's authentication (RFC 9449 section 5).
    """
    return call.proof if client.auth is ClientAuth.NONE else None
