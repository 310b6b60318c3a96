"""One upstream provider: what the operator lets it do, its metadata, and the requests that it is asked (row R-24)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import resolve_pointer, string_at, strings_at
from twogate.core.jose.jwt import parse_jwt
from twogate.core.jose.keys import VerificationKey
from twogate.core.oauth.id_token import IdToken, IdTokenRules, verify_id_token, verify_refreshed_id_token
from twogate.core.oauth.provider import (
    MAX_ANSWER,
    MAX_METADATA,
    ProviderMetadata,
    ProviderRefusal,
    ProviderTokens,
    parse_metadata,
    parse_token_answer,
)
from twogate.flows.authserver.upstream_client_auth import ClientCredential
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, FetchError, FormPost, Trust
from twogate.flows.gateway.issuers import KeySource

DEFAULT_MAX_AGE: Final = 600.0
"""Seconds that metadata is kept when the provider gives no `Cache-Control`."""

MAX_AGE: Final = 3600.0
MIN_AGE: Final = 60.0

RETRY_INTERVAL: Final = 1.0
"""Seconds after a failed discovery before the next one."""

LOGIN_PATH: Final = "/login/upstream"
CALLBACK_PATH: Final = "/login/callback"


class Person(msgspec.Struct, frozen=True):
    """Who an ID token says that somebody is, in our terms. `groups` are only those that the configuration knows."""

    subject: str
    name: str | None
    display_name: str
    groups: tuple[str, ...]


class ProviderRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator lets one provider do.

    `allowed_groups` are those of which a person must have one; None lets anybody in whom the provider vouches for.
    `known_groups` are those that grant something here: others are not kept, so that they are in no token.
    The claims are JSON pointers (RFC 6901).
    """

    name: str
    label: str
    id_token: IdTokenRules
    tenants: frozenset[str]
    allowed_groups: frozenset[str] | None
    known_groups: frozenset[str]
    redirect_uri: str
    scopes: tuple[str, ...] = ("openid", "profile")
    parameters: Mapping[str, str] = MappingProxyType({})
    name_claim: str = "/preferred_username"
    display_name_claim: str | None = "/name"
    groups_claim: str | None = None
    ca_file: Path | None = None

    def __post_init__(self) -> None:
        """Refuse rules whose lists are empty: nobody must come in by an oversight."""
        if not (self.name and self.tenants and "openid" in self.scopes):
            raise ValueError("a provider needs a name, tenants and the scope openid")
        if self.allowed_groups is not None and not self.allowed_groups:
            raise ValueError("an empty list of groups lets nobody in, and must not be read as anybody")

    @property
    def issuer(self) -> str:
        """The provider's issuer."""
        return self.id_token.issuer

    @property
    def client_id(self) -> str:
        """What we are called there."""
        return self.id_token.client_id

    def person(self, token: IdToken) -> Person:
        """Read the claims of a verified ID token. One string instead of a list of groups is one group.

        Raises:
            GateError: CLAIM_INVALID if a claim has another type than it must have.
        """
        groups = _strings(token.claims, self.groups_claim)
        kept = self.known_groups | (self.allowed_groups or frozenset())
        return Person(
            token.subject,
            string_at(token.claims, self.name_claim),
            string_at(token.claims, self.display_name_claim) or "",
            tuple(group for group in dict.fromkeys(groups) if group in kept),
        )

    def admit(self, tenant: str, groups: tuple[str, ...]) -> None:
        """Check that somebody in these groups may come into a tenant.

        Raises:
            GateError: IDENTITY_PROVIDER_REFUSED.
        """
        if tenant not in self.tenants:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, "the provider is none of the tenant's")
        if self.allowed_groups is not None and self.allowed_groups.isdisjoint(groups):
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, "the person is in none of the allowed groups")


