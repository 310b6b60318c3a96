"""OAuth clients of the embedded authorization server: the record, and what its flows need of a store."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Protocol

import msgspec

from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId, Binding

MAX_SECRETS: Final = 2
"""Secrets that may be valid together: the old and the new one of a rotation."""

_SHA256_HEX: Final = re.compile(r"[0-9a-f]{64}")


class ClientAuth(StrEnum):
    """How a client authenticates (RFC 6749 section 2.3.1, RFC 7523 section 2.2, RFC 7591 section 2)."""

    NONE = "none"
    """A public client, which has nothing to authenticate with."""
    CLIENT_SECRET = "client_secret"
    """`client_secret_basic` or `client_secret_post`."""
    PRIVATE_KEY_JWT = "private_key_jwt"


class ClientKind(StrEnum):
    """What a client is for (DESIGN decisions 1 and 7)."""

    AGENT = "agent"
    """It is one registered agent."""
    HOST = "host"
    """An application that a person runs agents with; it may mint operation tokens for its own user's sessions."""
    AUTHORIZER = "authorizer"
    """A service that mints operation tokens for the agents and tools that its registration lists; calls nothing."""
    PUBLIC = "public"
    """Anything else that a person logs in with; it acts as its tenant's built-in `public-client`."""


class ClientSource(StrEnum):
    """Who says that the client exists."""

    CONFIGURED = "configured"
    ADDED = "added"
    """`twogate agent add` or `twogate client add`."""
    REGISTERED = "registered"
    """Dynamic registration (RFC 7591)."""
    DOCUMENT = "document"
    """Its client ID metadata document."""


class SecretDigest(msgspec.Struct, frozen=True):
    """The SHA-256 digest, in lower-case hex, of a secret drawn at random; `expires_at` (Unix seconds) ends a rotation.

    A fast digest is enough because the secret has at least 128 bits of entropy; it is never one that a person chose.
    """

    digest: str
    expires_at: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a digest, so that a secret cannot be stored by mistake."""
        if not _SHA256_HEX.fullmatch(self.digest):
            raise ValueError("a secret is stored as its SHA-256 digest in lower-case hex")


class Client(msgspec.Struct, frozen=True):
    """A client of one tenant. Times are Unix seconds; `jwks` is a public JWK set as JSON.

    `secret_digests` are for CLIENT_SECRET, `jwks` or `jwks_uri` for PRIVATE_KEY_JWT; a client has only its method's.
    `may_act` is the one other client that may exchange the tokens of its people (RFC 8693 section 4.4).
    `agent` is whom it acts as: None for an authorizer, which calls nothing. `grants` are the only ones it may use.
    `agents` and `tools` (classes and entries) are all that an authorizer may issue operation tokens for.
    """

    client_id: str
    tenant: str
    agent: AgentId | None
    auth: ClientAuth
    secret_digests: tuple[SecretDigest, ...] = ()
    jwks: str | None = None
    created_at: int = 0
    last_used_at: int | None = None
    kind: ClientKind = ClientKind.AGENT
    grants: frozenset[GrantType] = frozenset({GrantType.CLIENT_CREDENTIALS})
    name: str = ""
    redirect_uris: tuple[str, ...] = ()
    jwks_uri: str | None = None
    source: ClientSource = ClientSource.ADDED
    expires_at: int | None = None
    may_act: str | None = None
    agents: frozenset[AgentId] = frozenset()
    tools: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse a client of another tenant than its agent's, and one whose keys do not fit its method."""
        if not self.client_id or (self.agent is not None and self.tenant != self.agent.tenant):
            raise ValueError("a client has an id, and its agent's tenant")
        if (self.agent is None) != (self.kind is ClientKind.AUTHORIZER):
            raise ValueError("every client acts as an agent but an authorizer")
        if (self.agents or self.tools) and self.kind is not ClientKind.AUTHORIZER:
            raise ValueError("only an authorizer has agents and tools")
        if any(agent.tenant != self.tenant for agent in self.agents):
            raise ValueError("an authorizer is for agents of its own tenant")
        built_in = self.agent is not None and self.agent.agent == PUBLIC_CLIENT
        if self.kind is not ClientKind.HOST and built_in != (self.kind is ClientKind.PUBLIC):
            raise ValueError(f"public clients, and no agents, are {PUBLIC_CLIENT}")
        if self.kind is ClientKind.AGENT and self.auth is ClientAuth.NONE:
            raise ValueError("an agent authenticates")
        keys = self.jwks is not None or self.jwks_uri is not None
        if (self.auth is ClientAuth.CLIENT_SECRET) != (1 <= len(self.secret_digests) <= MAX_SECRETS):
            raise ValueError(f"a client with a secret has 1 to {MAX_SECRETS} digests and no keys")
        if (self.auth is ClientAuth.PRIVATE_KEY_JWT) != keys or len(self.secret_digests) > MAX_SECRETS:
            raise ValueError("a client with keys has a JWK set and no secret")

    @property
    def label(self) -> str:
        """What people are shown: its name, or its id."""
        return self.name or self.client_id


