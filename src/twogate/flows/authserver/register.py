"""Dynamic client registration (RFC 7591) and its management (RFC 7592): off, by a one-time token, or open (row R-21).

Whatever a client asks for, it becomes a public client of one tenant: it acts for people who log in, never as an agent.
It lives a day until it first gets a token, and from then on as long as it is used.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, cast

import msgspec

from twogate.core import strict_json
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.client_metadata import MetadataRules, invalid_metadata, parse_metadata
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import REGISTER_PATH
from twogate.core.principal import PUBLIC_CLIENT, AgentId
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource, SecretDigest
from twogate.flows.authserver.form import Answer, FormRefused, JsonAnswer
from twogate.flows.authserver.registered import TOKEN_BYTES, Registered, RegistrationStore, digest_of, text_of
from twogate.flows.environment import Clock, Rng

MAX_BODY: Final = 16 * 1024
"""Bytes of a registration."""

NEW_LIFETIME: Final = 24 * 3600
"""Seconds that a client lives that has not had a token yet."""

ID_BYTES: Final = 16

_MAX_DEPTH: Final = 8
_MAX_SHOWN: Final = 64
_JSON: Final = re.compile(r'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?', re.IGNORECASE)
_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9_-]{43})", re.IGNORECASE)
_SECRET_METHODS: Final = frozenset({AuthMethod.BASIC, AuthMethod.POST})

# RFC 7591 section 2 has both defaults. A jwks_uri is not read: whoever may register could make us fetch it.
RULES: Final = MetadataRules(
    methods=frozenset(AuthMethod),
    default_method=AuthMethod.BASIC,
    grants=frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.DEVICE_CODE}),
    jwks_uri=False,
)

# What a client must not send back when it changes itself (RFC 7592 section 2.2).
_NOT_TO_BE_SENT: Final = frozenset(
    {"registration_access_token", "registration_client_uri", "client_secret_expires_at", "client_id_issued_at"}
)


class RegistrationRequest(msgspec.Struct, frozen=True):
    """What the endpoint needs of the HTTP request; fields as in `form.FormRequest`."""

    content_type: tuple[str, ...]
    authorization: tuple[str, ...]
    query: str
    body: bytes
    address: str

    def __repr__(self) -> str:
        """Say where from; the header holds a token."""
        return f"RegistrationRequest(address={self.address!r})"


class Removal(Protocol):
    """Takes a client away with everything that it holds; `client_removal.ClientRemoval` does."""

    async def remove(self, client: Client, now: int) -> bool:
        """Remove a client; False if it was gone already.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Limit(Protocol):
    """Limits an address; `flows.gateway.limit.AddressLimit` does."""

    def take(self, address: str, now: float) -> float:
        """0.0 if one more may come in at `now` (monotonic seconds), else the seconds to wait."""
        ...


class Terms(msgspec.Struct, frozen=True):
    """On what terms clients may register. `most` is how many there may be if it is open."""

    tenant: str
    is_open: bool
    most: int


