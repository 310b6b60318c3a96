"""Calls that wait for people, and what people may do."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.add_column("users", sa.Column("duties", sa.Text, nullable=False, server_default="[]"))
    op.create_table(
        "approvals",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("user_issuer", sa.Text, nullable=False),
        sa.Column("user_subject", sa.Text, nullable=False),
        sa.Column("session", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("tool", sa.Text, nullable=False),
        sa.Column("pin", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("nonce", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("live", sa.Text),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("deadline", _INT, nullable=False),
        sa.Column("decided_at", _INT),
        sa.Column("result", sa.Text),
        sa.Column("reminded_at", _INT),
        sa.Column("escalated_at", _INT),
        sa.PrimaryKeyConstraint("id", name="approvals_pk"),
    )
    op.create_index("approvals_live", "approvals", ["live"], unique=True)
    op.create_index("approvals_by_state", "approvals", ["tenant", "state", "created_at"])
    op.create_index("approvals_by_agent", "approvals", ["tenant", "agent", "created_at"])
    op.create_index("approvals_by_deadline", "approvals", ["deadline"])
    op.create_index("approvals_by_turn", "approvals", ["state", "created_at"])
    op.create_table(
        "approval_votes",
        sa.Column("approval", sa.Text, nullable=False),
        sa.Column("approver", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("assertion", sa.Text, nullable=False),
        sa.Column("at", _INT, nullable=False),
        sa.PrimaryKeyConstraint("approval", "approver", name="approval_votes_pk"),
    )
    op.create_table(
        "notices",
        sa.Column("approval", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("channel", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("attempts", _INT, nullable=False),
        sa.Column("created_at", _INT, nullable=False),
        sa.Column("next_at", _INT, nullable=False),
        sa.Column("last_at", _INT),
        sa.Column("ended_at", _INT),
        sa.PrimaryKeyConstraint("approval", "kind", "channel", name="notices_pk"),
    )
    op.create_index("notices_by_turn", "notices", ["channel", "state", "next_at"])
    op.create_index("notices_by_time", "notices", ["channel", "last_at"])
    op.create_index("notices_by_age", "notices", ["created_at"])
