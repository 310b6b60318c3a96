"""Asking an issuer what a token is worth (RFC 7662; row R-08): only it can read some, and take back any.

What it says is remembered for some seconds, so that a revocation there is seen soon and it is not asked on every call.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.provider import ProviderMetadata
from twogate.core.strict_json import decode
from twogate.flows.authserver.upstream_client_auth import ClientCredential
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, FetchError, FormPost, Trust
from twogate.flows.gateway.discovery import discover, trust_in
from twogate.flows.gateway.issuers import IntrospectedClaims

MAX_ANSWER: Final = 64 * 1024
"""Bytes that an answer may have."""

MAX_DEPTH: Final = 16

AT_ONCE: Final = 16
"""Questions to one issuer that may be under way: strangers can make up tokens, and must not make us a burden to it."""

REFUSED_FOR: Final = 5.0
"""Seconds that a token which the issuer did not know is refused without asking again."""

REFUSED_ENTRIES: Final = 10_000

METADATA_FOR: Final = 3600.0
"""Seconds that the issuer's metadata are kept."""

_OK: Final = 200
_TOKEN_TYPES: Final = frozenset({"bearer", "dpop"})


class Introspector:
    """Asks one issuer. `endpoint` is discovered if it is None; `fresh_for` is how many seconds its word is kept."""

    def __init__(
        self,
        issuer: str,
        endpoint: str | None,
        ca_file: Path | None,
        fresh_for: int,
        credential: ClientCredential,
        fetch: Fetch,
        post: FormPost,
        clock: Clock,
    ) -> None:
        self._issuer = issuer
        self._configured = endpoint
        self._ca_file = ca_file
        self.fresh_for = fresh_for
        self._credential = credential
        self._fetch = fetch
        self._post = post
        self._clock = clock
        self._metadata: Mapping[str, Any] = {}
        self._metadata_until = 0.0
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def introspect(self, unverified_token: str) -> IntrospectedClaims:
        """What the issuer says of an active access token.

        Raises:
            GateError: TOKEN_REVOKED if it is not active, TOKEN_TYPE_REFUSED if it is no access token;
                IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE if nobody knows.
        """
        digest = hashlib.sha256(unverified_token.encode()).digest()
        if self._clock.monotonic() < self._refused.get(digest, 0.0):
            raise GateError(ErrorCode.TOKEN_REVOKED, "the issuer said a moment ago that it is not active")
        async with self._turn:
            said = await self._ask(unverified_token)
        # "If the introspection call is properly authorized but the token is not active …" (section 2.2).
        if said.get("active") is not True:
            self._note_refused(digest)
            raise GateError(ErrorCode.TOKEN_REVOKED, "the issuer says that it is not active")
        kind = said.get("token_type")
        if not isinstance(kind, str) or kind.lower() not in _TOKEN_TYPES:
            # Refresh tokens are active too. They have no token_type, which is that of RFC 6749 section 7.1.
            raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "the issuer does not say that it is an access token")
        client = said.get("client_id")
        # Both are optional (section 2.2). The answer is the issuer's by its address, and a token without a person is
        # about its client (RFC 9068 section 2.2).
        defaults = {"iss": self._issuer, "sub": client if isinstance(client, str) else None}
        return IntrospectedClaims({**{name: value for name, value in defaults.items() if value is not None}, **said})

    async def _ask(self, unverified_token: str) -> dict[str, Any]:
        endpoint, trust, methods = await self._endpoint()
        about = ProviderMetadata(self._issuer, "", endpoint, names_issuer=False, methods=methods)
        shown = await self._credential.present(about, self._clock.now())
        form = {"token": unverified_token, "token_type_hint": "access_token", **shown.form}
        try:
            posted = await self._post.post_form(
                endpoint,
                form,
                trust=trust,
                max_bytes=MAX_ANSWER,
                authorization=shown.authorization,
                ca_file=self._ca_file,
            )
        except FetchError as error:
            raise self._unavailable(str(error)) from error
        if posted.status != _OK:
            raise self._unavailable(f"HTTP {posted.status}; is our client allowed to introspect?")
        try:
            said = decode(posted.body, max_bytes=MAX_ANSWER, max_depth=MAX_DEPTH)
        except GateError as error:
            raise self._unavailable(f"the answer is not JSON: {error.code}") from error
        if not isinstance(said, dict):
            raise self._unavailable("the answer is no object")
        return cast("dict[str, Any]", said)

    async def _endpoint(self) -> tuple[str, Trust, frozenset[str]]:
        if self._configured is not None:
            return self._configured, Trust.CONFIGURED, frozenset({AuthMethod.BASIC.value})
        if self._clock.monotonic() >= self._metadata_until:
            self._metadata = await discover(self._issuer, self._fetch, self._ca_file, "introspection_endpoint")
            self._metadata_until = self._clock.monotonic() + METADATA_FOR
        endpoint: str = self._metadata["introspection_endpoint"]
        methods: object = self._metadata.get(
            "introspection_endpoint_auth_methods_supported",
            self._metadata.get("token_endpoint_auth_methods_supported", [AuthMethod.BASIC.value]),
        )
        known = cast("list[object]", methods) if isinstance(methods, list) else []
        return endpoint, trust_in(endpoint, self._issuer), frozenset(str(method) for method in known)

    def _note_refused(self, digest: bytes) -> None:
        self._refused[digest] = self._clock.monotonic() + REFUSED_FOR
        self._refused.move_to_end(digest)
        while len(self._refused) > REFUSED_ENTRIES:
            self._refused.popitem(last=False)

    def _unavailable(self, why: str) -> GateError:
        return GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, f"{self._issuer}: {why}")