class Registration:
    """Registers clients, and lets each manage itself with the token that it was given."""

    def __init__(
        self,
        issuer: str,
        terms: Terms,
        store: RegistrationStore,
        removal: Removal,
        limit: Limit,
        audit: AuditSink,
        refusals: Refusals,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._issuer = issuer
        self._terms = terms
        self._store = store
        self._removal = removal
        self._limit = limit
        self._audit = audit
        self._refusals = refusals
        self._clock = clock
        self._rng = rng

    async def register(self, request: RegistrationRequest) -> Answer:
        """Register a client (RFC 7591 section 3); answered with 201."""
        return await self._serve(request, "", lambda: self._register(request))

    async def read(self, request: RegistrationRequest, client_id: str) -> Answer:
        """Tell a client what is known of it (RFC 7592 section 2.1)."""
        return await self._serve(request, client_id, lambda: self._read(request, client_id))

    async def change(self, request: RegistrationRequest, client_id: str) -> Answer:
        """Replace a client's metadata (RFC 7592 section 2.2)."""
        return await self._serve(request, client_id, lambda: self._change(request, client_id))

    async def remove(self, request: RegistrationRequest, client_id: str) -> Answer:
        """Remove a client at its own wish (RFC 7592 section 2.3); answered with 204."""
        return await self._serve(request, client_id, lambda: self._remove(request, client_id))

    async def _register(self, request: RegistrationRequest) -> JsonAnswer:
        now, terms = self._clock.now(), self._terms
        by = None
        if terms.is_open:
            if self._limit.take(request.address, self._clock.monotonic()):
                raise GateError(ErrorCode.RATE_LIMITED, "too many registrations from this address")
        else:
            by = digest_of(_bearer(request))
            # Asked before anything is written down; it is used up together with adding the client.
            if not await self._store.is_allowed(by, terms.tenant, now):
                raise GateError(ErrorCode.REGISTRATION_REFUSED, "the token is unknown, used or expired")
        metadata = parse_metadata(_members(request), RULES)
        token, secret = self._token(), self._token() if metadata.method in _SECRET_METHODS else None
        client = Client(
            client_id=text_of(self._rng.token(ID_BYTES)),
            tenant=terms.tenant,
            agent=AgentId(terms.tenant, PUBLIC_CLIENT),
            auth=_auth(metadata.method),
            secret_digests=() if secret is None else (SecretDigest(digest_of(secret)),),
            jwks=metadata.jwks,
            created_at=now,
            kind=ClientKind.PUBLIC,
            grants=metadata.grants,
            name=metadata.name,
            redirect_uris=metadata.redirect_uris,
            source=ClientSource.REGISTERED,
            expires_at=now + NEW_LIFETIME,
        )
        registered = Registered(digest_of(token), metadata.method, metadata.application_type)
        how = "open" if terms.is_open else "by token"
        await self._record(EventKind.CLIENT_ADDED, client, request, f"registered ({how}), {metadata.method.value}")
        await self._store.add(client, registered, by=by, most=terms.most if terms.is_open else None, now=now)
        return JsonAnswer(self._described(client, registered, token, secret), 201)

    async def _read(self, request: RegistrationRequest, client_id: str) -> JsonAnswer:
        client, registered, token = await self._authorized(request, client_id)
        return JsonAnswer(self._described(client, registered, token, None))

    async def _change(self, request: RegistrationRequest, client_id: str) -> JsonAnswer:
        client, registered, token = await self._authorized(request, client_id)
        members = _members(request)
        if members.get("client_id") != client_id:
            raise invalid_metadata("client_id must be the client's own")
        if not _NOT_TO_BE_SENT.isdisjoint(members):
            raise invalid_metadata(f"these members must be left out: {', '.join(sorted(_NOT_TO_BE_SENT))}")
        _check_secret(members, client)
        metadata = parse_metadata(members, RULES)
        digests, secret = client.secret_digests, None
        if metadata.method not in _SECRET_METHODS:
            digests = ()
        elif not digests:
            secret = self._token()
            digests = (SecretDigest(digest_of(secret)),)
        changed = msgspec.structs.replace(
            client,
            auth=_auth(metadata.method),
            secret_digests=digests,
            jwks=metadata.jwks,
            grants=metadata.grants,
            name=metadata.name,
            redirect_uris=metadata.redirect_uris,
        )
        registered = Registered(registered.digest, metadata.method, metadata.application_type)
        await self._record(EventKind.CLIENT_CHANGED, client, request, f"by itself, {metadata.method.value}")
        if not await self._store.replace(changed, registered):
            raise GateError(ErrorCode.REGISTRATION_REFUSED, "the client was removed meanwhile")
        return JsonAnswer(self._described(changed, registered, token, secret))

    async def _remove(self, request: RegistrationRequest, client_id: str) -> JsonAnswer:
        client, _, _ = await self._authorized(request, client_id)
        await self._record(EventKind.CLIENT_REMOVED, client, request, "by itself")
        await self._removal.remove(client, self._clock.now())
        return JsonAnswer({}, 204)

    async def _authorized(self, request: RegistrationRequest, client_id: str) -> tuple[Client, Registered, str]:
        """The client whose registration access token a request has (RFC 7592 section 3)."""
        token = _bearer(request)
        found = await self._store.get(client_id)
        expected = digest_of("") if found is None else found[1].digest
        if not hmac.compare_digest(digest_of(token), expected) or found is None:
            raise GateError(ErrorCode.REGISTRATION_REFUSED, "unknown client, or another client's token")
        client, registered = found
        if client.expires_at is not None and self._clock.now() >= client.expires_at:
            raise GateError(ErrorCode.REGISTRATION_REFUSED, "the client has expired")
        return client, registered, token

    async def _serve(
        self, request: RegistrationRequest, client_id: str, work: Callable[[], Awaitable[JsonAnswer]]
    ) -> Answer:
        try:
            if request.query:
                raise GateError(ErrorCode.REQUEST_MALFORMED, "this endpoint has no query")
            return await work()
        except GateError as error:
            described = error.data.get("description") if error.data else None
            event = AuditEvent(
                kind=EventKind.REGISTRATION_REFUSED,
                at=self._clock.now_us(),
                address=request.address,
                issuer=self._issuer,
                tenant=self._terms.tenant,
                client=client_id[:_MAX_SHOWN],
                reason=error.code.value,
                detail=error.debug,
            )
            try:
                await self._refusals.record(event)
            except GateError as failure:
                error, described = failure, None
            return FormRefused(
                error.code, with_header=False, description=described if isinstance(described, str) else None
            )

    async def _record(self, kind: EventKind, client: Client, request: RegistrationRequest, detail: str) -> None:
        await self._audit.append(
            AuditEvent(
                kind=kind,
                at=self._clock.now_us(),
                address=request.address,
                issuer=self._issuer,
                tenant=client.tenant,
                client=client.client_id,
                detail=detail,
            )
        )

    def _described(
        self, client: Client, registered: Registered, token: str, secret: str | None
    ) -> Mapping[str, object]:
        """What was registered, as RFC 7591 section 3.2.1 has it; a secret only when it is new."""
        described: dict[str, object] = {
            "client_id": client.client_id,
            "client_id_issued_at": client.created_at,
            "redirect_uris": list(client.redirect_uris),
            "grant_types": sorted(client.grants),
            "response_types": ["code"] if GrantType.AUTHORIZATION_CODE in client.grants else [],
            "token_endpoint_auth_method": registered.method.value,
            "registration_access_token": token,
            "registration_client_uri": f"{self._issuer}{REGISTER_PATH}/{client.client_id}",
        }
        if secret is not None:
            described |= {"client_secret": secret, "client_secret_expires_at": 0}
        if client.name:
            described["client_name"] = client.name
        if client.jwks is not None:
            described["jwks"] = msgspec.json.decode(client.jwks)
        if registered.application_type is not None:
            described["application_type"] = registered.application_type
        return described

    def _token(self) -> str:
        return text_of(self._rng.token(TOKEN_BYTES))


def _members(request: RegistrationRequest) -> Mapping[str, Any]:
    if len(request.content_type) != 1 or _JSON.fullmatch(request.content_type[0]) is None:
        raise invalid_metadata("Content-Type must be application/json")
    try:
        decoded: object = strict_json.decode(request.body, max_bytes=MAX_BODY, max_depth=_MAX_DEPTH)
    except GateError as error:
        if error.code is ErrorCode.TOO_LARGE:
            raise
        raise invalid_metadata(f"the body is not well-formed: {error.face.text}") from error
    if not isinstance(decoded, dict):
        raise invalid_metadata("the body must be a JSON object")
    return cast("dict[str, Any]", decoded)


def _bearer(request: RegistrationRequest) -> str:
    match = _BEARER.fullmatch(request.authorization[0]) if len(request.authorization) == 1 else None
    if match is None:
        raise GateError(ErrorCode.REGISTRATION_REFUSED, "no bearer token of the usual form")
    return match[1]


def _check_secret(members: Mapping[str, object], client: Client) -> None:
    """RFC 7592 section 2.2: a secret that is sent back "MUST match the currently issued client secret"."""
    secret = members.get("client_secret")
    if secret is None:
        return
    sent = digest_of(secret) if isinstance(secret, str) and secret.isascii() else ""
    if not any(hmac.compare_digest(sent, known.digest) for known in client.secret_digests):
        raise invalid_metadata("client_secret is not the client's own; leave it out")


def _auth(method: AuthMethod) -> ClientAuth:
    if method in _SECRET_METHODS:
        return ClientAuth.CLIENT_SECRET
    return ClientAuth(method.value)
