"""What operators approved of the servers."""

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
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("definition", sa.Text, nullable=False),
        sa.Column("approved_at", _INT, nullable=False),
        sa.Column("approved_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "target", name="pins_pk"),
    )