class UpstreamProvider:
    """Talks to one provider. Whatever it says is verified before it leaves here."""

    def __init__(
        self,
        rules: ProviderRules,
        credential: ClientCredential,
        keys: KeySource,
        fetch: Fetch,
        post: FormPost,
        clock: Clock,
    ) -> None:
        self.rules = rules
        self._credential = credential
        self._keys = keys
        self._fetch = fetch
        self._post = post
        self._clock = clock
        self._metadata: ProviderMetadata | None = None
        self._expires = 0.0
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    async def metadata(self) -> ProviderMetadata:
        """The provider's metadata, from the cache while it is fresh.

        Raises:
            GateError: IDENTITY_PROVIDER_UNAVAILABLE.
        """
        if self._metadata is not None and self._clock.monotonic() < self._expires:
            return self._metadata
        async with self._lock:
            now = self._clock.monotonic()
            if self._metadata is not None and now < self._expires:
                return self._metadata
            if now < self._retry_at:
                raise self._unavailable("its metadata could not be fetched a moment ago")
            try:
                self._metadata, age = await self._discover()
            except GateError:
                self._retry_at = self._clock.monotonic() + RETRY_INTERVAL
                raise
            self._expires = now + min(max(age, MIN_AGE), MAX_AGE)
            return self._metadata

    async def authorization_url(self, state: str, nonce: str, challenge: str, *, again: bool) -> str:
        """Where a browser goes to log in (OpenID Connect Core section 3.1.2.1, PKCE by RFC 7636).

        `again`: although it may be logged in there already.

        Raises:
            GateError: IDENTITY_PROVIDER_UNAVAILABLE.
        """
        rules, metadata = self.rules, await self.metadata()
        parameters = {
            # An operator's own `prompt` stays, because providers refuse words of it that they do not know.
            **({"prompt": "login", "max_age": "0"} if again else {}),
            **rules.parameters,
            "response_type": "code",
            "client_id": rules.client_id,
            "redirect_uri": rules.redirect_uri,
            "scope": " ".join(rules.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        # The endpoint "MAY include […] a query component" (RFC 6749 section 3.1), which is kept.
        endpoint = metadata.authorization_endpoint
        return endpoint + ("&" if urlsplit(endpoint).query else "?") + urlencode(parameters)

    async def redeem_code(self, code: str, verifier: str, now: int) -> ProviderTokens:
        """Redeem a code at this provider's token endpoint, and nowhere else.

        Raises:
            GateError: IDENTITY_PROVIDER_REFUSED, IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE.
        """
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.rules.redirect_uri,
            "code_verifier": verifier,
        }
        answer = await self._ask(form, now)
        if isinstance(answer, ProviderRefusal):
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, f"the token endpoint refused the code: {answer.error}")
        return answer

    async def refresh(self, refresh_token: str, now: int) -> ProviderTokens | ProviderRefusal:
        """Redeem a refresh token (RFC 6749 section 6). The answer's, if it has one, replaces it.

        Raises:
            GateError: IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE.
        """
        return await self._ask({"grant_type": "refresh_token", "refresh_token": refresh_token}, now)

    async def verify_login(self, tokens: ProviderTokens, nonce: str, now: int) -> IdToken:
        """The ID token of a login.

        Raises:
            GateError: IDENTITY_PROVIDER_REFUSED with the exact reason, IDENTITY_PROVIDER_UNAVAILABLE.
        """
        if tokens.id_token is None:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, "the token endpoint gave no ID token")
        try:
            jwt = parse_jwt(tokens.id_token)
            keys = await self._current_keys(jwt.unverified_kid)
            rules, access_token = self.rules.id_token, tokens.access_token
            return verify_id_token(jwt, keys, rules, nonce=nonce, access_token=access_token, now=now)
        except GateError as error:
            raise _refused(error) from error

    async def verify_refreshed(self, id_token: str, access_token: str | None, now: int) -> IdToken:
        """The ID token that came with a refresh.

        Raises:
            GateError: as `verify_login`.
        """
        try:
            jwt = parse_jwt(id_token)
            keys = await self._current_keys(jwt.unverified_kid)
            return verify_refreshed_id_token(jwt, keys, self.rules.id_token, access_token=access_token, now=now)
        except GateError as error:
            raise _refused(error) from error

    async def _current_keys(self, kid: str | None) -> tuple[VerificationKey, ...]:
        try:
            return await self._keys.keys(kid)
        except GateError as error:
            raise self._unavailable(error.debug) from error

    async def _ask(self, form: dict[str, str], now: int) -> ProviderTokens | ProviderRefusal:
        metadata = await self.metadata()
        presented = await self._credential.present(metadata, now)
        endpoint = metadata.token_endpoint
        try:
            answer = await self._post.post_form(
                endpoint,
                {**form, **presented.form},
                trust=self._trust(endpoint),
                max_bytes=MAX_ANSWER,
                authorization=presented.authorization,
                ca_file=self.rules.ca_file,
            )
        except FetchError as error:
            raise self._unavailable(f"token endpoint: {error}") from error
        try:
            return parse_token_answer(answer.status, answer.body)
        except GateError as error:
            raise self._unavailable(error.debug) from error

    async def _discover(self) -> tuple[ProviderMetadata, float]:
        parts = urlsplit(self.rules.issuer)
        origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
        problem = ""
        for url in (
            f"{origin}{path}/.well-known/openid-configuration",
            f"{origin}/.well-known/oauth-authorization-server{path}",
        ):
            try:
                fetched = await self._fetch.get(
                    url, trust=Trust.CONFIGURED, max_bytes=MAX_METADATA, ca_file=self.rules.ca_file
                )
                metadata = parse_metadata(fetched.body, self.rules.issuer)
            except FetchError as error:
                problem = problem or str(error)
            except GateError as error:
                # Said rather than that the other place has nothing: this is what an operator can mend.
                problem = error.debug
            else:
                return metadata, DEFAULT_MAX_AGE if fetched.cache_max_age is None else fetched.cache_max_age
        raise self._unavailable(problem)

    def _trust(self, url: str) -> Trust:
        # An operator vouched for the issuer's host, not for every host that its metadata may come to name.
        same = urlsplit(url)[:2] == urlsplit(self.rules.issuer)[:2]
        return Trust.CONFIGURED if same else Trust.REQUESTED

    def _unavailable(self, reason: str) -> GateError:
        return GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, f"{self.rules.issuer}: {reason}")


def read_person(rules: ProviderRules, token: IdToken) -> Person:
    """What an ID token says of a person, with a name.

    Raises:
        GateError: IDENTITY_PROVIDER_REFUSED if a claim is missing or of another type.
    """
    try:
        person = rules.person(token)
    except GateError as error:
        raise _refused(error) from error
    if person.name is None:
        raise GateError(
            ErrorCode.IDENTITY_PROVIDER_REFUSED, f"the ID token has no claim {rules.name_claim}, see claims.name"
        )
    return person


def _strings(claims: Mapping[str, Any], pointer: str | None) -> tuple[str, ...]:
    if pointer is not None and isinstance(resolve_pointer(claims, pointer), str):
        found = string_at(claims, pointer)
        return () if found is None else (found,)
    return strings_at(claims, pointer, spaced=False)


def _refused(error: GateError) -> GateError:
    if error.code is ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE:
        return error
    return GateError(ErrorCode.IDENTITY_PROVIDER_REFUSED, f"ID token: {error.code.value}: {error.debug}")
