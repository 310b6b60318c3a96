"""The authorization code grant at the token endpoint (RFC 6749 section 4.1.3, RFC 7636, RFC 9449 section 10)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import ClassVar

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.pkce import parse_verifier, verify_pkce
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.code import AuthorizationCode, CodeStore, IssuedCode, digest_of_code
from twogate.flows.authserver.families import Families
from twogate.flows.authserver.form import ClientCall, JsonAnswer
from twogate.flows.authserver.narrowing import verify_same
from twogate.flows.authserver.turns import Turns


class CodeGrant:
    """Implements `grant.Grant`."""

    type: ClassVar[GrantType] = GrantType.AUTHORIZATION_CODE
    anonymous: ClassVar[bool] = False

    def __init__(self, store: CodeStore, families: Families) -> None:
        self._store = store
        self._families = families
        self._turns = Turns()

    async def issue(self, call: ClientCall) -> JsonAnswer:
        """Redeem a code, once.

        1. The parameters are there and well-formed.
        2. The code is one that was issued to this client.
        3. It was not used before. If it was, all that came from it is revoked (RFC 6749 section 4.1.2).
        4. It has not expired.
        5. Redirect URI, verifier and proof are what it was issued for; if not, it is used up.
        6. The request names no other resource and task.
        7. The tokens are signed and recorded.
        8. The code is used up and the family stored, in one transaction, or it was used meanwhile: step 3.

        Raises:
            GateError: REQUEST_MALFORMED, GRANT_INVALID, GRANT_REUSED, RESOURCE_INVALID, DETAILS_INVALID; see
                `AccessTokens.issue`.
        """
        client = call.client
        if client is None:
            raise GateError(ErrorCode.CLIENT_UNAUTHORIZED, "a code is a client's")
        # 1.
        if "code" not in call.form:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "code is missing")
        verifier = parse_verifier(call.form.get("code_verifier"))
        digest = digest_of_code(call.form["code"])
        if digest is None:
            raise GateError(ErrorCode.GRANT_INVALID, "no code of this server")
        async with self._turns.of(digest):
            return await self._redeem(digest, verifier, client, call)

    async def _redeem(self, digest: str, verifier: str, client: Client, call: ClientCall) -> JsonAnswer:
        # 2. Before anything is changed, so that no client can use up another one's codes.
        issued = await self._store.get(digest)
        authorization = None if issued is None else issued.code.authorization
        if issued is None or authorization is None or authorization.client_id != client.client_id:
            raise GateError(ErrorCode.GRANT_INVALID, "unknown code, or another client's")
        call.trace.user = authorization.user or ""
        # 3.
        if issued.used_at is not None:
            raise await self._reused(issued, call.now)
        # 4.
        if call.now >= issued.expires_at:
            raise GateError(ErrorCode.GRANT_INVALID, "the code has expired")
        # 5. Who has the code and not what belongs to it stole it: the first try is the only one. The client that it
        # was meant for is refused too then, and logs the theft.
        try:
            _verify_binding(issued.code, call.form, verifier, call.proof)
        except GateError:
            if not await self._store.redeem(digest, None, call.now):
                raise await self._reused(issued, call.now) from None
            raise
        # 6.
        verify_same(authorization, call.form)
        # 7.
        started = await self._families.prepare(
            issued.grant_id, authorization, client, call.agent, call, refresh=issued.code.refresh
        )
        # 8.
        if not await self._store.redeem(digest, started.family, call.now):
            raise await self._reused(issued, call.now)
        return started.answer

    async def _reused(self, issued: IssuedCode, now: int) -> GateError:
        # "If an authorization code is used more than once, the authorization server MUST deny the request and SHOULD
        # revoke (when possible) all tokens previously issued based on that authorization code."
        await self._families.revoke(issued.grant_id, now, ErrorCode.GRANT_REUSED)
        return GateError(ErrorCode.GRANT_REUSED, f"the code was used before; grant {issued.grant_id}")


def _verify_binding(code: AuthorizationCode, form: Mapping[str, str], verifier: str, proof: str | None) -> None:
    redirect_uri = form.get("redirect_uri")
    # "REQUIRED, if the redirect_uri parameter was included in the authorization request …, and their values MUST be
    # identical." One that was left out there may be left out or be the one registered.
    if redirect_uri is None and code.redirect_uri_given:
        raise GateError(ErrorCode.GRANT_INVALID, "redirect_uri is missing")
    if redirect_uri is not None and redirect_uri != code.redirect_uri:
        raise GateError(ErrorCode.GRANT_INVALID, "the code was sent to another redirect_uri")
    verify_pkce(verifier, code.code_challenge)
    # "The authorization server MUST reject the request" where the proof's key is another one (RFC 9449 section 10).
    if code.proof is not None and not hmac.compare_digest(code.proof, proof or ""):
        raise GateError(ErrorCode.GRANT_INVALID, "the code is bound to another key, or the proof is missing")
