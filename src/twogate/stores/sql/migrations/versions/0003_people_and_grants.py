"""People, clients of every kind, and the grants of the authorization server."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    # Clients of before are agents' clients that an operator added.
    op.add_column("clients", sa.Column("kind", sa.Text, nullable=False, server_default="agent"))
    op.add_column("clients", sa.Column("grants", sa.Text, nullable=False, server_default='["client_credentials"]'))
    op.add_column("clients", sa.Column("name", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("clients", sa.Column("redirect_uris", sa.Text, nullable=False, server_default="[]"))
    op.add_column("clients", sa.Column("source", sa.Text, nullable=False, server_default="added"))
    op.add_column("clients", sa.Column("registration", sa.Text, nullable=False, server_default=sa.text("''")))
    op.add_column("clients", sa.Column("jwks_uri", sa.Text))
    op.add_column("clients", sa.Column("expires_at", _INT))
    op.add_column("clients", sa.Column("may_act", sa.Text))
    op.create_index("clients_by_expiry", "clients", ["source", "expires_at"])
    op.create_table(
        "registration_tokens",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("used_at", _INT),
        sa.PrimaryKeyConstraint("digest", name="registration_tokens_pk"),
    )
    op.create_index("registration_tokens_by_expiry", "registration_tokens", ["expires_at"])
    op.create_table(
        "users",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("roles", sa.Text, nullable=False),
        sa.Column("groups", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("disabled_at", _INT),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("last_login_at", _INT),
        sa.PrimaryKeyConstraint("tenant", "subject", name="users_pk"),
    )
    op.create_index("users_by_name", "users", ["tenant", "name"], unique=True)
    op.create_table(
        "identities",
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("provider_subject", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("issuer", "provider_subject", "tenant", name="identities_pk"),
    )
    op.create_index("identities_by_user", "identities", ["tenant", "subject"])
    op.create_table(
        "passkeys",
        sa.Column("credential_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text, nullable=False),
        sa.Column("sign_count", _INT, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("last_used_at", _INT),
        sa.PrimaryKeyConstraint("credential_id", name="passkeys_pk"),
    )
    op.create_index("passkeys_by_user", "passkeys", ["tenant", "subject"])
    op.create_table(
        "links",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("used_at", _INT),
        sa.Column("setup", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="links_pk"),
    )
    op.create_index("links_by_user", "links", ["tenant", "subject"])
    op.create_index("links_by_setup", "links", ["setup"])
    op.create_index("links_by_expiry", "links", ["expires_at"])
    op.create_table(
        "logins",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("authenticated_at", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("upstream", sa.Text, nullable=False),
        sa.Column("ends_at", _INT),
        sa.PrimaryKeyConstraint("digest", name="logins_pk"),
    )
    op.create_index("logins_by_user", "logins", ["tenant", "subject"])
    op.create_index("logins_by_expiry", "logins", ["expires_at"])
    op.create_table(
        "login_failures",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("failures", _INT, nullable=False),
        sa.Column("blocked_until", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="login_failures_pk"),
    )
    op.create_index("login_failures_by_expiry", "login_failures", ["expires_at"])
    op.create_table(
        "consents",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("resource", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("client_digest", sa.Text, nullable=False),
        sa.Column("granted_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "subject", "client_id", "resource", "task", name="consents_pk"),
    )
    op.create_table(
        "authorize_requests",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("browser", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("used_at", _INT),
        sa.PrimaryKeyConstraint("digest", name="authorize_requests_pk"),
    )
    op.create_index("authorize_requests_by_expiry", "authorize_requests", ["expires_at"])
    op.create_table(
        "codes",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("used_at", _INT),
        sa.Column("grant_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="codes_pk"),
    )
    op.create_index("codes_by_expiry", "codes", ["expires_at"])
    op.create_table(
        "grants",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("authorization", sa.Text, nullable=False),
        sa.Column("proof_key", sa.Text, nullable=False),
        sa.Column("handle", sa.Text, nullable=False),
        sa.Column("current", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("rotated_at", _INT, nullable=False),
        sa.Column("retry_answer", sa.Text, nullable=False),
        sa.Column("generation", _INT, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("last_used_at", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("revoked_at", _INT),
        sa.PrimaryKeyConstraint("id", name="grants_pk"),
    )
    op.create_index("grants_by_handle", "grants", ["handle"], unique=True)
    op.create_index("grants_by_user", "grants", ["tenant", "subject"])
    op.create_index("grants_by_client", "grants", ["client_id"])
    op.create_index("grants_by_expiry", "grants", ["expires_at"])
    op.create_table(
        "upstream_logins",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("browser", sa.Text, nullable=False),
        sa.Column("login", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("used_at", _INT),
        sa.PrimaryKeyConstraint("digest", name="upstream_logins_pk"),
    )
    op.create_index("upstream_logins_by_expiry", "upstream_logins", ["expires_at"])
    op.create_table(
        "upstream_grants",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("refresh_token", sa.Text, nullable=False),
        sa.Column("confirmed_at", _INT, nullable=False),
        sa.Column("asked_by", sa.Text, nullable=False),
        sa.Column("asked_until", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("ended_at", _INT),
        sa.PrimaryKeyConstraint("id", name="upstream_grants_pk"),
    )
    op.create_index("upstream_grants_by_user", "upstream_grants", ["tenant", "subject"])
    op.create_index("upstream_grants_by_expiry", "upstream_grants", ["expires_at"])
    op.create_table(
        "device_codes",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("user_code", sa.Text, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("authorization", sa.Text, nullable=False),
        sa.Column("interval", _INT, nullable=False),
        sa.Column("polled_at", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="device_codes_pk"),
    )
    op.create_index("device_codes_by_user_code", "device_codes", ["user_code"], unique=True)
    op.create_index("device_codes_by_expiry", "device_codes", ["expires_at"])
    op.create_table(
        "revocations",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("revoked_at", _INT, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("kind", "value", name="revocations_pk"),
    )
    op.create_index("revocations_by_expiry", "revocations", ["expires_at"])
