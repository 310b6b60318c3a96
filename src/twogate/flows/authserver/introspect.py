"""The introspection endpoint: a client asks whether a token is good (RFC 7662).

It learns about its own tokens alone. Everything else is `{"active": false}`, whether the token belongs to somebody
else, was revoked, has expired, or never was one: who may not know of a token must not learn that it exists (section 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from twogate.core.errors import FACES, UNAVAILABLE, ErrorCode, GateError
from twogate.core.oauth.confirmation import parse_confirmation
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.authserver.form import Answer, ClientCall, FormRequest, Forms, JsonAnswer
from twogate.flows.authserver.people import People
from twogate.flows.gateway.authenticate import principal_of, require_unrevoked
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.verify_token import verify_claims, verify_signed
from twogate.flows.registry import RegistryView

ACCESS_TOKEN_DOTS: Final = 2
"""Dots in every access token, which is a compact JWS; no refresh token has as many."""

INACTIVE: Final[Mapping[str, object]] = {"active": False}

# What is told of an access token, by the names of RFC 7662 section 2.2, RFC 9068, RFC 9396 section 9.2 and RFC 9449
# section 6.2. Other claims are for the gateway.
_TOLD: Final = (
    "iss", "sub", "client_id", "aud", "scope", "iat", "nbf", "exp", "jti", "tenant", "act", "cnf", "auth_time",
    "authorization_details",
)  # fmt: skip


class RefreshTokens(Protocol):
    """Knows refresh tokens. Asking changes nothing: a used one that is asked for is no reuse."""

    async def describe(self, token: str, client: Client, now: int) -> Mapping[str, object] | None:
        """The members of RFC 7662 section 2.2 of a refresh token of this client that can be used; None of any other.

        `sub` is the person, or the client itself if there is none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class CurrentView(Protocol):
    """Gives the agents and revocations as of now (`registry.Registry`)."""

    async def view(self) -> RegistryView:
        """The view.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class IntrospectionEndpoint:
    """Answers for access tokens as gate one would judge them now, and for refresh tokens."""

    def __init__(
        self, forms: Forms, issuers: Issuers, registry: CurrentView, people: People, refresh_tokens: RefreshTokens
    ) -> None:
        """`issuers` holds this server alone."""
        self._forms = forms
        self._issuers = issuers
        self._registry = registry
        self._people = people
        self._refresh_tokens = refresh_tokens

    async def respond(self, request: FormRequest) -> Answer:
        """Answer one request; nothing is changed by it."""
        return await self._forms.serve(request, self._introspect)

    async def _introspect(self, call: ClientCall) -> JsonAnswer:
        # "the protected resource … MUST … authorize" (RFC 7662 section 2.1): a public client's id authorizes nobody.
        if call.client is None or call.client.auth is ClientAuth.NONE:
            raise GateError(ErrorCode.CLIENT_INVALID, "introspection is for clients that authenticate")
        token = call.form.get("token")
        if token is None:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "token is missing")
        try:
            # The two look so different that `token_type_hint`, which may be wrong, has nothing to add.
            if token.count(".") == ACCESS_TOKEN_DOTS:
                return JsonAnswer(await self._access_token(token, call.client, call.now))
            return JsonAnswer(await self._refresh_token(token, call.client, call.now))
        except GateError as error:
            if FACES[error.code].jsonrpc == UNAVAILABLE:
                raise
            return JsonAnswer(INACTIVE)

    async def _access_token(self, unverified: str, client: Client, now: int) -> Mapping[str, object]:
        signed, issuer = await verify_signed(unverified, self._issuers)
        token = verify_claims(signed, issuer, "", now)
        if (token.tenant, token.binding.identifier) != (client.tenant, client.client_id):
            return INACTIVE
        view = await self._registry.view()
        if client.agent is None:
            require_unrevoked(token, view)
        else:
            principal_of(token, view)
        if token.user is not None and not await self._is_welcome(token.tenant, token.user.subject):
            return INACTIVE
        told = {name: signed.claims[name] for name in _TOLD if name in signed.claims}
        # A token that is bound to a certificate alone is a bearer token to HTTP (RFC 8705 section 3).
        kind = "Bearer" if parse_confirmation(told).key is None else "DPoP"
        return {"active": True, "token_type": kind, **told}

    async def _refresh_token(self, unverified: str, client: Client, now: int) -> Mapping[str, object]:
        told = await self._refresh_tokens.describe(unverified, client, now)
        if told is None:
            return INACTIVE
        subject = str(told["sub"])
        if subject != client.client_id and not await self._is_welcome(client.tenant, subject):
            return INACTIVE
        return {"active": True, **told}

    async def _is_welcome(self, tenant: str, subject: str) -> bool:
        user = await self._people.user(tenant, subject)
        return user is not None and not user.disabled
