"""The refresh token grant: each token is good once, and a second use of one ends its family (RFC 9700 section 4.14.2).

The one exception is a retry: a client that lost the answer, or several workers of one that refresh at once. Who can
prove to be that client, by authentication or by its key, is answered as before for 10 seconds (ADR 0010).
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.refresh_token import (
    SECRET_BYTES,
    RefreshToken,
    digest_of,
    new_refresh_token,
    parse_refresh_token,
)
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.access_tokens import AccessTokens
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.families import Families, Family, FamilyStore, Rotation, bound_to, is_of
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.narrowing import narrow
from twogate.flows.authserver.retry_answer import RETRY_WINDOW, RetryAnswers, asked_by
from twogate.flows.authserver.turns import Turns
from twogate.flows.environment import Clock, Rng


class Upstreams(Protocol):
    """Asks identity providers whether the people that came through them are still theirs."""

    async def confirm(self, upstream: str, now: int) -> None:
        """Return if the person of an upstream login still has access there.

        Raises:
            GateError: GRANT_INVALID if not; IDENTITY_PROVIDER_UNAVAILABLE if nobody knows.
        """
        ...


class RefreshGrant:
    """Implements `grant.Grant`."""

    type: ClassVar[GrantType] = GrantType.REFRESH_TOKEN
    anonymous: ClassVar[bool] = False

    def __init__(
        self,
        store: FamilyStore,
        families: Families,
        tokens: AccessTokens,
        upstreams: Upstreams,
        answers: RetryAnswers,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._store = store
        self._families = families
        self._tokens = tokens
        self._upstreams = upstreams
        self._answers = answers
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._turns = Turns()

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """Answer a refresh request (RFC 6749 section 6).

        1. The token is of a family of this client that is alive.
        2. It is the current one; if not, it is a retry, or the family ends.
        3. The proof is by the key that the token is bound to.
        4. The request asks for what was granted, or less.
        5. The person is still known where they came from.
        6. The access token is signed and recorded, after all that it says was looked at anew.
        7. The token is replaced and the answer kept for a retry, in one step, or it was used meanwhile: step 2.

        Raises:
            GateError: REQUEST_MALFORMED, GRANT_INVALID, GRANT_REUSED, SCOPE_INVALID, RESOURCE_INVALID, DETAILS_INVALID;
                IDENTITY_PROVIDER_UNAVAILABLE; see `AccessTokens.issue`.
        """
        client = call.client
        if client is None:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "a refresh token is a client's")
        if "refresh_token" not in call.form:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "refresh_token is missing")
        token = parse_refresh_token(call.form["refresh_token"])
        if token is None:
            raise GateError(ErrorCode.GRANT_INVALID, "no refresh token of this server")
        async with self._turns.of(digest_of(token.handle)):
            family = await self._live(token, client, call)
            if not family.is_current(token):
                return await self._spent(family, token, client, call)
            answer = await self._rotate(family, token, client, call)
            if answer is not None:
                return answer
            return await self._spent(await self._live(token, client, call), token, client, call)

    async def _live(self, token: RefreshToken, client: Client, call: ClientCall) -> Family:
        # 1.
        family = await self._store.by_handle(digest_of(token.handle))
        if family is None or not is_of(family, client):
            raise GateError(ErrorCode.GRANT_INVALID, "unknown refresh token, or another client's")
        call.trace.user = family.authorization.user or ""
        now = self._clock.now()
        # The configuration may have become stricter since the family was last used.
        if not family.is_alive(now) or now >= self._expires_at(family, family.last_used_at):
            raise GateError(ErrorCode.GRANT_INVALID, f"grant {family.id} was revoked or has expired")
        return family

    async def _rotate(self, family: Family, spent: RefreshToken, client: Client, call: ClientCall) -> JsonAnswer | None:
        # 3.
        if family.proof_key is not None and family.proof_key != call.proof:
            raise GateError(ErrorCode.GRANT_INVALID, "the refresh token is bound to another key, or there is no proof")
        # 4.
        narrowed = narrow(family.authorization, call.form)
        # 5.
        await self._confirm(family)
        # 6.
        issued = await self._tokens.issue(
            narrowed,
            client,
            call.agent,
            method=call.trace.method,
            address=call.address,
            proof=call.proof,
            grant_id=family.id,
            not_after=family.created_at + self._families.lifespans.whole,
        )
        # 7. Signed before the token is used up: a crash in between leaves the client with a token that is good.
        fresh = new_refresh_token(spent.handle, self._rng.token(SECRET_BYTES))
        body = issued.as_json(refresh_token=fresh.text)
        kept = await self._answers.seal(family.id, spent, asked_by(call), body)
        now = self._clock.now()
        # A public client that starts to prove itself has the next token bound.
        proof_key = family.proof_key or bound_to(client, call)
        rotation = Rotation(digest_of(fresh.secret), kept, proof_key, now, self._expires_at(family, now))
        rotated = await self._store.rotate(family.id, digest_of(spent.secret), rotation)
        return JsonAnswer(body) if rotated else None

    async def _confirm(self, family: Family) -> None:
        if family.authorization.upstream is None:
            return
        now = self._clock.now()
        try:
            await self._upstreams.confirm(family.authorization.upstream, now)
        except GateError as error:
            if error.code is ErrorCode.GRANT_INVALID:
                await self._families.revoke(family.id, now, "upstream")
            raise

    async def _spent(self, family: Family, token: RefreshToken, client: Client, call: ClientCall) -> JsonAnswer:
        # 2. By its handle it was a token of this family.
        if not self._may_retry(family, token, client, call):
            # "the authorization server cannot determine which party submitted the invalid refresh token, but it will
            # revoke the active refresh token" (RFC 9700 section 4.14.2).
            await self._families.revoke(family.id, self._clock.now(), ErrorCode.GRANT_REUSED)
            raise GateError(ErrorCode.GRANT_REUSED, f"the refresh token was used before; grant {family.id}")
        kept = await self._answers.open(family.id, token, family.retry_answer)
        if kept.asked != asked_by(call):
            # Nothing is handed out, and two workers of an honest client that ask for different scopes are no theft.
            raise GateError(ErrorCode.GRANT_INVALID, "the refresh token was just used for another request")
        await self._audit.append(self._retry_event(family, call))
        return JsonAnswer(kept.body)

    def _may_retry(self, family: Family, token: RefreshToken, client: Client, call: ClientCall) -> bool:
        bound = family.proof_key is not None and family.proof_key == call.proof
        return (
            (bound or client.auth is not ClientAuth.NONE)
            and family.is_previous(token)
            and bool(family.retry_answer)
            and self._clock.now() < family.rotated_at + RETRY_WINDOW
        )

    def _expires_at(self, family: Family, used_at: int) -> int:
        return self._families.lifespans.of_use(family.created_at, family.authorization.ends_at, used_at)

    def _retry_event(self, family: Family, call: ClientCall) -> AuditEvent:
        authorization, issuer = family.authorization, self._tokens.settings.issuer
        return AuditEvent(
            kind=EventKind.TOKEN_ISSUED,
            at=self._clock.now_us(),
            address=call.address,
            tenant=authorization.tenant,
            issuer=issuer,
            agent=call.trace.agent,
            client=authorization.client_id,
            user_issuer="" if authorization.user is None else issuer,
            user=authorization.user or "",
            task=authorization.task or "",
            method=call.trace.method,
            credential=f"grant {family.id}",
            detail=f"the answer of rotation {family.generation} once more",
        )
