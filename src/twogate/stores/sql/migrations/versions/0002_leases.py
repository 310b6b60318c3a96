"""Leases of the replicas on PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_INT = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("acknowledged", _INT, nullable=False),
        sa.PrimaryKeyConstraint("replica", name="leases_pk"),
    )