_PEOPLE: Final = frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.DEVICE_CODE})
_ASSERTED: Final = frozenset({GrantType.TOKEN_EXCHANGE, GrantType.JWT_BEARER})

ALLOWED_GRANTS: Final[Mapping[ClientKind, frozenset[GrantType]]] = MappingProxyType(
    {
        ClientKind.AGENT: frozenset(GrantType),
        ClientKind.HOST: _PEOPLE | _ASSERTED,
        ClientKind.AUTHORIZER: frozenset({GrantType.CLIENT_CREDENTIALS}),
        ClientKind.PUBLIC: _PEOPLE | _ASSERTED,
    }
)
"""The grants that clients of a kind may have. Nobody acts as the built-in agent without a person."""

DEFAULT_GRANTS: Final[Mapping[ClientKind, frozenset[GrantType]]] = MappingProxyType(
    {
        ClientKind.AGENT: frozenset({GrantType.CLIENT_CREDENTIALS}),
        ClientKind.HOST: frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}),
        ClientKind.AUTHORIZER: frozenset({GrantType.CLIENT_CREDENTIALS}),
        ClientKind.PUBLIC: frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN}),
    }
)
"""The grants of a client whose operator named none."""

_WITHOUT_SECRET: Final = _PEOPLE


def check_use(
    kind: ClientKind, auth: ClientAuth, grants: Collection[GrantType], redirect_uris: Collection[str]
) -> None:
    """Check that what a client may do fits what it is.

    Raises:
        ValueError: It does not; the message says what to change, in words of the settings.
    """
    if auth is ClientAuth.NONE and kind in (ClientKind.AGENT, ClientKind.AUTHORIZER):
        raise ValueError(f"a client of kind {kind.value} authenticates: private_key_jwt or client_secret")
    allowed = ALLOWED_GRANTS[kind] & _WITHOUT_SECRET if auth is ClientAuth.NONE else ALLOWED_GRANTS[kind]
    if not frozenset(grants) <= allowed:
        names = ", ".join(sorted(grant_name(grant) for grant in allowed)) or "none"
        raise ValueError(f"a client of kind {kind.value} with auth {auth.value} may have these grants: {names}")
    if (GrantType.AUTHORIZATION_CODE in grants) != bool(redirect_uris):
        raise ValueError("redirect URIs and the grant authorization_code go together")
    if GrantType.REFRESH_TOKEN in grants and not {GrantType.AUTHORIZATION_CODE, GrantType.DEVICE_CODE} & set(grants):
        raise ValueError("the grant refresh_token goes with authorization_code or device_code")


def grant_name(grant: GrantType) -> str:
    """What settings and commands call a grant: `device_code`, not its URN."""
    return grant.name.lower()


class ClientDirectory(Protocol):
    """Finds clients, whoever says that they exist."""

    async def find(self, unverified_client_id: str, now: int) -> Client | None:
        """The client of this id as of now; None if there is none, or if it has expired.

        Raises:
            GateError: CLIENT_METADATA_INVALID if the client's own document is wrong; RATE_LIMITED if too many
                documents are being fetched; STORE_UNAVAILABLE.
        """
        ...

    async def jwks(self, client: Client, unverified_kid: str | None, now: int) -> str | None:
        """The client's public keys as a JWK set, fetched if need be; None if it has none.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        ...


class ClientStore(Protocol):
    """Keeps registered clients."""

    async def get(self, client_id: str) -> Client | None:
        """The client of this id.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def add(self, client: Client, agent: Agent | None, bindings: Sequence[Binding], now: int) -> None:
        """Add a client with its agent and the bindings that lead to it; all or nothing.

        `agent` is None when it exists already, or the configuration defines it. The client counts as created at `now`.

        Raises:
            GateError: REQUEST_MALFORMED if the client, the agent or a binding exists already; STORE_UNAVAILABLE.
        """
        ...

    async def list(self, tenant: str | None = None) -> Sequence[Client]:
        """All clients, or a tenant's, oldest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def existing(self, client_ids: Collection[str]) -> Sequence[str]:
        """Those of the ids that are taken, in order.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def remove(self, client_id: str, bindings: Sequence[Binding]) -> bool:
        """Remove a client and these bindings, in force everywhere on return. False if there was no such client.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def touch(self, client_id: str, now: int) -> None:
        """Note that the client was used, to the minute.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class ReplayStore(Protocol):
    """Remembers values that may be used once, such as the `jti` of a client assertion (RFC 7523 section 3)."""

    async def redeem(self, kind: str, issuer: str, value: str, expires_at: int, now: int) -> bool:
        """True exactly once per (kind, issuer, value) until `expires_at`; False ever after, and if that has passed.

        `expires_at` is the last moment at which the caller would still accept the value, its clock leeway included.

        Raises:
            GateError: STORE_UNAVAILABLE, SHARED_UNAVAILABLE; the caller must then refuse the value.
        """
        ...
