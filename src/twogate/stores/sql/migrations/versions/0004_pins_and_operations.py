"""What operators approved of the servers, the uses of operation tokens, and what authorizers may issue them for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "pins",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("approved_at", _INT, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "server", "target", name="pins_pk"),
    )
    op.create_table(
        "operations",
        sa.Column("jti", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("event", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("expires_at", _INT, nullable=False),
        sa.Column("started_at", _INT),
        sa.Column("finished_at", _INT),
        sa.Column("outcome", sa.Text),
        sa.PrimaryKeyConstraint("jti", name="operations_pk"),
    )
    op.create_index("operations_by_expiry", "operations", ["expires_at"])
    op.create_index("operations_by_state", "operations", ["state"])
    op.add_column("clients", sa.Column("agents", sa.Text, nullable=False, server_default="[]"))
    op.add_column("clients", sa.Column("tools", sa.Text, nullable=False, server_default="[]"))
