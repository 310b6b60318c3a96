"""The tables as queries see them; the migrations create them, and a test holds the two to each other.

The same on SQLite and PostgreSQL: text and 64-bit integers only, times in Unix seconds, JSON as text that only Python
reads. Absent users are '' and not NULL, because NULLs are never equal and would slip past comparisons and unique keys.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()

INT: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts rows by INTEGER only."""

agents: Final = Table(
    "agents",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("tasks", Text, nullable=False),
    Column("default_task", Text),
    Column("concurrent_tasks", INT, nullable=False),
    Column("created_at", INT, nullable=False),
    PrimaryKeyConstraint("tenant", "agent", name="agents_pk"),
    CheckConstraint("concurrent_tasks >= 1", name="agents_concurrent_tasks"),
)

# The agent may be one of the configuration, so there is nothing for a foreign key to point at.
bindings: Final = Table(
    "bindings",
    metadata,
    Column("method", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("identifier", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    PrimaryKeyConstraint("method", "issuer", "identifier", name="bindings_pk"),
)

disabled_agents: Final = Table(
    "disabled_agents",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("disabled_at", INT, nullable=False),
    PrimaryKeyConstraint("tenant", "agent", name="disabled_agents_pk"),
)

sessions: Final = Table(
    "sessions",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("user_issuer", Text, nullable=False),
    Column("user_subject", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("targets", Text, nullable=False),
    Column("created_at", INT, nullable=False),
    Column("deadline", INT, nullable=False),
    Column("ended_at", INT),
    PrimaryKeyConstraint("id", name="sessions_pk"),
    CheckConstraint("deadline > created_at", name="sessions_deadline"),
    Index("sessions_by_principal", "tenant", "agent", "issuer", "user_issuer", "user_subject", "deadline"),
    Index("sessions_by_deadline", "deadline"),
)

clients: Final = Table(
    "clients",
    metadata,
    Column("client_id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("secret_digests", Text, nullable=False),
    Column("jwks", Text),
    Column("created_at", INT, nullable=False),
    Column("last_used_at", INT),
    Column("kind", Text, nullable=False, server_default="agent"),
    Column("grants", Text, nullable=False, server_default='["client_credentials"]'),
    Column("name", Text, nullable=False, server_default=text("''")),
    Column("redirect_uris", Text, nullable=False, server_default="[]"),
    Column("source", Text, nullable=False, server_default="added"),
    Column("registration", Text, nullable=False, server_default=text("''")),
    Column("jwks_uri", Text),
    Column("expires_at", INT),
    Column("may_act", Text),
    # Of an authorizer: the agents and entries that it may issue operation tokens for.
    Column("agents", Text, nullable=False, server_default="[]"),
    Column("tools", Text, nullable=False, server_default="[]"),
    PrimaryKeyConstraint("client_id", name="clients_pk"),
    Index("clients_by_expiry", "source", "expires_at"),
)

# One-time tokens that let a client register, by their digest.
registration_tokens: Final = Table(
    "registration_tokens",
    metadata,
    Column("digest", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("used_at", INT),
    PrimaryKeyConstraint("digest", name="registration_tokens_pk"),
    Index("registration_tokens_by_expiry", "expires_at"),
)

replay: Final = Table(
    "replay",
    metadata,
    Column("digest", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    PrimaryKeyConstraint("digest", name="replay_pk"),
    Index("replay_by_expiry", "expires_at"),
)

# One row; `value` grows with every change of security state.
revision: Final = Table(
    "revision",
    metadata,
    Column("id", INT, nullable=False, autoincrement=False),
    Column("value", INT, nullable=False),
    PrimaryKeyConstraint("id", name="revision_pk"),
    CheckConstraint("id = 1", name="revision_one_row"),
)

# The replicas that may hold caches, and the last revision that each of them acts on. Unused on SQLite.
leases: Final = Table(
    "leases",
    metadata,
    Column("replica", Text, nullable=False),
    Column("acknowledged", INT, nullable=False),
    PrimaryKeyConstraint("replica", name="leases_pk"),
)

# People and the grants of the authorization server.

# People. `roles` and `groups` are JSON lists. A password is an argon2id hash; '' for people who have none.
users: Final = Table(
    "users",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("display_name", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("groups", Text, nullable=False),
    Column("password_hash", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("disabled_at", INT),
    Column("created_at", INT, nullable=False),
    Column("last_login_at", INT),
    Column("duties", Text, nullable=False, server_default="[]"),
    PrimaryKeyConstraint("tenant", "subject", name="users_pk"),
    Index("users_by_name", "tenant", "name", unique=True),
)

# Which person an upstream provider's subject is.
identities: Final = Table(
    "identities",
    metadata,
    Column("issuer", Text, nullable=False),
    Column("provider_subject", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("created_at", INT, nullable=False),
    PrimaryKeyConstraint("issuer", "provider_subject", "tenant", name="identities_pk"),
    Index("identities_by_user", "tenant", "subject"),
)

# WebAuthn credentials; ids and keys are base64url.
passkeys: Final = Table(
    "passkeys",
    metadata,
    Column("credential_id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("public_key", Text, nullable=False),
    Column("sign_count", INT, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", INT, nullable=False),
    Column("last_used_at", INT),
    PrimaryKeyConstraint("credential_id", name="passkeys_pk"),
    Index("passkeys_by_user", "tenant", "subject"),
)

# Operators' one-time links, by the digest of their secret; `setup` is the digest of the cookie that a used one became,
# `purpose` then what is left to do.
links: Final = Table(
    "links",
    metadata,
    Column("digest", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("used_at", INT),
    Column("setup", Text, nullable=False),
    PrimaryKeyConstraint("digest", name="links_pk"),
    Index("links_by_user", "tenant", "subject"),
    Index("links_by_setup", "setup"),
    Index("links_by_expiry", "expires_at"),
)

# Browsers that are logged in, by the digest of their cookie.
logins: Final = Table(
    "logins",
    metadata,
    Column("digest", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("authenticated_at", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("upstream", Text, nullable=False),
    Column("ends_at", INT),
    PrimaryKeyConstraint("digest", name="logins_pk"),
    Index("logins_by_user", "tenant", "subject"),
    Index("logins_by_expiry", "expires_at"),
)

# Failed logins, counted by a digest of whom they were for and from where.
login_failures: Final = Table(
    "login_failures",
    metadata,
    Column("digest", Text, nullable=False),
    Column("failures", INT, nullable=False),
    Column("blocked_until", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    PrimaryKeyConstraint("digest", name="login_failures_pk"),
    Index("login_failures_by_expiry", "expires_at"),
)

# What people let clients do. `scopes` is a JSON list; `task` is '' without one.
consents: Final = Table(
    "consents",
    metadata,
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("client_digest", Text, nullable=False),
    Column("granted_at", INT, nullable=False),
    PrimaryKeyConstraint("tenant", "subject", "client_id", "resource", "task", name="consents_pk"),
)

# Authorization requests under way: pushed ones, and those in front of a person. `request` is JSON.
authorize_requests: Final = Table(
    "authorize_requests",
    metadata,
    Column("digest", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("browser", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("used_at", INT),
    PrimaryKeyConstraint("digest", name="authorize_requests_pk"),
    Index("authorize_requests_by_expiry", "expires_at"),
)

# Authorization codes by their digest. `code` is JSON.
codes: Final = Table(
    "codes",
    metadata,
    Column("digest", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("used_at", INT),
    Column("grant_id", Text, nullable=False),
    PrimaryKeyConstraint("digest", name="codes_pk"),
    Index("codes_by_expiry", "expires_at"),
)

# Grants of people, each the family of its tokens: what was granted, and the digests of its refresh tokens' handle and
# of the current and the last secret. `retry_answer` is the sealed answer to the last rotation, base64url.
grants: Final = Table(
    "grants",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("authorization", Text, nullable=False),
    Column("proof_key", Text, nullable=False),
    Column("handle", Text, nullable=False),
    Column("current", Text, nullable=False),
    Column("previous", Text, nullable=False),
    Column("rotated_at", INT, nullable=False),
    Column("retry_answer", Text, nullable=False),
    Column("generation", INT, nullable=False),
    Column("created_at", INT, nullable=False),
    Column("last_used_at", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("revoked_at", INT),
    PrimaryKeyConstraint("id", name="grants_pk"),
    Index("grants_by_handle", "handle", unique=True),
    Index("grants_by_user", "tenant", "subject"),
    Index("grants_by_client", "client_id"),
    Index("grants_by_expiry", "expires_at"),
)

# Logins under way at upstream providers, by the digest of their `state`. `login` is sealed JSON, base64url.
upstream_logins: Final = Table(
    "upstream_logins",
    metadata,
    Column("digest", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("browser", Text, nullable=False),
    Column("login", Text, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("used_at", INT),
    PrimaryKeyConstraint("digest", name="upstream_logins_pk"),
    Index("upstream_logins_by_expiry", "expires_at"),
)

# What an upstream provider gave for a person: the sealed refresh token, base64url; '' if it gave none. `asked_by` is
# the one request, of all processes, that asks the provider until `asked_until`.
upstream_grants: Final = Table(
    "upstream_grants",
    metadata,
    Column("id", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("refresh_token", Text, nullable=False),
    Column("confirmed_at", INT, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_until", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    Column("ended_at", INT),
    PrimaryKeyConstraint("id", name="upstream_grants_pk"),
    Index("upstream_grants_by_user", "tenant", "subject"),
    Index("upstream_grants_by_expiry", "expires_at"),
)

# Device authorizations by the digest of the device code. `request` and `authorization` are JSON.
device_codes: Final = Table(
    "device_codes",
    metadata,
    Column("digest", Text, nullable=False),
    Column("user_code", Text, nullable=False),
    Column("client_id", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("authorization", Text, nullable=False),
    Column("interval", INT, nullable=False),
    Column("polled_at", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    PrimaryKeyConstraint("digest", name="device_codes_pk"),
    Index("device_codes_by_user_code", "user_code", unique=True),
    Index("device_codes_by_expiry", "expires_at"),
)

# What no token may come from any more: kind is `token`, `grant`, `client` or `user`. Kept until the last token
# that it concerns has expired.
revocations: Final = Table(
    "revocations",
    metadata,
    Column("kind", Text, nullable=False),
    Column("value", Text, nullable=False),
    Column("revoked_at", INT, nullable=False),
    Column("expires_at", INT, nullable=False),
    PrimaryKeyConstraint("kind", "value", name="revocations_pk"),
    Index("revocations_by_expiry", "expires_at"),
)
