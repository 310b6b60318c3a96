"""Agents, bindings, sessions, clients, one-time values and the revision counter."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("tasks", sa.Text, nullable=False),
        sa.Column("default_task", sa.Text),
        sa.Column("concurrent_tasks", _INT, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "agent", name="agents_pk"),
        sa.CheckConstraint("concurrent_tasks >= 1", name="agents_concurrent_tasks"),
    )
    op.create_table(
        "bindings",
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("identifier", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("method", "issuer", "identifier", name="bindings_pk"),
    )
    op.create_table(
        "disabled_agents",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("disabled_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "agent", name="disabled_agents_pk"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("user_issuer", sa.Text, nullable=False),
        sa.Column("user_subject", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("deadline", _INT, nullable=False),
        sa.Column("ended_at", _INT),
        sa.PrimaryKeyConstraint("id", name="sessions_pk"),
        sa.CheckConstraint("deadline > created_at", name="sessions_deadline"),
    )
    op.create_index(
        "sessions_by_principal",
        "sessions",
        ["tenant", "agent", "issuer", "user_issuer", "user_subject", "deadline"],
    )
    op.create_index("sessions_by_deadline", "sessions", ["deadline"])
    op.create_table(
        "clients",
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("secret_digests", sa.Text, nullable=False),
        sa.Column("jwks", sa.Text),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("last_used_at", _INT),
        sa.PrimaryKeyConstraint("client_id", name="clients_pk"),
    )
    op.create_table(
        "replay",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="replay_pk"),
    )
    op.create_index("replay_by_expiry", "replay", ["expires_at"])
    counter = op.create_table(
        "revision",
        sa.Column("id", _INT, nullable=False, autoincrement=False),
        sa.Column("value", _INT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="revision_pk"),
        sa.CheckConstraint("id = 1", name="revision_one_row"),
    )
    op.bulk_insert(counter, [{"id": 1, "value": 1}])
